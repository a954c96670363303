"""Where pictures stand among tokens, and what is kept of them; a stand-in for what sees."""

from __future__ import annotations

from collections.abc import Iterator

import numpy
import pytest
import tiny_phi3v

from slm_backends.chat import Looking
from slm_backends.picture_tokens import Grid, phi3_vision_grid, phi3_vision_tokens
from slm_backends.worker.engines import phi3v_eyes
from slm_backends.worker.engines.phi3v_eyes import Eyes, Floats
from slm_backends.worker.pieces import Picture, Piece, Words

WIDE = tiny_phi3v.picture(1, (300, 200))
HIGH = tiny_phi3v.picture(2, (90, 200))
BYTES = 4 * 2  # of a token's two numbers


class Seer:
    """Gives a token of a picture its number and how many crops there were; counts its pictures."""

    def __init__(self) -> None:
        self.pictures = 0
        self.eyes = Eyes(56, 2, self.encode)

    def encode(self, crops: Floats, grid: Grid) -> Iterator[int]:
        yield from range(1, len(crops) + 1)
        self.pictures += 1
        tokens = phi3_vision_tokens(grid, 2)
        return numpy.stack(
            [numpy.arange(tokens), numpy.full(tokens, len(crops))], axis=1, dtype=numpy.float32
        )

    def look(self, key: int, pieces: list[Piece]) -> list[Looking]:
        self.eyes.hold(key, pieces)
        return list(self.eyes.looks(key, self.eyes.lay_out(pieces)))


def words(ids: Floats) -> Floats:
    return numpy.stack([1_000 + ids, ids], axis=1).astype(numpy.float32)


def text(*tokens: int) -> Words:
    return Words("", tokens)


def places(picture: Picture, most: int) -> int:
    return phi3_vision_tokens(phi3_vision_grid(picture.width, picture.height, most, 56), 2)


@pytest.fixture
def seer() -> Seer:
    return Seer()


def test_a_picture_alone_takes_its_tokens_between_the_words(seer: Seer) -> None:
    tokens = seer.eyes.lay_out([text(1, 5), WIDE, text(7)])
    assert tokens[:2] == [1, 5] and tokens[-1] == 7
    (place,) = set(tokens[2:-1])
    assert place < 0
    assert len(tokens) == 3 + places(WIDE, 16)


def test_with_others_it_takes_fewer_and_stands_for_something_else(seer: Seer) -> None:
    alone = seer.eyes.lay_out([WIDE])
    both = seer.eyes.lay_out([WIDE, HIGH])
    assert len(both) == places(WIDE, 4) + places(HIGH, 4)
    assert len(set(both)) == 2
    assert not {*alone} & {*both}
    assert seer.eyes.lay_out([WIDE, HIGH]) == both != seer.eyes.lay_out([HIGH, WIDE])


@pytest.mark.parametrize("cut", [1, 2, 3, 20, 40])
def test_a_prompt_that_is_read_in_parts_gives_the_same_rows(seer: Seer, cut: int) -> None:
    pieces: list[Piece] = [text(1, 5), WIDE, WIDE, text(7), HIGH, text(8)]
    tokens = seer.eyes.lay_out(pieces)
    seer.look(1, pieces)
    rows = seer.eyes.rows((), tokens, words)
    assert rows[[0, 1, -1]].tolist() == [[1_001, 1], [1_005, 5], [1_008, 8]]
    wide = [[number, 5] for number in range(places(WIDE, 4))]
    assert rows[2 : 2 + 2 * len(wide)].tolist() == wide + wide
    parts = [
        seer.eyes.rows(tokens[:start], tokens[start : start + cut], words)
        for start in range(0, len(tokens), cut)
    ]
    assert numpy.array_equal(numpy.concatenate(parts), rows)


def test_looks_at_what_is_still_to_be_read_and_was_not_seen(seer: Seer) -> None:
    pieces: list[Piece] = [WIDE, text(7), HIGH, text(8)]
    tokens = seer.eyes.lay_out(pieces)
    seer.eyes.hold(1, pieces)
    rest = tokens[places(WIDE, 4) :]
    assert seer.eyes.unseen(1, rest) == [2]
    assert list(seer.eyes.looks(1, rest)) == [Looking(2, 2, crop, 3) for crop in (1, 2, 3)]
    assert seer.eyes.unseen(1, tokens) == [1]


def test_what_was_forgotten_is_looked_at_when_it_is_read(seer: Seer) -> None:
    seer.eyes.hold(1, [WIDE])
    tokens = seer.eyes.lay_out([WIDE])
    assert len(seer.eyes.rows((), tokens, words)) == len(tokens)
    assert seer.pictures == 1


def test_no_more_is_kept_than_may_be_but_for_those_who_need_it(
    seer: Seer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phi3v_eyes, "KEPT_BYTES", places(HIGH, 4) * BYTES)
    pieces: list[Piece] = [WIDE, text(7), HIGH]
    seer.look(1, pieces)
    assert seer.look(2, pieces) == []  # a running sequence's are kept whatever they take
    seer.eyes.release(1)
    assert seer.look(3, pieces) == []
    seer.eyes.release(2)
    seer.eyes.release(3)
    assert seer.pictures == 2
    assert {look.image for look in seer.look(4, pieces)} == {1}  # the second was seen last
    seer.eyes.release(4)
    seer.eyes.release(99)  # never held


def test_a_picture_that_is_used_again_is_forgotten_last(
    seer: Seer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, picture in enumerate((WIDE, HIGH)):
        seer.look(key, [picture])
    seer.eyes.rows((), seer.eyes.lay_out([WIDE]), words)
    monkeypatch.setattr(phi3v_eyes, "KEPT_BYTES", places(WIDE, 16) * BYTES)
    for key in (0, 1):
        seer.eyes.release(key)
    assert seer.look(2, [WIDE]) == []
    assert seer.look(3, [HIGH])
