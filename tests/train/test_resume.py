"""Killed at any moment and resumed, a run gives the bits of the run that was left alone; or says why it cannot."""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_training
import torch
from distilfast import DistillationTrainer, InputError, create_student
from distilfast.train.checkpoint import SEAL, checkpoints, find_checkpoint, tear

pytestmark = pytest.mark.usefixtures("one_thread")

# 7 batches an epoch, 2 a step: 4 steps an epoch, the last of a single batch. A line of the log every 3 steps, a
# checkpoint every 2, so that the sums for a line are saved half way.
ONE_RANK: dict[str, Any] = {"logging_steps": 3}
MOMENTS = 20 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 2  # at which a run is killed by chance
# 4 batches a step on 2 ranks: 2 steps an epoch, and a rank without a batch at the end of each.
TWO_RANKS: dict[str, Any] = {"batches_per_step": 4, "save_steps": 1, "logging_steps": 3, "num_train_epochs": 3}


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    """Bit for bit: every weight and every line of the log."""
    assert actual["curve"] == expected["curve"]
    assert actual["weights"] == expected["weights"]


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The results of runs that nothing interrupts, by layout."""
    results = {}
    for layout in ("padded", "packed"):
        folder = tmp_path_factory.mktemp(layout)
        assert tiny_training.run_ranks(folder, layout=layout, count_calls=True, **ONE_RANK) == [0]
        results[layout] = tiny_training.result(folder)
    return results


@pytest.mark.parametrize(
    ("layout", "step", "within", "resumed_from"),
    [("padded", 3, True, 2), ("packed", 3, True, 2), ("padded", 5, False, 4), ("packed", 7, True, 6)],
)
def test_killed_and_resumed_is_the_run_left_alone(
    tmp_path: Path, left_alone: dict[str, Any], layout: str, step: int, within: bool, resumed_from: int
) -> None:
    # Steps 2 and 6 are within an epoch, step 4 is between two; `within` kills between two micro-batches of a step,
    # where the step has two.
    within = within and step % 4 != 3
    kill = {"step": step, "signal": "SIGKILL", "within": within}
    assert tiny_training.run_ranks(tmp_path, layout=layout, kill=kill, **ONE_RANK) == [-9]
    assert checkpoints(tmp_path)[0].name == f"checkpoint-{resumed_from}"
    assert tiny_training.run_ranks(tmp_path, layout=layout, resume="last", **ONE_RANK) == [0]
    assert_same(tiny_training.result(tmp_path), left_alone[layout])


def test_full_determinism_changes_no_bit_on_a_cpu_and_refuses_no_operation(
    tmp_path: Path, left_alone: dict[str, Any]
) -> None:
    """It also fills memory that is handed out with NaN, which whoever reads what he has not written would see."""
    options = {**ONE_RANK, "layout": "packed", "full_determinism": True}
    kill = {"step": 3, "signal": "SIGKILL", "within": False}
    assert tiny_training.run_ranks(tmp_path, kill=kill, **options) == [-9]
    assert tiny_training.run_ranks(tmp_path, resume="last", **options) == [0]
    assert_same(tiny_training.result(tmp_path), left_alone["packed"])


@pytest.mark.gpu
def test_a_gpu_goes_on_bit_for_bit_with_full_determinism(tmp_path: Path) -> None:
    options = {**ONE_RANK, "layout": "packed", "full_determinism": True}
    options |= {"precision": "bf16", "use_cpu": False, "gpu": True}
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    assert tiny_training.run_ranks(whole, **options) == [0]
    kill = {"step": 3, "signal": "SIGKILL", "within": False}
    assert tiny_training.run_ranks(halved, kill=kill, **options) == [-9]
    assert tiny_training.run_ranks(halved, resume="last", **options) == [0]
    assert_same(tiny_training.result(halved), tiny_training.result(whole))


def random_call(whole: dict[str, Any], seed: str, moment: int) -> int:
    """A call of the run, the same one for the same seed: anywhere, or while a checkpoint is written if it is odd."""
    draw = random.Random(f"{seed} {moment}")
    if moment % 2:
        first, last = draw.choice(whole["saves"][:-1])
        return draw.randint(first + 1, last)
    return draw.randint(whole["calls"] // 50, whole["calls"] * 9 // 10)


def go_on(folder: Path, ranks: int = 1, **options: Any) -> None:
    """Resumes from the last whole checkpoint; from the start where the run was killed before there was one."""
    resume = "last" if any(tear(each) is None for each in checkpoints(folder)) else None
    assert tiny_training.run_ranks(folder, ranks, resume=resume, **options) == [0] * ranks


@pytest.mark.parametrize("moment", range(MOMENTS))
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_killed_at_a_random_moment(tmp_path: Path, left_alone: dict[str, Any], layout: str, moment: int) -> None:
    call = random_call(left_alone[layout], layout, moment)
    assert tiny_training.run_ranks(tmp_path, layout=layout, kill_at_call={"0": call}, **ONE_RANK) == [-9]
    go_on(tmp_path, layout=layout, **ONE_RANK)
    assert_same(tiny_training.result(tmp_path), left_alone[layout])


@pytest.mark.parametrize("seed", range(MOMENTS // 2))
def test_killed_three_times_by_the_clock(tmp_path: Path, left_alone: dict[str, Any], seed: int) -> None:
    layout = ("padded", "packed")[seed % 2]
    draw, killed, most, folder = random.Random(seed), 0, 0.6 * left_alone[layout]["seconds"], tmp_path
    while not killed:
        # Once more and sooner, where the run was faster than the one that was timed.
        folder, most = tmp_path / f"{most:.6f}", most / 2
        folder.mkdir()
        for _ in range(3):
            after = draw.uniform(0.0, 2 * most)
            resume = "last" if any(tear(each) is None for each in checkpoints(folder)) else None
            (code,) = tiny_training.run_ranks(folder, layout=layout, kill_after=after, resume=resume, **ONE_RANK)
            print(f"seed {seed}: kill -9 after {after:.3f} s, from {resume}: {code}")
            assert code in (0, -9)  # 0 where what was left of the run took less
            killed += code == -9
    go_on(folder, layout=layout, **ONE_RANK)
    assert_same(tiny_training.result(folder), left_alone[layout])


def test_sigterm_saves_and_the_run_goes_on_from_there(tmp_path: Path, left_alone: dict[str, Any]) -> None:
    kill = {"step": 2, "signal": "SIGTERM", "within": True}
    assert tiny_training.run_ranks(tmp_path, kill=kill, **ONE_RANK) == [143]
    assert checkpoints(tmp_path)[0].name == "checkpoint-3"
    assert tiny_training.run_ranks(tmp_path, resume="last", **ONE_RANK) == [0]
    assert_same(tiny_training.result(tmp_path), left_alone["padded"])


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_two_ranks_killed_and_resumed(tmp_path: Path, layout: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert tiny_training.run_ranks(whole, 2, layout=layout, count_calls=True, **TWO_RANKS) == [0, 0]
    kill = {"step": 2, "signal": "SIGKILL", "within": True, "ranks": [1]}
    assert tiny_training.run_ranks(killed, 2, layout=layout, kill=kill, **TWO_RANKS)[1] == -9
    assert checkpoints(killed)[0].name == "checkpoint-2"
    assert tiny_training.run_ranks(killed, 2, layout=layout, resume="last", **TWO_RANKS) == [0, 0]
    for rank in range(2):
        assert_same(tiny_training.result(killed, rank), tiny_training.result(whole, rank))
    # The same with one of the ranks killed at random moments, while it writes a checkpoint among others.
    for moment in range(MOMENTS // 2):
        rank, folder = moment % 2, tmp_path / f"moment{moment}"
        call = random_call(tiny_training.result(whole, rank), f"two {layout} {rank}", moment // 2 + 1)
        codes = tiny_training.run_ranks(folder, 2, layout=layout, kill_at_call={str(rank): call}, **TWO_RANKS)
        assert codes[rank] == -9
        go_on(folder, 2, layout=layout, **TWO_RANKS)
        for each in range(2):
            assert_same(tiny_training.result(folder, each), tiny_training.result(whole, each))


def test_sigterm_to_one_rank_stops_both(tmp_path: Path) -> None:
    kill = {"step": 1, "signal": "SIGTERM", "within": True, "ranks": [1]}
    assert tiny_training.run_ranks(tmp_path, 2, kill=kill, **{**TWO_RANKS, "save_steps": 100}) == [143, 143]
    assert checkpoints(tmp_path)[0].name == "checkpoint-2"
    assert tear(checkpoints(tmp_path)[0]) is None


def test_another_number_of_ranks_goes_on_with_the_same_batches(tmp_path: Path) -> None:
    options = {**TWO_RANKS, "dropout": 0.0}
    one, two = tmp_path / "one", tmp_path / "two"
    kill = {"step": 2, "signal": "SIGKILL"}
    assert -9 in tiny_training.run_ranks(two, 2, kill=kill, **options)
    assert tiny_training.run_ranks(two, 1, resume="last", **options) == [0]
    # Step 2 ends the first epoch; the second and third are read whole and in order.
    assert tiny_training.result(two)["requested"] == [[epoch, number] for epoch in (1, 2) for number in range(7)]
    assert tiny_training.run_ranks(one, 1, **options) == [0]
    expected, actual = tiny_training.result(one)["weights"], tiny_training.result(two)["weights"]
    for name, value in expected.items():
        # A key's bias has no gradient but rounding, which Adam blows up to whole steps.
        if not name.endswith("k_lin.bias"):
            torch.testing.assert_close(torch.tensor(actual[name]), torch.tensor(value), rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    tiny_training.trainer(folder).train()
    return folder


@pytest.fixture
def run_folder(finished: Path, tmp_path: Path) -> Path:
    """A run with checkpoints at steps 2, 4, 6 and 8, to be damaged."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "name", "why"),
    [
        (truncate, "model.safetensors", "bytes instead of"),
        (flip, "optimizer.pt", "other bytes than were written"),
        (Path.unlink, "rng_state.pth", "rng_state.pth is missing"),
        (Path.unlink, SEAL, "not written to the end"),
        (truncate, SEAL, "cannot be read"),
    ],
)
def test_a_torn_checkpoint_gives_way_to_the_one_before(run_folder: Path, damage: Any, name: str, why: str) -> None:
    damage(run_folder / "checkpoint-8" / name)
    chosen, notes = find_checkpoint("last", run_folder)
    assert chosen == run_folder / "checkpoint-6"
    assert len(notes) == 1
    assert "checkpoint-8 is torn" in notes[0]
    assert why in notes[0]
    assert find_checkpoint(str(run_folder / "checkpoint-8"), "elsewhere")[0] == chosen
    assert find_checkpoint(str(run_folder / "checkpoint-4"), "elsewhere")[0].name == "checkpoint-4"


def test_a_run_with_all_its_steps_behind_it_takes_none(tmp_path: Path) -> None:
    options = {"max_steps": 3, "save_steps": 1}
    first = tiny_training.trainer(tmp_path, **options)
    first.train()
    again = tiny_training.trainer(tmp_path, **options)
    assert again.train(resume_from_checkpoint="last").global_step == again.state.global_step == 3
    assert again.state.log_history == first.state.log_history[:-1]  # the last says how long it took
    expected = tiny_training.weights(first.student)
    found = tiny_training.weights(again.student)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not (tmp_path / "checkpoint-4").exists()


def test_without_a_whole_checkpoint_there_is_no_resume(run_folder: Path, tmp_path: Path) -> None:
    for folder in checkpoints(run_folder):
        (folder / SEAL).unlink()
    with pytest.raises(InputError, match=r"holds no checkpoint that is whole; .*checkpoint-8 is torn"):
        find_checkpoint("last", run_folder)
    with pytest.raises(InputError, match="there is no such directory"):
        find_checkpoint(str(tmp_path / "none"), run_folder)


def test_a_resume_of_another_run_is_refused_by_name(run_folder: Path) -> None:
    def resume(**changes: Any) -> None:
        tiny_training.trainer(run_folder, **changes).train(resume_from_checkpoint="last")

    with pytest.raises(InputError, match=r"learning_rate was 0\.01 and is 0\.02"):
        resume(learning_rate=0.02)
    with pytest.raises(InputError, match=r"alpha_ce was 5\.0 and is 1\.0.*temperature was 2\.0 and is 4\.0"):
        resume(alpha_ce=1.0, temperature=4.0)
    with pytest.raises(InputError, match=r"data \(fingerprint"):
        resume(count=8)
    args = tiny_training.arguments(run_folder)
    other = tiny_training.teacher(seed=1)
    run = DistillationTrainer(create_student(other, 1), other, args, tiny_training.TinyBatches(7))
    with pytest.raises(InputError, match=r"teacher \(checksum of weights\) was '[0-9a-f]{8}' and is"):
        run.train(resume_from_checkpoint="last")


def test_what_does_not_touch_the_weights_may_change(run_folder: Path) -> None:
    run = tiny_training.trainer(run_folder, logging_steps=1, save_steps=4, save_total_limit=1)
    run.train(resume_from_checkpoint=str(run_folder / "checkpoint-6"))
    assert run.state.global_step == 8


def test_a_full_disk_leaves_the_checkpoint_before_whole(tmp_path: Path) -> None:
    assert tiny_training.run_ranks(tmp_path, most_bytes=(3, 4096)) == [1]
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-2"]
    assert tear(tmp_path / "checkpoint-2") is None
    message = (tmp_path / "error.txt").read_text()
    assert re.search(r"checkpoint-4 could not be written, with [\d,]+ MB left on that disk: ", message), message
    assert f"the last whole checkpoint is {tmp_path / 'checkpoint-2'}" in message


def test_old_checkpoints_go_when_the_new_one_is_whole(tmp_path: Path) -> None:
    tiny_training.trainer(tmp_path, save_total_limit=2).train()
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-8", "checkpoint-6"]
    assert all(tear(folder) is None for folder in checkpoints(tmp_path))
