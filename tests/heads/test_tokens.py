"""Taggers: losses by their definitions at the first token of each word, whatever a step is cut into; their metrics."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_rows
import tiny_training
import torch
import torch.nn.functional as F
from distilfast import DistillationTrainer, InputError
from distilfast.heads import Objective, choose_head
from distilfast.heads.head import Predictions
from distilfast.heads.tokens import Tokens
from distilfast.metrics.compare import Tags, compared
from distilfast.train.step import DistillationStep
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["O", "B-PER", "I-PER", "B-LOC"]


def by_definition(student: Any, teacher: Any, batch: dict[str, Any], temperature: float) -> torch.Tensor:
    """KL + cross-entropy + cosine of one batch that is a whole step, each written out, a word at a time."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    s, t = (model(**inputs, output_hidden_states=True) for model in (student, teacher))
    kl, ce, words, labelled = 0.0, 0.0, 0, 0
    for row, column in batch["word_starts"].nonzero().tolist():
        p = F.softmax(t.logits[row, column] / temperature, -1)
        kl = kl + temperature**2 * (p * (p.log() - F.log_softmax(s.logits[row, column] / temperature, -1))).sum()
        words += 1
        if (label := int(batch["labels"][row, column])) >= 0:
            ce = ce - F.log_softmax(s.logits[row, column], -1)[label]
            labelled += 1
    attended = batch["attention_mask"].bool()
    cosine = F.cosine_similarity(s.hidden_states[-1][attended], t.hidden_states[-1][attended], dim=-1)
    return kl / words + ce / labelled + (1 - cosine).mean()


def test_a_taggers_losses_are_their_definitions() -> None:
    teacher, student = tiny_rows.tagger(NAMES).double(), tiny_rows.tagger(NAMES, 1, seed=1).double()
    batch = tiny_rows.word_batches(len(NAMES), 99)[0]
    assert (batch["labels"][batch["word_starts"]] == -100).any()  # some words have no tag
    tiny_rows.assert_step_gives(by_definition(student, teacher, batch, 2.0), student, teacher, batch)


@given(size=st.integers(1, 5), batches_per_step=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=10)
def test_the_gradients_of_micro_batches_add_up_to_that_of_their_rows_at_once(
    size: int, batches_per_step: int, seed: int
) -> None:
    teacher, student = tiny_rows.tagger(NAMES), tiny_rows.tagger(NAMES, 1, seed=1)
    objective = Objective(alpha_ce=1.0, alpha_mse=0.3)
    step = DistillationStep(student, teacher, objective, head=choose_head(teacher))
    cut = tiny_rows.word_batches(len(NAMES), size, batches_per_step, seed)
    whole = tiny_rows.word_batches(len(NAMES), size * batches_per_step, 1, seed)
    tiny_rows.assert_cut_is_whole(step, cut, whole, batches_per_step)


def test_a_tagger_is_trained_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    batches = tiny_rows.word_batches(4, 3, 2)
    run = tiny_rows.assert_resumes(tmp_path, "tokens", lambda: tiny_rows.tagger(NAMES), batches)
    # The last evaluation is what seqeval makes of the student's tags, sentence by sentence.
    truth, said, agree = [], [], []
    student, teacher = run.student.eval(), run.step.teachers[0]
    assert batches.rows.word_labels is not None
    for row in range(len(batches.rows)):
        ids, labels = batches.rows.input_ids[row], batches.rows.word_labels[row]
        given = torch.tensor(ids[None].astype(np.int64))
        with torch.no_grad():
            ours, theirs = (model(given).logits[0].argmax(-1).numpy() for model in (student, teacher))
        words = np.arange(1, len(ids) - 1)  # each word is a token here, or several of which the first counts
        first = [place for place in words if not tiny_rows.VOCABULARY[ids[place]].startswith("##")]
        agree += [ours[place] == theirs[place] for place in first]
        known = [place for place in first if labels[place] >= 0]
        truth += [[NAMES[labels[place]] for place in known]] if known else []
        said += [[NAMES[ours[place]] for place in known]] if known else []
    last = tiny_rows.evaluations(run)[-1]
    assert len(truth) > 2
    assert last["eval_f1"] == pytest.approx(f1_score(truth, said))
    assert last["eval_accuracy"] == pytest.approx(np.mean(np.concatenate(truth) == np.concatenate(said)))
    assert last["eval_agreement"] == pytest.approx(np.mean(agree))
    assert run.args.metric_for_best_model == "f1"


def test_a_tagger_learns_what_its_teacher_says(tmp_path: Path) -> None:
    args = tiny_rows.arguments(
        tmp_path, head="tokens", alpha_task=0.0, alpha_cos=0.0, learning_rate=1e-2, num_train_epochs=20
    )
    teacher = tiny_rows.tagger(NAMES)
    run = DistillationTrainer(tiny_rows.tagger(NAMES, 1, seed=1), teacher, args, tiny_rows.word_batches(4, 3, 2))
    run.train()
    first, last = (float(line["loss_ce"]) for line in (run.state.log_history[0], run.state.log_history[-2]))
    assert last < 0.2 * first


def test_only_the_first_tokens_of_words_count() -> None:
    head = choose_head(tiny_rows.tagger(NAMES))
    batch = tiny_rows.word_batches(len(NAMES), 99)[0]
    rows = head.rows(batch, Objective())
    assert isinstance(head, Tokens)
    logits = torch.randn(batch["input_ids"].numel(), len(NAMES))
    changed = torch.where(batch["word_starts"].flatten()[:, None], logits, torch.randn_like(logits))
    objective = Objective(alpha_ce=1.0, alpha_mse=1.0)
    for loss in (
        lambda given: head.hard_loss(rows, given),
        lambda given: head.soft_loss(rows, given, [logits.flip(0)], [1.0], objective)["loss_ce"][1],
        lambda given: head.soft_loss(rows, given, [logits.flip(0)], [1.0], objective)["loss_mse"][1],
    ):
        torch.testing.assert_close(loss(changed), loss(logits))
        assert not torch.equal(loss(logits + torch.randn_like(logits)), loss(logits))


def test_rows_that_only_keep_a_rank_busy_count_nothing() -> None:
    teacher, student = tiny_rows.tagger(NAMES), tiny_rows.tagger(NAMES, 1, seed=1)
    step = DistillationStep(student, teacher, Objective(alpha_ce=1.0, alpha_mse=1.0), head=choose_head(teacher))
    step({**tiny_rows.word_batches(4, 3)[0], "is_real": torch.tensor(False)})["loss"].backward()
    assert all(not weight.grad.any() for weight in student.parameters() if weight.grad is not None)


def test_several_taggers_teach_the_mean_of_their_tags() -> None:
    head = Tokens(NAMES[:2])
    teachers = [torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, -1.0]])]
    target = 0.25 * teachers[0].softmax(-1) + 0.75 * teachers[1].softmax(-1)
    torch.testing.assert_close(head.mixed(teachers, [0.25, 0.75]).softmax(-1), target)


def predictions(tags: list[list[str]], said: list[list[str]], order: list[int] | None = None) -> Predictions:
    """Words in the order in which batches give their sentences, logits that say `said`; "" for no tag."""
    numbers = np.concatenate([np.full(len(tags[n]), n) for n in order or range(len(tags))])
    flat = [tag for n in order or range(len(tags)) for tag in tags[n]]
    ours = np.array([NAMES.index(tag) for n in order or range(len(said)) for tag in said[n]])
    labels = np.array([NAMES.index(tag) if tag else -100 for tag in flat])
    return Predictions(np.eye(len(NAMES), dtype=np.float32)[ours] * 3, None, labels, numbers)


def test_entities_are_scored_sentence_by_sentence() -> None:
    tags = [["B-PER", "I-PER", "O"], ["I-PER", "B-LOC"], ["O", "B-LOC"]]
    said = [["B-PER", "I-PER", "B-PER"], ["I-PER", "O"], ["O", "B-LOC"]]
    for order in ([0, 1, 2], [1, 2, 0]):
        found = Tokens(NAMES).metrics(predictions(tags, said, order))
        assert found["f1"] == pytest.approx(f1_score(tags, said))
        assert (found["precision"], found["recall"]) == (pytest.approx(3 / 4), pytest.approx(3 / 4))
        assert found["accuracy"] == pytest.approx(5 / 7)


def test_words_without_a_tag_are_left_out_of_their_sentences() -> None:
    """As `transformers` leaves out what is labelled -100; the whole sentence was left out."""
    tags = [["B-PER", "", "O"], ["", ""], ["B-PER", "I-PER", "", "I-PER"]]
    said = [["O", "B-LOC", "B-LOC"], ["O", "B-PER"], ["B-PER", "I-PER", "O", "I-PER"]]
    found = Tokens(NAMES).metrics(predictions(tags, said))
    truth, rest = [["B-PER", "O"], ["B-PER", "I-PER", "I-PER"]], [["O", "B-LOC"], ["B-PER", "I-PER", "I-PER"]]
    assert found["f1"] == pytest.approx(f1_score(truth, rest)) == pytest.approx(0.5)
    assert found["accuracy"] == pytest.approx(3 / 5)
    report = compared(Tags([[tag or None for tag in row] for row in tags], NAMES), {"teacher": said}, "teacher")
    assert report["units"] == 2
    assert report["models"]["teacher"]["metrics"]["f1"] == found["f1"]
    assert report["models"]["teacher"]["metrics"]["accuracy"] == found["accuracy"]


def test_tags_that_mark_no_entity_and_words_without_any() -> None:
    head = Tokens(["NOUN", "VERB"])
    logits = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
    found = head.metrics(Predictions(logits, logits[::-1].copy(), np.array([0, 0, 0]), np.array([0, 0, 1])))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert "f1" not in found
    assert found["macro_f1"] == pytest.approx(0.4)
    assert found["agreement"] == 1.0
    alone = head.metrics(Predictions(logits, logits, np.full(3, -100), np.zeros(3, int)))
    assert alone == {"agreement": 1.0, "kl": pytest.approx(0.0, abs=1e-9)}
    assert (head.best_metric(Objective(), True), head.best_metric(Objective(), False)) == ("accuracy", "agreement")
    assert Tokens(NAMES).best_metric(Objective(), True) == "f1"
    with pytest.raises(InputError, match="row_numbers"):
        head.metrics(Predictions(logits, None, np.array([0, 0, 0])))


def test_taggers_that_do_not_fit_are_refused() -> None:
    teacher = tiny_rows.tagger(NAMES)
    head = choose_head(teacher)
    assert head.name == "tokens"
    other = tiny_rows.tagger([*NAMES[1:], "O"])
    with pytest.raises(InputError, match="the teacher's classes are O, B-PER, I-PER, B-LOC and the student's B-PER"):
        DistillationStep(other, teacher, Objective(), head=head)
    with pytest.raises(InputError, match="BertForMaskedLM has no token-classification head"):
        DistillationStep(tiny_training.teacher(), teacher, Objective(), head=head)
    assert DistillationStep(copy.deepcopy(teacher), teacher, Objective(), head=head).head is head
