"""What a prompt with pictures is made of, between the text of a conversation and an engine.

Knows tokens and pictures as they came. Does not know how many tokens a picture takes: that is for
the engine to say.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from slm_backends.chat import Image


@dataclass(frozen=True)
class Words:
    """A run of text, and its tokens by the model's own tokenizer."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Picture:
    """One picture of a prompt.

    data   an image file that was checked and can be decoded as it is, PNG, JPEG or WEBP
    slot   a negative number that stands for each of its places among the tokens: another one for
           other bytes, the same for the same
    """

    data: bytes = field(repr=False)
    width: int
    height: int
    slot: int


Piece = Words | Picture


def picture(image: Image, width: int, height: int) -> Picture:
    """The picture of an image that was checked; its size in pixels."""
    digest = hashlib.sha256(image.data).digest()
    return Picture(image.data, width, height, -1 - int.from_bytes(digest[:7], "big"))
