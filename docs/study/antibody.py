"""The teacher and the texts of docs/study/antibody.sh.

    pip install --no-deps antiberty==0.1.3
    python docs/study/antibody.py DATA OUTPUT

AntiBERTy (Ruffolo et al. 2021, MIT), a BERT of 8 layers trained on 558 M antibody sequences, as plain `transformers` in
OUTPUT/teacher: encoder and masked-language-model head, without the heads for species, chain and graft. DATA holds
files of sequences, one a line; in OUTPUT their residues are joined by spaces, and other_kinds.txt is cut in two: what a
student may see of it (other_seen.txt), and what it is judged on (other_judged.txt).
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast


def main(data: Path, output: Path) -> None:
    spec = importlib.util.find_spec("antiberty")  # imported it would want packages that nothing here needs
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps antiberty==0.1.3")
    source = Path(spec.origin).parent / "trained_models"
    found = json.loads((source / "AntiBERTy_md_smooth" / "config.json").read_text())
    names = set(BertConfig().to_dict()) - {"architectures", "dtype", "model_type", "transformers_version"}
    model = BertForMaskedLM(BertConfig(**{name: value for name, value in found.items() if name in names}))
    weights = torch.load(source / "AntiBERTy_md_smooth" / "pytorch_model.bin", map_location="cpu", weights_only=True)
    kept = ("bert.embeddings.", "bert.encoder.", "cls.predictions.")
    weights = {name: value for name, value in weights.items() if name.startswith(kept) and "position_ids" not in name}
    model.load_state_dict(weights)  # raises where one is missing, left over or of another shape
    model.save_pretrained(output / "teacher")
    tokenizer = BertTokenizerFast(str(source / "vocab.txt"), do_lower_case=False)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(output / "teacher")
    for name in ("train", "held_out", "other_kinds"):
        lines = [" ".join(line.strip()) for line in (data / f"{name}.txt").read_text().splitlines() if line.strip()]
        parts = {"other_seen": lines[::2], "other_judged": lines[1::2]} if name == "other_kinds" else {name: lines}
        for part, texts in parts.items():
            (output / f"{part}.txt").write_text("\n".join(texts) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
