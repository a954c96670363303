"""How far a number may be chance: bootstrap intervals, and whether two deployments really differ.

The percentile bootstrap (Efron 1979, doi 10.1214/aos/1176344552), and over the same questions for
two deployments the paired one (Koehn 2004, aclanthology.org/W04-3250). What is drawn anew are the
questions: an interval says what other questions of the same kind might have given. It knows nothing
of other seeds, nor that one question in many languages is less than as many questions.

Knows numbers. Knows no reply and no measure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
#: (samples, questions, ...) -> one number a sample. It is given the questions of every sample.
Statistic = Callable[[Numbers], Numbers]

RESAMPLES = 1_000
SEED = 12345  # sacrebleu's own
FEWEST = 8  # questions; of fewer the bootstrap makes intervals that are far too narrow
_TAIL = 2.5  # percent at each end: intervals are of 95 %
_AT_ONCE = 2_000_000  # numbers that are drawn together, so that many questions need no more memory


@dataclass(frozen=True)
class Interval:
    """A number over `counted` questions, with its 95 % interval from `low` to `high`."""

    value: float
    low: float
    high: float
    counted: int

    @property
    def verdict(self) -> str:
        """Of a difference: "more", "less", "within noise", or "too few to tell"."""
        if self.counted < FEWEST:
            return "too few to tell"
        if self.low <= 0 <= self.high:
            return "within noise"
        return "more" if self.value > 0 else "less"


def mean(samples: Numbers) -> Numbers:
    """Of (samples, questions): a rate, where the numbers are 0 and 1."""
    found: Numbers = samples.mean(axis=1)
    return found


def median(samples: Numbers) -> Numbers:
    """Of (samples, questions)."""
    found: Numbers = np.median(samples, axis=1)
    return found


def interval(values: Sequence[Any] | Numbers, statistic: Statistic = mean) -> Interval | None:
    """Of one deployment. `values` has a number, or a row of them, a question; None without any."""
    given = np.asarray(values, dtype=np.float64)
    if not len(given):
        return None
    return _interval(_resampled(given, statistic), float(statistic(given[None])[0]), len(given))


def difference(
    first: Sequence[Any] | Numbers, second: Sequence[Any] | Numbers, statistic: Statistic = mean
) -> Interval | None:
    """What the second deployment has more than the first, over the same questions in the same
    order. Raises ValueError where they are not as many."""
    before, after = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if len(before) != len(after):
        raise ValueError("two deployments can be compared over the same questions only")
    if not len(before):
        return None
    value = float(statistic(after[None])[0] - statistic(before[None])[0])
    drawn = _resampled(after, statistic) - _resampled(before, statistic)
    return _interval(drawn, value, len(before))


def _interval(drawn: Numbers, value: float, counted: int) -> Interval:
    low, high = np.percentile(drawn, (_TAIL, 100 - _TAIL))
    return Interval(value, float(low), float(high), counted)


def _resampled(values: Numbers, statistic: Statistic) -> Numbers:
    """The statistic of each of RESAMPLES samples; the same questions are drawn in every call."""
    drawn = _drawn(len(values))
    step = max(1, _AT_ONCE // values.size)
    parts = [statistic(values[drawn[at : at + step]]) for at in range(0, RESAMPLES, step)]
    return np.concatenate(parts)


@lru_cache(maxsize=16)
def _drawn(count: int) -> NDArray[np.int32]:
    """(RESAMPLES, count): which questions are in each sample."""
    return np.random.default_rng(SEED).integers(count, size=(RESAMPLES, count), dtype=np.int32)
