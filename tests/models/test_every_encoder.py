"""Every text encoder that transformers has a masked-language model for is cut, or refused with the reason.

The table of docs/models.md says what these tests found.

`python tests/models/test_every_encoder.py` writes the table anew.
"""

from __future__ import annotations

import copy
import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from distilfast import InputError, create_student
from distilfast.models.attention import use_packed
from distilfast.models.families import READS_PADDING, check_head, encoder_of, layers_of
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

TABLE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
SMALL: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
ENCODER_DECODER: dict[str, Any] = {"d_model": 32, "encoder_layers": 4, "decoder_layers": 4, "vocab_size": 99}
# What a small model of a family needs beside the sizes that most have.
CHANGES: dict[str, dict[str, Any]] = {
    "big_bird": {"attention_type": "original_full"},
    "convbert": {"embedding_size": 32},
    "distilbert": {"hidden_dim": 48},
    "electra": {"embedding_size": 16},
    "esm": {"position_embedding_type": "rotary", "mask_token_id": 4},
    "flaubert": {"emb_dim": 32, "n_layers": 4, "n_heads": 4},
    "layoutlm": {"max_2d_position_embeddings": 16},
    "longformer": {"attention_window": [4, 8, 4, 8]},
    "luke": {"entity_vocab_size": 9, "entity_emb_size": 8},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "modernbert": {"local_attention": 4, "cls_token_id": 2, "sep_token_id": 3},
    "neomme": {"embedding_rank": 16, "num_key_value_heads": 4, "head_dim": 16, "embedding_dim": 16},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 24},
    "roc_bert": {"enable_pronunciation": False, "enable_shape": False, "concat_input": False},
    "roformer": {"embedding_size": 32},
    "squeezebert": {"embedding_size": 32},
    "ultrabert": {"prediction_head_size": 24},
    "xmod": {"languages": ["en_XX", "de_DE"], "default_language": "en_XX"},
    "xlm": {"emb_dim": 32, "n_layers": 4, "n_heads": 4},
    **dict.fromkeys(("bart", "mbart", "mvp"), ENCODER_DECODER),
}
# Not of text alone, or not of ids.
NOT_TEXT = {"modernvbert", "ultravbert", "perceiver"}
# Families that cannot be built from four layers; what is said of them does not depend on sizes.
BY_NAME = {"funnel", "reformer"}
FAMILIES = sorted(set(MODEL_FOR_MASKED_LM_MAPPING_NAMES) - NOT_TEXT)


class Found(NamedTuple):
    """What can be done with a family; `refused` is empty where it can be cut."""

    refused: str
    halves: bool
    packed: bool


@functools.lru_cache(maxsize=1)
def build(family: str) -> Any:
    if family in BY_NAME:
        config = transformers.CONFIG_MAPPING[family]()
        with torch.device("meta"):
            return transformers.BertModel(transformers.BertConfig(num_hidden_layers=1)), config
    sizes = {} if CHANGES.get(family) is ENCODER_DECODER else SMALL
    config = transformers.CONFIG_MAPPING[family](**{**sizes, **CHANGES.get(family, {})})
    torch.manual_seed(0)
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model, config


def find(family: str) -> Found:
    model, config = build(family)
    if family in BY_NAME:
        model.config = config
    try:
        layers_of(model)
    except InputError as error:
        reason = re.search(r"cannot be distilled: (.*)", str(error))
        return Found(reason.group(1) if reason else str(error), False, False)
    return Found("", allowed(check_head, model), allowed(use_packed, copy.deepcopy(model)))


def allowed(check: Any, model: Any) -> bool:
    try:
        check(model)
    except InputError:
        return False
    return True


def run(model: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 99, (2, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    torch.manual_seed(0)  # some families draw while they compute
    logits: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits[mask.bool()]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_cut_as_it_should_or_refused(family: str) -> None:
    model, _ = build(family)
    if find(family).refused:
        with pytest.raises(InputError, match="cannot be distilled"):
            create_student(model)
        return
    with torch.no_grad():
        expected = run(model)
        whole = create_student(model, 4, student_type="same").eval()
        torch.testing.assert_close(run(whole), expected, rtol=1e-5, atol=1e-5)
    half = create_student(model)
    run(half).square().sum().backward()
    layers = layers_of(half)
    assert len(layers) == 2
    for layer in layers:
        assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in layer.parameters())
    assert encoder_of(half).config.num_hidden_layers == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_what_padding_changes_is_known(family: str) -> None:
    if find(family).refused:
        return
    model, _ = build(family)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 99, (2, 14), generator=generator)
    mask = torch.ones_like(ids)
    ids[0, 8:], mask[0, 8:] = 1, 0
    with torch.no_grad():
        torch.manual_seed(0)
        alone = model(input_ids=ids[:1, :8], attention_mask=mask[:1, :8]).logits[0]
        torch.manual_seed(0)
        beside = model(input_ids=ids, attention_mask=mask).logits[0, :8]
    assert torch.allclose(alone, beside, atol=1e-5) != (family in READS_PADDING)


def table() -> str:
    lines = [
        "# Which models can be distilled",
        "",
        "Every text encoder for which `transformers` has a masked-language model, as built from a small configuration. "
        "Made by `python tests/models/test_every_encoder.py`, kept right by its tests.",
        "",
        "*cut*: a student of all layers computes what its teacher does, and one of half the layers trains. *words*: "
        "its masked-language-model head is one that distilfast takes apart, so that the losses on words work; without "
        "it hidden states can be distilled (`--head hidden_states`), and classes where the family has a classifier. "
        "*packed*: it runs without padding (`--layout packed`).",
        "",
        "| model type | cut | words | packed |",
        "|---|---|---|---|",
    ]
    for family in FAMILIES:
        build.cache_clear()
        found = find(family)
        said = f"no: {found.refused}" if found.refused else "yes"
        halves, packed = ("-", "-") if found.refused else ("yes" if x else "no" for x in (found.halves, found.packed))
        lines.append(f"| {family} | {said} | {halves} | {packed} |")
    lines += [
        "",
        f"What models of {', '.join(READS_PADDING)} say of a text changes with the padding behind it. They learn from "
        "padded batches, which is said; classifiers, taggers and question answerers are evaluated without padding, as "
        "`pipeline` reads one text.",
    ]
    return "\n".join(lines) + "\n"


def test_the_table_in_the_documentation_says_what_is_found() -> None:
    written = TABLE.read_text(encoding="utf-8").splitlines()
    assert table().splitlines() == written


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
