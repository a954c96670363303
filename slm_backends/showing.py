"""How the pictures of a conversation are shown to a deployment that takes fewer, or none.

Pure functions on messages, but for the sheet, which is drawn. Knows neither runtimes nor pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from slm_backends import images
from slm_backends.chat import Image, Message

SHEETS = 16  # that are kept: each prompt of a conversation, and each look at its cost, needs it

ALL, SHEET, FIRST, TEXT = "all", "sheet", "first", "text"

#: way -> what it is called on screen
WAYS: Mapping[str, str] = {
    ALL: "Every picture",
    SHEET: "One contact sheet",
    FIRST: "The first picture only",
    TEXT: "Only the text in them",
}


def offered(takes: int, count: int) -> list[str]:
    """The ways to show so many pictures to a deployment that takes so many, the best first."""
    if takes == 0:
        return [TEXT]
    if count < 2:
        return [ALL, TEXT]
    return [*([ALL] if count <= takes else []), SHEET, FIRST, TEXT]


def fitting(takes: int, count: int, wanted: str = "") -> str:
    """The wanted way where it is offered, else the best that is."""
    ways = offered(takes, count)
    return wanted if wanted in ways else ways[0]


def shown(messages: Sequence[Message], way: str) -> tuple[Message, ...]:
    """The messages with their pictures as this way shows them.

    A sheet holds the pictures of the whole conversation, in their order, and stands where the last
    of them stood: a deployment that takes one picture takes one in a conversation. TEXT leaves them
    as they are: who reads them is asked with all.
    """
    if way in (ALL, TEXT):
        return tuple(messages)
    pictures = [image for message in messages for image in message.images]
    if len(pictures) < 2:
        return tuple(messages)
    places = [place for place, message in enumerate(messages) if message.images]
    place, picture = (
        (places[0], pictures[0]) if way == FIRST else (places[-1], sheet(tuple(pictures)))
    )
    return tuple(
        replace(message, images=(picture,) if here == place else ())
        for here, message in enumerate(messages)
    )


@lru_cache(SHEETS)
def sheet(pictures: tuple[Image, ...]) -> Image:
    """All of them on one picture, in their order."""
    return images.contact_sheet(pictures)
