"""Sentence encoders: an encoder with what makes one vector of a text, loaded, run and saved.

A folder of sentence-transformers says how its tokens are pooled; of a bare encoder the caller does.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from .._core import InputError
from ..batches.encode import check_length
from ..tokenizer import load_transformers_tokenizer, tokenize
from .attention import model_inputs
from .families import encoder_of, evaluating, longest_row
from .load import load_model
from .narrow import dimensions_of, projection_from
from .pooling import Dense, Normalize, SentenceModules
from .saved_tokenizer import save_tokenizer
from .sentence_folder import SentenceSettings, read_sentence_folder, transformer_folder, write_sentence_folder

COUNTED_AT_ONCE = 1024


@dataclass(frozen=True)
class SentenceEncoder:
    """An encoder, what follows it, its settings and its tokenizer (of transformers)."""

    model: PreTrainedModel
    modules: SentenceModules
    settings: SentenceSettings
    tokenizer: Any

    @property
    def longest(self) -> int:
        """The most tokens of a text, special ones counted: longer texts are cut."""
        return int(self.settings.max_length or 512)

    def with_prompt(self, texts: Sequence[str], prompt_name: str | None = None) -> list[str]:
        """`texts` as the tokenizer is to read them: behind the prompt of that name (None: the default one)."""
        prompt = self.settings.prompt(prompt_name)
        return [(prompt + text).lower() if self.settings.do_lower_case else prompt + text for text in texts]

    def reading_at_most(self, tokens: int) -> SentenceEncoder:
        """The same, with texts cut at so many tokens where it reads more. Raises `InputError` where these leave no room
        for a text."""
        check_length(self.tokenizer, tokens, pairs=False)
        return replace(self, settings=replace(self.settings, max_length=min(tokens, self.longest)))

    def count_cut(self, texts: Sequence[str], prompt_name: str | None = None) -> int:
        """How many of `texts` are longer than is read of them."""
        room = self.longest - self.tokenizer.num_special_tokens_to_add(pair=False)
        # A token is a byte at least, but for one before the first word.
        long = [text for text in self.with_prompt(texts, prompt_name) if len(text.encode()) >= room]
        return sum(
            len(ids) > self.longest
            for start in range(0, len(long), COUNTED_AT_ONCE)
            for ids in tokenize(self.tokenizer, long[start : start + COUNTED_AT_ONCE])["input_ids"]
        )

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], prompt_name: str | None = None, batch_size: int = 64) -> np.ndarray:
        """The vectors of `texts`, float32 [texts, width], in their order; texts of like length are run together.

        Raises `InputError` where one is not finite.
        """
        texts = self.with_prompt(texts, prompt_name)
        order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
        vectors = np.empty((len(texts), self.modules.width), np.float32)
        self.modules.to(self.model.device)
        with evaluating(self.model):
            for start in range(0, len(order), batch_size):
                here = order[start : start + batch_size]
                vectors[here] = self._vectors([texts[number] for number in here]).float().cpu().numpy()
        if not np.isfinite(vectors).all():
            raise InputError(f"{self.model.name_or_path}: its vectors hold numbers that are not finite")
        return vectors

    def _vectors(self, texts: list[str]) -> torch.Tensor:
        cut: dict[str, Any] = {"truncation": True, "max_length": self.longest}
        batch = tokenize(self.tokenizer, texts, padding=True, padding_side="right", return_tensors="pt", **cut)
        batch = {name: value.to(self.model.device) for name, value in batch.items()}
        encoder: Any = encoder_of(self.model)
        states = encoder(**model_inputs(self.model, batch), return_dict=True).last_hidden_state
        vectors: torch.Tensor = self.modules(states, batch)
        return vectors

    def save_pretrained(self, folder: str | Path) -> None:
        """The encoder, its tokenizer and the files of sentence-transformers in `folder`."""
        self.model.save_pretrained(folder)
        self.tokenizer.model_max_length = self.longest
        save_tokenizer(self.tokenizer, self.model, folder)
        write_sentence_folder(folder, self.modules, self.settings)


def load_sentence_encoder(
    name_or_path: str | Path,
    pooling: str | None = None,
    normalize: bool | None = None,
    max_length: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> SentenceEncoder:
    """The sentence encoder in a folder of sentence-transformers, or a bare encoder that is pooled as the caller says.

    `pooling`: see `POOLINGS`; `normalize`: whether a bare encoder's vectors are brought to length 1 (None: yes).
    `max_length`: a shorter one than the model's own. Raises `InputError` for what does not load, for a bare encoder
    without `pooling`, and where what is asked for contradicts what the folder says.
    """
    name = str(name_or_path)
    model: PreTrainedModel = load_model(name, "embedding", revision=revision, trust_remote_code=trust_remote_code)
    modules, settings = sentence_parts(name, model, pooling, normalize, max_length, revision)
    tokenizer = load_transformers_tokenizer(transformer_folder(name))
    check_length(tokenizer, int(settings.max_length or 512), pairs=False)
    return SentenceEncoder(model, modules, settings, tokenizer)


def sentence_parts(
    name: str,
    model: PreTrainedModel,
    pooling: str | None = None,
    normalize: bool | None = None,
    max_length: int | None = None,
    revision: str | None = None,
) -> tuple[SentenceModules, SentenceSettings]:
    """What follows `model`, which was loaded from `name`, and its settings; arguments and errors as those of
    `load_sentence_encoder`."""
    found = read_sentence_folder(name, int(model.config.hidden_size), revision=revision)
    if found is None:
        if pooling is None:
            raise InputError(
                f"{name} is an encoder without modules.json, so nothing says how its tokens become one vector; give "
                "--pooling mean, cls or max (and --normalize false where vectors keep their length)"
            )
        steps = [] if normalize is False else [Normalize()]
        found = SentenceModules(int(model.config.hidden_size), (pooling,), steps), SentenceSettings()
    modules, settings = found
    if pooling is not None and modules.pooling != (pooling,):
        raise InputError(f"--pooling {pooling}: {name} pools by {' and '.join(modules.pooling)}; leave the flag out")
    if normalize is not None and modules.normalizes != normalize:
        does = "brings its vectors to length 1" if modules.normalizes else "leaves the length of its vectors"
        raise InputError(f"--normalize {str(normalize).lower()}: {name} {does}; leave the flag out")
    longest = [each for each in (settings.max_length, _made_for(name), longest_row(model)) if each is not None]
    limit = min(longest, default=512)
    if max_length is not None and max_length > limit:
        raise InputError(f"--max_length {max_length}: {name} reads at most {limit} tokens")
    return modules, replace(settings, max_length=limit if max_length is None else max_length)


def student_modules(
    student: PreTrainedModel,
    teacher: SentenceModules,
    own: SentenceModules | None = None,
    keep_dimension: bool = True,
    seed: int = 0,
    vector_width: int | None = None,
) -> SentenceModules:
    """What follows the student: what it brought (`own`), or the teacher's pooling, dense layers and norm, copied.

    Where that would give vectors of another width than the teacher's (or than `vector_width`, that of several teachers
    side by side) and `keep_dimension` asks for that, a dense layer is put before the norm, without bias, orthogonal
    from `seed`; behind the pooling of a narrower student one that puts its hidden dimensions back where they were in
    the teacher, before all that follows there.
    """
    width = int(student.config.hidden_size)
    wanted = teacher.width if vector_width is None else vector_width
    generator = torch.Generator().manual_seed(seed)
    pooling = teacher.pooling if own is None else own.pooling
    if own is not None:
        steps = list(own.steps)
    elif width == teacher.hidden_size:
        steps = list(copy.deepcopy(teacher).steps)
    elif keep_dimension and dimensions_of(student) is not None and len(pooling) == 1:
        widened = Dense(width, teacher.hidden_size, bias=False)
        widened.linear = projection_from(student, teacher.hidden_size, generator)
        steps = [widened, *copy.deepcopy(teacher).steps]
    else:
        steps = [Normalize()] if teacher.normalizes else []
    modules = SentenceModules(width, pooling, steps)
    if modules.width == wanted or not keep_dimension:
        return modules
    projection = Dense(modules.width, wanted, bias=False)
    torch.nn.init.orthogonal_(projection.linear.weight, generator=generator)
    place = len(steps) - 1 if modules.normalizes else len(steps)
    return SentenceModules(width, pooling, [*steps[:place], projection, *steps[place:]])


def _made_for(name: str) -> int | None:
    """The length that the tokenizer says it was made for; None where it says none that is meant."""
    length = getattr(load_transformers_tokenizer(transformer_folder(name)), "model_max_length", None)
    return int(length) if length is not None and length < 1_000_000 else None
