"""`distilfast trim`: a model with fewer words, its tokenizer with it, and a report of what that does to a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .._command import REQUIRED, flag, parse
from .._core import InputError
from .._files import refuse_occupied, whole_directory, write_json
from ..models.card import without_paths
from ..models.head import modules_of
from ..models.load import existing, load_model, quiet
from ..models.saved_tokenizer import save_tokenizer
from ..models.sentence import load_sentence_encoder
from ..models.sentence_folder import transformer_folder
from ..models.vocabulary import keep_words
from ..prepare.sources import find_text_files, refuse_idle_column
from ..prepare.text import read_files
from ..tokenizer import Tokenizer, load_transformers_tokenizer
from ..vocabulary import Vocabulary
from ..vocabulary.from_files import describe, fit_vocabulary
from ..vocabulary.trimmed import trim_transformers_tokenizer

REPORT = "trim.json"


def trim_model(
    model: str | Path,
    output_dir: str | Path,
    vocabulary: int | float | str | Path,
    text: Sequence[str | Path],
    *,
    characters: Literal["all", "text"] = "all",
    column: str = "text",
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Writes to `output_dir` the model in the directory or Hub id `model` with fewer words, its tokenizer, what makes
    of it a sentence encoder if it is one, and `trim.json`, which is also returned.

    vocabulary: how many tokens (int), the share of the text's tokens that must be among them (float, or text as
    "99.9%"), or a file with a token on every line. text: files, folders or patterns of the text that is to be covered
    and that the report measures; `column` is its name in jsonl and parquet. characters: see `choose_tokens`.

    Raises `InputError`, with nothing written, for what cannot be loaded, trimmed or written; see `choose_tokens`,
    `read_vocabulary`, `keep_words`.
    """
    name = existing(model)
    refuse_occupied(output_dir, overwrite, [name, *text])
    refuse_idle_column(column, text)
    folder = transformer_folder(name)
    fitted = fit_vocabulary(Tokenizer.from_pretrained(folder), vocabulary, text, characters, column)
    trimmed = fitted.vocabulary
    tokenizer = trim_transformers_tokenizer(load_transformers_tokenizer(folder), trimmed)
    encoder = load_sentence_encoder(name, trust_remote_code=trust_remote_code) if modules_of(name) else None
    loaded = load_model(name, dtype="auto", trust_remote_code=trust_remote_code) if encoder is None else encoder.model
    smaller = keep_words(loaded, trimmed.teacher_ids)
    report = {
        "model": without_paths(name),  # it lies in a folder that may be given away
        "parameters_before": loaded.num_parameters(),
        "parameters_after": smaller.num_parameters(),
        **fitted.report,
    }
    with whole_directory(output_dir, overwrite, [name, *text]) as beside:
        if encoder is None:
            smaller.save_pretrained(beside)
            save_tokenizer(tokenizer, smaller, beside)
        else:
            replace(encoder, model=smaller, tokenizer=tokenizer).save_pretrained(beside)
        _check_saved(beside, trimmed, text, column)
        write_json(beside / REPORT, report)
    return report


def _check_saved(folder: Path, vocabulary: Vocabulary, text: Sequence[str | Path], column: str) -> None:
    """Refuses a folder whose tokenizer, loaded as others will load it, gives other ids than the one that was
    measured; compared on the first block of the text."""
    again = Tokenizer.from_pretrained(folder)
    texts = next(read_files(find_text_files(text), column)).texts
    if again.encode_batch(texts) != vocabulary.tokenizer.encode_batch(texts):
        raise InputError("the trimmed tokenizer gives other ids once it is saved and loaded; nothing is written")


@dataclass
class TrimOptions:
    """Flags of `distilfast trim`."""

    model: str = flag(REQUIRED, "Model to trim: a directory or a hub id.")
    vocabulary: str = flag(
        REQUIRED,
        "How many tokens stay (8000), which share of the text's tokens must be among them (99.9%%), or a file with a "
        "token on every line.",
        metavar="N|SHARE%|FILE",
    )
    text: list[str] = flag(REQUIRED, "Text that the words are chosen for: files, folders or patterns.")
    output_dir: str = flag(REQUIRED, "Directory to write; must be empty or not there.")
    characters: Literal["all", "text"] = flag(
        "all",
        "Which single characters are always kept: all that the vocabulary has, or those of the text and of ASCII. "
        "Bytes are kept in any case.",
    )
    column: str = flag("text", "Name of the text in jsonl and parquet.")
    overwrite: bool = flag(False, "Replace what output_dir holds, once the model is good.")
    trust_remote_code: bool = flag(False, "Run code that the model brings along.")


def main(argv: Sequence[str] | None = None) -> None:
    (options,) = parse([TrimOptions], argv)
    quiet()
    report = trim_model(
        options.model,
        options.output_dir,
        options.vocabulary,
        options.text,
        characters=options.characters,
        column=options.column,
        overwrite=options.overwrite,
        trust_remote_code=options.trust_remote_code,
    )
    saved = 1 - report["parameters_after"] / report["parameters_before"]
    print("\n".join(describe(report)))
    print(
        f"parameters: {report['parameters_before']:,} before, {report['parameters_after']:,} after ({saved:.1%} less)"
    )
    print(f"done: {options.output_dir}")
