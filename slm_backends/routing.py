"""Which experts of a mixture worked on which tokens: what may be asked, and what comes back.

Plain frozen data, checked when it is made. Knows no model, no page and no arithmetic: figures of it
are moe's.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Any

from slm_backends.errors import BadRequest

MAX_OFF = 4_096  # switched-off experts in a request: every one of 64 layers with 64
ALL_LAYERS = -1
MAX_REPLY = 100_000  # characters of a reply that is written instead of chosen


@dataclass(frozen=True)
class Experts:
    """What is asked of a mixture of experts beside its reply: to tell which of them worked. And,
    where they are filled:

    k      experts that work on a token in each layer; 0: as many as the model was made for
    off    (layer, expert) that must not work, counted from 0; ALL_LAYERS stands for all of them
    reply  the text that is written, whatever the model would have chosen: for its log-probabilities

    Raises BadRequest for what is none of that. Whether a model has such experts, `check` says.
    """

    k: int = 0
    off: tuple[tuple[int, int], ...] = ()
    reply: str = ""

    def __post_init__(self) -> None:
        if not _is_count(self.k):
            raise _wrong("k must be a whole number of experts", self.k)
        if not isinstance(self.off, (list, tuple)) or len(self.off) > MAX_OFF:
            raise _wrong(f"off must be a list of at most {MAX_OFF:,} pairs", self.off)
        for pair in self.off:
            if (
                not isinstance(pair, (list, tuple))
                or len(pair) != 2
                or not (_is_count(pair[0]) or pair[0] == ALL_LAYERS)
                or not _is_count(pair[1])
            ):
                raise _wrong("off must hold pairs of a layer and an expert", pair)
        object.__setattr__(self, "off", tuple((pair[0], pair[1]) for pair in self.off))
        if not isinstance(self.reply, str) or len(self.reply) > MAX_REPLY:
            raise _wrong(f"reply must be a text of at most {MAX_REPLY:,} characters", self.reply)

    def check(self, layers: int, experts: int, k: int) -> None:
        """BadRequest where a model of that shape, as in Routed, has no such expert, or where a
        token would find too few."""
        if self.k > experts:
            raise _wrong(f"k must be at most {experts}, as many as a layer has", self.k)
        off: list[set[int]] = [set() for _ in range(layers)]
        for layer, expert in self.off:
            if layer >= layers or expert >= experts:
                raise _wrong(f"there are {layers} layers with {experts} experts", (layer, expert))
            for one in range(layers) if layer == ALL_LAYERS else (layer,):
                off[one].add(expert)
        most = max(map(len, off))
        if experts - most < (self.k or k):
            raise _wrong(f"{self.k or k} experts of each layer must be left", experts - most)

    @property
    def cuts(self) -> bool:
        """Whether it changes which experts work."""
        return bool(self.k or self.off)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 100_000


def _wrong(what: str, value: Any) -> BadRequest:
    return BadRequest(f"experts: {what}, not {reprlib.repr(value)}.", field="experts")


@dataclass(frozen=True)
class Routed:
    """Which experts worked on the next tokens that the model has read: those of its prompt first,
    then those of its reply. The last token of a reply is in none: the model never reads it.

    start    place of the first of these tokens, from 0. Places that were told before are told anew:
             the model has read them again, in another way.
    ids      of the tokens
    tokens   their texts, with a replacement character for what is no whole one
    layers, experts, k  of the mixture: `k` of `experts` work on a token in each of `layers`
    chosen   which did, uint16: [tokens, layers, k]
    weights  what their outputs were multiplied by, float32: [tokens, layers, k]; empty where a
             server does not tell
    scores   softmax over the router's raw logits, float16: [tokens, layers, experts]; those that
             are off are left out of it and have 0; empty where a server does not tell

    Arrays are little-endian bytes, in the order of C.
    """

    start: int
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    layers: int
    experts: int
    k: int
    chosen: bytes
    weights: bytes = b""
    scores: bytes = b""

    def __post_init__(self) -> None:
        places = len(self.ids) * self.layers
        whole = (
            len(self.tokens) == len(self.ids)
            and len(self.chosen) == places * self.k * 2
            and len(self.weights) in (0, places * self.k * 4)
            and len(self.scores) in (0, places * self.experts * 2)
        )
        if not whole:
            raise ValueError("the sizes of a routing do not fit together")
