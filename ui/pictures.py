"""A picture on screen: the image that is sent, and what a person sees of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from slm_backends import images
from slm_backends.chat import Image

SMALL = 160  # pixels of a thumbnail's longer side


@dataclass(frozen=True)
class Picture:
    """`image` as it is sent, `width` x `height` pixels of it; `small` is its thumbnail, encoded.

    notes  what was done to make it sound, a sentence each
    at     its time in a video, as in 0:04.5; empty for others
    """

    name: str
    image: Image
    width: int
    height: int
    notes: tuple[str, ...] = ()
    at: str = ""
    small: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "small", images.thumbnail(self.image, SMALL))

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height
