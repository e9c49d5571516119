"""How well sentence vectors order the pairs of STS-B, without fine-tuning: one JSON of Spearman correlations.

Beside each model's correlation with the scores people gave (`people`) stands how near it is to the first model, the
teacher: the correlation of their scores (`teacher`) and the mean cosine of their vectors for a sentence (`vectors`).

A sentence's vector is the mean of its last hidden states over its tokens, special tokens included, as the encoder
`all-MiniLM-L6-v2` pools; the score of a pair is the cosine of its two vectors.

    python sentence_similarity.py --data_dir glue --output similarity.json teacher=DIRECTORY student=DIRECTORY ...
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import torch
from scipy.stats import spearmanr
from transformers import AutoModel, AutoTokenizer


def read_pairs(path: Path) -> tuple[list[str], list[str], list[float]]:
    """First sentences, second sentences and the scores people gave them, 0 to 5."""
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["sentence1"] for row in rows], [row["sentence2"] for row in rows], [float(row["score"]) for row in rows]


@torch.inference_mode()
def sentence_vectors(model: torch.nn.Module, tokenizer: object, sentences: list[str]) -> torch.Tensor:
    """Unit vectors [sentences, width] in the order given; batched by length, which changes nothing but the time."""
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    vectors = torch.empty(len(sentences), model.config.hidden_size)
    for start in range(0, len(order), 64):
        here = order[start : start + 64]
        batch = tokenizer(
            [sentences[i] for i in here], padding=True, truncation=True, max_length=128, return_tensors="pt"
        )
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None].to(hidden.dtype)
        vectors[torch.tensor(here)] = (hidden * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(vectors, dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="name=directory")
    parser.add_argument("--data_dir", required=True, type=Path, help="folder with STS-B/dev.tsv")
    parser.add_argument("--splits", nargs="+", default=["dev"], help="which files; none is trained on here")
    parser.add_argument("--output", required=True, type=Path)
    arguments = parser.parse_args()
    pairs = {split: read_pairs(arguments.data_dir / "STS-B" / f"{split}.tsv") for split in arguments.splits}
    reference: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    found = {"pairs": {split: len(scores) for split, (_, _, scores) in pairs.items()}, "models": {}}
    for model_name in arguments.models:
        name, _, path = model_name.partition("=")
        model, tokenizer = AutoModel.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
        layers = getattr(model.config, "n_layers", None) or model.config.num_hidden_layers
        row = {"layers": layers, "parameters": sum(p.numel() for n, p in model.named_parameters() if "pooler" not in n)}
        for split, (first, second, scores) in pairs.items():
            vectors = sentence_vectors(model, tokenizer, first + second)
            cosines = (vectors[: len(first)] * vectors[len(first) :]).sum(-1)
            teacher_vectors, teacher_cosines = reference.setdefault(split, (vectors, cosines))
            row[split] = {
                "people": 100 * float(spearmanr(cosines, scores).statistic),
                "teacher": 100 * float(spearmanr(cosines, teacher_cosines).statistic),
                "vectors": float((vectors * teacher_vectors).sum(-1).mean()),
            }
        found["models"][name] = row
        print(name, row, flush=True)
    arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
