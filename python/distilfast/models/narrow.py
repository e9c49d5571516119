"""A narrower model out of a wider one: which hidden dimensions, heads and inner units stay, and what makes up for the
others.

What counts is how much a part changes what follows it on a sample of real text: input j of a linear layer weighs
std(x_j) * |W_j|, a head the root of the sum of squares over its columns; and the mean of what is left out is added to
the bias of the layer that read it (An et al., "Fluctuation-based adaptive structured pruning", 2023). Hidden dimensions
are chosen once for all layers, which add to one another: those with the largest mean |x| over the outputs of all.

A layer norm over fewer dimensions has another mean and variance; its weight and bias are scaled by what these are on
average on the sample. That is an approximation, exact only where no hidden dimension goes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from .._core import InputError
from .attention import model_inputs
from .build import drop_pooler_as, new_model, train_as
from .families import encoder_of, evaluating, layers_of, layers_path


class Widths(NamedTuple):
    """What a narrower model is asked to have; None: as many as the model has."""

    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_attention_heads: int | None = None


class _Sizes(NamedTuple):
    """What it has."""

    hidden: int
    inner: int
    heads: int


class _Layer(NamedTuple):
    """Where the linear layers of a transformer layer stand in it."""

    query: str
    key: str
    value: str
    output: str
    up: str
    down: str


_BERT = _Layer(
    *("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    *("intermediate.dense", "output.dense"),
)
_DISTILBERT = _Layer(
    *("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"), *("ffn.lin1", "ffn.lin2")
)
_FAMILIES = {
    "bert": _BERT,
    "camembert": _BERT,
    "data2vec-text": _BERT,
    "distilbert": _DISTILBERT,
    "electra": _BERT,
    "ernie": _BERT,
    "roberta": _BERT,
    "roberta-prelayernorm": _BERT,
    "xlm-roberta": _BERT,
}


class _Sums:
    """Means over the tokens of a sample."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, values: Tensor) -> None:
        """`values` [tokens, n]."""
        values = values.double()
        self.count += len(values)
        self.total = self.total + values.sum(0)
        self.squares = self.squares + values.square().sum(0)

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    @property
    def deviation(self) -> Tensor:
        return (self.squares / self.count - self.mean.square()).clamp(min=0).sqrt()


def check_widths(config: PreTrainedConfig, asked: Widths) -> _Sizes:
    """All sizes of the narrower model. Without a number of heads these keep their width where it divides `hidden_size`,
    and their number where it does not.

    Raises `InputError` for families that cannot be made narrower, sizes above the model's, and heads that do not divide
    the hidden size or would be wider than the model's.
    """
    if config.model_type not in _FAMILIES:
        raise InputError(
            f"a model of type {config.model_type!r} cannot be made narrower: where its widths stand is known of "
            f"{', '.join(sorted(_FAMILIES))} alone; it can have fewer layers and fewer words"
        )
    has = _sizes_of(config)
    for name, wanted, most in zip(Widths._fields, asked, has, strict=True):
        if wanted is not None and not 1 <= wanted <= most:
            raise InputError(f"{name} {wanted}: the teacher has {most:,}; ask for 1 to {most}")
    hidden, inner, heads = (most if wanted is None else wanted for wanted, most in zip(asked, has, strict=True))
    width = has.hidden // has.heads
    if asked.num_attention_heads is None and hidden % width == 0:
        heads = hidden // width
    if hidden % heads:
        raise InputError(
            f"{heads} attention heads do not divide hidden_size {hidden}; choose a num_attention_heads that does, or a "
            f"multiple of {width}, the width of the teacher's heads"
        )
    if hidden // heads > width:
        raise InputError(
            f"hidden_size {hidden} over {heads} attention heads makes these {hidden // heads} wide, and the teacher's "
            f"are {width}; choose {-(-hidden // width)} or more, or a smaller hidden_size"
        )
    return _Sizes(hidden, inner, heads)


def _sizes_of(config: PreTrainedConfig) -> _Sizes:
    return _Sizes(*(int(getattr(config, name)) for name in _names_of(config)))


def _names_of(config: PreTrainedConfig) -> tuple[str, str, str]:
    return "hidden_size", "hidden_dim" if hasattr(config, "hidden_dim") else "intermediate_size", "num_attention_heads"


def narrow(model: PreTrainedModel, asked: Widths, batches: Sequence[Mapping[str, Tensor]] = ()) -> PreTrainedModel:
    """A narrower copy of `model`, of its class, depth, dtype, device and mode.

    batches: a sample of text, `input_ids` and `attention_mask` [rows, width] int64 each (`token_type_ids`, where the
    model has them). Without one, weights alone decide, and nothing makes up for what is left out.

    The queries of heads whose width changes are scaled, so that the attention, which divides by its root, sees logits
    of the same size. `dimensions_of` says which hidden dimensions were taken. Raises `InputError` as `check_widths`.
    """
    sizes, whole = check_widths(model.config, asked), _sizes_of(model.config)
    config = copy.deepcopy(model.config)
    for name, size in zip(_names_of(config), sizes, strict=True):
        setattr(config, name, size)
    if getattr(config, "embedding_size", None) == whole.hidden:
        config.embedding_size = sizes.hidden  # of an ELECTRA whose embeddings are the hidden states
    smaller = new_model(type(model), config, model.device, model.dtype, seed=0)
    drop_pooler_as(model, smaller)
    with evaluating(model):
        hidden = _hidden_dimensions(model, sizes.hidden, batches)
        sums = _measure(model, hidden, batches)
    state = _gather(model, smaller, hidden, sums, sizes)
    smaller.load_state_dict(state)
    if sizes.hidden < whole.hidden:
        remember_dimensions(smaller, hidden)
    train_as(model, smaller)
    return smaller


def remember_dimensions(model: PreTrainedModel, dimensions: Tensor) -> None:
    """Notes on `model` which hidden dimensions of its teacher it has; not saved."""
    cast(Any, model).teacher_dimensions = dimensions


def dimensions_of(model: nn.Module) -> Tensor | None:
    """[hidden size] int64, rising: which of its teacher's hidden dimensions those of a narrower student are; None where
    it has all, or is from elsewhere."""
    return getattr(model, "teacher_dimensions", None)


def projection_from(student: nn.Module, width: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer without bias from the student's width to its teacher's `width`: each hidden dimension of a student
    that was made narrower to where it is from, otherwise orthogonal, drawn from `generator`."""
    size, kept = int(cast(Any, student).config.hidden_size), dimensions_of(student)
    projection = nn.Linear(size, width, bias=False)
    if kept is not None and kept.numel() == size and int(kept.max()) < width:
        nn.init.zeros_(projection.weight)
        with torch.no_grad():
            projection.weight[kept.cpu(), torch.arange(size)] = 1.0
    else:
        nn.init.orthogonal_(projection.weight, generator=generator)
    return projection


@torch.no_grad()
def _hidden_dimensions(model: PreTrainedModel, size: int, batches: Iterable[Mapping[str, Tensor]]) -> Tensor:
    """The hidden dimensions to keep, rising."""
    width = int(model.config.hidden_size)
    if size == width:
        return torch.arange(width, device=model.device)
    importance = torch.zeros(width, dtype=torch.float64, device=model.device)
    seen = False
    for batch in batches:
        seen = True
        inputs = {name: value.to(model.device) for name, value in batch.items()}
        states = cast(Any, encoder_of(model))(
            **model_inputs(encoder_of(model), inputs), output_hidden_states=True, return_dict=True
        ).hidden_states
        mask = inputs["attention_mask"].bool()
        for state in states:
            if state.shape[-1] == width:
                sizes = state[mask].double().abs().sum(0)
                importance += sizes / sizes.sum()  # so that no layer decides by its scale alone
    if not seen:
        for layer in layers_of(model):
            names = _FAMILIES[model.config.model_type]
            for name in (names.query, names.key, names.value, names.up):
                importance += cast(Tensor, layer.get_submodule(name).weight).double().square().sum(0)
    return _largest(importance, size)


def _largest(importance: Tensor, size: int) -> Tensor:
    """The places of the `size` largest along the last axis, rising; of equal ones the first."""
    return importance.argsort(dim=-1, descending=True, stable=True)[..., :size].sort(-1).values


@torch.no_grad()
def _measure(model: PreTrainedModel, hidden: Tensor, batches: Iterable[Mapping[str, Tensor]]) -> dict[nn.Module, _Sums]:
    """What comes into every linear layer; and of each layer norm over the hidden dimensions [ratio of the deviation
    over `hidden` to that over all, difference of the means in deviations]."""
    sums: dict[nn.Module, _Sums] = {}
    mask = torch.zeros(0, 0, dtype=torch.bool)
    width = int(model.config.hidden_size)

    def counted(values: Tensor) -> Tensor:
        return values[mask] if values.shape[:2] == mask.shape and values.dim() == 3 else values.flatten(0, -2)

    def linear(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        sums.setdefault(module, _Sums()).add(counted(inputs[0]))

    def norm(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        values = counted(inputs[0]).double()
        kept = values[:, hidden]
        deviation = values.var(-1, correction=0).sqrt().clamp(min=1e-12)
        ratio = kept.var(-1, correction=0).sqrt() / deviation
        shift = (kept.mean(-1) - values.mean(-1)) / deviation
        sums.setdefault(module, _Sums()).add(torch.stack([ratio, shift], -1))

    with ExitStack() as stack:
        for module in model.modules():
            hook: Callable[..., None] | None = linear if isinstance(module, nn.Linear) else None
            if isinstance(module, nn.LayerNorm) and module.normalized_shape == (width,) and len(hidden) < width:
                hook = norm
            if hook is not None:
                stack.callback(module.register_forward_pre_hook(hook).remove)
        for batch in batches:
            inputs = {name: value.to(model.device) for name, value in batch.items()}
            mask = inputs["attention_mask"].bool()
            cast(Any, model)(**model_inputs(model, inputs), return_dict=True)
    return sums


@torch.no_grad()
def _gather(
    model: PreTrainedModel, smaller: PreTrainedModel, hidden: Tensor, sums: Mapping[nn.Module, _Sums], sizes: _Sizes
) -> dict[str, Tensor]:
    """The weights of `smaller`: those of `model` at the rows and columns that are kept."""
    whole = _sizes_of(model.config)
    scale = ((sizes.hidden / sizes.heads) / (whole.hidden / whole.heads)) ** 0.5
    axes: dict[str, tuple[Tensor, Tensor]] = {}  # the rows and columns of each linear layer inside the layers
    queries: set[str] = set()
    path = layers_path(model)
    prefix = path if encoder_of(model) is model else f"{model.base_model_prefix}.{path}"
    names = _FAMILIES[model.config.model_type]
    for number, layer in enumerate(layers_of(model)):
        of_queries, of_values, inner = _inside(layer, names, sums, whole.heads, sizes)
        rows = (of_queries, of_queries, of_values, hidden, inner, hidden)
        columns = (hidden, hidden, hidden, of_values, hidden, inner)
        for part, *both in zip(names, rows, columns, strict=True):
            axes[f"{prefix}.{number}.{part}"] = both[0], both[1]
        queries.add(f"{prefix}.{number}.{names.query}")
    needed = smaller.state_dict()
    biases = _made_up_for(model, {name: columns for name, (_, columns) in axes.items()}, hidden, sums)
    state = {}
    for name, value in model.state_dict().items():
        module_name, _, kind = name.rpartition(".")
        module = model.get_submodule(module_name)
        changed = biases.get(value.data_ptr(), value) if biases else value
        if isinstance(module, nn.LayerNorm) and module in sums:
            ratio, shift = sums[module].mean.to(value.dtype)
            changed = changed * ratio if kind == "weight" else changed + module.weight * shift
        if module_name in queries:
            changed = changed * scale
        wanted = needed[name].shape if name in needed else torch.Size()
        for axis, old in enumerate(value.shape):
            places = axes[module_name][axis] if module_name in axes else hidden
            if module_name in axes or wanted[axis : axis + 1] != (old,):
                if wanted[axis : axis + 1] != places.shape or (module_name not in axes and old != whole.hidden):
                    raise InputError(f"the weight {name} of a {type(model).__name__} does not follow its width")
                changed = changed.index_select(axis, places)
        state[name] = changed
    return state


def _made_up_for(
    model: PreTrainedModel, columns: Mapping[str, Tensor], hidden: Tensor, sums: Mapping[nn.Module, _Sums]
) -> dict[int, Tensor]:
    """By its address each bias of a linear layer with the mean of what its lost columns gave; `columns`: those that are
    kept inside the layers, elsewhere they are `hidden`. Tied biases have one address."""
    found = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or module not in sums or module.bias is None:
            continue
        if name not in columns and module.in_features != model.config.hidden_size:
            continue
        lost = torch.ones(module.in_features, dtype=torch.bool, device=module.weight.device)
        lost[columns.get(name, hidden)] = False
        mean = module.weight[:, lost].double() @ sums[module].mean[lost]
        found[module.bias.data_ptr()] = (module.bias.double() + mean).to(module.bias.dtype)
    return found


def _inside(
    layer: nn.Module, names: _Layer, sums: Mapping[nn.Module, _Sums], heads: int, sizes: _Sizes
) -> tuple[Tensor, Tensor, Tensor]:
    """Of a layer the rows of queries and keys, those of values, and the inner units that are kept."""
    query, key, value, output, up, down = (cast(nn.Linear, layer.get_submodule(name)) for name in names)

    def share(module: nn.Linear, made_by: nn.Linear) -> Tensor:
        """[columns]: how much each column of `module` adds; without a sample its inputs are as large as the weights
        that make them."""
        inputs = sums[module].deviation if module in sums else made_by.weight.double().norm(dim=1)
        return cast(Tensor, inputs * module.weight.double().norm(dim=0))

    of_values = share(output, value).view(heads, -1)
    of_queries = (query.weight.double().norm(dim=1) * key.weight.double().norm(dim=1)).view(heads, -1)
    kept = _largest(of_values.square().sum(-1), sizes.heads)
    width = sizes.hidden // sizes.heads
    starts = (kept * of_values.shape[1])[:, None]
    rows = [(starts + _largest(importance[kept], width)).flatten() for importance in (of_queries, of_values)]
    return rows[0], rows[1], _largest(share(down, up), sizes.inner)
