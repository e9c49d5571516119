"""A BERT encoder with fewer word pieces and a new masked-language-model head: what a teacher with a head starts from.

Keeps the special tokens, single ASCII characters and the pieces that occur most often in a prepared directory, with
their embeddings; words whose piece is gone are spelt with smaller ones. The head's output layer is tied to the
embeddings, the rest of it is new and random.

    python trim_vocabulary.py --encoder DIRECTORY --tokens PREPARED --size 8192 --output_dir DIRECTORY
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, BertTokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def kept_ids(pieces: list[str], counts: np.ndarray, size: int) -> list[int]:
    """The ids that stay, in their old order. counts: how often each id occurs, [pieces]."""
    needed = {
        i
        for i, piece in enumerate(pieces)
        if piece in SPECIAL or (len(piece.removeprefix("##")) == 1 and piece.isascii())
    }
    by_count = [int(i) for i in np.argsort(-counts, kind="stable") if int(i) not in needed]
    return sorted([*needed, *by_count[: size - len(needed)]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, type=Path, help="directory of a BERT with a vocab.txt")
    parser.add_argument("--tokens", required=True, type=Path, help="what python -m distilfast.prepare wrote with it")
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--output_dir", required=True, type=Path)
    arguments = parser.parse_args()

    pieces = (arguments.encoder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    counts = np.load(arguments.tokens / "token_counts.npy")
    kept = kept_ids(pieces, counts, arguments.size)
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_pretrained(arguments.encoder)
    rows = model.get_input_embeddings().weight.data[kept]
    model.resize_token_embeddings(len(kept))
    model.get_input_embeddings().weight.data.copy_(rows)
    vocabulary = [pieces[i] for i in kept]
    model.config.pad_token_id = vocabulary.index("[PAD]")
    model.save_pretrained(arguments.output_dir)
    (arguments.output_dir / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizer(vocab=str(arguments.output_dir / "vocab.txt")).save_pretrained(arguments.output_dir)
    share = counts[kept].sum() / counts.sum()
    print(f"{len(kept):,} of {len(pieces):,} pieces, {share:.1%} of the tokens; {model.num_parameters():,} parameters")


if __name__ == "__main__":
    main()
