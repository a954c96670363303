"""Frames of real videos, written here by PyAV and Pillow and decoded in the real child process."""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import bad_pictures as files
import PIL.Image
import pytest

from slm_backends import child, video
from slm_backends.errors import BadRequest
from slm_backends.video_job import CLIP

GREYS = [0, 40, 80, 120, 160, 200, 220, 240]
MEMORY_MIB = 300  # of the child, for the largest frames that it decodes


def greys(clip: video.Clip) -> list[int]:
    """The frames' lightness, to the next ten."""
    return [
        10 * round(files.read(frame.image.data).convert("L").getpixel((5, 5)) / 10)
        for frame in clip.frames
    ]


def times(clip: video.Clip) -> list[float]:
    return [round(frame.time_s, 2) for frame in clip.frames]


def refused(data: bytes | Path, **options: object) -> str:
    with pytest.raises(BadRequest) as caught:
        video.frames(data, 4, **options)  # type: ignore[arg-type]
    assert caught.value.hint.endswith(".")
    return caught.value.message


# --- evenly spaced --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mp4", "mov", "webm", "matroska"])
def test_frames_come_evenly_from_every_container(kind: str) -> None:
    clip = video.frames(files.film(GREYS, kind=kind), 4)
    assert times(clip) == [0.0, 2.0, 4.0, 6.0]
    assert greys(clip) == [0, 80, 160, 220]
    assert (clip.width, clip.height) == (64, 48)
    assert clip.duration_s == pytest.approx(7, abs=0.1)
    assert clip.notes == ()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_frames_come_evenly_from_pictures_that_move(kind: str) -> None:
    clip = video.frames(files.moving(kind, 8, seconds=0.5), 4)
    assert times(clip) == [0.5, 1.5, 2.5, 3.5]
    assert greys(clip) == [20, 60, 100, 140]
    assert (clip.duration_s, clip.width, clip.height, clip.notes) == (4.0, 64, 48, ())


def test_time_stamps_count_where_the_rate_varies() -> None:
    uneven = [0, 1, 1.1, 1.2, 1.3, 4, 6, 8]
    clip = video.frames(files.film(GREYS, times=uneven), 4)
    assert times(clip) == [1.0, 1.3, 4.0, 6.0]
    assert greys(clip) == [40, 160, 200, 220]


def test_nothing_comes_twice_where_one_frame_stays_long() -> None:
    clip = video.frames(files.film(GREYS, times=[0, 0.1, 0.2, 0.3, 0.4, 9, 9.1, 9.2]), 4)
    assert times(clip) == [0.4, 9.0, 9.1, 9.2]


def test_fewer_frames_than_asked_for() -> None:
    clip = video.frames(files.film([0, 100, 200]), 8)
    assert greys(clip) == [0, 100, 200]
    assert clip.notes == ("It has only 3 frames.",)
    assert video.frames(files.moving("GIF", 1), 8).notes == ("It has only one frame.",)


def test_a_long_video_is_jumped_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3,000 frames so few may be decoded that only jumps to key frames can do it."""
    picture = files.drawn(32, 32)
    data = files.film_of((picture for _ in range(3_000)), range(3_000), size=(32, 32))
    monkeypatch.setattr(video, "MAX_DECODED", 200)
    clip = video.frames(data, 8)
    assert len(clip.frames) == 8
    assert times(clip) == pytest.approx([(n + 0.5) * 3_000 / 8 for n in range(8)], abs=2)


def test_a_recording_without_length_or_index() -> None:
    live = files.film(GREYS, kind="webm", options={"live": "1"})
    clip = video.frames(live, 4)
    assert times(clip) == [0.0, 2.0, 4.0, 6.0]
    assert clip.duration_s == pytest.approx(7, abs=0.1)


def test_a_video_that_does_not_begin_at_zero() -> None:
    clip = video.frames(files.film(GREYS, kind="matroska", times=range(100, 108)), 4)
    assert times(clip)[0] < 1
    assert len(clip.frames) == 4


@pytest.mark.parametrize(("degrees", "red"), [(90, "below"), (180, "right"), (-90, "above")])
def test_it_is_turned_as_the_camera_was_held(degrees: int, red: str) -> None:
    data = files.film_of([files.drawn()] * 3, range(3), rotation=degrees)
    clip = video.frames(data, 1)
    size = (48, 64) if degrees % 180 else (64, 48)
    assert (clip.width, clip.height) == files.read(clip.frames[0].image.data).size == size
    assert clip.notes == ("Turned as the camera was held.",)
    right, bottom = size[0] - 5, size[1] - 5
    at = {"below": (5, bottom), "right": (right, bottom), "above": (right, 5)}[red]
    colour = files.read(clip.frames[0].image.data).getpixel(at)
    assert colour[0] > 200 and max(colour[1:]) < 60


def test_large_frames_are_made_smaller() -> None:
    clip = video.frames(files.film([0, 100], width=2_000, height=1_000), 1)
    assert (clip.width, clip.height) == (2_000, 1_000)
    assert files.read(clip.frames[0].image.data).size == (video.FRAME_SIDE, 840)


def test_a_file_and_its_bytes_are_the_same(tmp_path: Path) -> None:
    data = files.film(GREYS)
    path = tmp_path / "100% of it #1:2.mp4"
    path.write_bytes(data)
    assert video.frames(path, 3) == video.frames(data, 3)


# --- where the scene changes ----------------------------------------------------------------------


def test_changes_are_found() -> None:
    clip = video.frames(files.film([0, 0, 0, 100, 100, 200, 200]), 8, "changes")
    assert times(clip) == [0.0, 3.0, 5.0]
    assert greys(clip) == [0, 100, 200]
    assert clip.notes == ("It has only 3 scenes.",)


def test_of_too_many_changes_the_strongest_are_kept() -> None:
    def scene(dark: int) -> PIL.Image.Image:
        picture = PIL.Image.new("RGB", (64, 48), "white")
        picture.paste("black", (0, 0, dark, 48))
        return picture

    shots = [scene(dark) for dark in (0, 0, 22, 22, 64, 64)]
    found = video.frames(files.film_of(shots, range(6)), 8, "changes")
    assert times(found) == [0.0, 2.0, 4.0]
    assert times(video.frames(files.film_of(shots, range(6)), 2, "changes")) == [0.0, 4.0]


def test_changes_of_a_gif() -> None:
    assert len(video.frames(files.moving("GIF", 6), 8, "changes").frames) == 6


def test_of_a_long_video_key_frames_are_looked_at() -> None:
    grey = [PIL.Image.new("RGB", (32, 32), (value,) * 3) for value in (0, 100)]
    shots = (grey[number >= 60] for number in range(130))
    data = files.film_of(shots, range(130), size=(32, 32))
    clip = video.frames(data, 8, "changes")
    assert greys(clip) == [0, 100]
    assert 60 <= clip.frames[1].time_s <= 72  # the next key frame: each twelfth is one


# --- progress, cancel, limits ---------------------------------------------------------------------


@pytest.mark.parametrize("how", ["even", "changes"])
def test_progress_rises_to_one(how: video.How) -> None:
    parts: list[float] = []
    video.frames(files.film(GREYS), 4, how, progress=parts.append)
    assert parts[-1] == 1
    assert all(before <= after for before, after in pairwise(parts))
    assert len(parts) >= 4


def test_a_cancel_ends_the_child() -> None:
    begun = time.monotonic()
    with pytest.raises(child.ChildCancelled):
        video.frames(files.film(GREYS), 4, cancelled=lambda: True)
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(("name", "value"), [("MAX_DECODED", 20), ("WALL_S", 0.0)])
def test_reading_that_takes_too_long_keeps_what_there_is(
    monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    data = files.film([0] * 10 + [100] * 40)
    monkeypatch.setattr(video, name, value)
    if name == "WALL_S":
        assert refused(data) == "The video could not be opened within 0 seconds."
    else:
        clip = video.frames(data, 8, "changes")
        assert greys(clip) == [0, 100]
        assert clip.notes == ("Reading stopped at 0:10: the rest would take too long.",)


def test_a_decoder_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "PATIENCE_S", -video.WALL_S)
    assert refused(files.film(GREYS)) == "The video could not be read within 0 seconds."


def test_a_decoder_that_crashes_is_only_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "CHILD", "tests.no_such_decoder")
    assert "its decoder ended with code 1" in refused(files.film(GREYS))


def test_memory_that_it_may_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux limits it")
    monkeypatch.setattr(video, "MAX_MEMORY_BYTES", 150 * 2**20)
    said = refused(files.film([0, 100], width=4_000, height=2_000))
    assert "memory" in said or "decoder ended" in said


DECODE = "from slm_backends import video_child; video_child.main()"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says it in /proc")
def test_memory_is_bounded(tmp_path: Path) -> None:
    """Of frames as large as may be, coded so that many are held to decode the next."""
    large = files.film_of(
        [files.drawn(4_096, 2_304)] * 6, range(6), size=(4_096, 2_304), codec="libx264"
    )
    (tmp_path / "large").write_bytes(large)
    job = video.job(tmp_path / "large", "mp4", tmp_path, 4, "even")
    assert files.peak_mib(DECODE, json.dumps(asdict(job))) < MEMORY_MIB
    assert len(json.loads((tmp_path / CLIP).read_text())["frames"]) == 4


def test_what_lasts_too_long() -> None:
    assert refused(files.film([0, 100], times=[0, 5 * 3_600]), name="all.mp4") == (
        "all.mp4 lasts 5:00:00; a video may last 3:00:00."
    )


def test_frames_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_FRAME_PIXELS", 64 * 48 - 1)
    for data in (files.film(GREYS), files.moving("GIF", 3)):
        assert "frames of 64 x 48 pixels" in refused(data)


def test_a_canvas_that_is_a_bomb() -> None:
    assert "frames of 16,384 x 16,384 pixels" in refused(files.webp_bomb())


def test_a_file_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_FILE_BYTES", 2**20)
    assert refused(files.film(GREYS) + bytes(2**20)) == "The video has 1 MiB; a video may have 1."


@pytest.mark.parametrize("count", [0, 33])
def test_how_many_may_be_asked_for(count: int) -> None:
    with pytest.raises(BadRequest, match="Between 1 and 32"):
        video.frames(b"", count)


# --- broken ones ----------------------------------------------------------------------------------


def test_broken_at_the_end_keeps_what_can_be_read() -> None:
    whole = files.film(list(range(0, 250, 2)), options={"movflags": "faststart"})
    clip = video.frames(whole[: len(whole) // 2], 4)
    assert 1 <= len(clip.frames) < 4
    assert clip.notes == ("A part of it is broken: these frames are from what can be read.",)
    assert "broken" in video.frames(whole[: len(whole) // 2], 4, "changes").notes[0]


def test_broken_in_the_middle_goes_on_behind_it() -> None:
    data = bytearray(files.film(list(range(0, 240, 2)), kind="matroska"))
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    clip = video.frames(bytes(data), 8)
    assert clip.frames[-1].time_s > 90
    assert any("broken" in note for note in clip.notes)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_a_picture_that_moves_and_is_cut_off(kind: str) -> None:
    whole = files.moving(kind, 8)
    half = whole[: len(whole) // 2]
    if kind == "GIF":
        clip = video.frames(half, 8)
        assert 1 <= len(clip.frames) < 8
        assert any("broken" in note for note in clip.notes)
    else:
        assert refused(half) == "The video is damaged or cut off."


def test_without_its_index_it_is_refused() -> None:
    whole = files.film(GREYS)
    assert refused(whole[: len(whole) // 2], name="a.mp4") == (
        "a.mp4 is empty, damaged or cut off: nothing in it can be played."
    )


def test_without_video() -> None:
    assert refused(files.sound_only()) == "The video has sound in it, but no video."


def test_without_frames() -> None:
    assert refused(files.no_frames()).startswith("The video is empty, damaged or cut off")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty."),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "is a text."),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "is a text."),
        (files.written(files.drawn(), "JPEG"), "is a JPEG picture."),
        (b"%PDF-1.7", "is a PDF."),
        (random.Random(1).randbytes(5_000), "is of an unknown kind."),
    ],
)
def test_something_else(data: bytes, said: str) -> None:
    assert refused(data) == f"The video {said}"


@pytest.mark.parametrize("sign", [b"\0\0\0\x18ftypisom", b"\x1a\x45\xdf\xa3", b"GIF89a"])
def test_random_bytes_behind_a_good_beginning(sign: bytes) -> None:
    assert refused(sign + random.Random(2).randbytes(20_000)).startswith("The video ")


def test_what_is_a_video() -> None:
    assert video.is_video(files.film(GREYS)[:512])
    assert video.is_video(files.moving("GIF", 2))
    assert not video.is_video(files.moving("PNG", 2))
    assert not video.is_video(b"hello")
