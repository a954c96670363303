"""What a model has read of conversations, kept for their next turns.

Knows tokens, and where the pieces began in which prompts were read. Knows no runtime: a cache is
whatever can be cut to a number of tokens and copied.

A kernel rounds differently for one token than for a hundred, so a text whose beginning was kept may
take another turn than one that was read anew. What has a seed must repeat: it continues only what a
fresh reading would have computed in the very same pieces. What has none continues all it can, and
a request that comes again finds the pieces of the first time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

PIECE = 128  # tokens of a prompt that are read at once, where the engine says nothing else


class Cache(Protocol):
    def cut(self, tokens: int) -> None:
        """Forget all but the first `tokens`."""
        ...

    def copy(self, tokens: int) -> Any:
        """A cache of its own with the first `tokens`."""
        ...


@dataclass(eq=False)
class Reading:
    """Tokens that were read, and the cache of them.

    far     read with the rotary factors for long texts, where a model has two sets of them
    prompt  how many of the tokens the last prompt had; the reply comes after them
    starts  where the pieces of prompts began
    exact   so many tokens were read as in a fresh reading; a multiple of `size`
    size    tokens of a whole piece
    """

    cache: Cache
    far: bool
    prompt: int
    tokens: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    exact: int = 0
    size: int = PIECE

    def add(self, tokens: Sequence[int], *, piece: bool) -> None:
        """Note what was read: a piece of a prompt, or a token of the reply."""
        if piece:
            self.starts.append(len(self.tokens))
            if self.exact == len(self.tokens) and len(tokens) == self.size:
                self.exact += self.size
        self.tokens += tokens

    def useful(self, prompt: Sequence[int], *, repeats: bool) -> int:
        """How many tokens of `prompt` need not be read again. The last one always is: what comes
        after it is asked for."""
        same = 0
        for ours, theirs in zip(self.tokens, prompt[:-1], strict=False):
            if ours != theirs:
                break
            same += 1
        if repeats:
            return min(same, self.exact) // self.size * self.size
        if same >= self.prompt:  # the conversation goes on
            return same
        return self.starts[bisect_right(self.starts, same) - 1] if self.starts else 0

    def beginning(self, tokens: int, prompt: int, *, copy: bool) -> Reading:
        """The first `tokens` of it, as the beginning of another prompt."""
        if copy:
            cache = self.cache.copy(tokens)
        else:
            cache = self.cache
            cache.cut(tokens)
        return Reading(
            cache,
            self.far,
            prompt,
            self.tokens[:tokens],
            [start for start in self.starts if start < tokens],
            min(self.exact, tokens),
            self.size,
        )


class Shelf:
    """Readings of ended replies, the one used last at the end."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._kept: list[Reading] = []

    def take(self, prompt: Sequence[int], *, far: bool, repeats: bool) -> Reading | None:
        """The longest beginning of `prompt` that is kept, or None.

        A reading of which little is used stays too: it is another conversation that begins alike.
        """
        fit = [reading for reading in self._kept if reading.far == far]
        best = max(fit, key=lambda kept: kept.useful(prompt, repeats=repeats), default=None)
        if best is None:
            return None
        tokens = best.useful(prompt, repeats=repeats)
        if not tokens:
            return None
        other = 2 * tokens < len(best.tokens)
        if not other:
            self._kept.remove(best)
        return best.beginning(tokens, len(prompt), copy=other)

    def put(self, reading: Reading) -> None:
        self._kept.append(reading)

    def shrink(self, tokens: int) -> None:
        """Forget the oldest until the rest have at most so many tokens."""
        while self._kept and (
            len(self._kept) > self._places
            or sum(len(reading.tokens) for reading in self._kept) > tokens
        ):
            del self._kept[0]
