"""The train bench: its plain loop computes the same loss, its batches are what they are called, its result is whole."""

from __future__ import annotations

import copy
import itertools
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from distilfast import InputError
from distilfast.bench import masked_lm, measure, plain_loop, train, trainers
from distilfast.models import adaptation
from distilfast.train.stopped import TrainingInterruptedError
from transformers import BertConfig, BertForMaskedLM, BertTokenizer, Trainer, TrainingArguments

ROWS = [[2, *range(5, 5 + length), 3] for length in (4, 30, 6, 28, 5, 31, 7, 29)]


@pytest.fixture
def tokenizer() -> BertTokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(60))]
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)})


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_the_bench_runs_and_its_result_is_whole(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DISTILFAST_DATA", raising=False)
    flags = "--size tiny --batch_tokens 256 --max_length 64 --rounds 1 --batches 2 --batches_per_step 2 --threads 1"
    threads = torch.get_num_threads()
    told = ["--layout", layout, "--json", str(tmp_path / "result.json")]
    monkeypatch.setattr("sys.argv", ["train", *flags.split(), *told])
    train.main()
    torch.set_num_threads(threads)
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["contenders"]) == {"ours", "ours, masked only", "plain loop", "best settings"}
    speeds = {name: numbers["tokens_per_second"] for name, numbers in result["contenders"].items()}
    assert min(speeds.values()) > 0
    assert result["ratio_to_plain"] == pytest.approx(speeds["ours"] / speeds["plain loop"])
    assert result["ratio_to_best"] == pytest.approx(speeds["ours"] / speeds["best settings"])
    assert result["loss"]["ours"] == pytest.approx(result["loss"]["plain"], rel=1e-4)
    assert result["rows"]["source"] == "made up"
    assert result["layout"] == layout
    assert 0 < result["contenders"]["ours"]["tokens_per_batch"] <= 256
    assert 0 < result["loader_share"] < 1
    assert 0 < result["utilization"] < 1
    assert 0 < result["loss_share"] < 1
    printed = capsys.readouterr().out
    assert "| plain loop |" in printed
    assert f"ours is {result['ratio_to_plain']:.2f} times the plain loop" in printed


def test_on_a_gpu_ours_is_checked_in_bfloat16_and_the_plain_loop_fits(
    tokenizer: BertTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel without padding does not compute in float32, in which the student is kept."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=65, **sizes)
    contest = masked_lm.Contest(config, ROWS, tokenizer, 40, 100, 2, "packed", torch.device("cpu"))
    checked = []
    monkeypatch.setattr(adaptation, "use_packed", lambda model, dtype, device: checked.append((dtype, device)))
    contest.our_loop()
    assert checked == [(torch.bfloat16, torch.device("cpu"))] * 2
    contest.device = torch.device("cuda")
    numbers = []
    monkeypatch.setattr(masked_lm, "collated_batches", lambda *_, number, **__: numbers.append(number))
    contest.plain_loop(grouped=False, bf16=False)
    assert numbers == [100 // max(map(len, ROWS))]


def test_a_contender_that_fails_leaves_the_others_results() -> None:
    turns = itertools.count()

    def runs_out() -> int:
        if next(turns) >= 2:
            raise torch.OutOfMemoryError("CUDA out of memory\nat great length")
        return 7

    def is_refused() -> measure.Step:
        raise InputError("this model cannot run packed")

    contenders = {"ours": lambda: lambda: 5, "plain loop": lambda: runs_out, "best settings": is_refused}
    told: list[dict[str, dict[str, object]]] = []
    keep = lambda results: told.append(copy.deepcopy(results))  # noqa: E731
    found = measure.measure(contenders, torch.device("cpu"), 1, 2, keep)
    assert found["best settings"] == {"error": "InputError: this model cannot run packed"}
    assert found["ours"]["tokens_per_batch"] == 5
    assert found["plain loop"]["error"] == "OutOfMemoryError: CUDA out of memory"
    assert told[1]["plain loop"]["tokens_per_batch"] == 7  # was written when it still ran
    assert masked_lm.ratios(found) == {}
    assert masked_lm.ratios(told[1]).keys() == {"ratio_to_plain"}
    facts = {
        "size": "tiny",
        "layout": "packed",
        "batch_tokens": 7,
        "device": "cpu",
        "threads": 1,
        "contenders": told[0],
    }
    versions, rows = dict.fromkeys(("torch", "transformers"), "5"), {"mean_length": 1, "max_length": 2, "source": "x"}
    loss = {"ours": 1.0, "plain": 1.0}
    said = masked_lm.table({**facts, "versions": versions, "rows": rows, "loss": loss, "error": "no luck"})
    assert "| plain loop | not measured yet |" in said
    assert "| best settings | InputError: this model cannot run packed |" in said
    assert said.endswith("failed: no luck")


HEADS = ["classification", "tokens", "embedding"]


@pytest.mark.parametrize("head", HEADS)
def test_trainers_of_every_head_take_turns_on_the_same_tokens(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if head == "embedding":
        pytest.importorskip("sentence_transformers")
    monkeypatch.delenv("DISTILFAST_DATA", raising=False)
    size = "--batch_tokens 256" if head == "embedding" else "--per_device_train_batch_size 8"
    flags = f"--head {head} --size tiny --rows 24 {size} --max_length 32"
    threads = torch.get_num_threads()
    train.main([*flags.split(), "--rounds", "2", "--threads", "1", "--json", str(tmp_path / "result.json")])
    torch.set_num_threads(threads)
    result = json.loads((tmp_path / "result.json").read_text())
    ours, *usual = [name for name in result["contenders"] if not name.startswith("ours, ")]
    assert ours == "ours"
    assert ("ours, --cache_teacher" in result["contenders"]) == (head != "embedding")
    assert result["best"] in usual
    assert [name.endswith("best settings") for name in usual] == [False, True]
    assert result["loss"]["ours"] == pytest.approx(result["loss"]["usual"], rel=1e-4)
    assert result["loss"]["ours"] > 0
    for numbers in result["contenders"].values():
        assert 0 < numbers["lowest"] <= numbers["tokens_per_second"] <= numbers["highest"]
    assert len(result["ratios"]) == 2
    assert min(result["ratios"]) <= result["ratio_to_best"] <= max(result["ratios"])
    assert 24 * 6 <= result["tokens_per_epoch"] <= 24 * 32
    printed = capsys.readouterr().out
    assert f"ours is {result['ratio_to_best']:.2f} times {result['best']}" in printed
    assert "step" not in printed.replace("steps", "")  # what the trainers say is left out


def test_a_signal_ends_the_bench_and_is_no_contest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTILFAST_DATA", raising=False)
    monkeypatch.setattr(trainers.Clock, "on_step_end", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    flags = "--head classification --size tiny --rows 24 --per_device_train_batch_size 8 --max_length 32 --threads 1"
    threads = torch.get_num_threads()
    with pytest.raises(TrainingInterruptedError, match="nothing was measured") as caught:
        train.main([*flags.split(), "--json", str(tmp_path / "result.json")])
    torch.set_num_threads(threads)
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def contenders(tokens: int) -> dict[str, trainers.Make]:
    """Two trainers of made-up rows, the second of which has other tokens than the first."""

    def make(rows: int) -> trainers.Make:
        class Loss(torch.nn.Linear):
            def forward(self, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
                return {"loss": super().forward(attention_mask.float()).mean()}

        def trainer(folder: Path) -> Trainer:
            data = [{"attention_mask": torch.ones(2)} for _ in range(rows)]
            args = TrainingArguments(str(folder), per_device_train_batch_size=1, **trainers.OPTIMISER)
            return Trainer(model=Loss(2, 1), args=args, train_dataset=data)  # type: ignore[arg-type]

        return trainer

    return {"ours": make(3), "usual": make(tokens // 2)}


def test_other_tokens_and_other_losses_stop_the_bench() -> None:
    device = torch.device("cpu")
    result = trainers.run(trainers.Contest((1.0, 1.0), contenders(6), {}), device, 1)
    assert result["tokens_per_epoch"] == 6
    with pytest.raises(AssertionError, match="usual trained on 8 tokens, not 6"):
        trainers.run(trainers.Contest((1.0, 1.0), contenders(8), {}), device, 1)
    with pytest.raises(AssertionError, match="losses differ: ours 1"):
        trainers.run(trainers.Contest((1.0, 1.01), contenders(6), {}), device, 1)
    with pytest.raises(InputError, match="one step"):
        trainers.run(trainers.Contest((1.0, 1.0), {"usual": contenders(2)["usual"]}, {}), device, 1)


def test_unequal_losses_stop_the_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    teacher = masked_lm.freeze(BertForMaskedLM(BertConfig(vocab_size=65, **sizes)))
    student = masked_lm.create_student(teacher)
    ids = torch.tensor([ROWS[0] + [0, 0], ROWS[4] + [0], ROWS[2]])
    batch = {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "mlm_positions": torch.tensor([2, 9, 0]),
        "mlm_labels": torch.tensor([7, 8, -100]),
        "num_tokens": (ids != 0).sum(),
        "num_attended_in_step": torch.tensor(1000),
        "num_masked_in_step": torch.tensor(1000),
    }
    ours, theirs = masked_lm.check_equal_losses(student, teacher, batch)
    assert ours == pytest.approx(theirs, rel=1e-5)
    monkeypatch.setattr(plain_loop, "ALPHA_MLM", 2.01)
    with pytest.raises(AssertionError, match="losses differ"):
        masked_lm.check_equal_losses(student, teacher, batch)


def test_random_batches_are_padded_to_their_longest_row(tokenizer: BertTokenizer) -> None:
    batches = list(itertools.islice(plain_loop.collated_batches(ROWS, tokenizer, 40, grouped=False), 8))
    assert {len(batch["input_ids"]) for batch in batches} == {2}
    for batch in batches:
        lengths = batch["attention_mask"].sum(1)
        assert batch["input_ids"].shape[1] == lengths.max()
        assert set(batch["labels"][batch["attention_mask"] == 0].tolist()) <= {-100}
    assert max(batch["attention_mask"].sum(1).max() / batch["attention_mask"].sum(1).min() for batch in batches) > 3


def test_grouped_batches_hold_rows_of_like_length_and_every_row(tokenizer: BertTokenizer) -> None:
    groups = plain_loop._like_lengths(ROWS, list(range(8)), 70)
    assert sorted(itertools.chain(*groups)) == list(range(8))
    for group in groups:
        lengths = [len(ROWS[index]) for index in group]
        assert max(lengths) * len(lengths) <= 70
        assert max(lengths) <= 1.5 * min(lengths)


def test_a_missing_text_file_is_refused(tmp_path: Path) -> None:
    arguments = train.TrainBench(text=str(tmp_path / "none.txt"))
    with pytest.raises(InputError, match="there is no such file"):
        train.texts_of(arguments, BertConfig(vocab_size=100))
