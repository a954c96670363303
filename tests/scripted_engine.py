"""An engine without a model: says what a test wants, token by token, when the test wants it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain, repeat

from slm_backends.chat import Sampling
from slm_backends.worker.engines import Token

EOS = 2


def scripted(token: int, top: int | None) -> Token:
    """A token with log-probabilities that a test can foretell: its id in thousandths below 0, and
    as alternatives the end token and the ids after its own."""
    if top is None:
        return Token(token)
    ids = (EOS, *range(token, token + top))[:top]
    return Token(token, -token / 1000, tuple((other, -other / 1000) for other in ids))


class ScriptedEngine:
    """`script` gives the tokens of a reply for its prompt; the end token follows, for ever.

    admitted, released   keys, in the order in which it happened
    sampling, top        what each key was admitted with
    go                   while it is not set, steps make no tokens
    """

    version = "scripted 1"
    device = "none"
    context = 1_000
    eos = frozenset({EOS})
    mixture = None

    def __init__(
        self, script: Callable[[list[int]], list[int]] = lambda prompt: [], max_active: int = 4
    ) -> None:
        self.script = script
        self.max_active = max_active
        self.images = 0
        self.admitted: list[int] = []
        self.released: list[int] = []
        self.sampling: dict[int, Sampling] = {}
        self.top: dict[int, int | None] = {}
        self.go = threading.Event()
        self.go.set()
        self.raises: Exception | None = None  # from the next step, once
        self.refuses: Exception | None = None  # from every admission
        self.broken: dict[int, Exception] = {}  # key -> what its turns end in
        self._replies: dict[int, Iterator[int]] = {}

    def admit(
        self, key: int, prompt: list[int], sampling: Sampling, top_logprobs: int | None = None
    ) -> int | None:
        if self.refuses is not None:
            raise self.refuses
        self.admitted.append(key)
        self.sampling[key] = sampling
        self.top[key] = top_logprobs
        self._replies[key] = chain(self.script(prompt), repeat(EOS))
        return None

    def step(self) -> Iterator[tuple[int, list[Token] | Exception]]:
        if not self.go.is_set():
            time.sleep(0.001)
            return
        if self.raises is not None:
            error, self.raises = self.raises, None
            raise error
        for key, reply in list(self._replies.items()):
            yield key, self.broken.get(key) or [scripted(next(reply), self.top[key])]

    def release(self, key: int) -> None:
        self.released.append(key)
        self._replies.pop(key, None)
