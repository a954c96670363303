"""What video.py asks of its child process, within which limits, and how a video is looked into.

Pure data, a meter and two protocols: film.py and strip.py are such sources, video_child.py chooses
their frames. Imports no decoder, so that the parent can make a Job.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import PIL.Image

    from slm_backends.chat import Image

CLIP = "clip.json"  # in the folder of the job: what was found, or why it was refused
ANOTHER = "Save it again as MP4, or try another video."


class Refused(Exception):
    """What is wrong with the video, to follow its name in a sentence, and what to do."""

    def __init__(self, what: str, hint: str = ANOTHER) -> None:
        super().__init__(what)
        self.hint = hint


class Spent(Exception):
    """The time or the number of frames that may be decoded is used up."""


@dataclass(frozen=True)
class Job:
    """What to do, and within which limits.

    kind     of the file, one of file_kinds.NAMES
    how      "even" or "changes"
    side     longest of a frame that is written, in pixels
    seconds  that a video may last
    pixels   that a frame may have
    decoded  frames that may be decoded
    memory   bytes that this process may take
    wall_s   seconds that it may take
    """

    file: str
    kind: str
    folder: str
    count: int
    how: str
    side: int
    seconds: float
    pixels: int
    decoded: int
    memory: int
    wall_s: float


class Meter:
    """Counts what a decoder does against the limits."""

    def __init__(self, job: Job) -> None:
        self._end = time.monotonic() + job.wall_s
        self._left = job.decoded
        self._pixels = job.pixels

    def tick(self) -> None:
        """Spent where the time is over."""
        if time.monotonic() > self._end:
            raise Spent

    def frame(self, width: int, height: int) -> None:
        """Of each that is decoded: Spent, or Refused for its size."""
        self.tick()
        self._left -= 1
        if self._left < 0:
            raise Spent
        self.size(width, height)

    def size(self, width: int, height: int) -> None:
        if width * height > self._pixels:
            raise Refused(
                f"has frames of {width:,} x {height:,} pixels; "
                f"they may have {self._pixels / 10**6:.1f} million",
                "Save it in 4K or smaller.",
            )


class Shot(Protocol):
    """A frame that is shown from `time` on, in seconds from the first."""

    time: float

    def picture(self, side: int) -> PIL.Image.Image:
        """In RGB, turned as it is shown, its sides at most `side` pixels."""

    def image(self, side: int) -> Image:
        """That picture, encoded."""


class Source(Protocol):
    """A video that is open. `broken` becomes True where a part of it could not be decoded."""

    duration: float
    width: int
    height: int
    broken: bool
    notes: list[str]

    def at(self, time: float) -> Shot | None:
        """The frame that is shown then; times must not go back."""

    def after(self) -> Shot | None:
        """The frame that comes after the one that `at` or this gave last."""

    def each(self) -> Iterator[Shot]:
        """Frames from the beginning, as many as there is reason to look at."""


class Walk:
    """Goes through shots by their times, each once and never back."""

    def __init__(self, shots: Iterator[Shot]) -> None:
        self._shots = shots
        self._ahead: Shot | None = None  # decoded, but shown later than what was asked for
        self.shown: Shot | None = None

    def peek(self) -> Shot | None:
        """The next one, which stays the next."""
        self._ahead = self._ahead or next(self._shots, None)
        return self._ahead

    def after(self) -> Shot | None:
        """The next one."""
        coming, self._ahead = self.peek(), None
        self.shown = coming or self.shown
        return coming

    def at(self, time: float) -> Shot | None:
        """The last one that is not later, or else the first."""
        while (coming := self.peek()) is not None:
            if self.shown is not None and coming.time > time:
                break
            self.after()
        return self.shown
