"""What we save loads and runs on transformers 4.57, with the same outputs, for the families that it has.

`DISTILFAST_TRANSFORMERS_4` names a folder that holds that version and what it needs (`pip install --target`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import distilfast as df
import numpy as np
import pytest
import torch
from distilfast.models.saved_tokenizer import save_tokenizer
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertTokenizer,
    DistilBertConfig,
    ElectraConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaTokenizer,
    XLMRobertaConfig,
    XLMRobertaTokenizer,
)

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["the cat sat", "a dog", "the dog ran to the cat and sat"]
WORDS = ["the", "cat", "sat", "a", "dog", "ran", "to", "and"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
LABELS = {0: "bad", 1: "good", 2: "so-so"}
HEADS = {
    "AutoModelForMaskedLM": AutoModelForMaskedLM,
    "AutoModelForSequenceClassification": AutoModelForSequenceClassification,
    "AutoModelForTokenClassification": AutoModelForTokenClassification,
}
# All students in one process: the start of that version takes longer than the students.
OTHER_SIDE = """
import json, sys, numpy, torch, transformers
assert transformers.__version__.startswith("4.57"), transformers.__version__
root, texts = sys.argv[1], json.loads(sys.argv[2])
for folder, head in json.loads(sys.argv[3]):
    folder = root + "/" + folder
    try:
        model = getattr(transformers, head).from_pretrained(folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        with torch.no_grad():
            outputs = model(**tokenizer(texts, padding=True, return_tensors="pt"))
        numpy.save(folder + "/logits.npy", outputs.logits.numpy())
        said = [model.config.id2label[index] for index in range(len(model.config.id2label))]
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    json.dump(said, open(folder + "/said.json", "w"))
"""


def wordpiece() -> PreTrainedTokenizerBase:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)})


def byte_level() -> PreTrainedTokenizerBase:
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"acdehnorst", "Ġ"]
    return RobertaTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])


def unigram() -> PreTrainedTokenizerBase:
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return XLMRobertaTokenizer(vocab=[*pieces, *((f"▁{word}", -1.0) for word in WORDS), ("<mask>", 0.0)])


FAMILIES = {
    "bert": (BertConfig, wordpiece),
    "distilbert": (DistilBertConfig, wordpiece),
    "electra": (ElectraConfig, wordpiece),
    "roberta": (RobertaConfig, byte_level),
    "xlm-roberta": (XLMRobertaConfig, unigram),
}


def save_student(family: str, head: str, folder: Path) -> np.ndarray:
    """Saves a student of two layers as training does, and returns its logits of `TEXTS`."""
    kind, make_tokenizer = FAMILIES[family]
    tokenizer = make_tokenizer()
    config: PretrainedConfig = kind(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
        **(SIZES if family != "distilbert" else {"dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 48}),
        **({} if "MaskedLM" in head else {"id2label": LABELS, "label2id": {name: i for i, name in LABELS.items()}}),
    )
    torch.manual_seed(0)
    student = df.create_student(HEADS[head].from_config(config).eval()).eval()
    student.save_pretrained(folder)
    save_tokenizer(tokenizer, student, folder)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        taken = {name: inputs[name] for name in df.models.model_input_names(student) if name in inputs}
        return student(**taken).logits.numpy()


def test_students_run_on_transformers_4(tmp_path: Path) -> None:
    older = os.environ.get("DISTILFAST_TRANSFORMERS_4")
    if not older:
        pytest.skip("needs transformers 4.57: set DISTILFAST_TRANSFORMERS_4 to a folder that holds it")
    cases = [(f"{family}-{head}", head) for family in FAMILIES for head in HEADS]
    ours = {folder: save_student(folder.removesuffix(f"-{head}"), head, tmp_path / folder) for folder, head in cases}
    subprocess.run(
        [sys.executable, "-c", OTHER_SIDE, tmp_path, json.dumps(TEXTS), json.dumps(cases)],
        env={**os.environ, "PYTHONPATH": older},
        check=True,
    )
    for folder, head in cases:
        said = json.loads((tmp_path / folder / "said.json").read_text())
        assert isinstance(said, list), f"{folder}: {said}"
        if "MaskedLM" not in head:
            assert said == list(LABELS.values()), folder
        np.testing.assert_allclose(np.load(tmp_path / folder / "logits.npy"), ours[folder], atol=1e-5, err_msg=folder)
