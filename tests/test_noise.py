"""Bootstrap intervals: against theory, and what they say of small and large differences."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from sacrebleu.metrics.chrf import CHRF

from slm_backends.multilingual import noise, overlap, parallel
from slm_backends.multilingual.noise import Interval


def test_of_a_mean_as_theory_has_it() -> None:
    found = noise.interval([0, 1] * 200)
    assert found is not None
    assert (found.value, found.counted) == (0.5, 400)
    # 1.96 standard errors: 1.96 * 0.5 / 20 = 0.049
    assert found.low == pytest.approx(0.451, abs=0.006)
    assert found.high == pytest.approx(0.549, abs=0.006)


def test_of_a_median() -> None:
    found = noise.interval([1, 2, 3, 4, 100], noise.median)
    assert found is not None
    assert found.value == 3
    assert (found.low, found.high) == (1, 100)


def test_of_chrf_as_sacrebleu_has_it() -> None:
    english, german = (list(parallel.texts(code).contents.values()) for code in ("en", "de"))
    expected = CHRF().corpus_score(english, [german], n_bootstrap=noise.RESAMPLES)
    rows = [overlap.counts(*pair) for pair in zip(english, german, strict=True)]
    found = noise.interval(rows, overlap.corpus_chrf)
    assert found is not None
    assert found.value == pytest.approx(expected.score)
    assert (found.high - found.low) / 2 == pytest.approx(expected._ci, rel=0.15)


def test_nothing_has_no_interval() -> None:
    assert noise.interval([]) is None
    assert noise.difference([], []) is None


def test_the_same_every_time() -> None:
    values = np.random.default_rng(1).random(50).tolist()
    assert noise.interval(values) == noise.interval(values)


def test_a_difference_is_taken_question_by_question() -> None:
    # The second is better by 0.1 everywhere; by themselves they differ far less than each varies.
    first = np.random.default_rng(2).normal(0, 5, 20)
    found = noise.difference(first, first + 0.1)
    assert found is not None
    assert found.verdict == "more"
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))
    apart = noise.difference(first, np.random.default_rng(3).normal(0.1, 5, 20))
    assert apart is not None
    assert apart.verdict == "within noise"


def test_what_a_difference_says() -> None:
    assert Interval(0.2, 0.1, 0.3, 8).verdict == "more"
    assert Interval(-0.2, -0.3, -0.1, 8).verdict == "less"
    assert Interval(0.2, 0.0, 0.3, 8).verdict == "within noise"
    assert Interval(0.2, 0.1, 0.3, 7).verdict == "too few to tell"


def test_other_questions_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="same questions"):
        noise.difference([1, 2], [1])


def test_how_often_it_finds_what_is_not_there() -> None:
    """Of pairs that differ by chance alone about one in twenty is called different."""
    rng = np.random.default_rng(4)
    found = [noise.difference(rng.random(30) < 0.7, rng.random(30) < 0.7) for _ in range(300)]
    wrong = sum(one is not None and one.verdict != "within noise" for one in found)
    assert 3 <= wrong <= 33


def test_many_questions_need_little_memory() -> None:
    rows = np.ones((5_000, 24))
    noise.interval([1.0] * 5_000)  # what is drawn is kept
    tracemalloc.start()
    noise.interval(rows, overlap.corpus_chrf_plus)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000_000
