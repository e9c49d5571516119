"""What int8 changes in a classifier: python int8.py DEV.csv STUDENT... prints, for weights with one scale a tensor and
with one a channel, the rows whose class stays, the accuracy before and after, and the KL from float to int8.

Computed by `distilfast.models.quantized`, whose numbers are those of the file (tests/models/test_quantized.py),
on rows with the columns text and label, 50 a batch, those of like length together.
"""

import csv
import sys

import torch
import transformers
from distilfast.models.quantized import INT8_MOST, quantized_inputs, quantized_weight, quantized_weights


def of_one_scale(weight: torch.Tensor) -> torch.Tensor:
    scale, zero = weight.abs().amax() / INT8_MOST, torch.zeros((), dtype=torch.int32)
    return torch.fake_quantize_per_tensor_affine(weight, scale, zero, -INT8_MOST, INT8_MOST)


@torch.no_grad()
def main(file: str, *students: str) -> None:
    with open(file, encoding="utf-8", newline="") as rows:
        found = sorted(csv.DictReader(rows), key=lambda row: len(row["text"]))
    for student in students:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(student).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(student)
        texts = [row["text"] for row in found]
        batches = [
            dict(tokenizer(texts[at : at + 50], padding=True, truncation=True, max_length=256, return_tensors="pt"))
            for at in range(0, len(texts), 50)
        ]
        classes = {name: number for number, name in model.config.id2label.items()}
        labels = torch.tensor([int(classes[row["label"]]) for row in found])
        exact = torch.cat([model(**batch).logits for batch in batches])
        for kind, held_as in (("tensor", of_one_scale), ("channel", quantized_weight)):
            weights = {name: held_as(model.get_parameter(name)) for name in quantized_weights(model)}
            with quantized_inputs(model):
                outputs = [
                    torch.func.functional_call(model, weights, (), batch, tie_weights=False).logits for batch in batches
                ]
            got = torch.cat(outputs)
            kl = torch.nn.functional.kl_div(
                got.log_softmax(-1), exact.log_softmax(-1), log_target=True, reduction="batchmean"
            )
            same, before, after = (
                100 * (ours.argmax(-1) == theirs).double().mean()
                for ours, theirs in ((got, exact.argmax(-1)), (exact, labels), (got, labels))
            )
            print(
                f"{student}, a scale a {kind}: same class {same:.2f} %, "
                f"accuracy {before:.2f} to {after:.2f}, KL {kl:.1e}"
            )


main(*sys.argv[1:])
