"""`distilfast trim`: a model with fewer words, its tokenizer with it, and a report of what that does to a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from .. import _command as command
from .._core import InputError
from .._files import refuse_occupied, whole_directory, write_json
from ..models.head import modules_of
from ..models.load import load_model, quiet
from ..models.sentence import load_sentence_encoder
from ..models.sentence_folder import transformer_folder
from ..models.vocabulary import keep_words
from ..prepare.sources import find_text_files
from ..prepare.text import read_files
from ..tokenizer import Tokenizer, load_transformers_tokenizer
from ..vocabulary import Vocabulary, choose_tokens, count_tokens, measure, read_vocabulary, trim_tokenizer
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
    name = str(model)
    refuse_occupied(output_dir, overwrite, [name, *text])
    wanted = parse_size(vocabulary)
    files = find_text_files(text)
    if not files:
        raise InputError(f"{' '.join(map(str, text))}: there is no file of text")
    folder = transformer_folder(name)
    whole = Tokenizer.from_pretrained(folder)
    added = 0
    if isinstance(wanted, Path):
        kept, added = read_vocabulary(whole, wanted)
    else:
        kept = choose_tokens(whole, count_tokens(whole, _texts(files, column)), wanted, characters)
    trimmed = trim_tokenizer(whole, kept)
    tokenizer = trim_transformers_tokenizer(load_transformers_tokenizer(folder), trimmed)
    encoder = load_sentence_encoder(name, trust_remote_code=trust_remote_code) if modules_of(name) else None
    loaded = load_model(name, dtype="auto", trust_remote_code=trust_remote_code) if encoder is None else encoder.model
    smaller = keep_words(loaded, trimmed.teacher_ids)
    report = {
        "model": name,
        "vocabulary_before": whole.vocab_size,
        "vocabulary_after": len(kept),
        "vocabulary_added": added,
        "parameters_before": loaded.num_parameters(),
        "parameters_after": smaller.num_parameters(),
        **measure(whole, trimmed, _texts(files, column)).shares(),
    }
    with whole_directory(output_dir, overwrite, [name, *text]) as beside:
        if encoder is None:
            smaller.save_pretrained(beside)
            tokenizer.save_pretrained(beside)
        else:
            replace(encoder, model=smaller, tokenizer=tokenizer).save_pretrained(beside)
        _check_saved(beside, trimmed, files, column)
        write_json(beside / REPORT, report)
    return report


def parse_size(vocabulary: int | float | str | Path) -> int | float | Path:
    """How many tokens, the share of a text, or a file: `vocabulary` of `trim_model`, which may be text of a flag.

    Raises `InputError` for text that is neither a number, a share nor a file that is there.
    """
    if isinstance(vocabulary, (int, float)):
        return vocabulary
    said = str(vocabulary)
    if re.fullmatch(r"\d[\d_,]*", said):
        return int(re.sub("[_,]", "", said))
    if re.fullmatch(r"\d+(\.\d+)?\s*%", said):
        return float(said.rstrip("% ")) / 100
    if not Path(said).is_file():
        raise InputError(
            f"--vocabulary {said}: is no number of tokens (8000), no share of the text (99.9%) "
            "and no file that is there"
        )
    return Path(said)


def _texts(files: Sequence[Path], column: str) -> Iterator[pa.Array]:
    return (block.texts for block in read_files(files, column))


def _check_saved(folder: Path, vocabulary: Vocabulary, files: Sequence[Path], column: str) -> None:
    """Refuses a folder whose tokenizer, loaded as others will load it, gives other ids than the one that was
    measured; compared on the first block of the text."""
    again = Tokenizer.from_pretrained(folder)
    texts = next(_texts(files, column))
    if again.encode_batch(texts) != vocabulary.tokenizer.encode_batch(texts):
        raise InputError("the trimmed tokenizer gives other ids once it is saved and loaded; nothing is written")


@dataclass
class TrimOptions:
    """Flags of `distilfast trim`."""

    model: str = field(metadata={"help": "Model to trim: a directory or a hub id."})
    vocabulary: str = field(
        metadata={
            "help": "How many tokens stay (8000), which share of the text's tokens must be among them (99.9%%), or a "
            "file with a token on every line.",
            "metavar": "N|SHARE%|FILE",
        }
    )
    text: list[str] = field(metadata={"help": "Text that the words are chosen for: files, folders or patterns."})
    output_dir: str = field(metadata={"help": "Directory to write; must be empty or not there."})
    characters: Literal["all", "text"] = field(
        default="all",
        metadata={
            "help": "Which single characters are always kept: all that the vocabulary has, or those of the text and "
            "of ASCII. Bytes are kept in any case."
        },
    )
    column: str = field(default="text", metadata={"help": "Name of the text in jsonl and parquet."})
    overwrite: bool = field(default=False, metadata={"help": "Replace what output_dir holds, once the model is good."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that the model brings along."})


def main(argv: Sequence[str] | None = None) -> None:
    (options,) = command.parse([TrimOptions], argv)
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
    print("\n".join(lines_of(report)))
    print(f"done: {options.output_dir}")


def lines_of(report: dict[str, Any]) -> list[str]:
    """The report in a few lines."""
    saved = 1 - report["parameters_after"] / report["parameters_before"]
    lines = [
        f"vocabulary: {report['vocabulary_before']:,} tokens before, {report['vocabulary_after']:,} after",
        f"parameters: {report['parameters_before']:,} before, {report['parameters_after']:,} after ({saved:.1%} less)",
        f"coverage: {report['coverage']:.3%} of the text's {report['tokens_before']:,} tokens; "
        f"{report['texts_same']:,} of {report['texts']:,} texts are spelt as before",
        f"tokens a word: {report['tokens_per_word_before']:.3f} before, {report['tokens_per_word_after']:.3f} after",
        f"unknown tokens: {report['unknown_share_before']:.3%} before, {report['unknown_share_after']:.3%} after",
    ]
    if report["vocabulary_added"]:
        added = report["vocabulary_added"]
        lines.insert(1, f"added to the file's tokens: {added:,} single characters and halves of merges")
    return lines
