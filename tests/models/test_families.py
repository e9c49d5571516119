"""The parts of an encoder, found by structure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from distilfast import InputError
from distilfast.models.families import (
    check_head,
    encoder_of,
    evaluating,
    layers_path,
    longest_row,
    mlm_decoder,
    mlm_transform,
)
from model_cases import CONFIGS, SMALL, inputs, teacher_of


@pytest.mark.parametrize("family", CONFIGS)
def test_the_two_halves_of_the_head_make_the_logits(family: str) -> None:
    teacher = teacher_of(family)
    given = inputs(teacher)
    with torch.no_grad():
        hidden = encoder_of(teacher)(**given).last_hidden_state
        logits = mlm_decoder(teacher)(mlm_transform(teacher, hidden))
        torch.testing.assert_close(logits, teacher(**given).logits, rtol=1e-12, atol=1e-12)
    check_head(teacher)


def test_a_head_with_something_between_its_halves_is_refused() -> None:
    teacher = teacher_of("bert")
    teacher.cls.predictions.decoder.register_forward_pre_hook(lambda _, given: (given[0] * 1.01,))
    honest = teacher.cls.predictions.transform.forward
    check_head(teacher)  # the hook is in both
    teacher.cls.predictions.forward = lambda hidden: teacher.cls.predictions.decoder(honest(hidden) + 0.01)
    with pytest.raises(InputError, match="is not the two halves that it was taken for"):
        check_head(teacher)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: transformers.AlbertModel(transformers.AlbertConfig(**SMALL)), "share one set of weights"),
        (lambda: transformers.GPT2Model(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2)), "no text encoder"),
        (lambda: transformers.BertModel(transformers.BertConfig(**SMALL, is_decoder=True)), "it is a decoder"),
        (
            lambda: transformers.XLMModel(transformers.XLMConfig(vocab_size=9, emb_dim=8, n_layers=2, n_heads=2)),
            r"its 2 layers stand in 4 lists \(attentions, layer_norm1, ffns, layer_norm2\)",
        ),
        (
            lambda: transformers.T5EncoderModel(transformers.T5Config(d_model=8, num_layers=1, num_heads=2, d_ff=8)),
            "t5",
        ),
    ],
)
def test_models_that_cannot_be_cut_are_refused_with_the_reason(model: Any, message: str) -> None:
    with torch.device("meta"):
        built = model()
    with pytest.raises(InputError, match=message):
        layers_path(built)


@pytest.mark.parametrize(("family", "longest"), [("bert", 40), ("roberta", 38), ("camembert", 38), ("distilbert", 40)])
def test_the_longest_row_runs_and_one_more_token_does_not(family: str, longest: int) -> None:
    teacher = teacher_of(family, "hidden_states")
    assert longest_row(teacher) == longest
    ids = torch.full((1, longest + 1), 7)
    with torch.no_grad():
        teacher(ids[:, :longest])
        with pytest.raises((IndexError, RuntimeError)):
            teacher(ids)


def test_the_longest_row_of_mpnet_is_found_by_structure() -> None:
    config = transformers.MPNetConfig(**{**SMALL, "pad_token_id": 1})
    assert longest_row(transformers.MPNetModel(config)) == 38


def test_the_longest_row_of_several_models_is_the_least_and_the_tokenizer_counts() -> None:
    bert, roberta = teacher_of("bert", "hidden_states"), teacher_of("roberta", "hidden_states")
    assert longest_row(bert, roberta) == longest_row(roberta, bert) == 38
    assert longest_row(bert, tokenizer=SimpleNamespace(model_max_length=12)) == 12
    assert longest_row(bert, tokenizer=SimpleNamespace(model_max_length=10**30)) == 40
    assert longest_row() is None


def test_weights_that_are_evaluated_in_inference_mode_still_take_gradients() -> None:
    """Ranks on CPUs call theirs cpu:0: weights were copied there and back, and the next checkpoint failed."""
    model = torch.nn.Linear(3, 2)
    with torch.inference_mode(), evaluating(model, device=torch.device("cpu:0")):
        model(torch.ones(1, 3))
    assert not any(weight.is_inference() for weight in model.parameters())
    assert bool(torch.isfinite(model.weight).all())
    model(torch.ones(1, 3)).sum().backward()
    assert model.weight.grad is not None
