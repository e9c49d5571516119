"""The head of sentence encoders: its losses against their definitions, denominators, what it measures and refuses."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from distilfast import InputError
from distilfast.heads.embedding import Embedding
from distilfast.heads.head import Predictions, Rows
from distilfast.heads.objective import Objective
from distilfast.models.pooling import Dense, Normalize, SentenceModules
from distilfast.models.sentence import SentenceEncoder, load_sentence_encoder, student_modules
from distilfast.models.sentence_folder import SentenceSettings
from distilfast.models.student import create_student
from distilfast.train.step import DistillationStep
from hypothesis import given
from hypothesis import strategies as st
from tiny_sentence import encoder_folder, sentences

NOTHING = Objective(alpha_ce=0, alpha_mlm=0, alpha_task=0, alpha_cos=0)


def head(width: int = 6, teachers: tuple[int, ...] = (6,), normalize: bool = True) -> Embedding:
    steps: list[torch.nn.Module] = [Normalize()] if normalize else []
    parts: Any = [(object(), SentenceModules(each, ("mean",), steps)) for each in teachers]
    return Embedding(SentenceModules(width, ("mean",), steps), SentenceSettings(), parts)


def rows(weight: list[bool], of_step: int | None = None) -> Rows:
    number = torch.tensor(sum(weight) if of_step is None else of_step)
    return Rows(torch.tensor(weight), None, number, number)


def units(rows: int, width: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).double(), dim=-1)


def losses(
    of: Embedding, rows: Rows, student: torch.Tensor, teachers: list[torch.Tensor], mixture: Any = (1.0,), **alphas: Any
) -> dict[str, torch.Tensor]:
    objective = dataclasses.replace(NOTHING, **alphas)
    return {name: value for name, (_, value) in of.soft_loss(rows, student, teachers, mixture, objective).items()}


@given(st.integers(1, 7), st.integers(0, 3), st.integers(0, 1000))
def test_vectors_are_compared_by_cosine_and_relative_squared_distance(count: int, fakes: int, seed: int) -> None:
    student, teacher = (
        torch.randn(count + fakes, 6, generator=torch.Generator().manual_seed(seed + k)) for k in (0, 1)
    )
    found = losses(
        head(normalize=False), rows([True] * count + [False] * fakes), student, [teacher], alpha_embedding=1.0
    )
    s, t = student[:count].double().numpy(), teacher[:count].double().numpy()
    cosine = (s * t).sum(1) / np.linalg.norm(s, axis=1) / np.linalg.norm(t, axis=1)
    expected = np.mean(1 - cosine + ((s - t) ** 2).sum(1) / (t**2).sum(1))
    assert list(found) == ["loss_embedding"]
    assert float(found["loss_embedding"]) == pytest.approx(expected, rel=1e-5)


@given(st.integers(1, 7), st.integers(0, 3), st.integers(0, 1000))
def test_similarities_are_compared_by_the_kl_over_all_other_texts(count: int, fakes: int, seed: int) -> None:
    student, teacher = units(count + fakes, 6, seed), units(count + fakes, 9, seed + 1)
    found = losses(
        head(6, (9,)),
        rows([True] * count + [False] * fakes),
        student,
        [teacher],
        alpha_similarity=1.0,
        similarity_temperature=0.1,
    )
    expected = 0.0
    for row in range(count):
        others = [each for each in range(count) if each != row]
        if others:
            ours, theirs = (each[row] @ each[others].T / 0.1 for each in (student, teacher))
            p, q = theirs.softmax(-1), ours.softmax(-1)
            expected += float((p * (p / q).log()).sum()) / count
    assert float(found["loss_similarity"]) == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 1000))
def test_dimensions_are_the_mean_over_prefixes_and_the_whole(seed: int) -> None:
    student, teacher = units(5, 6, seed), units(5, 6, seed + 1)
    alphas = {"alpha_embedding": 1.0, "alpha_similarity": 1.0}
    found = losses(head(), rows([True] * 5), student, [teacher], dimensions=(6, 2), **alphas)
    whole = losses(head(), rows([True] * 5), student, [teacher], **alphas)
    short = [F.normalize(each[:, :2], dim=-1) for each in (student, teacher)]
    prefix = losses(head(2, (2,)), rows([True] * 5), short[0], [short[1]], alpha_embedding=1.0)
    assert found["loss_embedding"] == pytest.approx((whole["loss_embedding"] + prefix["loss_embedding"]) / 2)
    prefix = losses(head(2, (6,)), rows([True] * 5), short[0], [teacher], alpha_similarity=1.0)
    assert found["loss_similarity"] == pytest.approx((whole["loss_similarity"] + prefix["loss_similarity"]) / 2)


@torch.no_grad()
def test_several_teachers_weigh_in_and_have_projections_of_their_own() -> None:
    of = head(6, (6, 6, 4))
    assert [type(each).__name__ for each in of.projections] == ["Identity", "Linear", "Linear"]
    student, teachers = units(5, 6, 0).float(), [units(5, width, width).float() for width in (6, 6, 4)]
    found = losses(of, rows([True] * 5), student, teachers, (0.5, 0.3, 0.2), alpha_embedding=1.0, alpha_similarity=1.0)
    expected = 0.0
    for projection, teacher, share in zip(of.projections, teachers, (0.5, 0.3, 0.2), strict=True):
        alone = head(teacher.shape[1], (teacher.shape[1],))
        projected = F.normalize(projection(student), dim=-1)
        one = losses(alone, rows([True] * 5), projected, [teacher], alpha_embedding=1.0)
        expected += share * float(one["loss_embedding"])
    assert float(found["loss_embedding"]) == pytest.approx(expected, rel=1e-5)
    mixed = of.mixed(teachers, (0.5, 0.3, 0.2))
    cosines = sum(share * (each @ each.T) for share, each in zip((0.5, 0.3, 0.2), teachers, strict=True))
    torch.testing.assert_close(mixed @ mixed.T, cosines)


@torch.no_grad()
def test_teachers_side_by_side_are_one_teacher() -> None:
    student, teachers = units(5, 10, 0).float(), [units(5, width, width).float() for width in (6, 4)]
    parts: Any = [(object(), SentenceModules(each, ("mean",), [Normalize()])) for each in (6, 4)]
    of = Embedding(SentenceModules(10, ("mean",), [Normalize()]), SentenceSettings(), parts, concatenated=True)
    assert [type(each).__name__ for each in of.projections] == ["Identity"]
    alphas = {"alpha_embedding": 1.0, "alpha_similarity": 1.0}
    found = losses(of, rows([True] * 5), student, teachers, (0.8, 0.2), **alphas)
    beside = torch.cat([0.8**0.5 * teachers[0], 0.2**0.5 * teachers[1]], dim=-1)
    torch.testing.assert_close(found, losses(head(10, (10,)), rows([True] * 5), student, [beside], **alphas))
    narrow = Embedding(SentenceModules(6, ("mean",), [Normalize()]), SentenceSettings(), parts, concatenated=True)
    assert [tuple(each.weight.shape) for each in narrow.projections] == [(10, 6)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SentenceEncoder:
    return load_sentence_encoder(encoder_folder(tmp_path_factory.mktemp("encoder"), dense=12))


def batch_of(encoder: SentenceEncoder, texts: list[str], of_step: int) -> dict[str, Any]:
    batch = dict(encoder.tokenizer(texts, padding=True, return_tensors="pt"))
    del batch["token_type_ids"]
    count = torch.tensor(of_step)
    return batch | {"num_rows_in_step": count, "num_attended_in_step": batch["attention_mask"].sum()}


def step_of(encoder: SentenceEncoder, objective: Objective, keep: bool = True, seed: int = 0) -> DistillationStep:
    encoder.model.requires_grad_(False)
    student = create_student(encoder.model, 2)
    student.train(False)
    modules = student_modules(student, encoder.modules, keep_dimension=keep, seed=seed)
    of = Embedding(modules, encoder.settings, [(encoder.model, encoder.modules)])
    return DistillationStep(student, encoder.model, objective, head=of)


def test_micro_batches_add_up_to_one_big_batch(encoder: SentenceEncoder) -> None:
    step = step_of(encoder, dataclasses.replace(NOTHING, alpha_embedding=1.0))
    texts = sentences(9)
    parts = [(texts[:2], True), (texts[2:], True), (texts[:4], False)]
    whole = step(batch_of(encoder, texts, 9))["loss"]
    whole.backward()
    expected = {name: value.grad.clone() for name, value in step.named_parameters() if value.grad is not None}
    assert any(name.startswith("head.sentence.steps") for name in expected)
    step.zero_grad()
    total = 0.0
    for part, is_real in parts:
        loss = step(batch_of(encoder, part, 9) | {"is_real": torch.tensor(is_real)})["loss"]
        loss.backward()
        total += float(loss)
    assert total == pytest.approx(float(whole), rel=1e-5)
    for name, value in step.named_parameters():
        if name in expected:
            torch.testing.assert_close(value.grad, expected[name], rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in encoder.model.parameters())


def test_a_whole_copy_has_nothing_to_learn(encoder: SentenceEncoder) -> None:
    objective = dataclasses.replace(NOTHING, alpha_embedding=1.0, alpha_similarity=1.0, alpha_cos=1.0, alpha_hidden=1.0)
    student = create_student(encoder.model, 4)
    student.train(False)
    of = Embedding(student_modules(student, encoder.modules), encoder.settings, [(encoder.model, encoder.modules)])
    step = DistillationStep(student, encoder.model, objective, head=of)
    found = step(batch_of(encoder, sentences(9), 9))
    assert set(found) == {"loss", "loss_embedding", "loss_similarity", "loss_cos", "loss_hidden"}
    assert float(found["loss"]) == pytest.approx(0, abs=1e-4)


def test_what_follows_a_narrower_student(encoder: SentenceEncoder, tmp_path: Path) -> None:
    narrow = load_sentence_encoder(encoder_folder(tmp_path / "narrow", width=16, layers=2))
    made = student_modules(narrow.model, encoder.modules)
    assert (made.width, [type(each).__name__ for each in made.steps]) == (12, ["Dense", "Normalize"])
    own = student_modules(narrow.model, encoder.modules, narrow.modules)
    assert (own.width, [type(each).__name__ for each in own.steps]) == (12, ["Dense", "Normalize"])
    dropped = student_modules(narrow.model, encoder.modules, keep_dimension=False)
    assert (dropped.width, [type(each).__name__ for each in dropped.steps]) == (16, ["Normalize"])
    assert isinstance(
        Embedding(dropped, narrow.settings, [(encoder.model, encoder.modules)]).projections[0], torch.nn.Linear
    )
    assert isinstance(
        Embedding(made, narrow.settings, [(encoder.model, encoder.modules)]).projections[0], torch.nn.Identity
    )


def test_vectors_that_come_with_the_batch(encoder: SentenceEncoder) -> None:
    objective = dataclasses.replace(NOTHING, alpha_embedding=1.0, alpha_similarity=1.0)
    texts = sentences(9)
    student = create_student(encoder.model, 2)
    student.train(False)
    modules = student_modules(student, encoder.modules)
    kept = Embedding(modules, encoder.settings, vectors=12)
    batch = batch_of(encoder, texts, 9)
    ran = DistillationStep(
        student, encoder.model, objective, head=Embedding(modules, encoder.settings, [(encoder.model, encoder.modules)])
    )(batch)
    vectors = torch.from_numpy(encoder.encode(texts))
    found = DistillationStep(student, None, objective, head=kept)(batch | {"teacher_vectors": vectors})
    assert float(found["loss"]) == pytest.approx(float(ran["loss"]), rel=1e-4)
    with pytest.raises(InputError, match="compare hidden states"):
        DistillationStep(student, None, dataclasses.replace(objective, alpha_cos=1.0), head=kept)


def test_metrics() -> None:
    of, vectors = head(), units(40, 6, 0).numpy()
    perfect = of.metrics(Predictions(vectors, vectors, None))
    assert perfect["teacher_spearman"] == pytest.approx(1)
    assert perfect["teacher_cosine"] == pytest.approx(1)
    assert perfect["norm"] == pytest.approx(1)
    other = of.metrics(Predictions(units(40, 6, 5).numpy(), vectors, None))
    assert abs(other["teacher_spearman"]) < 0.3
    assert of.metrics(Predictions(vectors[:1], None, vectors[:1]))["norm"] == pytest.approx(1)
    assert of.best_metric(NOTHING, False) in perfect


def test_refusals(encoder: SentenceEncoder) -> None:
    asked = dataclasses.replace(NOTHING, alpha_embedding=1.0, dimensions=(12, 13))
    with pytest.raises(InputError, match="--dimensions 13: the student's vectors have 12 numbers"):
        step_of(encoder, asked)
    with pytest.raises(InputError, match="would learn nothing"):
        step_of(encoder, dataclasses.replace(NOTHING, alpha_cos=1.0))
    with pytest.raises(InputError, match="every alpha is 0"):
        step_of(encoder, NOTHING)
    assert isinstance(encoder.modules.steps[0], Dense)


def _rank(rank: int, port: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    own, count = (slice(0, 3), 3) if rank == 0 else (slice(3, 8), 5)
    student, teacher = units(8, 6, 0)[own].requires_grad_(), units(8, 6, 1)[own]
    weight = [True] * count if rank == 0 else [True] * (count - 1) + [False]
    found = losses(head(), rows(weight, 7), student, [teacher], alpha_similarity=1.0)["loss_similarity"]
    found.backward()
    torch.save((found.detach(), student.grad), f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_similarities_reach_over_ranks(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_rank, (port, str(tmp_path)), nprocs=2)
    shares = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    student, teacher = units(8, 6, 0).requires_grad_(), units(8, 6, 1)
    whole = losses(head(), rows([True] * 7 + [False]), student, [teacher], alpha_similarity=1.0)["loss_similarity"]
    whole.backward()
    torch.testing.assert_close(shares[0][0] + shares[1][0], whole.detach())
    torch.testing.assert_close(torch.cat([share[1] for share in shares]), student.grad)
