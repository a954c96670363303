"""A video file that PyAV decodes: MP4, QuickTime, WebM, Matroska.

Knows containers, seeking and time stamps. Runs in the child process of video.py only.

Frames are found by their time stamps, never by counting: many videos have no fixed rate. A jump
lands on the key frame before, and what lies between is decoded and passed over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import av
import av.error
import PIL.Image

from slm_backends import images
from slm_backends import video_job as job
from slm_backends.chat import Image
from slm_backends.video_job import Meter, Refused, Walk

NEAR_S = 2.0  # a time so close is reached by decoding on, not by a jump
EVERY_FRAME_S = 120.0  # of longer videos only key frames are looked at for changes
LOOK_S = 0.1  # between two looks
THREADS = 2  # each takes memory
MAX_STRETCH = 4.0  # of pixels that are not square; more is a mistake

_NOTHING = "is empty, damaged or cut off: nothing in it can be played"
_FORMATS = {"mp4": "mov", "webm": "matroska"}
_TURNS = {
    90: PIL.Image.Transpose.ROTATE_90,
    180: PIL.Image.Transpose.ROTATE_180,
    -180: PIL.Image.Transpose.ROTATE_180,
    -90: PIL.Image.Transpose.ROTATE_270,
}


class Shot:
    """One decoded frame; `time` in seconds from the first, `size` in pixels as it is shown."""

    def __init__(self, frame: av.VideoFrame, time: float, stretch: float) -> None:
        self.time = time
        self._frame = frame
        self._width = max(1, round(frame.width * stretch))
        self._turn = _TURNS.get(frame.rotation)

    @property
    def turned(self) -> bool:
        return self._turn is not None

    @property
    def size(self) -> tuple[int, int]:
        size = (self._width, self._frame.height)
        return size if self._frame.rotation % 180 == 0 else size[::-1]

    def picture(self, side: int) -> PIL.Image.Image:
        scale = min(1.0, side / max(self.size))
        picture = cast(
            PIL.Image.Image,
            self._frame.to_image(  # type: ignore[no-untyped-call]
                width=max(1, round(self._width * scale)),
                height=max(1, round(self._frame.height * scale)),
                interpolation="BICUBIC",
            ),
        )
        return picture if self._turn is None else picture.transpose(self._turn)

    def image(self, side: int) -> Image:
        """As JPEG: a video's frames have lost what PNG would keep."""
        return images.jpeg(self.picture(side))


class Film:
    """See video_job.Source. Raises Refused where nothing in the file can be played."""

    _container: av.container.InputContainer
    _stream: av.VideoStream
    _walk: Walk

    def __init__(self, file: str, kind: str, meter: Meter) -> None:
        self._file = file
        self._format = _FORMATS[kind]
        self._meter = meter
        self._start = 0.0  # seconds; not every file begins at zero
        self._jumps = True
        self.broken = False
        self.notes: list[str] = []
        self._begin()
        first = next(self._decoded(), None)
        if first is None:
            raise Refused("has no frame that can be shown")
        self._start = first.time
        self.width, self.height = first.size
        if first.turned:
            self.notes.append("Turned as the camera was held.")
        self.duration = self._length()
        self._begin()

    def at(self, time: float) -> job.Shot | None:
        shown = self._walk.shown
        if self._jumps and (shown is None or time > shown.time + NEAR_S):
            self._jump(time)
        return self._walk.at(time)

    def after(self) -> job.Shot | None:
        return self._walk.after()

    def each(self) -> Iterator[Shot]:
        self._begin()
        if self.duration > EVERY_FRAME_S:
            self._stream.codec_context.skip_frame = "NONKEY"
        looked = -LOOK_S
        for shot in self._decoded():
            if shot.time >= looked + LOOK_S:
                looked = shot.time
                yield shot

    def _begin(self) -> None:
        """Open the file at its beginning. No other file or address can be reached from it."""
        try:
            self._container = av.open(
                f"file:{self._file}",
                format=self._format,
                options={"protocol_whitelist": "file"},
            )
        except MemoryError:
            raise
        except av.error.FFmpegError:
            raise Refused(_NOTHING) from None
        streams = self._container.streams
        if not streams.video:
            raise Refused("has sound in it, but no video" if streams.audio else _NOTHING)
        self._stream = streams.video[0]
        context = self._stream.codec_context
        if context is None:
            raise Refused("is written in a way that cannot be decoded here")
        self._meter.size(context.width, context.height)
        context.thread_count = THREADS
        self._walk = Walk(self._decoded())

    def _jump(self, time: float) -> None:
        """To the key frame before, or, where the file cannot be searched, to its beginning."""
        coming = None
        with contextlib.suppress(av.error.FFmpegError):
            self._container.seek(int((time + self._start) * av.time_base))
            self._walk = Walk(self._decoded())
            coming = self._walk.peek()
        if coming is None or coming.time > time:
            self._jumps = False
            self._begin()

    def _length(self) -> float:
        """Seconds: what the file says, or else the time of its last packet."""
        stream = self._stream
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        if self._container.duration:
            end = self._container.duration / av.time_base  # Matroska counts from zero
            return end - self._start if end > self._start else end
        end = 0.0
        try:
            for packet in self._container.demux(stream):
                self._meter.tick()
                if packet.pts is not None and packet.time_base:
                    shown = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    end = max(end, shown)
        except av.error.FFmpegError:
            self.broken = True
        return max(0.0, end - self._start)

    def _decoded(self) -> Iterator[Shot]:
        """Frames from here on; broken ones are left out."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError:
                self.broken = True
                packet = None
            if packet is None:
                yield from self._whole(self._stream.codec_context.decode)
                return
            yield from self._whole(packet.decode)

    def _whole(self, decode: Callable[[], Iterable[av.VideoFrame]]) -> Iterator[Shot]:
        self._meter.tick()
        try:
            frames = list(decode())
        except MemoryError:  # which is one of FFmpeg's errors too
            raise
        except EOFError:  # there is nothing more to come
            return
        except av.error.FFmpegError:
            self.broken = True
            return
        for frame in frames:
            self._meter.frame(frame.width, frame.height)
            if frame.is_corrupt or frame.time is None:
                self.broken = True
            else:
                yield Shot(frame, frame.time - self._start, self._stretch())

    def _stretch(self) -> float:
        """How wide a pixel is for its height."""
        ratio = self._stream.sample_aspect_ratio
        wide = float(ratio) if ratio else 1.0
        return wide if 1 / MAX_STRETCH <= wide <= MAX_STRETCH else 1.0
