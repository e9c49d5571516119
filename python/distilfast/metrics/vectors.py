"""Scores of sentence encoders: similarities beside people's and beside the teacher's, neighbours kept, spread.

Vectors are numpy arrays [sentences, width]; student and teacher may differ in width except where a cosine between the
two is taken.
"""

from __future__ import annotations

import numpy as np
from scipy import stats
from scipy.special import logsumexp

from .._core import InputError
from .classification import finite
from .scores import correlation

NEIGHBOURS = 10
# Rows of a similarity matrix held at once.
BLOCK = 1024


def unit(vectors: np.ndarray) -> np.ndarray:
    """`vectors` of length 1, float64; a vector of zeros stays one. Raises `InputError` where they are not finite."""
    vectors = finite(vectors)
    lengths: np.ndarray = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float64).tiny))


def pair_similarities(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The cosine of each row of `first` with the same row of `second`, [pairs]."""
    return np.asarray(np.einsum("ij,ij->i", unit(first), unit(second)))


def sts_metrics(
    similarities: np.ndarray, scores: np.ndarray | None = None, teacher_similarities: np.ndarray | None = None
) -> dict[str, float]:
    """`spearman` and `pearson` of the cosines [pairs] with people's scores [pairs], and `teacher_spearman`, that with
    the teacher's cosines."""
    found: dict[str, float] = {}
    if scores is not None:
        found["spearman"] = correlation(stats.spearmanr, np.asarray(scores, np.float64), finite(similarities))
        found["pearson"] = correlation(stats.pearsonr, np.asarray(scores, np.float64), finite(similarities))
    if teacher_similarities is not None:
        found["teacher_spearman"] = correlation(stats.spearmanr, finite(teacher_similarities), finite(similarities))
    return found


def vector_metrics(vectors: np.ndarray, teacher_vectors: np.ndarray) -> dict[str, float]:
    """What a student's vectors of some sentences keep of the teacher's.

    `teacher_cosine`: the mean cosine of the two vectors of a sentence, left out where their widths differ;
    `neighbours@10`: `neighbour_agreement`; `uniformity` of the student's; `norm`: the mean length of its vectors.
    """
    if len(vectors) != len(teacher_vectors):
        raise InputError(f"{len(vectors)} vectors of the student and {len(teacher_vectors)} of the teacher")
    found: dict[str, float] = {}
    if vectors.shape[1] == teacher_vectors.shape[1]:
        found["teacher_cosine"] = float(np.mean(pair_similarities(vectors, teacher_vectors)))
    if len(vectors) > NEIGHBOURS + 1:
        found[f"neighbours@{NEIGHBOURS}"] = neighbour_agreement(vectors, teacher_vectors)
    if len(vectors) > 1:
        found["uniformity"] = uniformity(vectors)
    found["norm"] = float(np.mean(np.linalg.norm(finite(vectors), axis=-1)))
    return found


def neighbour_agreement(first: np.ndarray, second: np.ndarray, neighbours: int = NEIGHBOURS) -> float:
    """The share of each sentence's nearest others by cosine, so many of them, that both encoders have, mean."""
    if not 1 <= neighbours < len(first) == len(second):
        raise InputError(
            f"{neighbours} neighbours asked of {len(first)} and {len(second)} sentences; give more of them"
        )
    one, other = unit(first), unit(second)
    shared = 0
    for start in range(0, len(one), BLOCK):
        found = _nearest(one, start, neighbours), _nearest(other, start, neighbours)
        shared += sum(len(np.intersect1d(a, b)) for a, b in zip(*found, strict=True))
    return shared / (neighbours * len(one))


def _nearest(units: np.ndarray, start: int, neighbours: int) -> np.ndarray:
    """[block, neighbours]: the rows nearest to those from `start`, themselves left out; lower numbers first in ties."""
    similarities = units[start : start + BLOCK] @ units.T
    rows = np.arange(len(similarities))
    similarities[rows, start + rows] = -np.inf
    return np.argsort(-similarities, axis=1, kind="stable")[:, :neighbours]


def uniformity(vectors: np.ndarray) -> float:
    """log of the mean of exp(-2 |x - y|^2) over pairs of unit vectors; lower is more evenly spread.

    Wang and Isola, "Understanding contrastive representation learning through alignment and uniformity", 2020.
    """
    if len(vectors) < 2:
        raise InputError("uniformity is of pairs; give two vectors or more")
    units = unit(vectors)
    total = -np.inf
    for start in range(0, len(units), BLOCK):
        exponents = 4 * (units[start : start + BLOCK] @ units.T) - 4
        rows = np.arange(len(exponents))
        exponents[rows, start + rows] = -np.inf
        total = np.logaddexp(total, logsumexp(exponents))
    return float(total - np.log(len(units) * (len(units) - 1)))
