"""Short words for tests that speak with an engine itself, without a worker around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest

from slm_backends.chat import Sampling
from slm_backends.worker.engines import Engine, Token

#: From all the tokens before: the numbers after the last of them, one for each of the vocabulary.
Reference = Callable[[list[int]], Any]


def words(count: int, seed: int = 0) -> list[int]:
    """Token ids that are plain words in every tiny model."""
    return [int(token) for token in numpy.random.default_rng(seed).integers(3, 400, count)]


def ids(tokens: list[Token]) -> list[int]:
    return [token.id for token in tokens]


def advance(engine: Engine, wanted: dict[int, int]) -> dict[int, list[Token]]:
    """Step until every sequence has its number of tokens."""
    made: dict[int, list[Token]] = {key: [] for key in wanted}
    while any(len(made[key]) < wanted[key] for key in wanted):
        for key, news in engine.step():
            assert not isinstance(news, Exception), news
            if key in made:
                made[key] += news
    return {key: tokens[: wanted[key]] for key, tokens in made.items()}


def reply(
    engine: Engine, prompt: list[int], count: int = 12, top: int | None = None, **sampling: Any
) -> tuple[list[Token], int | None]:
    """The reply's tokens, and how many of the prompt were not computed again."""
    given = Sampling(**{"max_tokens": count, "temperature": 0, **sampling})
    cached = engine.admit(1, prompt, given, top)
    tokens = advance(engine, {1: count})[1]
    engine.release(1)
    return tokens, cached


def assert_right(
    reference: Reference, prompt: list[int], said: list[Token], places: list[int], close: float
) -> None:
    """At these places of a greedy reply the token is the reference's likeliest, and every
    log-probability what the reference makes of all that is before, read at once."""
    for place in places:
        logits = numpy.asarray(reference([*prompt, *ids(said[:place])]), dtype=numpy.float64)
        row = logits - logits.max()
        row -= numpy.log(numpy.exp(row).sum())
        token = said[place]
        assert token.logprob == pytest.approx(row[token.id], abs=close)
        assert row[token.id] == pytest.approx(row.max(), abs=close)
        for other, logprob in token.top:
            assert logprob == pytest.approx(row[other], abs=close)
