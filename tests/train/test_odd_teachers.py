"""Teachers of every family, head and habit: right about the rows that they labelled themselves, before and after.

Each is saved, labels rows by plain `transformers` (`own_labels`), and is trained from and evaluated on them: a wrong
position, padding, class order, head, dtype or tokenizer anywhere on the way shows as less than all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distilfast as df
import pytest
import torch
import transformers
from distilfast.train import run as train
from own_labels import AUTO, label_by_itself, texts
from tiny_exports import FAMILIES, PADDING_READ, WORDS, model, tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = {0: "good", 1: "bad", 2: "neither"}
TAGS = {0: "O", 1: "B-PER", 2: "I-PER"}
POSITIONS = 64
ALL = [(family, head) for family in (*FAMILIES, *PADDING_READ) for head in AUTO]
SOME = [
    *(("bert", head) for head in AUTO),
    *(("roberta", "classification"), ("electra", "tokens"), ("xlm-roberta", "questions"), ("modernbert", "tokens")),
    *(("fnet", "classification"), ("convbert", "tokens"), ("nystromformer", "questions")),
    *(("distilbert", "classification"), ("mpnet", "classification"), ("deberta-v2", "tokens")),
]


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: None if value == "null" else value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def change_tokenizer(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text()) | changes
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def named(head: str, **changes: Any) -> dict[str, Any]:
    names = {"classification": NAMES, "tokens": TAGS}.get(head)
    return changes if names is None else {"id2label": names, "label2id": {v: k for k, v in names.items()}, **changes}


def save(folder: Path, family: str, head: str, **changes: Any) -> Any:
    tokenizer(family).save_pretrained(folder)
    for seed in range(20):
        made = model(family, head, seed=seed, **named(head, **changes))
        made.save_pretrained(folder)
        if says_several_things(folder, head):
            return made
    raise AssertionError("no seed gives a model that says several things")


def says_several_things(folder: Path, head: str) -> bool:
    """Whether the model in `folder` tells rows apart; one that says the same of all would hide what goes wrong."""
    if head not in ("classification", "tokens"):
        return True
    rows = [json.loads(line) for line in label_by_itself(folder, head, 24, number=16).read_text().splitlines()]
    said = [str(tag) for row in rows for tag in (row.get("ner_tags") or [row.get("label", row.get("labels"))])]
    return len(set(said)) > 1 or "score" in rows[0]


def with_spare_rows(folder: Path) -> None:
    made = save(folder, "bert", "classification")
    made.resize_token_embeddings(len(tokenizer()) + 300)
    made.save_pretrained(folder)


def in_shards_of_half_precision(folder: Path) -> None:
    save(folder, "bert", "classification")
    (folder / "model.safetensors").unlink()
    model("bert", "classification", **named("classification")).half().save_pretrained(folder, max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").is_file()


def saved_and(then: Callable[[Path], Any], **changes: Any) -> Callable[[Path], Any]:
    def make(folder: Path) -> None:
        save(folder, changes.pop("family", "bert"), changes.pop("head", "classification"), **changes)
        then(folder)

    return make


def label2id_of_another_order(folder: Path) -> None:
    change_config(folder, label2id={"good": 2, "bad": 0, "neither": 1})


def nothing(folder: Path) -> None:
    pass


HABITS: dict[str, Callable[[Path], Any]] = {
    "spare rows of the embeddings": with_spare_rows,
    "float16 in shards": in_shards_of_half_precision,
    "no longest text": saved_and(lambda folder: change_tokenizer(folder, model_max_length=int(1e30))),
    "no longest text, positions from behind the padding": saved_and(
        lambda folder: change_tokenizer(folder, model_max_length=int(1e30)), family="roberta"
    ),
    "padding on the left": saved_and(lambda folder: change_tokenizer(folder, padding_side="left")),
    "classes without names": saved_and(nothing, id2label={0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, label2id={}),
    "label2id of another order": saved_and(label2id_of_another_order),
    "positions counted from a word": saved_and(lambda folder: change_config(folder, pad_token_id=7), family="roberta"),
    "states and attention with every answer": saved_and(
        lambda folder: change_config(folder, output_hidden_states=True, output_attentions=True, torchscript=True)
    ),
    "tuples for answers": saved_and(lambda folder: change_config(folder, return_dict=False)),
    "one number": saved_and(nothing, id2label={0: "score"}, label2id={"score": 0}),
    "several classes a row": saved_and(nothing, problem_type="multi_label_classification"),
    "two classes": saved_and(nothing, id2label={0: "yes", 1: "no"}, label2id={"yes": 0, "no": 1}),
}


def assert_right_about_itself(folder: Path, head: str) -> dict[str, Any]:
    """Trains from the teacher in `folder` and evaluates it and its student; the summary of the training."""
    config = transformers.AutoConfig.from_pretrained(folder)
    offset = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet") else 0
    read = transformers.AutoTokenizer.from_pretrained(folder)
    longest = min(read.model_max_length, POSITIONS - offset)
    rows = label_by_itself(folder, head, longest)
    out = folder.with_name("out")
    options = {"max_steps": 1, "report_to": "none", "use_cpu": True, "precision": "fp32", "disable_tqdm": True}
    summary = df.distil(folder, rows, out, validation=rows, per_device_train_batch_size=8, **options)
    report = df.evaluate_models(
        f"teacher={folder}",
        f"student={out}",
        str(folder.with_name("report")),
        validation_file=str(rows),
        speed=False,
        pictures=False,
        device="cpu",
    )
    part = report["rows"]["rows"]
    for found in (summary["report"]["quality"], part):
        assert found["units"] > 10
        for metric in found["main"]:
            assert found["models"]["teacher"]["metrics"][metric] == pytest.approx(1.0, abs=1e-6), metric
    for metric in part["main"]:  # both commands say the same of the student
        ours, theirs = (each["models"]["student"]["metrics"][metric] for each in (summary["report"]["quality"], part))
        assert ours == pytest.approx(theirs, abs=1e-6)
    student = AUTO[head].from_pretrained(out)
    assert student.dtype == torch.float32
    assert student.config.num_hidden_layers == 1
    assert type(student).__name__ == type(AUTO[head].from_pretrained(folder)).__name__
    assert student.config.id2label == config.id2label
    assert student.config.label2id == {name: number for number, name in config.id2label.items()}
    return summary


@pytest.mark.parametrize(
    ("family", "head"), [pytest.param(*each, marks=[] if each in SOME else pytest.mark.slow) for each in ALL]
)
def test_every_family_and_head(tmp_path: Path, family: str, head: str) -> None:
    save(tmp_path / "teacher", family, head)
    assert_right_about_itself(tmp_path / "teacher", head)


@pytest.mark.parametrize("habit", HABITS)
def test_what_teachers_are_saved_with(tmp_path: Path, habit: str, caplog: pytest.LogCaptureFixture) -> None:
    HABITS[habit](tmp_path / "teacher")
    assert_right_about_itself(tmp_path / "teacher", "classification")
    assert ("label2id contradicts" in caplog.text) == (habit == "label2id of another order")


def without_pad_token(folder: Path) -> None:
    made = tokenizer()
    made.pad_token = None
    made.save_pretrained(folder)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no pad token": (saved_and(without_pad_token), "no pad token"),
    "classes from 1": (
        saved_and(lambda folder: change_config(folder, id2label={"1": "good", "2": "bad", "3": "neither"})),
        "the numbers 1, 2, 3",
    ),
    "two classes of one name": (
        saved_and(nothing, id2label={0: "a", 1: "a", 2: "b"}, label2id={}),
        "two classes called 'a'",
    ),
    "classes that blanks alone tell apart": (
        saved_and(nothing, id2label={0: "a", 1: "a ", 2: "b"}, label2id={}),
        "two classes called 'a'",
    ),
    "a class without a name": (saved_and(nothing, id2label={0: "a", 1: "", 2: "b"}, label2id={}), "name is empty"),
    "no padding to count positions from": (
        saved_and(lambda folder: change_config(folder, pad_token_id="null"), family="roberta"),
        "the pad_token_id of its config.json is null",
    ),
    "an adapter beside the model": (
        saved_and(lambda folder: (folder / "adapter_config.json").write_text("{}")),
        "holds an adapter .* merge_and_unload",
    ),
    "an adapter alone": (
        saved_and(lambda folder: (folder / "config.json").rename(folder / "adapter_config.json")),
        "holds an adapter .* and not its model",
    ),
    "weights in 4 bits": (
        saved_and(lambda folder: change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})),
        r"has quantised weights \(gptq\)",
    ),
    "a class more than the head has": (
        saved_and(
            lambda folder: change_config(folder, id2label={str(n): f"class {n}" for n in range(4)}, label2id=None)
        ),
        "do not have the shapes",
    ),
    "another head": (lambda folder: save(folder, "bert", "masked_lm"), "--train_file is not for the head masked_lm"),
    "no head": (lambda folder: save(folder, "bert", "hidden_states"), "--train_file is not for the head hidden_states"),
    "a decoder": (saved_and(lambda folder: change_config(folder, is_decoder=True)), "is a decoder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_teach_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    make, told = REFUSED[case]
    make(tmp_path / "teacher")
    rows = [f"{' '.join(WORDS[number : number + 4])},{['good', 'bad'][number % 2]}" for number in range(20)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    given = {"teacher": tmp_path / "teacher", "train_file": tmp_path / "rows.csv", "output_dir": tmp_path / "out"}
    argv = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    with pytest.raises(df.InputError, match=told) as caught:
        train.main([*argv, "--max_steps", "1", "--use_cpu", "true", "--report_to", "none"])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_decoder_that_is_not_the_word_embeddings_stays_one(tmp_path: Path, family: str) -> None:
    """The file holds both, whatever the configuration says: so do the student's file and what is exported of it."""
    made = model(family, "masked_lm")
    torch.manual_seed(3)
    made.config.tie_word_embeddings = False
    made.set_output_embeddings(torch.nn.Linear(32, made.config.vocab_size))
    made.save_pretrained(tmp_path / "teacher")
    tokenizer(family).save_pretrained(tmp_path / "teacher")
    change_config(tmp_path / "teacher", tie_word_embeddings=None)
    (tmp_path / "text.txt").write_text("\n".join(" ".join(words) for words in texts(40)) + "\n")
    options = {"max_steps": 1, "learning_rate": 1e-9, "report_to": "none", "use_cpu": True, "batch_tokens": 256}
    out = tmp_path / "out"
    df.distil(tmp_path / "teacher", tmp_path / "text.txt", out, max_length=48, min_length=0, **options)
    df.export_student(out, tmp_path / "exported")
    for folder in (out, tmp_path / "exported"):
        student = transformers.AutoModelForMaskedLM.from_pretrained(folder)
        assert student.config.tie_word_embeddings is False
        decoder, words = student.get_output_embeddings().weight, student.get_input_embeddings().weight
        torch.testing.assert_close(decoder, made.get_output_embeddings().weight, atol=1e-6, rtol=0)
        torch.testing.assert_close(words, made.get_input_embeddings().weight, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("learning_rate", "-1", "--learning_rate -1: must be greater than 0"),
        ("learning_rate", "nan", "--learning_rate nan: must be finite"),
        ("num_train_epochs", "0", "there would be no step to take"),
        ("max_length", "0", "max_length=0 leaves no room"),
        ("max_length", "2", "max_length=2 leaves no room"),
        ("per_device_train_batch_size", "0", "--per_device_train_batch_size 0: must be greater than 0"),
        ("per_device_train_batch_size", "-3", "--per_device_train_batch_size -3: must be greater than 0"),
        ("per_device_eval_batch_size", "0", "--per_device_eval_batch_size 0: must be greater than 0"),
        ("layers", "9", "a student of 9 layers cannot be cut out of a teacher of 2"),
        ("min_length", "3", "--min_length is not for the head classification"),
    ],
)
def test_numbers_that_no_run_can_have(tmp_path: Path, flag: str, value: str, told: str) -> None:
    save(tmp_path / "teacher", "bert", "classification")
    rows = label_by_itself(tmp_path / "teacher", "classification", 48)
    argv = ["--teacher", str(tmp_path / "teacher"), "--train_file", str(rows), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(df.InputError, match=re.escape(told)):
        train.main([*argv, f"--{flag}", value, "--use_cpu", "true", "--report_to", "none"])
    assert not (tmp_path / "out").exists()
