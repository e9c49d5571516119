"""Held-out metrics against the same quantities computed by other libraries, and their invariances."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from distilfast import InputError
from distilfast.metrics.held_out import LOGITS_AT_ONCE, evaluate_held_out, pick_device
from sklearn.metrics import accuracy_score, log_loss
from transformers import BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM

VOCABULARY = 50


def bert(seed: int, vocab_size: int = VOCABULARY) -> BertForMaskedLM:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,  # far from uniform predictions
    )
    return BertForMaskedLM(config)


def distilbert(seed: int) -> DistilBertForMaskedLM:
    torch.manual_seed(seed)
    config = DistilBertConfig(
        vocab_size=VOCABULARY, dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=32
    )
    return DistilBertForMaskedLM(config)


def batches(number: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Padded batches with unused label slots and one row that is all padding."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(number):
        lengths = [12, 7, 3, 0]
        mask = torch.zeros((4, 12), dtype=torch.int64)
        for row, length in enumerate(lengths):
            mask[row, :length] = 1
        ids = torch.randint(5, VOCABULARY, (4, 12), generator=generator) * mask
        positions = torch.tensor([1, 5, 12 + 2, 24 + 1, 0, 0])
        labels = torch.cat([torch.randint(5, VOCABULARY, (4,), generator=generator), torch.full((2,), -100)])
        ids.view(-1)[positions[:4]] = 4
        made.append({"input_ids": ids, "attention_mask": mask, "mlm_positions": positions, "mlm_labels": labels})
    return made


def probabilities(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> np.ndarray:
    """float64 probabilities [rows * width, V]."""
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return scipy.special.softmax(logits.double().numpy().reshape(-1, VOCABULARY), axis=-1)


def test_metrics_equal_those_of_scikit_learn_and_scipy() -> None:
    teacher, student = bert(0), distilbert(1)
    text = batches(3)
    scores = evaluate_held_out(teacher, {"student": student}, text)
    masked_t, masked_s, all_t, all_s, labels = [], [], [], [], []
    for batch in text:
        p_t, p_s = probabilities(teacher, batch), probabilities(student, batch)
        used = (batch["mlm_labels"] != -100).numpy()
        at = batch["mlm_positions"].numpy()[used]
        attended = batch["attention_mask"].flatten().numpy() == 1
        masked_t.append(p_t[at])
        masked_s.append(p_s[at])
        all_t.append(p_t[attended])
        all_s.append(p_s[attended])
        labels.append(batch["mlm_labels"].numpy()[used])
    m_t, m_s, a_t, a_s = map(np.concatenate, (masked_t, masked_s, all_t, all_s))
    truth = np.concatenate(labels)
    got = scores["student"]
    assert got.masked == 12
    assert got.tokens == 66
    assert got.mlm_loss == pytest.approx(log_loss(truth, m_s, labels=range(VOCABULARY)), rel=1e-5)
    assert got.mlm_accuracy == pytest.approx(accuracy_score(truth, m_s.argmax(-1)))
    assert got.agreement == pytest.approx(accuracy_score(m_t.argmax(-1), m_s.argmax(-1)))
    assert got.agreement_all == pytest.approx(accuracy_score(a_t.argmax(-1), a_s.argmax(-1)))
    assert got.kl == pytest.approx(scipy.stats.entropy(m_t, m_s, axis=-1).mean(), rel=1e-4)
    assert got.kl_all == pytest.approx(scipy.stats.entropy(a_t, a_s, axis=-1).mean(), rel=1e-4)
    assert got.perplexity == pytest.approx(np.exp(got.mlm_loss))


def test_a_copy_of_the_teacher_agrees_fully_and_nothing_is_left_changed() -> None:
    teacher, copy = bert(0), bert(0)
    teacher.train()
    scores = evaluate_held_out(teacher, {"copy": copy}, batches(2))
    assert list(scores) == ["teacher", "copy"]
    assert scores["copy"] == scores["teacher"]
    assert scores["copy"].agreement == 1.0
    assert scores["copy"].kl == 0.0
    assert teacher.training


def test_cutting_batches_into_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    models = bert(0), {"student": distilbert(1)}
    whole = evaluate_held_out(*models, batches(2))
    assert LOGITS_AT_ONCE >= 4 * 12 * VOCABULARY  # the whole batch at once, so far
    monkeypatch.setattr("distilfast.metrics.held_out.LOGITS_AT_ONCE", 5 * VOCABULARY)
    cut = evaluate_held_out(*models, batches(2))
    for name, scores in whole.items():
        assert vars(cut[name]) == pytest.approx(vars(scores), rel=1e-5)


def test_without_a_teacher_there_is_nothing_to_agree_with() -> None:
    scores = evaluate_held_out(None, {"student": distilbert(1)}, batches(1))["student"]
    assert scores.agreement is None
    assert scores.kl is None
    assert scores.mlm_loss > 0


def test_bad_input_is_named() -> None:
    text = batches(1)
    with pytest.raises(InputError, match="no model"):
        evaluate_held_out(None, {}, text)
    with pytest.raises(InputError, match="BertModel, which predicts no tokens"):
        evaluate_held_out(bert(0), {"encoder": bert(1).bert}, text)
    with pytest.raises(InputError, match="no batch"):
        evaluate_held_out(bert(0), {}, [])
    with pytest.raises(InputError, match="may not be called"):
        evaluate_held_out(bert(0), {"teacher": bert(1)}, text)
    unmasked = {**text[0], "mlm_labels": torch.full((6,), -100)}
    with pytest.raises(InputError, match="no position of the held-out text is masked: its 22 tokens"):
        evaluate_held_out(bert(0), {}, [unmasked])
    with pytest.raises(InputError, match="none that torch knows"):
        pick_device("gpu0")
