"""A student of fewer words: the vocabulary fitted to a text, and the teachers as its ids and words see them."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from .._core import InputError
from ..models.vocabulary import keep_words
from ..vocabulary.from_files import Fitted, fit_vocabulary
from . import text
from .inputs import Arguments, Given


def check_words(arguments: Arguments, takes_rows: bool) -> None:
    """Refuses, with `InputError`, flags of the vocabulary that do nothing or cannot be followed."""
    models = arguments.models
    if models.vocabulary is None:
        if models.vocabulary_text is not None or models.characters != "all":
            raise InputError("--vocabulary_text and --characters do nothing without --vocabulary; say how many words")
    elif takes_rows:
        raise InputError(
            "--vocabulary is for text; for rows and for sentence encoders give --teacher what distilfast trim "
            "--vocabulary makes of the teacher"
        )
    elif models.teacher is None or arguments.data.text is None:
        raise InputError(
            "--vocabulary chooses from a teacher's words and needs raw --text, which the student's tokenizer then reads"
        )


def with_fewer_words(
    arguments: Arguments, given: Given, teachers: Sequence[PreTrainedModel]
) -> tuple[Fitted, Given, list[PreTrainedModel]]:
    """The vocabulary that is asked for; `given` with its tokenizer; and the teachers with its words.

    Such a teacher has the embeddings of the words that are kept, and a head over these, whose softmax is its
    distribution renormalised over them: it reads the student's ids as its own.
    """
    models, data = arguments.models, arguments.data
    assert models.vocabulary is not None
    whole = given.tokenizer or text.choose_tokenizer(models, data, given.teachers)
    if whole is None:
        raise InputError("--vocabulary needs the teacher's tokenizer: give --tokenizer, or a teacher that has one")
    for name, teacher in zip(models.teacher or [], teachers, strict=True):
        text.check_vocabulary(teacher, whole, f"the teacher {name}")
    words_of = models.vocabulary_text or data.text or []
    fitted = fit_vocabulary(whole, models.vocabulary, words_of, models.characters, text.column_of(arguments))
    fewer = [keep_words(teacher, fitted.vocabulary.teacher_ids) for teacher in teachers]
    return fitted, given._replace(tokenizer=fitted.vocabulary.tokenizer), fewer
