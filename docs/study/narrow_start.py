"""How near narrower students start to their teacher, with no training: python docs/study/narrow_start.py FOLDER TEXT

FOLDER: a sentence encoder; TEXT: a text a line. Prints parameters, the mean cosine of vectors to the teacher's on 96
lines, and the correlation of the similarities between these lines; students are chosen on 128 other lines.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from distilfast.models.sentence import load_sentence_encoder, student_modules
from distilfast.models.student import create_student

LINES, SAMPLE, TOGETHER = 2_000, 128, 16
NARROW = {"hidden_size": 256, "intermediate_size": 1024}
INNER = {"intermediate_size": 1024}


def main(folder: str, text: str) -> None:
    encoder = load_sentence_encoder(folder)
    with Path(text).open(encoding="utf-8") as file:
        lines = [line.strip() for line in file if len(line) > 80][: LINES + 96]

    def batches(texts: list[str]) -> list[dict[str, torch.Tensor]]:
        parts = [texts[start : start + TOGETHER] for start in range(0, len(texts), TOGETHER)]
        options = {"padding": True, "truncation": True, "max_length": 128, "return_tensors": "pt"}
        return [dict(encoder.tokenizer(part, **options)) for part in parts]

    @torch.inference_mode()
    def vectors(model: torch.nn.Module, modules: torch.nn.Module) -> torch.Tensor:
        model.eval()
        names = ("input_ids", "attention_mask")
        each = [(model(**{name: batch[name] for name in names}).last_hidden_state, batch) for batch in judged]
        return torch.cat([modules(states, batch) for states, batch in each])

    sample, judged = batches(lines[:SAMPLE]), batches(lines[LINES:])
    wanted = vectors(encoder.model, encoder.modules)
    others = ~torch.eye(len(wanted), dtype=torch.bool)
    for name, options in {
        "inner units chosen on the sample": {**INNER, "sample": sample},
        "inner units by weights alone": INNER,
        "narrower, chosen on the sample": {**NARROW, "sample": sample},
        "narrower, by weights alone": NARROW,
        "narrower, random weights": {**NARROW, "init": "random"},
    }.items():
        student = create_student(encoder.model, 6, student_type="same", **options)
        found = vectors(student, student_modules(student, encoder.modules))
        cosine = float(torch.nn.functional.cosine_similarity(found, wanted).mean())
        alike = float(np.corrcoef((wanted @ wanted.T)[others], (found @ found.T)[others])[0, 1])
        print(
            f"{name}: {student.num_parameters() / 1e6:.2f} M parameters, cosine {cosine:.3f}, correlation {alike:.3f}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
