"""A folder with vocabulary, text and teacher, the flags of a short run on it, and the line of a refusal."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import distilfast as df
import pytest
import torch
import transformers
from distilfast import _command as command
from distilfast.models import student as models
from distilfast.train import run as train

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase), ".", ","]
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary of letters, text, and a teacher with that vocabulary."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "vocab.txt").write_text("\n".join(SPECIALS + LETTERS) + "\n")
    words = (train.__doc__ or "").split() + (models.__doc__ or "").split()
    lines = [" ".join(words[start : start + 6]) for start in range(len(words) - 6)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n")
    save_teacher(folder / "teacher", folder / "vocab.txt")
    return folder


def save_teacher(folder: Path, vocabulary: Path) -> None:
    tokenizer = df.Tokenizer.from_file(vocabulary)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=tokenizer.vocab_size, **SIZES)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def flags(folder: Path, output_dir: Path, **changes: Any) -> list[str]:
    values = {
        "teacher": folder / "teacher",
        "text": folder / "text.txt",
        "output_dir": output_dir,
        "max_length": 48,
        "batch_tokens": 256,
        "max_steps": 4,
        "save_steps": 2,
        "logging_steps": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        **changes,
    }
    return [part for name, value in values.items() if value is not None for part in (f"--{name}", *_words(value))]


def _words(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an exit with code 2."""
    with pytest.raises(SystemExit) as exited:
        command.run(lambda: train.main(argv))
    assert exited.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line
