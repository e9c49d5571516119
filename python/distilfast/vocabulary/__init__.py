"""A tokenizer with fewer words: which of them a text needs, and its file rewritten so that the rest is exact."""

from .choice import choose_tokens as choose_tokens
from .choice import count_tokens as count_tokens
from .choice import read_vocabulary as read_vocabulary
from .measure import Measured as Measured
from .measure import measure as measure
from .trimmed import Vocabulary as Vocabulary
from .trimmed import trim_tokenizer as trim_tokenizer
