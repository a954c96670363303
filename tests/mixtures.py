"""Traces for tests: of numbers that can be followed by hand, and of any size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from slm_backends.moe.trace import Trace


def by_hand(chosen: Sequence[Sequence[Sequence[int]]], experts: int, prompt_tokens: int) -> Trace:
    """The experts that worked, [tokens][layers][k], and nothing else, as vLLM tells it."""
    return Trace(
        tuple(range(100, 100 + len(chosen))),
        tuple(f" w{place}" for place in range(len(chosen))),
        prompt_tokens,
        experts,
        numpy.array(chosen, "<u2"),
    )


def any_of(
    tokens: int, prompt_tokens: int, layers: int, experts: int, k: int, *, seed: int = 0
) -> Trace:
    """With weights and scores, whose numbers are as they come over the wire."""
    random = numpy.random.default_rng(seed)
    # Some experts are better liked than others, as in a real mixture.
    logits = random.normal(size=(tokens, layers, experts)) + random.normal(size=(layers, experts))
    scores = numpy.exp(logits)
    scores = (scores / scores.sum(axis=2, keepdims=True)).astype("<f2").astype("<f4")
    return Trace(
        tuple(random.integers(0, 32_000, tokens).tolist()),
        tuple(f" w{place}" for place in range(tokens)),
        prompt_tokens,
        experts,
        numpy.argsort(-logits, axis=2)[..., :k].astype("<u2"),
        random.uniform(0.3, 1, (tokens, layers, k)).astype("<f4"),
        scores,
    )


def same(first: Trace, second: Trace) -> bool:
    """To the last bit of every number."""
    plain = [(one.ids, one.tokens, one.prompt_tokens, one.experts) for one in (first, second)]
    arrays = [(one.chosen, one.weights, one.scores) for one in (first, second)]
    return plain[0] == plain[1] and all(
        (one is None and other is None)
        or (one.dtype == other.dtype and numpy.array_equal(one, other))
        for one, other in zip(*arrays, strict=True)
    )
