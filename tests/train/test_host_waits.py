"""A micro-batch never makes the host wait for the GPU: seen on fake CUDA tensors, and counted on the CPU.

A fake tensor has a device and a shape, and no numbers: what would read one raises. Backward passes of fake CUDA tensors
need a driver, so they are counted on the CPU, with the losses as PyTorch computes them.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
import transformers
from distilfast.heads.choice import choose_head
from distilfast.heads.embedding import Embedding
from distilfast.heads.objective import Objective
from distilfast.losses import arguments
from distilfast.models import attention
from distilfast.models.adaptation import adapt
from distilfast.models.padding_mask import PADDED, use_padding_mask
from distilfast.models.pooling import Normalize, SentenceModules
from distilfast.models.sentence_folder import SentenceSettings
from distilfast.train.step import DistillationStep
from small_families import FAMILIES, VOCAB
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, WIDTH = 4, 24
WAITS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "unique_dim"}

INNER: dict[str, Any] = {"alpha_hidden": 1, "alpha_rel": 1, "relation_heads": 2}
SENTENCE: dict[str, Any] = {"alpha_ce": 0, "alpha_mlm": 0, "alpha_embedding": 1, "alpha_similarity": 1}
# Name -> class of the models, whether batches may be packed, and the objective.
HEADS: dict[str, tuple[Any, bool, dict[str, Any]]] = {
    "masked_lm": (transformers.AutoModelForMaskedLM, True, {}),
    "masked_lm at the masked tokens": (
        transformers.AutoModelForMaskedLM,
        True,
        {"kl_positions": "masked", "cos_positions": "kl"},
    ),
    "masked_lm and inner layers": (transformers.AutoModelForMaskedLM, False, INNER),
    "masked_lm alone": (transformers.AutoModelForMaskedLM, True, {"alpha_ce": 0, "alpha_cos": 0}),
    "hidden_states": (transformers.AutoModel, True, {"alpha_ce": 0, "alpha_mlm": 0, "alpha_hidden": 1}),
    "embedding": (transformers.AutoModel, True, SENTENCE),
    "classification": (transformers.AutoModelForSequenceClassification, False, {"alpha_task": 1, **INNER}),
    "tokens": (transformers.AutoModelForTokenClassification, False, {"alpha_task": 1}),
    "questions": (transformers.AutoModelForQuestionAnswering, False, {"alpha_task": 1}),
}
CASES = [(name, layout) for name, (_, packs, _) in HEADS.items() for layout in ("padded", "packed")[: 1 + packs]]


class HostWaits(TorchDispatchMode):
    """Within `with`: which operators were called that wait for a GPU, and how often."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        by_mask = name.startswith(("index", "_index")) and any(
            isinstance(index, Tensor) and index.dtype == torch.bool
            for indices in args
            if isinstance(indices, (list, tuple))
            for index in indices
        )
        brought_back = name == "_to_copy" and args[0].is_cuda and str((kwargs or {}).get("device")) == "cpu"
        if name in WAITS or by_mask or brought_back:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def batch_of(layout: str, device: str, head: str) -> dict[str, Any]:
    """A batch with what every head reads; the first row is full, the others are padded."""
    ids = torch.randint(5, VOCAB, (ROWS, WIDTH), device=device)
    lengths = torch.arange(WIDTH, WIDTH - ROWS, -1, device=device)
    real = torch.arange(WIDTH, device=device) < lengths[:, None]
    count = torch.tensor(ROWS, device=device)
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": real.long()}
    if layout == "packed":
        bounds = torch.arange(ROWS + 1, dtype=torch.int32, device=device) * WIDTH
        places = torch.arange(WIDTH, device=device).repeat(ROWS)[None]
        packed = {"position_ids": places, "cu_seqlens": bounds, "max_seqlen": WIDTH}
        batch = {"input_ids": ids.view(1, -1), **packed}
    return {
        **batch,
        "mlm_positions": torch.arange(7, device=device),
        "mlm_labels": torch.full((7,), 9, device=device),
        "num_tokens": torch.tensor(ROWS * WIDTH - 6, device=device),
        "num_attended_in_step": torch.tensor(ROWS * WIDTH, device=device),
        "num_masked_in_step": count,
        "num_rows_in_step": count,
        "num_labelled_in_step": count,
        "labels": torch.zeros((ROWS, WIDTH) if head == "tokens" else ROWS, dtype=torch.long, device=device),
        "start_positions": torch.ones(ROWS, dtype=torch.long, device=device),
        "end_positions": torch.ones(ROWS, dtype=torch.long, device=device),
        "word_starts": real,
        "answer_places": real,
    }


def step_of(head: str, family: str, device: str) -> DistillationStep:
    """A student of float32 weights and a teacher of bfloat16 ones, made for `device` as they are trained there."""
    kind, _, options = HEADS[head]
    student = kind.from_config(copy.deepcopy(FAMILIES[family]), attn_implementation="sdpa")
    teacher = kind.from_config(copy.deepcopy(FAMILIES[family]), attn_implementation="sdpa", dtype=torch.bfloat16).eval()
    objective = Objective(impl="auto" if device == "cuda" else "eager", **options)
    chosen: Any = None
    if head == "embedding":
        parts = [SentenceModules(32, ("mean",), (Normalize(),)) for _ in range(2)]
        chosen = Embedding(parts[0], SentenceSettings(), [(teacher, parts[1])])
    else:
        chosen = choose_head(teacher, head.split()[0])
    return DistillationStep(student, teacher, objective, compute_dtype=torch.bfloat16, head=chosen)


def _itself(module: torch.nn.Module, *_: Any, **__: Any) -> torch.nn.Module:
    return module


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Tensors made within are on a GPU of compute capability 9.0 and hold no numbers."""
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode())
        stack.enter_context(torch.device("cuda"))
        of_device = {"get_device_capability": lambda *_: (9, 0), "current_device": lambda: 0}
        for name, value in of_device.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        # What is moved is where it should be already, and what draws or compares numbers has none.
        stack.enter_context(mock.patch.object(torch.nn.Module, "to", _itself))
        stack.enter_context(mock.patch.object(transformers.PreTrainedModel, "init_weights"))
        stack.enter_context(mock.patch.object(attention, "check_packed"))
        yield


@pytest.mark.parametrize(("head", "layout"), CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_forward_on_fake_cuda_tensors(family: str, head: str, layout: str) -> None:
    with fake_cuda(), HostWaits() as waits:
        step = step_of(head, family, "cuda").train()
        stops_early = step.head.stops_early(step.objective)
        adapt(step.student, step.teachers, layout=layout, stops_early=stops_early)  # type: ignore[arg-type]
        assert step.student.config._attn_implementation == (attention.PACKED if layout == "packed" else PADDED)
        batch = batch_of(layout, "cuda", head)
        waits.found.clear()
        losses = step(batch)
    assert not waits.found
    assert {loss.device.type for loss in losses.values()} == {"cuda"}
    assert losses["loss"].requires_grad
    assert losses["loss"].dtype == torch.float32


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_forward_and_backward_with_padding(family: str, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(arguments, "check_label_range", lambda *_: None)  # of labels on the CPU alone
    step = step_of(head, family, "cpu").eval()  # no dropout, to compare the losses
    batch = batch_of("padded", "cpu", head)
    found = []
    for use in (lambda _: None, use_padding_mask):
        for model in (step.student, *step.teachers):
            use(model)
        step.zero_grad()
        with HostWaits() as waits:
            loss = step(batch)["loss"]
            loss.backward()
        found.append((sum(waits.found.values()), loss.item()))
    # transformers looks for padding once a model, for ModernBERT's two masks twice.
    models = 1 + len(step.needed_teachers)
    assert [count for count, _ in found] == [2 * models if family == "modernbert" else models, 0]
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-2)


def test_a_wait_is_counted() -> None:
    """The count sees each of the ways to wait that have been found in training code."""
    values = torch.arange(3.0)
    for wait in (
        lambda: values.sum().item(),
        lambda: values[values > 1],
        lambda: bool(values.any()),
        lambda: values.masked_select(values > 1),
        lambda: values.unique(),
        lambda: values.index_put_((values > 1,), torch.tensor(1.0)),
    ):
        with HostWaits() as waits:
            wait()
        assert sum(waits.found.values()) == 1
