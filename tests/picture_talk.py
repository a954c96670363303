"""Short words for tests that ask an engine about pictures, without a worker around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from slm_backends.chat import Looking, Sampling
from slm_backends.worker.engines import Engine, Token
from slm_backends.worker.pieces import Piece, Words


class Answer(NamedTuple):
    """`cached` as admit said it."""

    tokens: list[Token]
    looks: list[Looking]
    cached: int | None

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


def ask(
    engine: Engine,
    pieces: Sequence[Piece],
    count: int = 5,
    top: int | None = None,
    **sampling: Any,
) -> Answer:
    given = Sampling(**{"max_tokens": count, "temperature": 0, **sampling})
    cached = engine.admit(1, engine.lay_out(pieces), given, top, pieces)
    answer = Answer([], [], cached)
    while len(answer.tokens) < count:
        for key, news in engine.step():
            assert not isinstance(news, Exception), news
            if key == 1 and isinstance(news, Looking):
                answer.looks.append(news)
            elif key == 1:
                answer.tokens.extend(news)
    engine.release(1)
    return answer


def followed(pieces: Sequence[Piece], said: Sequence[int], more: Sequence[int]) -> list[Piece]:
    """The next question of a conversation that ends with words."""
    *before, last = pieces
    assert isinstance(last, Words)
    return [*before, Words(last.text, (*last.tokens, *said, *more))]
