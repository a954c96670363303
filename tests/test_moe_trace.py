"""A trace of pieces: how they are put together, and what of it is whose."""

from __future__ import annotations

import numpy
import pytest
from mixtures import any_of, same

from slm_backends.moe.trace import Trace, trace
from slm_backends.routing import Routed

WHOLE = any_of(10, 6, 3, 8, 2)


def piece(of: Trace, begin: int, end: int) -> Routed:
    """As a worker tells the tokens from `begin` to before `end`."""
    part = of.part(begin, end)
    return Routed(
        begin,
        part.ids,
        part.tokens,
        part.layers,
        part.experts,
        part.k,
        part.chosen.tobytes(),
        b"" if part.weights is None else part.weights.tobytes(),
        b"" if part.scores is None else part.scores.astype("<f2").tobytes(),
    )


def test_of_nothing_there_is_no_trace() -> None:
    assert trace(()) is None


@pytest.mark.parametrize("cuts", [(0, 10), (0, 6, 10), tuple(range(11))])
def test_pieces_are_the_whole(cuts: tuple[int, ...]) -> None:
    pieces = [piece(WHOLE, *ends) for ends in zip(cuts, cuts[1:], strict=False)]
    made = trace(pieces, 6)
    assert made is not None
    assert same(made, WHOLE)
    assert (made.layers, made.k, len(made)) == (3, 2, 10)


def test_what_was_told_last_counts() -> None:
    again = any_of(10, 6, 3, 8, 2, seed=1)
    told = [piece(WHOLE, 0, 4), piece(WHOLE, 4, 8), piece(again, 4, 6), piece(again, 6, 10)]
    made = trace(told, 6)
    assert made is not None
    assert made.ids == WHOLE.ids[:4] + again.ids[4:]
    assert made.chosen.tolist() == WHOLE.chosen[:4].tolist() + again.chosen[4:].tolist()
    anew = trace([*told, piece(again, 0, 10)], 6)
    assert anew is not None
    assert same(anew, again)


def test_a_reading_that_begins_inside_a_piece_keeps_what_stands_before_it() -> None:
    again = any_of(10, 6, 3, 8, 2, seed=1)
    made = trace([piece(WHOLE, 0, 8), piece(again, 3, 10)], 6)
    assert made is not None
    assert made.ids == WHOLE.ids[:3] + again.ids[3:]
    assert made.chosen.tolist() == WHOLE.chosen[:3].tolist() + again.chosen[3:].tolist()


def test_without_weights_and_scores() -> None:
    bare = Trace(WHOLE.ids, WHOLE.tokens, 6, 8, WHOLE.chosen)
    made = trace([piece(bare, 0, 6), piece(bare, 6, 10)], 6)
    assert made is not None
    assert same(made, bare)


def test_while_nobody_knows_where_the_prompt_ends_all_is_prompt() -> None:
    made = trace([piece(WHOLE, 0, 5)])
    assert made is not None
    assert made.prompt_tokens == 5
    early = trace([piece(WHOLE, 0, 5)], 6)
    assert early is not None
    assert early.prompt_tokens == 5, "of the six, five have been told"


def test_the_beginning_of_a_prompt_that_is_left_out_is_not_counted() -> None:
    for begin, left in ((2, 4), (6, 0), (8, 0)):
        made = trace([piece(WHOLE, begin, 9), piece(WHOLE, 9, 10)], 6)
        assert made is not None
        assert same(made, WHOLE.part(begin, 10))
        assert made.prompt_tokens == left


def test_prompt_and_reply() -> None:
    assert WHOLE.prompt.ids + WHOLE.reply.ids == WHOLE.ids
    assert (len(WHOLE.prompt), len(WHOLE.reply)) == (6, 4)
    assert (WHOLE.prompt.prompt_tokens, WHOLE.reply.prompt_tokens) == (6, 0)
    assert numpy.array_equal(WHOLE.reply.scores, WHOLE.scores[6:])
    assert WHOLE.part(4, 8).prompt_tokens == 2
    assert len(WHOLE.prompt.reply) == 0
