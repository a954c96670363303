"""Several sequences on one model, advanced in turns: for engines that have a loop of their own.

Prompts are read in pieces, so that no long one silences the others, and what was read stays for the
next turn of its conversation (readings.py). Knows no runtime: a subclass makes caches and reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from slm_backends.chat import Looking, Sampling
from slm_backends.routing import Experts
from slm_backends.worker.engines import Fired, Mixture, Token
from slm_backends.worker.engines.readings import Cache, Reading, Shelf
from slm_backends.worker.engines.sampler import Sampler
from slm_backends.worker.pieces import Piece

if TYPE_CHECKING:  # it needs numpy and Pillow, which text engines do without
    from slm_backends.worker.engines.phi3v_eyes import Eyes

MAX_ACTIVE = 8


class Turns:
    """The sequences of an Engine.

    context  tokens that a prompt and its reply may take together
    bound    tokens up to which the model uses its short rotary factors; 0: it has one set
    piece    tokens of a prompt that are read at once
    keeps    whether its caches can be cut and copied
    """

    max_active = MAX_ACTIVE
    images = 0
    mixture: Mixture | None = None
    _eyes: Eyes | None = None  # what looks at pictures, where there is something that does

    def __init__(self, context: int, *, bound: int, piece: int, keeps: bool = True) -> None:
        self.context = context
        self._bound = bound
        self._piece = piece
        self._keeps = keeps
        self._sequences: dict[int, _Sequence] = {}
        self._shelf = Shelf(MAX_ACTIVE)

    def _cache(self) -> Cache:
        """An empty one."""
        raise NotImplementedError

    def _forward(self, reading: Reading, tokens: list[int], *, last: bool) -> Any:
        """Read `tokens` after those of the reading into its cache. With `last` the logits after the
        last of them, a numpy array of float32; without, they may be left out."""
        raise NotImplementedError

    def _watched(self, experts: Experts) -> AbstractContextManager[Any]:
        """While it is open, experts are limited as asked, and what it gives can `take` a Fired of
        what was read since. Only asked of models with a `mixture`."""
        raise NotImplementedError

    def lay_out(self, pieces: Sequence[Piece]) -> list[int]:
        assert self._eyes is not None  # not asked of engines that take no pictures
        return self._eyes.lay_out(pieces)

    def admit(
        self,
        key: int,
        prompt: list[int],
        sampling: Sampling,
        top_logprobs: int | None = None,
        pieces: Sequence[Piece] = (),
        experts: Experts | None = None,
        written: Sequence[int] = (),
    ) -> int | None:
        self._make_room()
        reading = None
        if experts is None:  # which experts worked on what was read before, nobody has kept
            far = self._is_far(len(prompt))
            reading = self._shelf.take(prompt, far=far, repeats=sampling.seed is not None)
        reading = reading or self._read_anew(len(prompt))
        words = [token for token in prompt if token >= 0]
        chooser = Sampler(sampling, words, top_logprobs, written)
        sequence = _Sequence(key, list(prompt), reading, chooser, experts)
        self._sequences[key] = sequence
        if self._eyes is not None and pieces:
            self._eyes.hold(key, pieces)
            self._look(sequence)
        return len(reading.tokens)

    def step(self) -> Iterator[tuple[int, list[Token] | Looking | Fired | Exception]]:
        for key, sequence in list(self._sequences.items()):
            if key in self._sequences:  # the caller may release while it reads
                try:
                    made = self._advance(sequence)
                    if sequence.fired is not None:
                        yield key, sequence.fired
                    yield key, made
                except Exception as error:  # the others' sequences are whole
                    sequence.broken = True
                    yield key, error

    def release(self, key: int) -> None:
        sequence = self._sequences.pop(key, None)
        if sequence is not None and self._keeps and sequence.as_ever:
            self._shelf.put(sequence.reading)
            self._make_room()
        if self._eyes is not None:
            self._eyes.release(key)

    def _make_room(self) -> None:
        """Kept and active readings together have the tokens of one full context, unless the active
        ones alone have more: that is what a worker is reckoned to take (fit.py)."""
        active = sum(len(sequence.reading.tokens) for sequence in self._sequences.values())
        self._shelf.shrink(self.context - active)

    def _read_anew(self, prompt: int) -> Reading:
        return Reading(self._cache(), self._is_far(prompt), prompt, size=self._piece)

    def _is_far(self, tokens: int) -> bool:
        return 0 < self._bound < tokens

    def _look(self, sequence: _Sequence) -> None:
        """Before it reads on, it looks at the pictures among what is still to be read."""
        if self._eyes is not None:
            rest = sequence.tokens[len(sequence.reading.tokens) :]
            sequence.looks = self._eyes.looks(sequence.key, rest)

    def _advance(self, sequence: _Sequence) -> list[Token] | Looking:
        """A part of a picture, a piece of the prompt, or one token."""
        sequence.fired = None
        if (looking := next(sequence.looks, None)) is not None:
            return looking
        known = len(sequence.tokens)
        if sequence.reading.far != self._is_far(known):
            # It has grown past the bound: other rotary factors now hold for all its positions.
            sequence.reading = self._read_anew(known)
            self._look(sequence)
            return []
        reading = sequence.reading
        begin = len(reading.tokens)
        tokens = sequence.tokens[begin : begin + self._piece]
        last = begin + len(tokens) == known
        experts = sequence.experts
        with nullcontext() if experts is None else self._watched(experts) as watch:
            logits = self._forward(reading, tokens, last=last)
            if watch is not None:
                sequence.fired = watch.take(begin, tokens)
        reading.add(tokens, piece=begin < reading.prompt)
        if not last:
            return []
        token = sequence.sampler.pick(logits)
        sequence.tokens.append(token.id)
        return [token]


class _Sequence:
    """The tokens of a prompt and its reply so far, and what the model has read of them."""

    def __init__(
        self,
        key: int,
        tokens: list[int],
        reading: Reading,
        sampler: Sampler,
        experts: Experts | None,
    ) -> None:
        self.key = key
        self.tokens = tokens
        self.reading = reading
        self.sampler = sampler
        self.experts = experts
        self.fired: Fired | None = None  # in the step that was taken last
        self.broken = False
        self.looks: Iterator[Looking] = iter(())

    @property
    def as_ever(self) -> bool:
        """Whether its cache is what any other sequence would have made of the same tokens."""
        return not self.broken and not (self.experts is not None and self.experts.cuts)
