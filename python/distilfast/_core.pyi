"""The compiled half of distilfast: tokeniser, batches and CPU loss kernels, written in Rust."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = [
    "BatchEpoch",
    "BatchPlan",
    "InputError",
    "RowCutter",
    "Tokenizer",
    "__version__",
    "distillation_loss_rows",
    "fill_dropout_mask",
    "gradient_memory",
    "has_matrix_instructions",
    "hidden_loss_rows",
    "multiply_bfloat16",
    "split_lines",
]

__version__: str

class InputError(ValueError):
    """A value, file or argument given by the user that cannot be worked with; the message says which, why, and what to do."""

@final
class Tokenizer:
    """A `tokenizer.json`, ready to encode; `distilfast.Tokenizer` is the public face. `truncation` and `padding` are not applied."""

    def __new__(cls, json: str) -> Tokenizer:
        """`json`: the content of a `tokenizer.json`. Raises `InputError` for any other."""
    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
    @property
    def engine(self) -> str:
        """ "wordpiece" or "tokenizers"."""
    @property
    def instructions(self) -> str | None:
        """What words are found and looked up with: "avx2", "neon" or "scalar"; None with engine "tokenizers"."""
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

def split_lines(
    block: bytes, name: str, position: int = 0, starts_document: bool = True
) -> tuple[pa.StringArray, np.ndarray[tuple[int], np.dtype[np.bool_]], bool]:
    """The lines of `block`, whole lines of the file `name` from byte `position` on, trimmed, blank ones left out.

    Returns the lines, whether each is the first of a document (the first where `starts_document`, and any after a blank
    line), and whether the line after the block would be. Raises `InputError` naming the first byte that is not UTF-8.
    """

@final
class RowCutter:
    """Token ids of texts to rows `[CLS] ... [SEP]`, block after block; counts what it gives out and what it drops.

    `mode` "lines": a text is a row; where it is longer than `max_length` with its [CLS] and [SEP], it is cut, those two
    included, every `max_length - 2` tokens and the pieces get the [CLS] and [SEP] they lack (the rule of the original
    DistilBERT code). `mode` "packed": the texts of a document are joined whole as long as they fit; a longer text is cut.
    Then rows of fewer than `min_length` tokens are dropped, and of the rest those in which [UNK] makes up `max_unknown`
    or more of all tokens. Raises `InputError` for values that every row would be dropped by or none could follow.
    """

    def __new__(
        cls,
        mode: str,
        max_length: int,
        cls_id: int,
        sep_id: int,
        unk_id: int | None,
        vocab_size: int,
        min_length: int = 12,
        max_unknown: float = 0.5,
    ) -> RowCutter: ...
    def push(
        self, token_ids: pa.ListArray, document_starts: np.ndarray[tuple[int], np.dtype[np.bool_]] | None = None
    ) -> pa.ListArray:
        """The rows that these texts complete: list<uint16> where vocab_size <= 65536, list<uint32> otherwise.

        `token_ids` holds one list per text, without special tokens, of the same type as the rows. `document_starts`, one
        per text, says which texts are the first of a document; None: every one is. Raises `InputError` for nulls and for
        ids that are not below the vocabulary size, `TypeError` for another Arrow type.
        """
    def finish(self) -> pa.ListArray:
        """The row in progress: at most one, none in mode "lines"."""
    @property
    def token_counts(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """int64 [vocab_size]: how often each id occurs in the rows given out."""
    @property
    def totals_by_name(self) -> dict[str, int]:
        """lines, rows, tokens, dropped_short, dropped_unknown of everything given out so far."""

@final
class BatchEpoch:
    """What is drawn for one epoch of a `BatchPlan`."""

    @property
    def number(self) -> int:
        """The number of the epoch, from 0."""

@final
class BatchPlan:
    """A plan over a column of token ids, and what fills its batches; `distilfast.MaskedBatches` is its face."""

    def __new__(
        cls,
        column: Any,
        selected: Any | None,
        vocabulary: Any,
        settings: Any,
        threads: int,
    ) -> BatchPlan:
        """`column` and `selected` are chunked arrays that speak the Arrow C stream interface, `vocabulary` has the fields of
        `distilfast.batches.masked.Vocabulary`, `settings` those of `distilfast.batches.BatchSettings`."""

    def __len__(self) -> int: ...
    def shapes(self) -> list[tuple[int, int, int]]:
        """(rows, width, batches) of every shape."""

    def longest(self) -> int:
        """The length of the longest row."""

    def hash(self) -> int:
        """A hash of all rows and their order."""

    def num_tokens(self) -> int:
        """The tokens of all rows."""

    def epoch(self, number: int) -> BatchEpoch:
        """What is drawn for epoch `number`."""

    def shape(self, epoch: BatchEpoch, index: int) -> tuple[int, int]:
        """(rows, width) of batch `index`."""

    def rows(self, epoch: BatchEpoch, index: int) -> list[int]:
        """The numbers of the rows of the data in batch `index`, in the order in which they lie in it."""

    def layout(self, rows: int, width: int) -> dict[str, int]:
        """How the buffer of a batch of this shape is cut up: where `extra` (attention mask or position ids), `positions`,
        `labels`, `counts`, `cu_seqlens` (int32), `sampled` and `weights` (float32) begin and where it has its `end`, in
        int64 elements; the numbers of masked positions (`capacity`), of `samples` and of entries of `cu_seqlens`
        (`sequences`)."""

    def fill(self, epoch: BatchEpoch, index: int, buffer: NDArray[np.int64]) -> None:
        """Writes batch `index` into the buffer."""

def distillation_loss_rows(
    student: NDArray[np.float32] | NDArray[np.uint16],
    teacher: NDArray[np.float32] | NDArray[np.uint16] | None,
    labels: NDArray[np.int64] | None,
    row_weights: NDArray[np.float32] | None,
    grad: NDArray[np.float32] | NDArray[np.uint16] | None,
    *,
    formats: tuple[str, str],
    temperature: float,
    kl_grad: float,
    ce_grad: float,
    mse_grad: float,
    threads: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Row losses on logits and their gradient in one pass: KL at `temperature`, cross-entropy, squared difference.

    `student`, `teacher` and `grad` are [N, V]: float32, or the bits of the 16-bit format that `formats` (student's and
    gradient's, teacher's; "float32", "bfloat16", "float16") names. Columns lie side by side. Without a teacher there is
    only the cross-entropy, without labels (-100: none) none. Rows of weight 0 have KL and squared difference 0; the
    values are not weighted otherwise. `grad`, written whole, becomes `weight * (kl_grad * (p - q) + mse_grad * (s -
    t)) + ce_grad * (r - onehot(label))`; it may be `student` itself.

    Raises `InputError` for a label outside [0, V), rows that do not fit, an unknown format, and instructions in DISTILFAST_SIMD that
    this machine does not have.
    """

def gradient_memory(length: int) -> NDArray[np.uint8]:
    """`length` bytes (above 0), aligned to 2 MiB, with any content. With the last array over them they are kept for the
    next call that fits: the pages of a large gradient then need not be fetched from the operating system again, which
    may take them back when memory is short. The two pieces last used are kept.
    """

def fill_dropout_mask(
    mask: NDArray[np.uint16] | NDArray[np.uint32], seed: int, dropped: int, kept: int, threads: int
) -> None:
    """Fills `mask`, one-dimensional, with the bits `kept` where an element stays and with 0 where it is dropped.

    An element is dropped with probability `dropped` / 65536, as `seed` (64 bits) and its place say: the number of
    threads changes nothing. Raises `InputError` for `dropped` above 65536.
    """

def has_matrix_instructions() -> bool:
    """Whether `multiply_bfloat16` can be called: on Linux, where the processor has AMX and this process may use it."""

def hidden_loss_rows(
    student: NDArray[np.float32] | NDArray[np.uint16],
    teacher: NDArray[np.float32] | NDArray[np.uint16],
    row_weights: NDArray[np.float32] | None,
    grad: NDArray[np.float32] | NDArray[np.uint16] | None,
    *,
    formats: tuple[str, str],
    cosine: bool,
    scale: float,
    threads: int,
) -> NDArray[np.float32]:
    """1 - cosine (or the squared distance) of each row of [N, H] matrices, 0 where the weight is 0.

    `grad` becomes the gradient of `scale * sum(weight * value)`. Formats and errors as in `distillation_loss_rows`.
    """

def multiply_bfloat16(
    left: NDArray[np.uint16],
    right: NDArray[np.uint16],
    bias: NDArray[np.uint16] | None,
    product: NDArray[np.uint16],
    threads: int,
) -> None:
    """`product` [rows, columns] = `left` [rows, n] x `right` [n, columns] + `bias` [columns]: bits of bfloat16 numbers.

    Of `left` and `right` one stride is 1 each, either; `product` and `bias` are contiguous. Sums are kept in float32 and
    rounded once, to nearest; the number of threads changes nothing. Raises `InputError` for matrices that do not fit
    each other or their memory, and where `has_matrix_instructions` is false.
    """
