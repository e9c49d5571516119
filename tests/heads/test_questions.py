"""Question answering: losses by their definitions over the places where an answer can be, and the answers chosen."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_rows
import tiny_training
import torch
import torch.nn.functional as F
import transformers
from distilfast import DistillationTrainer, InputError
from distilfast.batches.labelled import LabelledBatches
from distilfast.batches.question_windows import encode_questions
from distilfast.heads import Objective, choose_head
from distilfast.heads.head import Predictions
from distilfast.heads.questions import Questions
from distilfast.metrics.questions import position_metrics
from distilfast.train.step import DistillationStep
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("one_thread")


def by_definition(student: Any, teacher: Any, batch: dict[str, Any], temperature: float) -> torch.Tensor:
    """KL + cross-entropy + cosine of one batch that is a whole step, each written out, a window at a time."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    s, t = (model(**inputs, output_hidden_states=True) for model in (student, teacher))
    kl, ce, labelled = 0.0, 0.0, 0
    for row, ids in enumerate(batch["input_ids"].tolist()):
        # The passage stands between the two [SEP]; [CLS] is the first token.
        first, second = (place for place, token in enumerate(ids) if token == 3)
        places = torch.tensor([0, *range(first + 1, second)])
        for name in ("start", "end"):
            ours, theirs = s[f"{name}_logits"][row, places], t[f"{name}_logits"][row, places]
            p = F.softmax(theirs / temperature, -1)
            kl = kl + temperature**2 * (p * (p.log() - F.log_softmax(ours / temperature, -1))).sum() / 2
            if (label := int(batch[f"{name}_positions"][row])) >= 0:
                ce = ce - F.log_softmax(ours, -1)[places.tolist().index(label)] / 2
                labelled += 0.5
    attended = batch["attention_mask"].bool()
    cosine = F.cosine_similarity(s.hidden_states[-1][attended], t.hidden_states[-1][attended], dim=-1)
    return kl / len(batch["input_ids"]) + ce / labelled + (1 - cosine).mean()


def test_the_losses_are_their_definitions() -> None:
    teacher, student = tiny_rows.answerer().double(), tiny_rows.answerer(1, seed=1).double()
    batch = tiny_rows.question_batches(99)[0]
    assert (batch["start_positions"] == -100).any()
    assert (batch["start_positions"] == 0).any()
    assert (batch["start_positions"] > 0).any()
    tiny_rows.assert_step_gives(by_definition(student, teacher, batch, 2.0), student, teacher, batch)


@given(size=st.integers(1, 5), batches_per_step=st.integers(1, 4), stride=st.sampled_from([None, 3]))
@settings(max_examples=10)
def test_the_gradients_of_micro_batches_add_up_to_that_of_their_windows_at_once(
    size: int, batches_per_step: int, stride: int | None
) -> None:
    """However wide the batches are: padding is in neither softmax."""
    teacher, student = tiny_rows.answerer(), tiny_rows.answerer(1, seed=1)
    step = DistillationStep(student, teacher, Objective(alpha_ce=1.0, alpha_mse=0.3), head=choose_head(teacher))
    how: dict[str, Any] = {"stride": stride, "max_length": 40 if stride is None else 20}
    cut = tiny_rows.question_batches(size, batches_per_step, **how)
    whole = tiny_rows.question_batches(size * batches_per_step, 1, **how)
    tiny_rows.assert_cut_is_whole(step, cut, whole, batches_per_step)


def test_it_is_trained_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    batches = tiny_rows.question_batches(3, 2)
    run = tiny_rows.assert_resumes(tmp_path, "questions", tiny_rows.answerer, batches)
    # The last evaluation is that of the spans found one window at a time, with the starts and ends tried in turn.
    rows, student = batches.rows, run.student.eval()
    assert rows.token_type_ids is not None
    assert rows.passages is not None
    assert rows.offsets is not None
    exact = []
    for window, answers in enumerate(rows.answers or ()):
        ids, types = (
            torch.tensor(part[window][None].astype(np.int64)) for part in (rows.input_ids, rows.token_type_ids)
        )
        with torch.no_grad():
            out = student(ids, token_type_ids=types)
        best, said = float(out.start_logits[0, 0] + out.end_logits[0, 0]), ""
        spans = rows.offsets[window]
        for first, last in itertools.combinations_with_replacement(np.flatnonzero(spans[:, 0] >= 0), 2):
            if (much := float(out.start_logits[0, first] + out.end_logits[0, last])) > best:
                best, said = much, rows.passages[window][spans[first, 0] : spans[last, 1]]
        if answers is not None:
            exact.append(float(said == (answers[0] if answers else "")))
    last = tiny_rows.evaluations(run)[-1]
    assert len(exact) == 11
    assert last["eval_exact_match"] == pytest.approx(np.mean(exact))
    assert {"eval_f1", "eval_f1_answerable", "eval_f1_unanswerable", "eval_agreement", "eval_kl", "eval_loss"} <= set(
        last
    )
    assert run.args.metric_for_best_model == "f1"


def test_it_learns_what_its_teacher_says(tmp_path: Path) -> None:
    args = tiny_rows.arguments(
        tmp_path, head="questions", alpha_task=0.0, alpha_cos=0.0, learning_rate=1e-2, num_train_epochs=20
    )
    run = DistillationTrainer(
        tiny_rows.answerer(1, seed=1), tiny_rows.answerer(), args, tiny_rows.question_batches(3, 2)
    )
    run.train()
    first, last = (float(line["loss_ce"]) for line in (run.state.log_history[0], run.state.log_history[-2]))
    assert last < 0.2 * first


def test_the_loss_on_labels_is_that_of_transformers_where_there_is_nothing_to_leave_out() -> None:
    model = tiny_rows.answerer()
    batch = tiny_rows.question_batches(99)[0]
    known = batch["start_positions"] >= 0
    labels = {name: batch[name][known] for name in ("start_positions", "end_positions")}
    inputs = {name: batch[name][known] for name in ("input_ids", "attention_mask", "token_type_ids")}
    everywhere = {**inputs, **labels, "answer_places": torch.ones_like(inputs["input_ids"], dtype=torch.bool)}
    sizes = dict.fromkeys(("num_rows_in_step", "num_labelled_in_step", "num_attended_in_step"), known.sum())
    step = DistillationStep(model, None, Objective(alpha_ce=0.0, alpha_cos=0.0), head=Questions())
    torch.testing.assert_close(step({**everywhere, **sizes})["loss"], model(**inputs, **labels).loss)


def test_rows_that_only_keep_a_rank_busy_count_nothing() -> None:
    teacher, student = tiny_rows.answerer(), tiny_rows.answerer(1, seed=1)
    step = DistillationStep(student, teacher, Objective(alpha_ce=1.0, alpha_mse=1.0), head=choose_head(teacher))
    step({**tiny_rows.question_batches(3)[0], "is_real": torch.tensor(False)})["loss"].backward()
    assert all(not weight.grad.any() for weight in student.parameters() if weight.grad is not None)


def test_several_teachers_teach_the_mean_of_their_places() -> None:
    head = Questions()
    teachers = [torch.tensor([[[0.0, 2.0, -torch.inf]] * 2]), torch.tensor([[[1.0, -1.0, -torch.inf]] * 2])]
    target = 0.25 * teachers[0].softmax(-1) + 0.75 * teachers[1].softmax(-1)
    mixed = head.mixed(teachers, [0.25, 0.75])
    torch.testing.assert_close(mixed.softmax(-1), target)
    assert mixed[..., 2].isneginf().all()


QUESTIONS = ["a ?", "b ?", "c ?"]
PASSAGES = ["ab cd ef gh ij kl mn op", "ab cd", "qr st"]
ANSWERS = [{"text": ["gh ij", "gh"], "answer_start": [9, 9]}, {"text": [], "answer_start": []}, None]


def logits_for(rows: Any, spans: dict[int, tuple[str, float]], width: int, side: str) -> np.ndarray:
    """Logits [windows, 2, width] that say of each row the words given, with that much, where a window has them; 0.5 for
    no answer, 0 elsewhere, -inf where no answer can be."""
    found = np.full((len(rows), 2, width), -np.inf, np.float32)
    for window in range(len(rows)):
        length = len(rows.input_ids[window])
        values = np.where(rows.answer_places[window], 0.0, -np.inf)[None].repeat(2, 0)
        values[:, 0] = 0.5
        words, much = spans.get(int(rows.row_numbers[window]), ("", 0.0))
        begin = rows.passages[rows.row_numbers[window]].find(words)
        if words:
            values[0, rows.offsets[window][:, 0] == begin] = much
            values[1, rows.offsets[window][:, 1] == begin + len(words)] = much
        found[window][:, slice(0, length) if side == "right" else slice(width - length, width)] = values
    return found


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_best_answers_over_all_windows_are_scored(side: str) -> None:
    rows = encode_questions(tiny_rows.tokenizer(), QUESTIONS, PASSAGES, ANSWERS, max_length=14, stride=4)
    assert len(rows) > 3  # the first passage has several windows
    said = logits_for(rows, {0: ("gh ij", 3.0), 2: ("st", 2.0)}, 16, side)
    teacher = logits_for(rows, {0: ("gh ij", 3.0), 1: ("cd", 3.0), 2: ("qr st", 2.0)}, 14, side)
    teacher = np.pad(teacher, ((0, 0), (0, 0), (0, 2) if side == "right" else (2, 0)), constant_values=-np.inf)
    order = np.arange(len(rows))[::-1]  # batches are by length
    head = Questions()
    predictions = Predictions(said[order], teacher[order], None, order, rows)
    assert head.answers(said[order], predictions) == ["gh ij", "", "st"]
    assert head.answers(teacher[order], predictions) == ["gh ij", "cd", "qr st"]
    found = head.metrics(predictions)
    assert (found["exact_match"], found["f1"]) == (1.0, 1.0)
    assert (found["f1_answerable"], found["f1_unanswerable"]) == (1.0, 1.0)
    assert found["agreement"] == pytest.approx(1 / 3)
    assert found["teacher_f1"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert found["kl"] > 0


def test_loss_and_divergence_of_positions() -> None:
    logits = torch.randn(3, 2, 5, dtype=torch.float64)
    teacher = torch.randn(3, 2, 5, dtype=torch.float64)
    for each in (logits, teacher):
        each[0, :, 3:] = -torch.inf
    labels = torch.tensor([[0, 2], [-100, -100], [4, 4]])
    found = position_metrics(logits.numpy(), labels.numpy(), teacher.numpy())
    expected = torch.stack([F.cross_entropy(logits[:, side], labels[:, side]) for side in (0, 1)]).mean()
    assert found["loss"] == pytest.approx(float(expected))
    p, q = teacher.softmax(-1), logits.softmax(-1)
    assert found["kl"] == pytest.approx(float(torch.where(p > 0, p * (p / q).log(), 0.0).sum(-1).mean()))
    with pytest.raises(InputError, match="not finite"):
        position_metrics(np.full((1, 2, 3), np.nan))


def test_batches_of_other_widths_are_joined() -> None:
    joined = Questions().joined([torch.zeros(2, 2, 3), torch.ones(1, 2, 5)])
    assert joined.shape == (3, 2, 5)
    assert joined[:2, :, 3:].isneginf().all()
    assert (joined[2] == 1).all()


@pytest.mark.parametrize("side", ["right", "left"])
def test_batches_say_where_an_answer_can_be(side: str) -> None:
    rows = tiny_rows.question_rows()
    padder = tiny_rows.tokenizer()
    padder.padding_side = side
    batch = LabelledBatches(rows, padder, 4)[0]
    for ids, places in zip(batch["input_ids"].tolist(), batch["answer_places"].tolist(), strict=True):
        first, second = (place for place, token in enumerate(ids) if token == 3)
        cls = ids.index(2)
        assert [place for place, can in enumerate(places) if can] == [cls, *range(first + 1, second)]


def test_models_that_do_not_fit_are_refused() -> None:
    teacher = tiny_rows.answerer()
    head = choose_head(teacher)
    assert head.name == "questions"
    with pytest.raises(InputError, match="BertForMaskedLM has no question-answering head"):
        DistillationStep(tiny_training.teacher(), teacher, Objective(), head=head)
    beams = transformers.XLMForQuestionAnswering(transformers.XLMConfig(emb_dim=16, n_layers=1, n_heads=2, n_words=30))
    assert not head.fits(beams)
    with pytest.raises(InputError, match="passages"):
        head.answers(np.zeros((1, 2, 3)), Predictions(np.zeros((1, 2, 3)), None, None))
