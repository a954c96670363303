"""Which beginning of a prompt need not be read again, and what is kept for it."""

from __future__ import annotations

import pytest

from slm_backends.worker.engines.readings import PIECE, Reading, Shelf


class Counted:
    """A cache that knows how many tokens it has."""

    def __init__(self, tokens: int = 0) -> None:
        self.tokens = tokens

    def cut(self, tokens: int) -> None:
        assert tokens <= self.tokens
        self.tokens = tokens

    def copy(self, tokens: int) -> Counted:
        assert tokens <= self.tokens
        return Counted(tokens)


def read(prompt: list[int], reply: list[int], begun: Reading | None = None) -> Reading:
    """The reading after a prompt in pieces and a reply of which all tokens were read."""
    reading = begun or Reading(Counted(), far=False, prompt=len(prompt))
    assert prompt[: len(reading.tokens)] == reading.tokens
    while len(reading.tokens) < len(prompt):
        begin = len(reading.tokens)
        reading.add(prompt[begin : begin + PIECE], piece=True)
    for token in reply:
        reading.add([token], piece=False)
    reading.cache = Counted(len(reading.tokens))
    return reading


PROMPT = list(range(300))
REPLY = list(range(1_000, 1_050))
NEXT = [*PROMPT, *REPLY, *range(2_000, 2_040)]


@pytest.mark.parametrize(
    ("prompt", "free", "exact"),
    [
        (NEXT, 350, 256),  # the conversation goes on
        (PROMPT, 256, 256),  # it comes again: in the same pieces
        (PROMPT[:200] + [7], 128, 128),  # its last turn was changed
        (PROMPT[:256], 128, 128),  # the last token is always read
        ([7, *PROMPT], 0, 0),
        ([0], 0, 0),
    ],
)
def test_how_much_is_useful(prompt: list[int], free: int, exact: int) -> None:
    reading = read(PROMPT, REPLY)
    assert reading.useful(prompt, repeats=False) == free
    assert reading.useful(prompt, repeats=True) == exact


def test_a_request_that_comes_again_in_a_late_turn_finds_its_own_pieces() -> None:
    shelf = Shelf(4)
    shelf.put(read(PROMPT, REPLY))
    taken = shelf.take(NEXT, far=False, repeats=False)
    assert taken is not None
    assert len(taken.tokens) == 350
    again = read(NEXT, [9, 9, 9], taken)
    assert again.useful(NEXT, repeats=False) == 350
    assert again.useful(NEXT, repeats=True) == 256


def test_what_continues_an_exact_reading_exactly_is_exact() -> None:
    reading = read(PROMPT, REPLY)
    begun = reading.beginning(256, len(NEXT), copy=False)
    assert read(NEXT, [], begun).exact == 384
    inexact = read(PROMPT, REPLY).beginning(350, len(NEXT), copy=False)
    assert read(NEXT, [], inexact).exact == 256


def test_another_conversation_that_begins_alike_is_copied() -> None:
    shelf = Shelf(4)
    kept = read(list(range(1_000)), REPLY)
    shelf.put(kept)
    taken = shelf.take([*range(200), 7, 7], far=False, repeats=False)
    assert taken is not None
    assert taken.cache is not kept.cache
    assert taken.tokens == list(range(128))
    assert shelf.take([*range(1_000), *REPLY, 5], far=False, repeats=False) is not None
    assert shelf.take([*range(1_000), *REPLY, 5], far=False, repeats=False) is None  # it was moved


def test_the_side_of_the_bound_must_be_the_same() -> None:
    shelf = Shelf(4)
    shelf.put(read(PROMPT, REPLY))
    assert shelf.take(NEXT, far=True, repeats=False) is None
    assert shelf.take(NEXT, far=False, repeats=False) is not None


def test_the_oldest_goes_first() -> None:
    shelf = Shelf(places=2)
    talks = [[start, *range(10_000, 10_200)] for start in range(3)]
    for talk in talks:
        shelf.put(read(talk, [1]))
    shelf.shrink(10_000)
    found = [shelf.take([*talk, 1, 5], far=False, repeats=False) for talk in talks]
    assert [reading is not None for reading in found] == [False, True, True]
    for talk in talks[:2]:
        shelf.put(read(talk, [1]))
    shelf.shrink(300)
    found = [shelf.take([*talk, 1, 5], far=False, repeats=False) for talk in talks]
    assert [reading is not None for reading in found] == [False, True, False]
