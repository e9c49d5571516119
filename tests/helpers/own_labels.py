"""Rows that a model has labelled itself, by plain `transformers`, one row at a time: whatever reads the model and the
rows rightly finds it right on every one."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_exports import WORDS

AUTO = {
    "classification": transformers.AutoModelForSequenceClassification,
    "tokens": transformers.AutoModelForTokenClassification,
    "questions": transformers.AutoModelForQuestionAnswering,
}
LONGEST_ANSWER = 30
"""Tokens of an answer, as in the published baselines of SQuAD."""


def texts(number: int, seed: int = 0) -> list[list[str]]:
    """Words of the vocabulary: rows of 3 to 12, and one that no model here has positions for."""
    draw = random.Random(seed)
    words = [word for word in WORDS if word.isalpha()]
    return [draw.choices(words, k=draw.randint(3, 12)) for _ in range(number - 1)] + [draw.choices(words, k=90)]


def label_by_itself(folder: Path, head: str, longest: int, number: int = 24) -> Path:
    """`rows.jsonl` beside `folder`, labelled by the model in it; rows are cut to `longest` tokens, questions are not
    that long."""
    model, tokenizer = (
        AUTO[head].from_pretrained(folder).float().eval(),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
    rows = []
    for words in texts(number):
        if head == "questions":
            rows += [_question(model, tokenizer, words[:2], words[2:])] if len(words) > 3 and len(words) < 30 else []
        elif head == "tokens":
            encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=longest)
            best = _outputs(model, encoded).logits[0].argmax(-1).tolist()
            first = {word: place for place, word in reversed(list(enumerate(encoded.word_ids()))) if word is not None}
            tags = [model.config.id2label[best[first[word]]] for word in range(len(words)) if word in first]
            rows.append({"tokens": words[: len(tags)], "ner_tags": tags})
        else:
            encoded = tokenizer(" ".join(words), truncation=True, max_length=longest)
            rows.append({"text": " ".join(words), **_label(model.config, _outputs(model, encoded).logits[0])})
    path = folder.with_name("rows.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _outputs(model: Any, encoded: Any) -> Any:
    taken = {name: torch.tensor([encoded[name]]) for name in model_inputs(model) if name in encoded}
    with torch.no_grad():
        return model(**taken, return_dict=True)


def model_inputs(model: Any) -> list[str]:
    names = ["input_ids", "attention_mask"]
    return names + (["token_type_ids"] if getattr(model.config, "type_vocab_size", 0) > 1 else [])


def _label(config: Any, logits: torch.Tensor) -> dict[str, Any]:
    if len(logits) == 1 or config.problem_type == "regression":
        return {"score": float(logits[0])}
    if config.problem_type == "multi_label_classification":
        return {"labels": [config.id2label[number] for number in range(len(logits)) if logits[number] > 0]}
    return {"label": config.id2label[int(logits.argmax())]}


def _question(model: Any, tokenizer: Any, question: list[str], passage: list[str]) -> dict[str, Any]:
    context = " ".join(passage)
    encoded = tokenizer(" ".join(question) + " ?", context, return_offsets_mapping=True)
    outputs = _outputs(model, encoded)
    start, end = outputs.start_logits[0], outputs.end_logits[0]
    places = [place for place, part in enumerate(encoded.sequence_ids()) if part == 1]
    spans = [(a, b) for a in places for b in places if a <= b < a + LONGEST_ANSWER]
    first, last = max(spans, key=lambda span: float(start[span[0]] + end[span[1]]))
    begin, stop = encoded["offset_mapping"][first][0], encoded["offset_mapping"][last][1]
    answer = {"text": [context[begin:stop]], "answer_start": [begin]}
    return {"question": " ".join(question) + " ?", "context": context, "answers": answer}
