"""A picture file that moves, which Pillow decodes: GIF, and WEBP and PNG with frames.

Knows frames and how long each is shown. Runs in the child process of video.py only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import PIL.Image

from slm_backends import images, picture_file
from slm_backends import video_job as job
from slm_backends.chat import Image
from slm_backends.video_job import Meter, Refused, Walk

UNSAID_S = 0.1  # how long a frame is shown that says nothing, as browsers do


class Shot:
    """One decoded frame, in RGB; `time` in seconds from the first."""

    def __init__(self, picture: PIL.Image.Image, time: float) -> None:
        self.time = time
        self._picture = picture

    def picture(self, side: int) -> PIL.Image.Image:
        small = self._picture.copy()
        small.thumbnail((side, side))
        return small

    def image(self, side: int) -> Image:
        return images.encoded(self.picture(side))


class Strip:
    """See video_job.Source. It is decoded twice: first to learn how long each frame is shown."""

    def __init__(self, file: str, kind: str, meter: Meter) -> None:
        self._file = file
        self._kind = kind
        self._meter = meter
        self.broken = False
        self.notes: list[str] = []
        self.width, self.height = self._size()
        meter.size(self.width, self.height)
        shown = [seconds for _, seconds in self._frames()]
        self._times = [0.0, *accumulate(shown)]
        self.duration = self._times.pop()
        self._walk = Walk(self.each())

    def at(self, time: float) -> job.Shot | None:
        return self._walk.at(time)

    def after(self) -> job.Shot | None:
        return self._walk.after()

    def each(self) -> Iterator[Shot]:
        for (picture, _), time in zip(self._frames(), self._times, strict=False):
            yield Shot(images.on_white(picture), time)

    def _size(self) -> tuple[int, int]:
        data = Path(self._file).read_bytes()
        try:
            if self._kind == "gif":
                return struct.unpack_from("<HH", data, 6)
            found = picture_file.read(self._kind, data)
        except (struct.error, picture_file.Broken):
            raise Refused("is damaged or cut off") from None
        return found.width, found.height

    def _frames(self) -> Iterator[tuple[PIL.Image.Image, float]]:
        """Each frame, valid until the next is asked for, and the seconds that it is shown."""
        try:
            with PIL.Image.open(self._file, formats=(self._kind.upper(),)) as moving:
                number = 0
                while True:
                    moving.seek(number)
                    moving.load()
                    self._meter.frame(*moving.size)
                    yield moving, moving.info.get("duration", 0) / 1_000 or UNSAID_S
                    number += 1
        except EOFError:  # the one after the last
            return
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
            self.broken = True
