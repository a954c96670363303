"""How the pictures of a conversation are shown to a deployment that takes fewer."""

from __future__ import annotations

import io

import PIL.Image
import pytest
from drawn import picture

from slm_backends import showing
from slm_backends.chat import Message
from slm_backends.showing import ALL, FIRST, SHEET, TEXT, WAYS

ONE, TWO, THREE = (picture(width=width) for width in (10, 20, 30))
TALK = (
    Message("system", "Be brief."),
    Message("user", "What is it?", (ONE, TWO)),
    Message("assistant", "Noise."),
    Message("user", "And this?", (THREE,)),
)


@pytest.mark.parametrize(
    ("takes", "count", "ways"),
    [
        (0, 0, [TEXT]),
        (0, 3, [TEXT]),
        (1, 1, [ALL, TEXT]),
        (1, 2, [SHEET, FIRST, TEXT]),
        (4, 4, [ALL, SHEET, FIRST, TEXT]),
        (4, 5, [SHEET, FIRST, TEXT]),
    ],
)
def test_what_is_offered_is_what_can_be_done(takes: int, count: int, ways: list[str]) -> None:
    assert showing.offered(takes, count) == ways
    assert showing.fitting(takes, count) == ways[0]
    for way in WAYS:
        assert showing.fitting(takes, count, way) == (way if way in ways else ways[0])


@pytest.mark.parametrize("way", [ALL, TEXT])
def test_every_picture_stays_where_it_is(way: str) -> None:
    assert showing.shown(TALK, way) == TALK


def test_the_first_picture_alone_stays_with_its_question() -> None:
    shown = showing.shown(TALK, FIRST)
    assert [message.images for message in shown] == [(), (ONE,), (), ()]
    assert [message.content for message in shown] == [message.content for message in TALK]


def test_a_sheet_holds_all_and_stands_with_the_last_question_that_had_some() -> None:
    shown = showing.shown(TALK, SHEET)
    assert [len(message.images) for message in shown] == [0, 0, 0, 1]
    sheet = shown[-1].images[0]
    with PIL.Image.open(io.BytesIO(sheet.data)) as opened:
        assert opened.width >= max(10, 20, 30)
    assert showing.sheet((ONE, TWO, THREE)) is sheet  # drawn once


@pytest.mark.parametrize("way", [FIRST, SHEET])
def test_one_picture_is_left_as_it_is(way: str) -> None:
    talk = (Message("user", "What is it?", (ONE,)),)
    assert showing.shown(talk, way) == talk
