"""Text to a prepared directory of token ids; `distilfast.prepare(...)` is `prepare.prepare(...)`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .._lazy import attach

if TYPE_CHECKING:
    from ..tokenizer import load_tokenizer as load_tokenizer
    from .directory import PreparedTokens as PreparedTokens
    from .directory import load_tokens as load_tokens
    from .rows import BatchTokenizer as BatchTokenizer
    from .rows import save_tokens as save_tokens
    from .rows import tokenize_dataset as tokenize_dataset
    from .rules import RowRules as RowRules
    from .run import main as main
    from .run import prepare as prepare

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "BatchTokenizer": ".rows",
        "PreparedTokens": ".directory",
        "RowRules": ".rules",
        "load_tokenizer": "..tokenizer",
        "load_tokens": ".directory",
        "main": ".run",
        "prepare": ".run",
        "save_tokens": ".rows",
        "tokenize_dataset": ".rows",
    },
)


class _Package(ModuleType):
    """`df.prepare` is this package and, for whoever calls it, its function."""

    def __call__(self, *arguments: Any, **options: Any) -> PreparedTokens:
        return self.prepare(*arguments, **options)  # type: ignore[no-any-return]


sys.modules[__name__].__class__ = _Package
