"""What share of the teacher's score a student keeps, and how sure that share is.

The interval is a paired bootstrap: held-out units (rows, sentences, groups) are drawn with replacement, the same ones
for both models, and the share is taken of each draw (Efron and Tibshirani, "An introduction to the bootstrap", 1993;
Koehn, "Statistical significance tests for machine translation evaluation", 2004).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SAMPLES = 1000
CONFIDENCE = 0.95
# Below so many held-out rows a share alone says more than is known; its interval is told without it.
FEW_ROWS = 100


@dataclass(frozen=True)
class Kept:
    """share: student's score / teacher's, None where the teacher's is not above 0; low, high: its 95 % interval, None
    where it has none; rows: the held-out units that it is taken over."""

    share: float | None
    low: float | None
    high: float | None
    rows: int

    def text(self) -> str:
        """ "98.7 % (97.9 to 99.5)"; the interval alone below `FEW_ROWS` units; a dash where there is no share."""
        if self.share is None:
            return "-"
        if self.low is None or self.high is None:
            return f"{100 * self.share:.1f} %"
        interval = f"{100 * self.low:.1f} to {100 * self.high:.1f}"
        return f"{interval} %" if self.rows < FEW_ROWS else f"{100 * self.share:.1f} % ({interval})"


def share_of(score: float | None, reference: float | None) -> float | None:
    """`score` as a share of the teacher's; None where either is missing or the teacher's is not above 0."""
    if score is None or reference is None or reference <= 0:
        return None
    return score / reference


def share_kept(
    student: Callable[[np.ndarray], float], teacher: Callable[[np.ndarray], float], units: int, seed: int = 0
) -> Kept:
    """The share that the student keeps, with its interval over draws of the units 0 to `units` - 1.

    student, teacher: the score of some units, given their numbers (repeated ones count again). Draws in which the
    teacher's score is not above 0 have no share; where more than a twentieth is such, there is no interval. The same
    seed gives the same interval.
    """
    everything = np.arange(units)
    share = share_of(student(everything), teacher(everything)) if units else None
    if share is None:
        return Kept(None, None, None, units)
    generator = np.random.Generator(np.random.Philox(seed))
    shares = []
    for _ in range(SAMPLES):
        drawn = generator.integers(0, units, units)
        kept = share_of(student(drawn), teacher(drawn))
        if kept is not None:
            shares.append(kept)
    if len(shares) < 0.95 * SAMPLES:
        return Kept(share, None, None, units)
    low, high = np.quantile(shares, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Kept(share, float(low), float(high), units)


def warnings(
    kept: Kept, student: str, teacher: str, teacher_score: float, chance: float | None, metric: str
) -> list[str]:
    """What a reader must know before believing the share: a teacher no better than chance, a share above 100 %."""
    found = []
    if chance is not None and teacher_score <= chance:
        found.append(
            f"{teacher} scores {100 * teacher_score:.1f} {metric}, no more than {100 * chance:.1f} without looking at "
            f"the text: what {student} keeps of it says nothing"
        )
    if kept.share is not None and kept.share > 1:
        sure = kept.low is not None and kept.low > 1
        why = (
            "more than these rows leave to chance: it learned from labels, or from more text, or the teacher does not "
            "fit them"
            if sure
            else "within what these rows leave to chance"
        )
        found.append(f"{student} scores above {teacher} in {metric}, {why}")
    return found
