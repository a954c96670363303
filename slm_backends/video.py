"""Pictures from a video: its length, and frames from all of it or from where its scenes change.

Knows limits, and what to say of a file that is none, broken or too much. Decodes nothing itself:
video_child.py does, in a child process, so that a decoder which crashes, never ends or fills the
memory ends there. Does not know models or pages.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from slm_backends import child, file_kinds
from slm_backends.chat import MAX_IMAGES, Image
from slm_backends.errors import BadRequest
from slm_backends.video_job import ANOTHER, CLIP, Job

MAX_FILE_BYTES = 500 * 2**20
MAX_SECONDS = 3 * 3_600.0  # a long film
MAX_FRAME_PIXELS = 4_096 * 2_304  # 4K
MAX_DECODED = 20_000  # frames, also those that are only passed over: 11 minutes at 30 a second
MAX_MEMORY_BYTES = 2 * 2**30  # of the child, where the system can limit it
WALL_S = 60.0  # then the child ends with the frames that it has
PATIENCE_S = 10.0  # after that it is ended
FRAME_SIDE = 1_680  # 5 crops of 336 pixels: all that Phi-3-vision sees of a picture of 16:9

CHILD = "slm_backends.video_child"  # the module
How = Literal["even", "changes"]


@dataclass(frozen=True)
class Frame:
    """What is shown from `time_s` seconds on, counted from the first frame."""

    time_s: float
    image: Image


@dataclass(frozen=True)
class Clip:
    """`width` x `height` are a frame's pixels in the file, turned as it is shown; the frames may be
    smaller. `notes` says, a sentence each, what was done or is missing."""

    duration_s: float
    width: int
    height: int
    frames: tuple[Frame, ...]
    notes: tuple[str, ...] = ()


def is_video(data: bytes) -> bool:
    """Whether `frames` takes it, by its first bytes: a GIF is a video too."""
    return file_kinds.kind(data) in file_kinds.VIDEOS


def frames(
    file: Path | bytes,
    count: int,
    how: How = "even",
    *,
    name: str = "",
    progress: Callable[[float], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Clip:
    """At most `count` frames of a video, in order; fewer where it has fewer that differ.

    file       MP4, QuickTime, WebM, Matroska or GIF, also a WEBP or PNG that moves
    how        "even": spaced evenly over its length; "changes": the first frame, and where the
               scene changes most
    name       of the file, for messages
    progress   gets how much is done, 0 to 1, in the calling thread
    cancelled  is asked ten times a second; where it says so, child.ChildCancelled is raised

    BadRequest where the file is something else, broken from the start, or past a limit.
    """
    name = name or (file.name if isinstance(file, Path) else "")
    if not 1 <= count <= MAX_IMAGES:
        raise BadRequest(f"Between 1 and {MAX_IMAGES} frames can be taken, not {count}.")
    with tempfile.TemporaryDirectory(prefix="slm-video-") as made:
        folder = Path(made)
        source = folder / "video"
        if isinstance(file, Path):
            source = file.resolve()
        else:
            source.write_bytes(file)
        work = job(source, _kind(source, name), folder, count, how)
        _run(work, name, progress, cancelled)
        found = json.loads((folder / CLIP).read_text(encoding="utf-8"))
        if "refused" in found:
            raise _refused(name, found["refused"], found["hint"])
        return _clip(found, folder)


def job(file: Path, kind: str, folder: Path, count: int, how: How) -> Job:
    """What the child is asked, within the limits of this module."""
    return Job(
        file=str(file),
        kind=kind,
        folder=str(folder),
        count=count,
        how=how,
        side=FRAME_SIDE,
        seconds=MAX_SECONDS,
        pixels=MAX_FRAME_PIXELS,
        decoded=MAX_DECODED,
        memory=MAX_MEMORY_BYTES,
        wall_s=WALL_S,
    )


def _kind(file: Path, name: str) -> str:
    size = file.stat().st_size
    if size > MAX_FILE_BYTES:
        raise _refused(
            name,
            f"has {size / 2**20:,.0f} MiB; a video may have {MAX_FILE_BYTES // 2**20}",
            "Cut out the part that matters.",
        )
    with file.open("rb") as opened:
        kind = file_kinds.kind(opened.read(file_kinds.LOOKED_AT))
    if kind not in (*file_kinds.VIDEOS, "webp", "png"):
        raise _refused(
            name,
            f"is {file_kinds.NAMES[kind]}",
            "Add it as a picture."
            if kind in file_kinds.PICTURES
            else "A video must be MP4, MOV, WebM, MKV or GIF.",
        )
    return kind


def _run(
    work: Job,
    name: str,
    progress: Callable[[float], None] | None,
    cancelled: Callable[[], bool] | None,
) -> None:
    end = time.monotonic() + work.wall_s + PATIENCE_S
    late = False

    def stopped() -> bool:
        nonlocal late
        late = time.monotonic() > end
        return late or (cancelled is not None and cancelled())

    def said(line: str) -> None:
        if progress is not None:
            progress(float(line))

    try:
        child.run(
            CHILD,
            [json.dumps(asdict(work))],
            environment={"OPENBLAS_NUM_THREADS": "1"},  # NumPy's threads take memory on import
            on_line=said,
            cancelled=stopped,
        )
    except child.ChildCancelled:
        if not late:
            raise
        raise _refused(
            name, f"could not be read within {work.wall_s + PATIENCE_S:.0f} seconds", ANOTHER
        ) from None
    except child.ChildFailed as failed:
        raise _refused(
            name, f"cannot be read: its decoder ended with code {failed.code}", ANOTHER
        ) from None


def _clip(found: dict[str, Any], folder: Path) -> Clip:
    return Clip(
        duration_s=found["duration_s"],
        width=found["width"],
        height=found["height"],
        frames=tuple(
            Frame(
                frame["time_s"], Image((folder / frame["file"]).read_bytes(), frame["media_type"])
            )
            for frame in found["frames"]
        ),
        notes=tuple(found["notes"]),
    )


def _refused(name: str, what: str, hint: str) -> BadRequest:
    return BadRequest(f"{name or 'The video'} {what}.", field="messages", hint=hint)
