"""A DistilBERT of one's own: a masked-language model of half the depth.

    python examples/mlm.py                                                           # offline, on text of this machine
    python examples/mlm.py --teacher google-bert/bert-base-uncased --text corpus.txt # yours: a text a line

Real: the text. Tiny: the teacher, which is pretrained here in some hundred steps and knows little more than the manner
of documentation.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import distilfast as df
import documentation
from tokenizers import BertWordPieceTokenizer
from transformers import pipeline


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a file, a text a line; else paragraphs of documentation")
    parser.add_argument("--teacher", help="a masked-language model; else a tiny one is pretrained")
    parser.add_argument("--per_package", type=int, default=600, help="docstrings of each package")
    parser.add_argument("--steps", type=int, default=300, help="of each run")
    parser.add_argument("--output_dir", type=Path, default=Path("out/mlm"))
    given = parser.parse_args(argv)
    given.output_dir.mkdir(parents=True, exist_ok=True)
    small_steps = {"batch_tokens": 1024, "batches_per_step": 1, "max_length": 64}
    options = {"max_steps": given.steps, "dropout": False, "report_to": "none", **small_steps}

    # 1. Text, a paragraph a line, every twentieth held out.
    if given.text is None:
        found = [
            each for package in documentation.PACKAGES for each in documentation.docstrings(package, given.per_package)
        ]
        lines = [paragraph for each in found for paragraph in each.paragraphs]
    else:
        lines = given.text.read_text(encoding="utf-8").splitlines()
    train, held_out = given.output_dir / "train.txt", given.output_dir / "held_out.txt"
    train.write_text("\n".join(line for number, line in enumerate(lines) if number % 20) + "\n", encoding="utf-8")
    held_out.write_text("\n".join(lines[::20]) + "\n", encoding="utf-8")

    # 2. A teacher: words of this text, random weights, the masked-language-model loss alone.
    teacher = given.teacher
    if teacher is None:
        teacher, config = str(given.output_dir / "teacher"), given.output_dir / "teacher.json"
        words = BertWordPieceTokenizer(lowercase=True)
        words.train([str(train)], vocab_size=2048, show_progress=False)
        words.save_model(str(given.output_dir))
        sizes = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 256}
        ids = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
        known = {"model_type": "modernbert", "max_position_embeddings": 128, "initializer_range": 0.05}
        config.write_text(json.dumps({**known, **sizes, **ids}), encoding="utf-8")
        vocabulary = str(given.output_dir / "vocab.txt")
        df.distil(None, [str(train)], teacher, student_config=str(config), tokenizer=vocabulary, **options)

    # 3. The student: every other layer of the teacher, the three losses of DistilBERT.
    small = str(given.output_dir / "small")
    df.distil(teacher, [str(train)], small, validation=[str(held_out)], **options)

    # 4. What it kept, on the held-out text.
    df.evaluate_models(teacher, small, str(given.output_dir / "report"), text=[str(held_out)], max_length=64)
    print((given.output_dir / "report" / "evaluate.md").read_text(encoding="utf-8"))

    # 5. Plain transformers from here on.
    fill = pipeline("fill-mask", small)
    for found in fill(f"Returns a new {fill.tokenizer.mask_token} of the same shape.")[:3]:
        print(f"{found['score']:.2f}  {found['sequence']}")


if __name__ == "__main__":
    main()
