"""Which experts worked on each token of one prompt and its reply, as arrays.

Knows how the pieces of routing.Routed fit together. What follows from them is figures.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy

from slm_backends.routing import Routed

Array = Any  # numpy's, of the shape and the numbers that are told beside it


@dataclass(frozen=True, eq=False)
class Trace:
    """The tokens that a model has read, those of the prompt first; the last one of a reply, which
    it never reads, is not among them, nor what a server leaves out of a prompt's beginning.

    ids, tokens    of them, and their texts
    prompt_tokens  how many of them are the prompt's
    experts        that each layer has
    chosen         which worked, best first: uint16 [tokens, layers, k]
    weights        what their outputs were multiplied by: float32 [tokens, layers, k], or None where
                   a server does not tell
    scores         softmax over the router's raw logits: float32 [tokens, layers, experts], each
                   number one that a float16 can be; or None
    """

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    prompt_tokens: int
    experts: int
    chosen: Array
    weights: Array | None = None
    scores: Array | None = None

    @property
    def layers(self) -> int:
        return int(self.chosen.shape[1])

    @property
    def k(self) -> int:
        return int(self.chosen.shape[2])

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, begin: int, end: int) -> Trace:
        """Its tokens from `begin` to before `end`."""
        return Trace(
            self.ids[begin:end],
            self.tokens[begin:end],
            min(max(self.prompt_tokens - begin, 0), max(end - begin, 0)),
            self.experts,
            self.chosen[begin:end],
            None if self.weights is None else self.weights[begin:end],
            None if self.scores is None else self.scores[begin:end],
        )

    @property
    def prompt(self) -> Trace:
        return self.part(0, self.prompt_tokens)

    @property
    def reply(self) -> Trace:
        return self.part(self.prompt_tokens, len(self))


def trace(routing: Sequence[Routed], prompt_tokens: int | None = None) -> Trace | None:
    """What the pieces tell together; None without any. Where a place was told twice, what was told
    last counts. `prompt_tokens` None: all of it is the prompt's, as far as anybody knows."""
    whole: list[Routed] = []
    for part in routing:
        # A reading that begins anew replaces what was told from there on.
        while whole and whole[-1].start >= part.start:
            whole.pop()
        if whole:
            whole[-1] = _first(whole[-1], part.start - whole[-1].start)
        whole.append(part)
    if not whole:
        return None
    first = whole[0]
    ids = tuple(token for part in whole for token in part.ids)
    shape = (len(ids), first.layers)
    prompt = len(ids)
    if prompt_tokens is not None:
        prompt = min(max(prompt_tokens - first.start, 0), prompt)
    weights = b"".join(part.weights for part in whole)
    scores = b"".join(part.scores for part in whole)
    return Trace(
        ids,
        tuple(token for part in whole for token in part.tokens),
        prompt,
        first.experts,
        _array(b"".join(part.chosen for part in whole), "<u2", (*shape, first.k)),
        _array(weights, "<f4", (*shape, first.k)) if weights else None,
        _array(scores, "<f2", (*shape, first.experts)).astype(numpy.float32) if scores else None,
    )


def _first(part: Routed, count: int) -> Routed:
    """Its first `count` tokens, or all of them where it has no more."""
    had = len(part.ids)
    if count >= had:
        return part
    return replace(
        part,
        ids=part.ids[:count],
        tokens=part.tokens[:count],
        chosen=part.chosen[: len(part.chosen) // had * count],
        weights=part.weights[: len(part.weights) // had * count],
        scores=part.scores[: len(part.scores) // had * count],
    )


def _array(content: bytes, kind: str, shape: tuple[int, ...]) -> Array:
    return numpy.frombuffer(content, kind).reshape(shape)
