"""Distil a transformer encoder into a student of half the depth."""

from . import losses as losses
from ._core import InputError as InputError
from ._core import __version__ as __version__
from .arguments import DistillationArguments as DistillationArguments
from .batch_tokenizer import BatchTokenizer as BatchTokenizer
from .batch_tokenizer import tokenize_dataset as tokenize_dataset
from .data import MaskedBatches as MaskedBatches
from .data import Masking as Masking
from .models import create_student as create_student
from .tokenizer import Tokenizer as Tokenizer
from .trainer import DistillationTrainer as DistillationTrainer
