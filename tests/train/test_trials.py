"""What went wrong when others' bug reports and habits were tried on training: leaks, wrong types, what the Hub gets."""

from __future__ import annotations

import concurrent.futures
import json
from pathlib import Path
from typing import Any

import datasets
import distilfast as df
import huggingface_hub
import pytest
import tiny_training
import transformers
from distilfast import _command as command
from distilfast.__main__ import COMMANDS, main
from distilfast.models.load import load_teacher
from distilfast.train import run as train
from distilfast.train.hub import PushError
from distilfast.train.trainer import DistillationTrainer
from tiny_training import TinyBatches, arguments, teacher, trainer
from train_command import flags, folder, refusal
from transformers import AutoTokenizer, TrainingArguments

__all__ = ["folder"]  # the fixture

pytestmark = pytest.mark.usefixtures("one_thread")


class Hub:
    """The part of the Hub that a push talks to; keeps the content of every upload."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.uploads: list[dict[str, bytes]] = []
        self.error: Exception | None = None
        monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", self.create_repo)
        monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", self.upload_folder)

    def create_repo(self, repo_id: str, **_: Any) -> Any:
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, folder_path: str, run_as_future: bool = False, **options: Any) -> Any:
        def upload() -> str:
            if self.error is not None:
                raise self.error
            patterns = options.get("ignore_patterns") or []
            names = [path.relative_to(folder_path) for path in Path(folder_path).rglob("*") if path.is_file()]
            kept = huggingface_hub.utils.filter_repo_objects(map(str, names), ignore_patterns=patterns)
            self.uploads.append({name: (Path(folder_path) / name).read_bytes() for name in kept})
            return "done"

        if run_as_future:
            with concurrent.futures.ThreadPoolExecutor() as pool:
                return pool.submit(upload)
        return upload()


PUBLIC = {
    "README.md",
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "train_summary.json",
}


def test_a_push_takes_the_student_and_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(monkeypatch)
    out = tmp_path / "out"
    train.main(flags(folder, out, push_to_hub=True, hub_model_id="me/small"))
    assert len(hub.uploads) >= 2  # while training, and at the end
    for upload in hub.uploads:
        assert set(upload) <= PUBLIC
        for name, content in upload.items():
            assert str(tmp_path).encode() not in content, name
            assert str(folder).encode() not in content, name
    last = hub.uploads[-1]
    assert set(last) == PUBLIC
    assert last["model.safetensors"] == (out / "model.safetensors").read_bytes()
    assert json.loads(last["train_summary.json"])["teacher"] == "teacher"
    card = last["README.md"].decode()
    assert card.startswith("---\n")
    assert "huggingface.co/)" not in card
    assert "unknown dataset" not in card
    assert "# small" in card


def test_a_hub_that_fails(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """While training the run goes on; at the end one line says so, and the student is there."""
    hub = Hub(monkeypatch)
    hub.error = OSError("the Hub is closed\nfor today")
    with pytest.raises(SystemExit) as exited:
        command.run(lambda: train.main(flags(folder, tmp_path / "out", push_to_hub=True, hub_model_id="me/small")))
    assert exited.value.code == 1
    said = capsys.readouterr().err
    assert "but the Hub did not take it: the Hub is closed" in said
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "train_summary.json").is_file()


def test_a_push_that_cannot_begin(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Offline: refused before anything is written; and so is a strategy that would push the optimiser."""
    said = refusal(flags(folder, tmp_path / "out", push_to_hub=True, hub_model_id="me/small"), capsys)
    assert "--push_to_hub: the repository cannot be made" in said
    said = refusal(flags(folder, tmp_path / "out", push_to_hub=True, hub_strategy="all_checkpoints"), capsys)
    assert "the optimiser's state" in said
    assert not (tmp_path / "out").exists()


def test_push_and_card_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch)
    run = trainer(tmp_path / "out", max_steps=1, hub_model_id="me/small")
    run.train()
    run.push_to_hub(model_name="Mine")
    assert set(hub.uploads[-1]) == {"README.md", "config.json", "model.safetensors"}
    assert b"# Mine" in hub.uploads[-1]["README.md"]
    assert run.args.output_dir == str(tmp_path / "out")
    run.create_model_card(license="apache-2.0", dataset=str(tmp_path / "secret" / "text.txt"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert str(tmp_path) not in card
    hub.error = OSError("closed")
    with pytest.raises(PushError, match="closed"):
        run.push_to_hub()


def test_train_then_save_model(tmp_path: Path) -> None:
    run = trainer(tmp_path / "out", max_steps=2)
    run.train()
    run.save_model()
    saved = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    for name, value in tiny_training.weights(run.student).items():
        assert value.equal(saved.state_dict()[name])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"student": "distilbert"}, "student is a name, 'distilbert'"),
        ({"teacher": "bert"}, "teacher is a name, 'bert'.*load_teacher"),
        ({"teacher": 3}, "."),
        ({"args": TrainingArguments("out", report_to="none", use_cpu=True)}, "args is a TrainingArguments"),
        ({"train_dataset": datasets.Dataset.from_dict({"input_ids": [[1]]})}, "a Dataset, not batches.*MaskedBatches"),
        ({"train_dataset": [1, 2]}, "a list, not batches"),
        ({"train_dataset": None}, "not batches"),
        ({"student": "the teacher"}, "the same model"),
    ],
)
def test_wrong_types_are_answered_with_a_sentence(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    model = teacher()
    given: dict[str, Any] = {
        "student": df.create_student(model, 1),
        "teacher": model,
        "args": arguments(tmp_path / "out"),
        "train_dataset": TinyBatches(),
        **changes,
    }
    if given["student"] == "the teacher":
        given["student"] = model
    with pytest.raises((df.InputError, TypeError), match=told):
        DistillationTrainer(**given)
    assert not (tmp_path / "out").exists()


def test_a_name_where_a_teacher_is_wanted() -> None:
    with pytest.raises(df.InputError, match=r"load_teacher\(name\)"):
        df.create_student("bert-base-uncased")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("bench", "train", "task_distillation")])
def test_only_train_runs_under_torchrun(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.chdir(tmp_path)
    given = {
        "prepare": ["--tokenizer", "vocab.txt", "--text", "text.txt"],
        "evaluate": ["--teacher", "teacher"],
        "export": ["--student", "teacher"],
        "ablate": ["--held_out", "text.txt"],
        "trim": ["--model", "teacher", "--vocabulary", "30", "--text", "text.txt"],
    }.get(name, [])
    with pytest.raises(SystemExit) as exited:
        main([name, *given, "--output_dir", "out"])
    assert exited.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "is one process, and torchrun started 2" in said
    assert not any(tmp_path.iterdir())


def reordered(folder: Path, target: Path, rows: int | None = None) -> Path:
    """The teacher in `folder` once more, with its words in another order, or with `rows` entries in all."""
    model = load_teacher(folder / "teacher")
    words = (folder / "vocab.txt").read_text().split()
    if rows is None:
        words = words[:5] + words[:4:-1]
    else:
        model.resize_token_embeddings(rows)
    model.save_pretrained(target)
    vocabulary = target.with_suffix(".txt")
    vocabulary.write_text("\n".join(words) + "\n")
    df.Tokenizer.from_file(vocabulary).save_pretrained(target)
    return target


def test_vocabularies_are_compared_by_their_words(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many words in another order are another vocabulary: of a student, of a second teacher, of --tokenizer."""
    other = reordered(folder, tmp_path / "other")
    for change in (
        {"student": other},
        {"teacher": [folder / "teacher", other]},
        {"tokenizer": other},
        {"tokenizer": tmp_path / "other.txt"},
    ):
        assert "has another vocabulary: its id 5 is" in refusal(flags(folder, tmp_path / "out", **change), capsys)
        assert not (tmp_path / "out").exists()


def test_spare_rows_are_welcome(folder: Path, tmp_path: Path) -> None:
    spare = reordered(folder, tmp_path / "spare", rows=300)
    train.main(flags(folder, tmp_path / "out", teacher=spare, max_steps=1))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 300


@pytest.mark.parametrize("settings", [{"return_dict": False}, {"output_hidden_states": True}, {"torchscript": True}])
def test_settings_of_old_configurations(folder: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    load_teacher(folder / "teacher").save_pretrained(tmp_path / "teacher")
    AutoTokenizer.from_pretrained(folder / "teacher").save_pretrained(tmp_path / "teacher")
    config = tmp_path / "teacher" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    train.main(flags(folder, tmp_path / "out", teacher=tmp_path / "teacher", max_steps=1, alpha_hidden=1))
    assert (tmp_path / "out" / "train_summary.json").is_file()


def test_the_students_files_say_nothing_of_this_machine(folder: Path, tmp_path: Path) -> None:
    train.main(flags(folder, tmp_path / "out", max_steps=1))
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        content = (tmp_path / "out" / name).read_text()
        assert str(folder) not in content
        assert "is_local" not in content
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["model_input_names"] == ["input_ids", "attention_mask"]  # a DistilBERT has no token types


def test_a_resumed_run_took_as_long_as_all_of_it(folder: Path, tmp_path: Path) -> None:
    given = {"max_steps": 3, "save_steps": 1}
    train.main(flags(folder, tmp_path / "out", **given))
    seal = tmp_path / "out" / "checkpoint-2" / "distilfast.json"
    content = json.loads(seal.read_text())
    assert 0 < content["progress"]["meters"][0]["seconds"] < 600
    content["progress"]["meters"][0]["seconds"] = 1000.0
    seal.write_text(json.dumps(content))
    train.main(flags(folder, tmp_path / "out", **given, resume_from_checkpoint=tmp_path / "out" / "checkpoint-2"))
    assert 1000 < json.loads((tmp_path / "out" / "train_summary.json").read_text())["seconds"] < 1600


def test_what_is_left_out_of_text_is_counted_and_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Short texts are left out of a masked-language model's, not of an encoder's; and --column names their column."""
    texts = ["abc def", "abcdefgh ijklmnop qrst"] * 20
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    given: dict[str, Any] = {"text": tmp_path / "rows.jsonl", "column": "body", "max_steps": 1}
    for number, (changes, least, rows) in enumerate(
        [({}, 12, 20), ({"min_length": 0}, 0, 40), ({"head": "hidden_states"}, 0, 40)]
    ):
        out = tmp_path / f"out{number}"
        train.main(flags(folder, out, **given, **changes))
        told = (
            f"text: 40 texts made {rows} rows; left out {40 - rows} of fewer than {least} tokens (--min_length), 0 of"
        )
        assert told in capsys.readouterr().out
        summary = json.loads((out / "train_summary.json").read_text())
        assert any(note.startswith(told) for note in summary["notes"])
    resume = flags(folder, tmp_path / "out0", **given, min_length=3, resume_from_checkpoint="last", save_steps=1)
    train.main(flags(folder, tmp_path / "out0", **given, save_steps=1, overwrite=True))
    assert "cannot resume: --min_length was 12 and is 3" in refusal(resume, capsys)
    for changes, told in (
        ({"column": "gone"}, "no column 'gone', only 'body'"),
        ({"column": ["a", "b"]}, "text has one column"),
        ({"min_length": -1}, "min_length=-1"),
    ):
        assert told in refusal(flags(folder, tmp_path / "no", **{**given, **changes}), capsys)
        assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"report_to": "wandb"}, "wandb"),
        ({"optim": "adamw_bnb_8bit"}, "--optim adamw_bnb_8bit: You need to install `bitsandbytes`"),
        ({"optim": "galore_adamw"}, "--optim galore_adamw: You need to install `galore_torch`"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "--lr_scheduler_type cosine_with_min_lr"),
        ({"eval_on_start": True}, "--validation_text"),
        ({"save_strategy": "best", "save_steps": None}, "--save_strategy best does nothing without an evaluation"),
        ({"eval_steps": 2}, "--eval_steps 2 does nothing without an evaluation"),
        ({"do_eval": True}, "--do_eval True does nothing"),
        ({"save_only_model": True}, "--save_only_model is not supported: a run could not go on"),
        ({"max_length": 0}, "max_length 0 leaves no room"),
        ({"max_length": 1}, "max_length 1 leaves no room"),
        ({"batch_tokens": 0}, "batch_tokens=0"),
        ({"hidden_map": "9:9", "alpha_hidden": 1}, "the layer map names layer 9"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(
    folder: Path, tmp_path: Path, change: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refusal(flags(folder, tmp_path / "out", **change), capsys)
    assert not (tmp_path / "out").exists()
