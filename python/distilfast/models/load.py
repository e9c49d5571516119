"""Models and tokenizers for evaluation and export, loaded from a directory or the hub; what is missing is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import transformers

from .._core import InputError
from .._files import first_line, is_path


def split_name(argument: str) -> tuple[str, str]:
    """("name", "path") of "name=path"; without a name, the last part of the path is it."""
    name, equals, path = argument.partition("=")
    if not equals:
        name, path = Path(argument).name or argument, argument
    if not name or not path or "/" in name:
        raise InputError(f"{argument!r} names no model: give a directory, a hub id, or name=directory")
    return name, path


def named_models(arguments: list[str]) -> dict[str, str]:
    """Names and paths of models; raises `InputError` where two share a name."""
    models: dict[str, str] = {}
    for argument in arguments:
        name, path = split_name(argument)
        if name in models:
            raise InputError(f"two models are called {name!r}: {models[name]} and {path}; name one, as in other={path}")
        models[name] = path
    return models


def refuse_bare_directory(path: str, flag: str = "") -> None:
    """Raises `InputError` where `path`, given with `flag`, is on this machine, or can only be meant to be, and holds no
    model."""
    folder, given = Path(path), f"{flag} {path}".lstrip()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"{given} holds no model: there is no config.json in it")
    elif folder.exists():
        raise InputError(f"{given}: is a file; give the directory of a model, or its id on the Hub")
    elif is_path(path):
        raise InputError(f"{given}: there is no such directory")


def load_model(path: str, auto_class: str | None = None, complete: bool = True, **keywords: Any) -> Any:
    """The model in `path` (a directory or a hub id), through `transformers.<auto_class>` or, without one, the class
    that its configuration names.

    complete: raise `InputError` where weights of the class are missing from the files, as for a masked-LM head in an
    encoder without one. Weights are read from safetensors only; no code from the hub is run.
    """
    refuse_bare_directory(path)
    try:
        if auto_class is None:
            config = transformers.AutoConfig.from_pretrained(path)
            auto_class = (config.architectures or [None])[0]
            if auto_class is None or not hasattr(transformers, auto_class):
                raise InputError(f"{path}: its config.json names no architecture of transformers, but {auto_class!r}")
        loader = getattr(transformers, auto_class)
        model, loaded = loader.from_pretrained(path, output_loading_info=True, use_safetensors=True, **keywords)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} does not load as a model: {first_line(error)}") from None
    missing = sorted(loaded["missing_keys"])
    if complete and missing:
        raise InputError(
            f"{path} lacks {len(missing)} weights of {type(model).__name__}, the first {missing[0]}; "
            "its numbers would be those of random weights"
        )
    return model.eval()


def quiet() -> None:
    """Keeps transformers' warnings and loading bars out of a command's output; errors still show."""
    logging = cast("Any", transformers.utils.logging)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
