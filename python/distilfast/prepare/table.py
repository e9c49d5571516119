"""Rows as people have them: files, folders, data sets and objects in memory, as one Arrow table each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from .._core import InputError
from .._files import first_line
from .conll import looks_like_conll, read_conll
from .delimited import RaggedRows, read_delimited
from .json_rows import read_json_rows
from .records import Rows, file_text, listed, refuse_twice, rows_of_columns, rows_of_records

__all__ = ["RaggedRows", "Rows", "read_rows", "read_splits"]

DELIMITED = (".csv", ".tsv", ".tab")
JSON = (".json", ".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")
CONLL = (".conll", ".conllu", ".conll03", ".iob", ".iob2", ".bio", ".bioes")
COMPRESSED_ENDINGS = (".gz", ".zst", ".bz2", ".lz4")
KNOWN = (*DELIMITED, *JSON, *PARQUET, *CONLL)

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val", "eval"),
    "test": ("test", "testing"),
}
"""How files and folders begin that hold a split, by the split's name."""

Source = Any
"""A path, a data set's name, or an object: `datasets.Dataset` or `DatasetDict`, `pandas.DataFrame`, `pyarrow.Table`, a
list of dictionaries, a dictionary of columns."""


def read_rows(
    source: Source, split: str = "train", config_name: str | None = None, ragged: RaggedRows = "refuse"
) -> Rows:
    """The rows of one split; what has no splits is one. See `read_splits`, whose errors it raises, and `InputError`
    naming the splits there are where `split` is none of them."""
    return pick_split(source, read_splits(source, config_name, ragged, only=split), split)


def pick_split(source: Source, splits: Mapping[str, Rows], split: str) -> Rows:
    """Of the `splits` of `source` the one called `split`; what has no splits is one. Raises `InputError` where none
    is."""
    if split in splits:
        return splits[split]
    if len(splits) == 1 and _is_one(source):
        return next(iter(splits.values()))
    raise InputError(f"{_name(source)} has no split {split!r}; it has {listed(splits)}")


def read_splits(
    source: Source, config_name: str | None = None, ragged: RaggedRows = "refuse", only: str | None = None
) -> dict[str, Rows]:
    """Every split by its name ("train", "validation", "test", or a data set's own); what has none is "train".

    A file is read by its ending: csv, tsv, json, jsonl, parquet, CoNLL (also in `.txt` and `.tsv`, told by the blank
    lines between sentences), gzip and zstd round them. A folder: what `save_to_disk` wrote; files that begin with
    train, dev, validation or test; such folders of files, or of folders of `.txt`, one a class; otherwise all its files
    together. A name that is no path is asked of `datasets` (`config_name`: its configuration; `only`: the one split
    that is wanted). Local files are read in place, without a copy in a cache.

    Raises `InputError` for what is not there or cannot be read, naming file and line.
    """
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.is_dir():
            return _read_folder(path, ragged)
        if path.exists() or _is_file_name(path):
            return {"train": _read_file(path, ragged)}
        return _from_hub(str(source), config_name, only)
    return _from_object(source)


def _name(source: Source) -> str:
    return str(source) if isinstance(source, str | Path) else type(source).__name__


def _is_one(source: Source) -> bool:
    """Whether what is read has no splits of its own."""
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.is_dir():
            return not (path / "dataset_dict.json").is_file() and not any(map(_split_of, path.iterdir()))
        return path.is_file()
    return not (isinstance(source, Mapping) and (hasattr(source, "num_rows") or _holds_rows(source)))


def _holds_rows(source: Mapping[Any, Any]) -> bool:
    return bool(source) and all(isinstance(value, Rows) for value in source.values())


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED_ENDINGS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_delimited(path: Path) -> bool:
    """Whether a file is csv or tsv by its name."""
    return _suffix(path) in DELIMITED


def _is_file_name(path: Path) -> bool:
    return _suffix(path) in (*KNOWN, ".txt") or path.is_absolute() or str(path).startswith(("./", "../", "~"))


def _read_file(path: Path, ragged: RaggedRows) -> Rows:
    suffix = _suffix(path)
    if suffix in PARQUET:
        return _read_parquet(path)
    if suffix in JSON:
        return read_json_rows(path)
    if suffix in CONLL:
        return read_conll(path)
    if suffix in (".tsv", ".txt", ".tab") and looks_like_conll(file_text(path)):
        return read_conll(path)
    if is_delimited(path):
        return read_delimited(path, ragged=ragged)
    if not path.is_file():
        raise InputError(f"{path} is no file with rows: there is none, or it is a pipe or a device")
    raise InputError(f"{path}: rows are read from files ending in {', '.join(KNOWN)}, not {suffix or 'nothing'!r}")


def _read_parquet(path: Path) -> Rows:
    try:
        table = pyarrow.parquet.read_table(path)
    except FileNotFoundError:
        raise InputError(f"{path} is not there") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as parquet: {first_line(error)}") from None
    return _from_table(table, str(path))


def _from_table(table: pa.Table, source: str) -> Rows:
    """With the class names that `datasets` notes in a schema, and categories as the strings they stand for."""
    import datasets

    names: dict[str, tuple[str, ...]] = {}
    if b"huggingface" in (table.schema.metadata or {}):
        try:
            names = _class_names(datasets.Features.from_arrow_schema(table.schema))
        except (ValueError, TypeError, KeyError):  # a type that only another release of datasets knows
            names = {}
    refuse_twice(table.column_names, source)
    for place, column in enumerate(table.schema):
        if pa.types.is_dictionary(column.type):
            table = table.set_column(place, column.name, table.column(place).cast(column.type.value_type))
    # pandas leaves its index behind under this name
    table = table.drop_columns([name for name in table.column_names if name == "__index_level_0__"])
    if table.num_rows == 0:
        raise InputError(f"{source} has no rows")
    return Rows(table.replace_schema_metadata(None), source, class_names=names)


def _class_names(features: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    names = {}
    for name, feature in features.items():
        # A list of classes, in the spellings of several releases of datasets.
        inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else feature)
        if labels := getattr(inner, "names", None):
            names[name] = tuple(labels)
    return names


def _from_dataset(dataset: Any, source: str) -> Rows:
    if getattr(dataset, "_indices", None) is not None:
        dataset = dataset.flatten_indices(keep_in_memory=True)
    return replace(_from_table(dataset.data.table, source), class_names=_class_names(dataset.features))


def _from_object(source: Source) -> dict[str, Rows]:
    kind = type(source).__module__.partition(".")[0]
    name = _name(source)
    if isinstance(source, Rows):
        return {"train": source}
    if kind == "datasets":
        if isinstance(source, Mapping):
            if hasattr(source, "num_rows"):
                return {split: _from_dataset(rows, f"{name}[{split!r}]") for split, rows in source.items()}
        elif hasattr(source, "data"):
            return {"train": _from_dataset(source, name)}
        raise InputError(f"a {name} is read row by row and has no end that is known; save it, or pass a Dataset")
    if isinstance(source, pa.Table):
        return {"train": _from_table(source, name)}
    if kind == "pandas" and hasattr(source, "columns"):
        try:
            return {"train": _from_table(pa.Table.from_pandas(source, preserve_index=False), name)}
        except pa.ArrowException:  # a column of values of several kinds
            return {"train": rows_of_columns(source.astype(object).where(source.notna(), None).to_dict("list"), name)}
    if isinstance(source, Mapping) and _holds_rows(source):
        return dict(source)
    if isinstance(source, Mapping):
        lengths = {str(column): len(values) for column, values in source.items()}
        if not lengths or len(set(lengths.values())) != 1 or not any(lengths.values()):
            raise InputError(f"a dictionary of columns has as many values in each; here {lengths or 'there is none'}")
        return {"train": rows_of_columns(source, "the dictionary")}
    if isinstance(source, Sequence) and source and all(isinstance(row, Mapping) for row in source):
        return {"train": rows_of_records(source, "the list")}
    raise InputError(
        f"rows cannot be read from {name}; pass a path, a data set's name, a datasets.Dataset, a pandas.DataFrame, a "
        "pyarrow.Table, a list of dictionaries that is not empty, or a dictionary of columns"
    )


def _from_hub(name: str, config_name: str | None, only: str | None) -> dict[str, Rows]:
    import datasets

    try:
        loaded = datasets.load_dataset(name, config_name)
    except Exception as error:  # the hub's libraries raise many kinds, all of them meaning: not to be had
        raise InputError(
            f"{name} is no file or folder here, nor a data set that can be had: {first_line(error)}"
        ) from None
    wanted = {split: rows for split, rows in loaded.items() if only is None or split == only or only not in loaded}
    return {split: _from_dataset(rows, f"{name}, split {split}") for split, rows in wanted.items()}


def _read_folder(folder: Path, ragged: RaggedRows) -> dict[str, Rows]:
    import datasets

    if (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file():
        try:
            loaded = datasets.load_from_disk(str(folder))
        except Exception as error:  # whatever a folder that is not whole makes the library raise
            raise InputError(f"{folder} cannot be read as a saved data set: {first_line(error)}") from None
        splits = loaded if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
        return {split: _from_dataset(rows, str(folder)) for split, rows in splits.items()}
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith((".", "_")))
    files = [path for path in inside if path.is_file() and _suffix(path) in KNOWN]
    found: dict[str, list[Path]] = {}
    for path in inside:
        split = _split_of(path)
        if split is not None and (path in files or path.is_dir()):
            found.setdefault(split, []).append(path)
    if not found:
        if _class_folders(folder):
            return {"train": _read_class_folders(folder)}
        if not files:
            raise InputError(
                f"{folder} holds no rows: no file ending in {', '.join(KNOWN)}, and no folder train; it holds "
                f"{listed(path.name for path in inside)}"
            )
        return {"train": _joined([_read_file(path, ragged) for path in files], folder)}
    splits = {}
    for split, paths in found.items():
        parts = [part for path in paths for part in _parts(path, ragged)]
        splits[split] = _joined(parts, folder)
    unread = [path.name for path in files if _split_of(path) is None]
    if unread:
        first = next(iter(splits))
        splits[first] = splits[first].noting(f"{folder}: {listed(unread)} not read: no name of a split")
    return splits


def _parts(path: Path, ragged: RaggedRows) -> list[Rows]:
    if path.is_file():
        return [_read_file(path, ragged)]
    if _class_folders(path):
        return [_read_class_folders(path)]
    inside = sorted(file for file in path.iterdir() if file.is_file() and _suffix(file) in KNOWN)
    if not inside:
        raise InputError(f"{path} holds no file ending in {', '.join(KNOWN)}")
    return [_read_file(file, ragged) for file in inside]


def _split_of(path: Path) -> str | None:
    """The split that a name begins with; MNLI's dev_matched and dev_mismatched are two."""
    stem = path.name.lower().partition(".")[0]
    word = stem.replace("-", "_").partition("_")[0]
    for split, words in SPLITS.items():
        if word in words:
            rest = stem[len(word) + 1 :]
            return f"{split}_{rest}" if rest in ("matched", "mismatched") else split
    return None


def _class_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and next(path.glob("*.txt"), None) is not None)


def _read_class_folders(folder: Path) -> Rows:
    """A text a file, labelled with the name of its folder (aclImdb); those in `unsup` have no label."""
    columns: dict[str, list[Any]] = {"text": [], "label": []}
    for inside in _class_folders(folder):
        for file in sorted(inside.glob("*.txt")):
            columns["text"].append(file_text(file))
            columns["label"].append(None if inside.name == "unsup" else inside.name)
    return rows_of_columns(columns, str(folder))


def _joined(parts: list[Rows], folder: Path) -> Rows:
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    for part in parts[1:]:
        if sorted(part.column_names) != sorted(first.column_names):
            raise InputError(
                f"{part.source} has the columns {listed(part.column_names)}, {first.source} has "
                f"{listed(first.column_names)}; rows of one split have the same"
            )
    try:
        table = pa.concat_tables([part.table for part in parts], promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(f"the files of {folder} do not fit together: {first_line(error)}") from None
    names = {name: value for part in parts for name, value in part.class_names.items()}
    rows = Rows(table, str(folder), notes=(f"{folder}: {len(parts)} files read as one",), class_names=names)
    for part in parts:
        rows = rows.noting(*part.notes, **{name.replace(" ", "_"): count for name, count in part.counts.items()})
    return rows
