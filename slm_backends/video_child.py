"""The child process of video.py: opens one video, chooses frames, writes them into a folder.

    python -m slm_backends.video_child '{"file": "film.mp4", "kind": "mp4", "count": 8, ...}'

Knows how frames are chosen. Prints how much is done, a number from 0 to 1 a line; what it found, or
why it refuses, is in clip.json. Knows no container and no codec: film.py and strip.py do.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_backends.video_job import CLIP, Job, Meter, Refused, Source, Spent

if TYPE_CHECKING:
    from slm_backends.chat import Image

#: Grey histograms that correlate less are two scenes: 0.9 in Microsoft's lesson on Phi-3.5-vision.
SAME_SCENE = 0.9
LOOKED_AT_SIDE = 160  # pixels of a frame whose scene is compared


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    folder = Path(job.folder)
    try:
        found = _found(job, folder)
    except Refused as refused:
        found = {"refused": str(refused), "hint": refused.hint}
    except MemoryError:
        found = {"refused": "needs too much memory", "hint": "Save it smaller, then try again."}
    (folder / CLIP).write_text(json.dumps(found), encoding="utf-8")


def _found(job: Job, folder: Path) -> dict[str, Any]:
    meter = Meter(job)
    try:
        source = _opened(job, meter)
    except Spent:
        raise Refused(f"could not be opened within {job.wall_s:g} seconds") from None
    if source.duration > job.seconds:
        raise Refused(
            f"lasts {_clock(source.duration)}; a video may last {_clock(job.seconds)}",
            "Cut out the part that matters.",
        )
    choose = _changes if job.how == "changes" else _even
    kept: list[tuple[float, Image]] = []
    spent = False
    try:
        choose(source, job, kept)
    except Spent:
        spent = True
    if not kept:
        raise Refused(
            "has no frame that could be read in time" if spent else "has no frame that can be shown"
        )
    return {
        "duration_s": source.duration,
        "width": source.width,
        "height": source.height,
        "frames": [_written(folder, number, *one) for number, one in enumerate(kept)],
        "notes": [*source.notes, *_said(source, job, kept, spent)],
    }


def _opened(job: Job, meter: Meter) -> Source:
    _limit_memory(job.memory)
    if job.kind in ("mp4", "webm"):
        from slm_backends.film import Film  # loads PyAV, which only this process does

        return Film(job.file, job.kind, meter)
    from slm_backends.strip import Strip

    return Strip(job.file, job.kind, meter)


def _even(source: Source, job: Job, kept: list[tuple[float, Image]]) -> None:
    """What is shown in the middle of each of `count` equal parts, but nothing twice: where one
    frame is shown for several of them, those that come after it are taken."""
    last = -1.0
    for number in range(job.count):
        shot = source.at((number + 0.5) * source.duration / job.count)
        if shot is not None and shot.time <= last:
            shot = source.after()
        if shot is not None:
            kept.append((shot.time, shot.image(job.side)))
            last = shot.time
        _progress((number + 1) / job.count)


def _changes(source: Source, job: Job, kept: list[tuple[float, Image]]) -> None:
    """The first frame, and those least like the frame that was kept before them."""
    import numpy as np

    likeness: list[float] = []  # of each that is kept, to the one before
    before: np.ndarray[Any, Any] | None = None
    for shot in source.each():
        histogram = np.asarray(shot.picture(LOOKED_AT_SIDE).convert("L").histogram(), float)
        like = -1.0 if before is None else _correlation(before, histogram)
        if before is None or like < SAME_SCENE:
            kept.append((shot.time, shot.image(job.side)))
            likeness.append(like)
            before = histogram
        if len(kept) > job.count:
            weakest = max(range(1, len(kept)), key=likeness.__getitem__) if job.count > 1 else 1
            del kept[weakest], likeness[weakest]
        if source.duration:
            _progress(min(1.0, shot.time / source.duration))
    _progress(1.0)


def _correlation(a: Any, b: Any) -> float:
    """Pearson's, as OpenCV's HISTCMP_CORREL."""
    a, b = a - a.mean(), b - b.mean()
    scale = float((a * a).sum() * (b * b).sum()) ** 0.5
    return float((a * b).sum()) / scale if scale else 1.0


def _written(folder: Path, number: int, time_s: float, image: Image) -> dict[str, Any]:
    name = f"frame-{number}"
    (folder / name).write_bytes(image.data)
    return {"time_s": time_s, "file": name, "media_type": image.media_type}


def _said(source: Source, job: Job, kept: list[tuple[float, Image]], spent: bool) -> list[str]:
    notes = []
    if source.broken:
        notes.append("A part of it is broken: these frames are from what can be read.")
    if spent:
        notes.append(f"Reading stopped at {_clock(kept[-1][0])}: the rest would take too long.")
    elif len(kept) < job.count and not source.broken:
        what = "scene" if job.how == "changes" else "frame"
        notes.append(
            f"It has only {len(kept)} {what}s." if len(kept) > 1 else f"It has only one {what}."
        )
    return notes


def _progress(part: float) -> None:
    print(f"{part:.3f}", flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _limit_memory(most: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    if sys.platform == "linux":  # elsewhere the system takes no notice
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main()
