"""How batches are made, and which of their positions are masked: all that changes a batch beside rows and tokenizer."""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Literal

from .._core import InputError


@dataclasses.dataclass(frozen=True)
class Masking:
    """Which positions are masked, and what they become.

    prob: the share of a batch's tokens ([CLS] and [SEP] counted) that is masked, in (0, 1].
    mask, keep, random: what becomes of a masked position: the mask token, itself, a random id. They add up to 1.
    smoothing: positions are drawn with the weight `max(count, 1) ** -smoothing` of their id (DistilBERT: 0.7); 0 draws
        them uniformly. Special tokens are never drawn.
    whole_word: the pieces of a word are masked together or not at all. Words are taken in random order while they fit
        what is left of the number (BERT's rule), with the weight of their rarest piece.
    count: "exact" draws `ceil(prob * tokens)` positions of a batch without replacement, or all there are if those are
        fewer; "bernoulli" draws each position (each word, with `whole_word`) for itself with the chance `prob`, as
        `transformers.DataCollatorForLanguageModeling` does.
    compat: "distilbert" draws random ids from the whole vocabulary, special tokens included, as the original and the
        collator of `transformers` do; None leaves special tokens out.

    Raises `InputError` for shares that are no probabilities or do not add up, and for choices that do not exist.
    """

    prob: float = 0.15
    mask: float = 0.8
    keep: float = 0.1
    random: float = 0.1
    smoothing: float = 0.0
    whole_word: bool = False
    count: Literal["exact", "bernoulli"] = "exact"
    compat: Literal["distilbert"] | None = None

    def __post_init__(self) -> None:
        for name in ("prob", "mask", "keep", "random", "smoothing"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise TypeError(f"Masking: {name} is a number, not {value!r}")
        if not 0 < self.prob <= 1:
            raise InputError(f"Masking: prob={self.prob} is not a share of tokens; give one above 0, up to 1")
        for name in ("mask", "keep", "random"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"Masking: {name}={getattr(self, name)} is not a share between 0 and 1")
        total = self.mask + self.keep + self.random
        if abs(total - 1) > 1e-6:
            raise InputError(
                f"Masking: mask={self.mask}, keep={self.keep} and random={self.random} add up to {total:g}, not to 1"
            )
        if not (self.smoothing >= 0 and math.isfinite(self.smoothing)):
            raise InputError(f"Masking: smoothing={self.smoothing} is not an exponent of 0 or more")
        if self.count not in ("exact", "bernoulli"):
            raise InputError(f"Masking: count={self.count!r} is neither 'exact' nor 'bernoulli'")
        if self.compat not in (None, "distilbert"):
            raise InputError(f"Masking: compat={self.compat!r} is neither None nor 'distilbert'")
        if self.count == "bernoulli" and self.smoothing > 0:
            raise InputError(
                f"Masking: count='bernoulli' draws every position with the same chance, smoothing={self.smoothing} "
                "weights them; use count='exact' or smoothing=0"
            )


@dataclasses.dataclass(frozen=True)
class BatchSettings:
    """What `MaskedBatches` is told; the compiled half reads these names.

    batch_tokens: the most elements of `input_ids` in a batch. Padded: rows * width is at most this. Packed: exactly.
    max_length: a longer row is refused.
    masking: see `Masking`.
    layout: "padded" puts rows of like length together, one per row of the tensor, in a few fixed shapes. "packed" puts
        rows end to end in bins of `batch_tokens`.
    seed: of everything that is drawn.
    batches_per_step: how many batches make one step of the optimiser (ranks * accumulation steps).
    kl_sample_share: how many positions that are not masked are sampled for the KL, as a share of a batch's elements in
        [0, 1]; 0 samples none.

    Raises `InputError` for values out of range, `TypeError` for those of another type.
    """

    batch_tokens: int = 16384
    max_length: int = 512
    masking: Masking = Masking()
    layout: Literal["padded", "packed"] = "padded"
    seed: int = 0
    batches_per_step: int = 1
    kl_sample_share: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.masking, Masking):
            raise TypeError(f"masking is a Masking, not {type(self.masking).__name__}")
        if self.layout not in ("padded", "packed"):
            raise InputError(f"layout={self.layout!r} is neither 'padded' nor 'packed'")
        for name in ("batch_tokens", "max_length", "batches_per_step"):
            check_integer(name, getattr(self, name), 1, 2**31 - 1)
        check_integer("seed", self.seed, 0, 2**64 - 1)
        for name in ("batch_tokens", "max_length", "batches_per_step", "seed"):
            object.__setattr__(self, name, int(getattr(self, name)))  # numpy's integers are no JSON
        share = self.kl_sample_share
        if isinstance(share, bool) or not isinstance(share, numbers.Real):
            raise TypeError(f"kl_sample_share is a number, not {share!r}")
        if not 0 <= share <= 1:
            raise InputError(f"kl_sample_share={share} is not a share of tokens between 0 and 1")


def check_integer(name: str, value: object, low: int, high: int) -> None:
    """Raises `TypeError` for what is no integer, `InputError` for one outside [low, high]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} is an integer, not {value!r}")
    if not low <= int(value) <= high:
        raise InputError(f"{name}={value} is not between {low} and {high}")
