"""From a row of logits to the next token, for runtimes that leave that to us.

One sampler for several runtimes: the same parameters mean the same on each, a seed repeats, and
log-probabilities are of the same thing. Knows numpy, which it imports when one is made, and no
runtime. The order is transformers': penalties, temperature, top_k, and top_p of what is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from slm_backends.chat import Sampling
from slm_backends.worker.engines import Token

#: Tokens that are e^-30 times as likely as the likeliest are left out: a billion draws would not
#: meet them.
NEGLIGIBLE = 30.0
#: Where to look for the likeliest tokens, in powers of 1/e, before looking at all: sorting a whole
#: vocabulary can take as long as a small model's step.
DEPTHS = (3.0, 6.0, 9.0, 14.0)

NO_NUMBER = "the model computed something that is not a number"

Row = Any  # a one-dimensional numpy array of floats, one a token of the vocabulary


class Sampler:
    """Chooses the tokens of one reply and remembers them. Those `written` come first, whatever the
    logits say."""

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int],
        top_logprobs: int | None = None,
        written: Sequence[int] = (),
    ) -> None:
        import numpy

        self._numpy = numpy
        self._sampling = sampling
        self._prompt = prompt
        self._top = top_logprobs
        self._written = iter(written)
        self._random = numpy.random.default_rng(sampling.seed)
        self._said: Row = None  # how often the reply has each token
        self._seen: Row = None  # whether prompt or reply have it

    def pick(self, logits: Row) -> Token:
        """The next token. `logits` is not changed. ValueError if the highest is not a number."""
        logits = self._numpy.asarray(logits, dtype=self._numpy.float32)
        free = self._penalised(logits)
        chosen = next(self._written, None)
        if chosen is None:
            chosen = self._choose(free)
        self._said[chosen] += 1
        self._seen[chosen] = True
        if self._top is None:
            return Token(chosen)
        return self._with_logprobs(logits, chosen, self._top)

    def _penalised(self, logits: Row) -> Row:
        """Repetition as in CTRL (arXiv:1909.05858), over prompt and reply; presence and frequency
        as in OpenAI's API, over the reply."""
        numpy, sampling = self._numpy, self._sampling
        if self._seen is None:
            self._said = numpy.zeros(len(logits), dtype=numpy.int64)
            self._seen = numpy.zeros(len(logits), dtype=bool)
            self._seen[list(self._prompt)] = True
        if sampling.repetition_penalty != 1:
            seen = numpy.flatnonzero(self._seen)
            row, penalty = logits[seen], sampling.repetition_penalty
            logits = logits.copy()
            logits[seen] = numpy.where(row > 0, row / penalty, row * penalty)
        if sampling.presence_penalty or sampling.frequency_penalty:
            said = numpy.flatnonzero(self._said)
            logits = logits.copy()
            logits[said] -= (
                sampling.presence_penalty + sampling.frequency_penalty * self._said[said]
            )
        return logits

    def _choose(self, logits: Row) -> int:
        numpy, sampling = self._numpy, self._sampling
        likeliest = int(logits.argmax())
        highest = logits[likeliest]
        if not numpy.isfinite(highest):
            raise ValueError(NO_NUMBER)
        if sampling.temperature == 0:
            return likeliest
        ids = numpy.flatnonzero(logits >= highest - NEGLIGIBLE * sampling.temperature)
        weights = numpy.exp((logits[ids] - highest) / sampling.temperature)
        if 0 < sampling.top_k < len(ids):
            ids, weights = self._cut(ids, weights, self._kth(weights, sampling.top_k))
        if sampling.top_p < 1:
            ids, weights = self._cut(ids, weights, self._nucleus(weights, sampling.top_p))
        sums = numpy.cumsum(weights.astype(float))
        drawn = numpy.searchsorted(sums, self._random.random() * sums[-1], side="right")
        return int(ids[min(drawn, len(ids) - 1)])

    def _cut(self, ids: Row, weights: Row, lowest: float) -> tuple[Row, Row]:
        kept = self._numpy.flatnonzero(weights >= lowest)
        return ids[kept], weights[kept]

    def _kth(self, weights: Row, k: int) -> float:
        """The k-th highest weight: that of the last that top_k lets in, and of its equals."""
        few = self._few(weights, lambda few: len(few) >= k)
        return float(self._numpy.partition(few, len(few) - k)[len(few) - k])

    def _nucleus(self, weights: Row, top_p: float) -> float:
        """The lowest weight in the smallest group of the likeliest that has top_p of them all."""
        bound = top_p * float(weights.sum())
        few = self._few(weights, lambda few: float(few.sum()) >= bound)
        falling = self._numpy.sort(few)[::-1]
        sums = self._numpy.cumsum(falling)
        last = min(int(self._numpy.searchsorted(sums, bound)), len(falling) - 1)
        return float(falling[last])

    def _few(self, weights: Row, enough: Callable[[Row], bool]) -> Row:
        """The highest weights; as few as DEPTHS allow, and all where none of those is enough."""
        for depth in DEPTHS:
            few = weights[self._numpy.flatnonzero(weights >= math.exp(-depth))]
            if enough(few):
                return few
        return weights

    def _with_logprobs(self, logits: Row, chosen: int, top: int) -> Token:
        numpy = self._numpy
        highest = logits.max()
        if not numpy.isfinite(highest):  # what is written is not chosen: nobody has looked yet
            raise ValueError(NO_NUMBER)
        row = logits - highest
        weights = numpy.exp(row)
        row = row - numpy.log(weights.sum())
        best: tuple[tuple[int, float], ...] = ()
        if top:
            top = min(top, len(row))
            ids = numpy.flatnonzero(weights >= self._kth(weights, top))
            ids = ids[numpy.argsort(-row[ids], kind="stable")][:top]  # equals by their ids
            best = tuple((int(i), float(row[i])) for i in ids if numpy.isfinite(row[i]))
        return Token(chosen, float(row[chosen]), best)
