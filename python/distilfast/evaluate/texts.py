"""Held-out text: how well masked-language models predict it, and what was there before any training."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._core import InputError
from ..metrics.held_out import evaluate_held_out, held_out_batches, words_of_all
from ..models.families import layers_of, longest_row
from ..models.load import load_model
from ..models.student import create_student
from ..prepare.directory import unknown_note
from ..prepare.text import read_texts
from .options import LONGEST, EvaluateOptions


def held_out_texts(given_texts: Sequence[str]) -> dict[str, str]:
    """The files of --text by name: that before the equals sign, or the file's own without its ending."""
    texts: dict[str, str] = {}
    for given in given_texts:
        name, equals, file = given.partition("=")
        if not equals or "/" in name or Path(given).is_file():
            name, file = Path(given).stem, given
        if name in texts:
            raise InputError(f"--text: two texts are called {name!r}; name one, as in other={file}")
        texts[name] = file
    return texts


def held_out_report(paths: dict[str, str], teacher: str, options: EvaluateOptions) -> dict[str, Any]:
    """Masked-LM quality of every model on each held-out text, by its name."""
    texts: dict[str, Sequence[str]] = {Path(options.tokens).name: ()} if options.tokens is not None else {}
    for name, file in held_out_texts(options.text).items():
        texts[name] = read_texts([file], options.max_lines)
    return text_scores(paths, teacher, options, texts)


def text_scores(
    paths: Mapping[str, str], teacher: str, options: EvaluateOptions, texts: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Masked-LM quality of every model on the lines of each text (none: on `options.tokens`), and of the cuts
    (`options.controls`)."""
    models = {name: load_model(path, "masked_lm") for name, path in paths.items()}
    cuts, no_cuts = cut_models(models, teacher) if options.controls else ({}, [])
    models |= cuts
    return {name: _scores(paths, models, teacher, options, lines, no_cuts) for name, lines in texts.items()}


def _scores(
    paths: Mapping[str, str],
    models: Mapping[str, Any],
    teacher: str,
    options: EvaluateOptions,
    lines: Sequence[str],
    no_cuts: Sequence[str],
) -> dict[str, Any]:
    room = [most for model in models.values() if (most := longest_row(model)) is not None]
    batches, info = held_out_batches(
        paths,
        lines=lines,
        tokens=options.tokens,
        max_length=min([options.max_length or LONGEST, *room]),
        batch_tokens=options.batch_tokens,
        seed=options.mask_seed,
    )
    words = words_of_all(models)
    wider = [f"{name} {size:,}" for name, each in models.items() if (size := int(each.config.vocab_size)) > words]
    notes = [f"{', '.join(wider)} words: all are scored over the {words:,} that every model has"] if wider else []
    notes += [f"rows cut to {info['max_length']} tokens: {info['cut']:,}"] if info["cut"] else []
    scores = evaluate_held_out(
        models[teacher],
        {name: model for name, model in models.items() if name != teacher},
        batches,
        device=options.device,
        progress=sys.stderr.isatty(),
    )
    renamed = {teacher if name == "teacher" else name: score for name, score in scores.items()}
    return {
        **info,
        "notes": [*notes, *no_cuts, *filter(None, [unknown_note(info["unknown_share"])])],
        "models": {name: {**vars(score), "perplexity": score.perplexity} for name, score in renamed.items()},
    }


def cut_models(models: Mapping[str, Any], teacher: str) -> tuple[dict[str, Any], list[str]]:
    """For each depth of a student below the teacher's the teacher's layers as they are cut, untrained, in the student's
    class; and why there is none, where there is none."""
    cuts: dict[str, Any] = {}
    notes = []
    for name, model in models.items():
        try:
            depth = len(layers_of(model))
            if name == teacher or depth >= len(layers_of(models[teacher])) or f"cut, {depth} layers" in cuts:
                continue
            folded = model.config.model_type == "distilbert" != models[teacher].config.model_type
            kind: Any = "distilbert" if folded else "same"
            cuts[f"cut, {depth} layers"] = create_student(models[teacher], depth, student_type=kind)
        except InputError as error:
            notes.append(f"no untrained cut stands beside {name}: {error}")
    return cuts, notes
