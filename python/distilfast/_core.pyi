"""The compiled half of distilfast: tokeniser, batches and CPU loss kernels, written in Rust."""

from collections.abc import Sequence
from typing import Any, final

import pyarrow as pa

__version__: str

class InputError(ValueError):
    """A value, file or argument given by the user that cannot be worked with; the message says which, why, and what to do."""

@final
class Tokenizer:
    """A `tokenizer.json`, ready to encode; `distilfast.Tokenizer` is the public face. `truncation` and `padding` are not applied."""

    def __new__(cls, json: str) -> Tokenizer:
        """`json`: the content of a `tokenizer.json`. Raises `InputError` where it is none."""
    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
    @property
    def engine(self) -> str:
        """ "wordpiece" or "tokenizers"."""
    def token_to_id(self, token: str) -> int | None:
        """The id of a token, special or not."""
    def tokens(self) -> list[str | None]:
        """The token of each id; None where an id has none."""
    def special_ids(self) -> list[int]:
        """The ids of the special tokens, ascending."""
    def to_json(self) -> str:
        """The `tokenizer.json` in the spelling of the `tokenizers` crate, without `truncation` and `padding`."""
    def encode(
        self,
        text: str,
        add_special_tokens: bool = True,
        max_length: int | None = None,
        split_special_tokens: bool = False,
    ) -> list[int]:
        """The ids of one text."""
    def encode_batch(
        self,
        texts: Sequence[str] | Any,
        add_special_tokens: bool = True,
        max_length: int | None = None,
        threads: int | None = None,
        split_special_tokens: bool = False,
    ) -> pa.ListArray:
        """The ids of a list or tuple of strings, or of an Arrow array or stream of strings: a list array of uint16 or uint32.

        Raises `InputError` naming the row for nulls, bytes that are not UTF-8 and lone surrogates; `TypeError` for rows that are not strings.
        """
