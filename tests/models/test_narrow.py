"""Narrower students: identity at full width, exact where what goes adds nothing, sizes as asked for, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from distilfast import InputError, create_student
from distilfast.models.families import layers_of
from distilfast.models.narrow import Widths, dimensions_of, narrow
from model_cases import CONFIGS, HEADS, inputs, outputs, teacher_of

FAMILIES = [family for family in CONFIGS if family != "modernbert"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
def test_full_width_is_the_identity(family: str, head: str) -> None:
    teacher = teacher_of(family, head)
    given = inputs(teacher)
    student = create_student(
        teacher, 4, student_type="same", hidden_size=32, intermediate_size=48, num_attention_heads=4, sample=[given]
    )
    assert {name: value.shape for name, value in student.state_dict().items()} == {
        name: value.shape for name, value in teacher.state_dict().items()
    }
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in student.state_dict().items())
    assert dimensions_of(student) is None


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("with_text", [True, False])
def test_units_that_add_nothing_or_always_the_same_go_first(family: str, with_text: bool) -> None:
    """Where all units that go are such, the model stays the same: what a constant one adds goes into the bias."""
    teacher = teacher_of(family)
    for layer in layers_of(teacher):
        old = family == "distilbert"
        up, down = (layer.ffn.lin1, layer.ffn.lin2) if old else (layer.intermediate.dense, layer.output.dense)
        with torch.no_grad():
            down.weight[:, [1, 5]] = 0
            up.weight[47] = 0  # of weights alone it is without effect too, but what it adds is lost
            up.bias[47] = 1.0 if with_text else 0.0
    given = inputs(teacher)
    smaller = narrow(teacher, Widths(intermediate_size=45), [given] if with_text else [])
    assert {value.shape[0] for name, value in smaller.state_dict().items() if name.endswith("lin1.bias")} <= {45}
    expected, actual = outputs(teacher, given), outputs(smaller, given)
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_narrower_student_has_the_sizes_that_are_asked_for(family: str, head: str) -> None:
    teacher = teacher_of(family, head)
    given = inputs(teacher)
    student = create_student(
        teacher, 2, hidden_size=24, intermediate_size=20, num_attention_heads=3, sample=[given]
    ).eval()
    config = student.config
    inner = getattr(config, "hidden_dim", None) or config.intermediate_size
    assert (config.hidden_size, inner, config.num_attention_heads) == (24, 20, 3)
    kept = dimensions_of(student)
    assert kept is not None
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert len(kept) == 24
    embedded = teacher.get_input_embeddings().weight
    if embedded.shape[1] == 32:
        assert torch.equal(student.get_input_embeddings().weight, embedded[:, kept])
    assert all(value.isfinite().all() for value in outputs(student, inputs(student)).values())
    again = create_student(teacher, 2, hidden_size=24, intermediate_size=20, num_attention_heads=3, sample=[given])
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in student.state_dict().items())


def test_heads_that_become_narrower_keep_the_size_of_their_logits() -> None:
    """Numbers of queries and keys that are 0 go first, and what is left gives the same attention, scaled or not."""
    teacher = teacher_of("bert")
    heads = torch.arange(32).view(4, 8)
    for layer in teacher.bert.encoder.layer:
        attention = layer.attention.self
        with torch.no_grad():
            for part in (attention.query, attention.key):
                part.weight[heads[:, 3:].flatten()] = 0
                part.bias[heads[:, 3:].flatten()] = 0
    given = inputs(teacher)
    narrower = narrow(teacher, Widths(hidden_size=16, num_attention_heads=4), [given])
    query = narrower.bert.encoder.layer[0].attention.self.query.weight.view(4, 4, 16)
    kept = dimensions_of(narrower)
    assert kept is not None
    whole = teacher.bert.encoder.layer[0].attention.self.query.weight.view(4, 8, 32)[:, :4][..., kept]
    torch.testing.assert_close(query, whole / 2**0.5)


def test_the_least_of_the_heads_goes() -> None:
    teacher = teacher_of("bert")
    for layer in teacher.bert.encoder.layer:
        with torch.no_grad():
            layer.attention.output.dense.weight[:, 8:16] = 0
    narrower = narrow(teacher, Widths(hidden_size=24), [inputs(teacher)])
    assert narrower.config.num_attention_heads == 3
    kept = dimensions_of(narrower)
    assert kept is not None
    for ours, theirs in zip(narrower.bert.encoder.layer, teacher.bert.encoder.layer, strict=True):
        rows = [*range(8), *range(16, 32)]
        assert torch.equal(ours.attention.self.value.weight, theirs.attention.self.value.weight[rows][:, kept])


def test_a_hidden_dimension_that_is_always_0_goes_first_and_the_norms_make_up_for_it() -> None:
    """A dimension that is 0 in every state and weighs nothing: without it only the norms differ, and these are scaled
    back. What is left is the spread of their ratio from token to token."""
    teacher = teacher_of("bert")
    with torch.no_grad():
        for name, value in teacher.named_parameters():
            if "predictions" in name:
                continue
            if "LayerNorm" in name:
                value[5] = 0
    given = inputs(teacher)
    asked = Widths(hidden_size=31, num_attention_heads=31)
    with pytest.raises(InputError, match="num_attention_heads 31"):
        narrow(teacher, asked, [given])
    smaller = narrow(teacher, Widths(hidden_size=28), [given])
    kept = dimensions_of(smaller)
    assert kept is not None
    assert 5 not in kept.tolist()


def test_norms_are_scaled_and_shifted_by_what_the_sample_says() -> None:
    """By hand, for the first norm: what comes in, a token at a time, over all dimensions and over those kept."""
    teacher = teacher_of("bert")
    norm: Any = teacher.bert.embeddings.LayerNorm
    torch.manual_seed(3)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
        teacher.bert.embeddings.word_embeddings.weight.add_(torch.linspace(0, 1, 32))
    given, caught = inputs(teacher), []
    hook = norm.register_forward_pre_hook(lambda _, taken: caught.append(taken[0]))
    outputs(teacher, given)
    hook.remove()
    smaller = narrow(teacher, Widths(hidden_size=16), [given])
    kept = dimensions_of(smaller)
    assert kept is not None
    values = caught[0][given["attention_mask"].bool()].double()
    some = values[:, kept]
    deviation = values.std(-1, correction=0)
    ratio = (some.std(-1, correction=0) / deviation).mean()
    shift = ((some.mean(-1) - values.mean(-1)) / deviation).mean()
    assert abs(shift) > 1e-3
    ours: Any = smaller.bert.embeddings.LayerNorm
    torch.testing.assert_close(ours.weight, norm.weight[kept] * ratio, check_dtype=False)
    torch.testing.assert_close(ours.bias, norm.bias[kept] + norm.weight[kept] * shift, check_dtype=False)


def test_the_chosen_start_is_nearer_than_the_first_dimensions_or_none_of_the_amends() -> None:
    """Against the same sizes without the sample: the last states of what is kept are closer to the teacher's."""
    teacher = teacher_of("bert", "hidden_states")
    given = inputs(teacher)

    def error(sample: list[Any]) -> float:
        smaller = narrow(teacher, Widths(hidden_size=24, intermediate_size=40), sample)
        kept = dimensions_of(smaller)
        assert kept is not None
        whole = outputs(teacher, given)["last_hidden_state"][:, kept]
        return float((outputs(smaller, given)["last_hidden_state"] - whole).norm() / whole.norm())

    assert error([given]) < error([])


@pytest.mark.parametrize(
    ("family", "asked", "part"),
    [
        ("bert", {"hidden_size": 33}, "hidden_size 33: the teacher has 32"),
        ("bert", {"intermediate_size": 0}, "intermediate_size 0: the teacher has 48"),
        ("bert", {"num_attention_heads": 5}, "num_attention_heads 5: the teacher has 4"),
        ("bert", {"hidden_size": 30}, "4 attention heads do not divide hidden_size 30"),
        ("bert", {"num_attention_heads": 2}, "makes these 16 wide, and the teacher's are 8; choose 4 or more"),
        ("modernbert", {"hidden_size": 16}, "type 'modernbert' cannot be made narrower"),
    ],
)
def test_widths_that_cannot_be_are_refused(family: str, asked: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=part):
        create_student(teacher_of(family), **asked)


def test_a_narrower_student_of_published_sizes_is_cut_without_text() -> None:
    with torch.device("meta"):
        teacher = transformers.BertForMaskedLM(transformers.BertConfig())
    student = create_student(teacher, hidden_size=384, intermediate_size=1536)
    assert student.config.n_heads == 6
    assert student.num_parameters() < 66_985_530 / 2
