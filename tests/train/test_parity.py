"""The step against the original's objective, written out from its definitions in float64: value and every gradient.

Tolerance: 1e-11 of the largest entry of each parameter's gradient (both sides are float64, summed in another order).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from distilfast import create_student
from distilfast.heads.objective import Objective
from distilfast.models.attention import use_packed
from distilfast.train.step import DistillationStep
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("one_thread")

TEMPERATURE = 2.0
LENGTHS = [12, 5, 9]
MASKED = [(0, 3), (0, 7), (1, 2), (2, 1), (2, 6)]


@pytest.fixture(scope="module")
def teacher() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=61,
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=16,
        initializer_range=0.2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.BertForMaskedLM(config).double().eval().requires_grad_(False)


def rows() -> tuple[Tensor, Tensor, Tensor]:
    """Corrupted ids, attention mask and labels, each [rows, width], as the original's collate and masking give them."""
    generator = torch.Generator().manual_seed(1)
    width = max(LENGTHS)
    attention_mask = (torch.arange(width) < torch.tensor(LENGTHS)[:, None]).long()
    ids = torch.randint(5, 61, (len(LENGTHS), width), generator=generator) * attention_mask
    labels = torch.full_like(ids, -100)
    for row, column in MASKED:
        labels[row, column] = ids[row, column]
        ids[row, column] = 4
    return ids, attention_mask, labels


def original(student: Any, teacher: Any, alphas: dict[str, float], restrict_ce_to_mask: bool) -> Tensor:
    """The loss of one micro-batch as the DistilBERT authors define it."""
    ids, attention_mask, labels = rows()
    s = student(input_ids=ids, attention_mask=attention_mask, output_hidden_states=True)
    with torch.no_grad():
        t = teacher(input_ids=ids, attention_mask=attention_mask, output_hidden_states=True)
    selected = labels > -1 if restrict_ce_to_mask else attention_mask.bool()
    s_selected, t_selected = s.logits[selected], t.logits[selected]
    kl = nn.KLDivLoss(reduction="batchmean")(
        F.log_softmax(s_selected / TEMPERATURE, dim=-1), F.softmax(t_selected / TEMPERATURE, dim=-1)
    )
    loss = alphas["ce"] * kl * TEMPERATURE**2
    loss = loss + alphas["mlm"] * nn.CrossEntropyLoss(ignore_index=-100)(s.logits.view(-1, 61), labels.view(-1))
    mse = nn.MSELoss(reduction="sum")(s_selected, t_selected) / s_selected.size(0)
    loss = loss + alphas["mse"] * mse
    attended = attention_mask.bool()
    s_hidden, t_hidden = s.hidden_states[-1][attended], t.hidden_states[-1][attended]
    cosine = nn.CosineEmbeddingLoss(reduction="mean")(s_hidden, t_hidden, s_hidden.new_ones(len(s_hidden)))
    return loss + alphas["cos"] * cosine


def padded_batch() -> dict[str, Any]:
    ids, attention_mask, labels = rows()
    flat = labels.flatten()
    positions = torch.nonzero(flat != -100).flatten()
    unused = 3
    return {
        "input_ids": ids,
        "attention_mask": attention_mask,
        "mlm_positions": torch.cat([positions, torch.zeros(unused, dtype=torch.long)]),
        "mlm_labels": torch.cat([flat[positions], torch.full((unused,), -100)]),
        "num_tokens": attention_mask.sum(),
        "num_attended_in_step": attention_mask.sum(),
        "num_masked_in_step": torch.tensor(len(positions)),
    }


def packed_batch() -> dict[str, Any]:
    """The same sequences end to end, and four pad tokens as a sequence behind them."""
    padded = padded_batch()
    attended = padded["attention_mask"].bool().flatten()
    tail = 4
    lengths = [*LENGTHS, tail]
    ends = torch.tensor(lengths).cumsum(0).tolist()
    place = attended.long().cumsum(0) - 1
    return {
        **{name: padded[name] for name in ("mlm_labels", "num_tokens", "num_attended_in_step", "num_masked_in_step")},
        "mlm_positions": torch.where(padded["mlm_labels"] == -100, 0, place[padded["mlm_positions"]]),
        "input_ids": torch.cat([padded["input_ids"].flatten()[attended], torch.zeros(tail, dtype=torch.long)])[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "cu_seqlens": torch.tensor([0, *ends, ends[-1]], dtype=torch.int32),
        "max_seqlen": max(lengths),
    }


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("restrict", [False, True])
@pytest.mark.parametrize(
    "alphas",
    [
        {"ce": 5.0, "mlm": 2.0, "cos": 1.0, "mse": 0.0},
        {"ce": 0.5, "mlm": 0.0, "cos": 0.0, "mse": 0.1},
        {"ce": 0.0, "mlm": 1.0, "cos": 0.0, "mse": 0.0},
        {"ce": 0.0, "mlm": 0.0, "cos": 1.0, "mse": 0.0},
    ],
)
def test_value_and_every_gradient_are_the_originals(
    teacher: Any, alphas: dict[str, float], restrict: bool, layout: str
) -> None:
    student = create_student(teacher, [0, 3])
    expected = original(student, teacher, alphas, restrict)
    expected.backward()
    gradients = {name: p.grad for name, p in student.named_parameters()}
    student.zero_grad()

    objective = Objective(
        alpha_ce=alphas["ce"],
        alpha_mlm=alphas["mlm"],
        alpha_cos=alphas["cos"],
        alpha_mse=alphas["mse"],
        temperature=TEMPERATURE,
        kl_positions="masked" if restrict else "all",
    )
    if layout == "packed":
        use_packed(student)
        use_packed(teacher)
    try:
        step = DistillationStep(student, teacher, objective)
        losses = step(padded_batch() if layout == "padded" else packed_batch())
    finally:
        teacher.set_attn_implementation("sdpa")
    losses["loss"].backward()

    torch.testing.assert_close(losses["loss"], expected, rtol=1e-12, atol=0)
    largest = max(float(gradient.abs().max()) for gradient in gradients.values() if gradient is not None)
    for name, parameter in student.named_parameters():
        wanted = gradients[name]
        if wanted is None or parameter.grad is None:
            assert wanted is None or not wanted.any(), name
            assert parameter.grad is None or not parameter.grad.any(), name
            continue
        # The gradient of a key's bias is 0 but for rounding, so every parameter also gets the rounding of the largest.
        allowed = 1e-11 * float(wanted.abs().max()) + 1e-15 * largest
        assert float((parameter.grad - wanted).abs().max()) <= allowed, name
