"""Key-value caches of ONNX Runtime GenAI: what one has read, and which are kept for later turns.

A cache is a Generator of the runtime with the tokens that it has read. Knows what the runtime needs
to be told so that its logits are right. Knows nothing of sampling, queues and text.

The runtime reserves a cache at once for all the tokens that it may ever hold, and can neither grow
it nor copy it: so room is given in steps that double, and a conversation that outgrows its room is
read once again. A token takes 2 x layers x key heads x head size numbers of 4 bytes: 46 KB of
SmolLM2-135M (47 MB for the smallest room), 786 KB of Phi-3.5-mini (0.8 GB).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

SMALLEST_ROOM = 1_024  # tokens
KEPT = 8  # caches of finished replies at most
KEPT_BYTES = 1 << 30  # that kept caches may take beside the active ones; one full context always


@dataclass(frozen=True)
class Traits:
    """What a folder's genai_config.json says that concerns a cache.

    context      tokens at most
    padding      id of the token that the runtime takes for padding
    rope_switch  tokens up to which a longrope model turns positions by its short factors, beyond
                 which all of them by the long ones; None for other models
    token_bytes  that a token takes
    extends      whether the provider can append to what it has read
    chunk        tokens that are read at once
    """

    context: int
    padding: int
    rope_switch: int | None
    token_bytes: int
    extends: bool
    chunk: int

    def room(self, tokens: int) -> int:
        """What to reserve for so many tokens."""
        room = SMALLEST_ROOM
        while room < tokens:
            room *= 2
        return min(room, self.context)

    def long(self, tokens: int) -> bool:
        return self.rope_switch is not None and tokens > self.rope_switch


class Cache:
    """A generator and the tokens that it has read: `tokens` is never more than `room`.

    The runtime rounds otherwise for one token than for a part of a prompt, so what was kept and
    what is read anew differ a little. Hence it notes where parts began, and how many tokens were
    read in the very parts in which anybody would read them.
    """

    def __init__(self, generator: Any, room: int, traits: Traits) -> None:
        self._generator = generator
        self._traits = traits
        self._forced: Any = None
        self._long = False
        self._starts: list[int] = []
        self._exact = 0
        self.room = room
        self.tokens: list[int] = []
        self.prompt_length = 0

    def common(self, prompt: list[int]) -> int:
        """How many tokens at the beginning of `prompt` it has, the last left out: logits come with
        reading it."""
        pairs = zip(self.tokens, prompt[:-1], strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def useful(self, prompt: list[int], *, repeats: bool) -> int:
        """How many of those need not be read again.

        A conversation that goes on uses them all; a prompt that comes again uses the same parts, so
        that it is answered the same. With `repeats` nothing is used that is not exact: what has a
        seed must give the same text whatever came before.
        """
        if self._long != self._traits.long(len(prompt)):
            return 0
        common = self.common(prompt)
        if repeats:
            common = min(common, self._exact)
        elif common >= self.prompt_length:
            return common
        return max(start for start in (0, *self._starts, self._exact) if start <= common)

    def begin(self, prompt: list[int], useful: int) -> None:
        """Keep the first `useful` tokens and forget the others, to read the rest of `prompt`."""
        if useful < len(self.tokens):
            self._generator.rewind_to(useful)
            del self.tokens[useful:]
        self._starts = [start for start in self._starts if start < useful]
        self._exact = min(self._exact, useful)
        self.prompt_length = len(prompt)

    def read(self, prompt: list[int]) -> bool:
        """Read the next part of `prompt`; whether it is all read."""
        start = len(self.tokens)
        end = self._end_of_part(prompt, start)
        self._append(prompt[start:end])
        self._starts.append(start)
        if start == self._exact and end < len(prompt):
            self._exact = end  # the last part of a longer prompt would end elsewhere
        return end == len(prompt)

    def _end_of_part(self, prompt: list[int], start: int) -> int:
        traits = self._traits
        end = start + traits.chunk if traits.extends else len(prompt)
        if traits.rope_switch is not None and traits.long(len(prompt)):
            # The runtime chooses the factors by what it has read so far: parts that end before the
            # switch would be turned by the short ones.
            end = max(end, traits.rope_switch + 1)
        end = min(end, len(prompt))
        # The runtime takes the logits of the last token that is not padding, although a lone
        # sequence has none and models use that token otherwise too. A part of one token is safe.
        while end < len(prompt) and prompt[end - 1] == traits.padding:
            end += 1
        while end > start + 1 and prompt[end - 1] == traits.padding and traits.extends:
            end -= 1
        return end

    def extend(self, token: int) -> None:
        """Read one token of the reply."""
        traits = self._traits
        if traits.long(len(self.tokens) + 1) and not self._long:
            everything = [*self.tokens, token]
            self.begin(everything, 0)
            self._append(everything)
        elif traits.extends:
            self._append([token])
        else:
            self._force(token)

    def logits(self) -> Any:
        """Of the next token: one float32 number for each token of the vocabulary."""
        return self._generator.get_logits()[0, -1]

    def _append(self, tokens: list[int]) -> None:
        self._generator.append_tokens(tokens)
        self.tokens += tokens
        self._long = self._traits.long(len(self.tokens))

    def _force(self, token: int) -> None:
        """Let the runtime choose the token that was chosen already, where it reads no other."""
        import numpy

        if self._forced is None:
            self._forced = numpy.zeros_like(self._generator.get_logits())
        self._forced[0, -1, token] = 1
        self._generator.set_logits(self._forced)
        self._generator.generate_next_token()
        self._forced[0, -1, token] = 0
        self.tokens.append(token)


class Caches:
    """Makes caches, and keeps those of finished replies, oldest first."""

    def __init__(self, make: Callable[[int], Any], traits: Traits) -> None:
        self._make = make
        self._traits = traits
        self._kept: list[Cache] = []

    def take(
        self, prompt: list[int], tokens: int, active: Iterable[Cache], *, repeats: bool
    ) -> tuple[Cache, int]:
        """A cache with room for `tokens`, to read `prompt` with, and how much of it is read."""
        cache = self._suitable(prompt)
        if cache is not None:
            self._kept.remove(cache)
            if cache.room >= tokens:
                useful = cache.useful(prompt, repeats=repeats)
                with contextlib.suppress(RuntimeError):  # some models' caches cannot be rewound
                    cache.begin(prompt, useful)
                    return cache, useful
        room = self._traits.room(tokens)
        self._drop(room + sum(other.room for other in active))
        cache = Cache(self._make(room), room, self._traits)
        cache.begin(prompt, 0)
        return cache, 0

    def _suitable(self, prompt: list[int]) -> Cache | None:
        """The kept cache that has most of `prompt`, if it is of the same conversation: if it has
        its own whole prompt in common, or at least as much as would be lost. Two that merely begin
        with the same system message are better kept apart."""
        best: Cache | None = None
        most = 0
        for cache in reversed(self._kept):  # of equals the one that was used last
            if (common := cache.common(prompt)) > most:
                best, most = cache, common
        if best is None or (most < best.prompt_length - 1 and 2 * most < len(best.tokens)):
            return None
        return best

    def keep(self, cache: Cache, active: Iterable[Cache]) -> None:
        """For a later turn, until others need its memory."""
        if self._traits.extends and cache.tokens:
            self._kept.append(cache)
            self._drop(sum(other.room for other in active))

    def _drop(self, used: int) -> None:
        """The oldest, until they fit beside `used` tokens."""
        budget = max(self._traits.context, KEPT_BYTES // self._traits.token_bytes)
        while self._kept and (
            len(self._kept) > KEPT or used + sum(cache.room for cache in self._kept) > budget
        ):
            del self._kept[0]
