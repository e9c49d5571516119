"""What the valid calls of every command read: text, rows, models, and files of the odd kinds."""

from __future__ import annotations

import os
import random
import string
from pathlib import Path

WORDS = "the cat sat on a mat and dog ran to home while it was good bad film not so".split()  # noqa: SIM905
LETTERS = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase), ".", ","]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def material(folder: Path) -> None:
    """What the valid calls read."""
    import distilfast as df
    import torch
    import transformers
    from distilfast.prepare.run import prepare

    folder.mkdir(parents=True)
    random.seed(0)

    def sentences(count: int) -> list[str]:
        return [" ".join(random.choices(WORDS, k=random.randint(6, 12))) + " ." for _ in range(count)]

    (folder / "vocab.txt").write_text("\n".join(SPECIALS + WORDS + LETTERS) + "\n")
    (folder / "text.txt").write_text("\n".join(sentences(60)) + "\n")
    (folder / "held_out.txt").write_text("\n".join(sentences(12)) + "\n")
    labelled = [(text, random.choice(["good", "bad"])) for text in sentences(24)]
    (folder / "rows.csv").write_text("\n".join(["text,label", *(",".join(row) for row in labelled)]) + "\n")
    (folder / "empty.txt").write_text("")
    (folder / "empty").mkdir()
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 4)
    tokenizer = df.Tokenizer.from_file(folder / "vocab.txt")
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 512}
    names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=tokenizer.vocab_size, num_hidden_layers=2, **sizes)
    teacher = transformers.BertForMaskedLM(config)
    classifier = transformers.BertForSequenceClassification(transformers.BertConfig(**{**config.to_dict(), **names}))
    for model, name in ((teacher, "teacher"), (df.create_student(teacher, 1), "student"), (classifier, "classifier")):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    prepare(folder / "tokens", folder / "vocab.txt", folder / "text.txt", max_length=48, progress=False)
    add_special_files(folder)


def add_special_files(folder: Path) -> None:
    """What `copytree` does not copy."""
    import socket

    os.mkfifo(folder / "pipe")
    here = Path.cwd()
    os.chdir(folder)  # the path of a socket may have a hundred bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    os.chdir(here)
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("gone")
