"""How much of a prompt OpenVINO's prefix cache surely has; the runtime itself does not say.

The runtime keeps keys and values in blocks of a fixed number of tokens and finds a block again by
all tokens up to its end. A new prompt takes over whole blocks from its beginning, up to the first
that is missing. When no block is empty, the one is overwritten that was taken over the longest time
ago, of those that no running sequence uses (block_manager.hpp of openvino.genai). A block that was
filled and never taken over counts as old as the memory that it lies in: so every sequence that ends
must be taken over once, by a prompt that is withdrawn at once, or the newest would go first.

This is a careful book about that: of a block whose time is not known, it takes for its own safety
the earliest, and for that of others the latest. Knows tokens, and no runtime.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

Place = tuple[object, tuple[int, ...]]  # what the block before it holds, and its own tokens


@dataclass
class _Running:
    tokens: list[int]
    since: int
    read: bool = False  # its whole prompt was


class Blocks:
    """A cache of `count` blocks of `size` tokens each."""

    def __init__(self, size: int, count: int) -> None:
        self._size = size
        self._count = count
        self._time = itertools.count()
        self._running: dict[int, _Running] = {}
        self._held: dict[Place, tuple[int, int]] = {}  # earliest and latest time of taking over
        self._others: list[int] = []  # latest time of blocks of which nothing will be found again

    def admit(self, key: int, prompt: list[int]) -> int:
        """A sequence begins; how many tokens of it are not computed again, at least. The last one
        always is."""
        self._forget_displaced()
        useful = 0
        for place in self._places(prompt):
            if place not in self._held:
                break
            useful += self._size
        self._running[key] = _Running(list(prompt), next(self._time))
        return min(useful, len(prompt) - 1)

    def add(self, key: int, tokens: list[int]) -> None:
        """It said `tokens`; so its prompt was read, and all of them but the last."""
        sequence = self._running[key]
        if not sequence.read:
            sequence.read = True
            times = sequence.since, next(self._time)
            self._held.update(dict.fromkeys(self._places(sequence.tokens), times))
        sequence.tokens += tokens

    def release(self, key: int) -> list[int]:
        """It ended, and its blocks stay until they are overwritten; the tokens that a prompt must
        have to take them over, now."""
        self._forget_displaced()
        sequence = self._running.pop(key)
        read = sequence.tokens[:-1] if sequence.read else []
        places = self._places(read)
        now = next(self._time)
        self._held.update(dict.fromkeys(places, (now, now)))
        self._others += [now] * (self._needed(sequence) - len(places))
        return read

    def _forget_displaced(self) -> None:
        """Of the blocks that running sequences do not use, only so many can still be there; which
        ones follows from the times. To be called before each change of what runs: between two of
        these, sequences only grow."""
        room = self._count - sum(map(self._needed, self._running.values()))
        if room <= 0:  # the runtime may have taken blocks from one sequence to go on with another
            self._held.clear()
            self._others.clear()
            return
        latest = sorted([*self._others, *(last for _, last in self._held.values())], reverse=True)
        if len(latest) < room:
            return
        bound = latest[room - 1]
        for place, (first, last) in list(self._held.items()):
            if first < bound:
                del self._held[place]
                self._others.append(last)
        self._others = [last for last in self._others if last >= bound]

    def _needed(self, sequence: _Running) -> int:
        return len(sequence.tokens) // self._size + 1

    def _places(self, tokens: list[int]) -> list[Place]:
        places: list[Place] = []
        before: object = None
        for end in range(self._size, len(tokens) + 1, self._size):
            place = (before, tuple(tokens[end - self._size : end]))
            places.append(place)
            before = hash(place)
        return places
