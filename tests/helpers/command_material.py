"""What the valid calls of every command read: text, rows, models, and files of the odd kinds."""

from __future__ import annotations

import itertools
import json
import os
import random
import string
from pathlib import Path

import tiny_sentence

WORDS = "the cat sat on a mat and dog ran to home while it was good bad film not so".split()  # noqa: SIM905
LETTERS = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase), ".", ","]
TAGS = ["O", "B-PER", "I-PER"]
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
    _rows_of_other_heads(folder, labelled)
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
    tags = {"id2label": dict(enumerate(TAGS)), "label2id": {tag: number for number, tag in enumerate(TAGS)}}
    models = {
        "teacher": teacher,
        "student": df.create_student(teacher, 1),
        "classifier": classifier,
        "tagger": transformers.BertForTokenClassification(transformers.BertConfig(**{**config.to_dict(), **tags})),
        "answerer": transformers.BertForQuestionAnswering(config),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    tiny_sentence.encoder_folder(folder / "encoder", layers=2, width=16, words=[*WORDS, *LETTERS])
    prepare(folder / "tokens", folder / "vocab.txt", folder / "text.txt", max_length=48, progress=False)
    add_special_files(folder)


def _rows_of_other_heads(folder: Path, labelled: list[tuple[str, str]]) -> None:
    """Tagged words, questions, pairs with scores, and a collection to search in."""
    texts = [text for text, _ in labelled]
    tagged = [[f"{word}\t{random.choice(TAGS)}" for word in text.split()] for text in texts]
    (folder / "words.conll").write_text("\n\n".join("\n".join(lines) for lines in tagged) + "\n")
    with (folder / "questions.jsonl").open("w") as file:
        for text in texts:
            answer = random.choice(text.split())
            answers = {"text": [answer], "answer_start": [text.index(answer)]}
            file.write(json.dumps({"question": f"the {answer} sat ?", "context": text, "answers": answers}) + "\n")
    pairs = [f"{one},{other},{random.randint(0, 5)}" for one, other in itertools.pairwise(texts)]
    (folder / "pairs.csv").write_text("\n".join(["sentence1,sentence2,score", *pairs]) + "\n")
    collection = folder / "collection"
    (collection / "qrels").mkdir(parents=True)
    for name, some in (("corpus", texts), ("queries", texts[:6])):
        lines = [json.dumps({"_id": str(number), "text": text}) for number, text in enumerate(some)]
        (collection / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    judged = [f"{query}\t{query}\t1" for query in range(6)]
    (collection / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")


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
