"""From a row of logits to the next token, for runtimes that leave that to us.

One sampler for several runtimes: the same parameters mean the same on each, a seed repeats, and
log-probabilities are of the same thing. Knows numpy and no runtime.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy

from slm_backends.chat import Sampling
from slm_backends.worker.engines import Token

FIELDS = frozenset(
    {
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "seed",
        "stop",
    }
)
#: Tokens that are e^-30 times as likely as the likeliest are left out: a billion draws would not
#: meet them, and there is no need to sort a whole vocabulary.
NEGLIGIBLE = 30.0

Row = Any  # a one-dimensional numpy array of floats, one a token of the vocabulary


class Sampler:
    """Chooses the tokens of one reply and remembers them."""

    def __init__(
        self, sampling: Sampling, prompt: Sequence[int], top_logprobs: int | None = None
    ) -> None:
        self._sampling = sampling
        self._top = top_logprobs
        self._random = numpy.random.default_rng(sampling.seed)
        self._said: Counter[int] = Counter()
        self._seen = set(prompt) if sampling.repetition_penalty != 1 else set()

    def pick(self, logits: Row) -> Token:
        """The next token. `logits` is not changed."""
        chosen = self._choose(self._penalised(logits))
        self._said[chosen] += 1
        if self._sampling.repetition_penalty != 1:
            self._seen.add(chosen)
        if self._top is None:
            return Token(chosen)
        return _with_logprobs(logits, chosen, self._top)

    def _penalised(self, logits: Row) -> Row:
        """Repetition as in CTRL (arXiv:1909.05858), over prompt and reply; presence and frequency
        as in OpenAI's API, over the reply."""
        sampling = self._sampling
        if self._seen:
            logits = logits.copy()
            seen = numpy.fromiter(self._seen, dtype=numpy.int64)
            row = logits[seen]
            penalty = sampling.repetition_penalty
            logits[seen] = numpy.where(row > 0, row / penalty, row * penalty)
        if self._said and (sampling.presence_penalty or sampling.frequency_penalty):
            logits = logits.copy()
            said = numpy.fromiter(self._said.keys(), dtype=numpy.int64)
            times = numpy.fromiter(self._said.values(), dtype=numpy.float64)
            logits[said] -= sampling.presence_penalty + sampling.frequency_penalty * times
        return logits

    def _choose(self, logits: Row) -> int:
        sampling = self._sampling
        if sampling.temperature == 0:
            return int(logits.argmax())
        floor = logits.max() - NEGLIGIBLE * sampling.temperature
        candidates = numpy.nonzero(logits >= floor)[0]
        scores = logits[candidates].astype(numpy.float64)
        order = numpy.argsort(-scores, kind="stable")
        if sampling.top_k:
            order = order[: sampling.top_k]
        candidates, scores = candidates[order], scores[order]
        weights = numpy.exp((scores - scores[0]) / sampling.temperature)
        sums = numpy.cumsum(weights)
        if sampling.top_p < 1:
            # The token that passes the bound is in, so at least one always is.
            kept = int(numpy.searchsorted(sums, sampling.top_p * sums[-1])) + 1
            sums = sums[:kept]
        drawn = self._random.random() * sums[-1]
        place = min(int(numpy.searchsorted(sums, drawn, side="right")), len(sums) - 1)
        return int(candidates[place])


def _with_logprobs(logits: Row, chosen: int, top: int) -> Token:
    row = logits.astype(numpy.float64)
    row = row - row.max()
    row -= numpy.log(numpy.exp(row).sum())
    best: tuple[tuple[int, float], ...] = ()
    if top:
        top = min(top, len(row))
        ids = numpy.argpartition(-row, top - 1)[:top]
        ids = ids[numpy.argsort(-row[ids], kind="stable")]
        best = tuple((int(token), float(row[token])) for token in ids)
    return Token(chosen, float(row[chosen]), best)
