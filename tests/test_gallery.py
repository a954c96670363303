"""The sample pictures: drawn by the script that is here, whole, small, and chosen by a click."""

from __future__ import annotations

import io
from pathlib import Path

import numpy
import PIL.Image
import pytest
from streamlit.testing.v1 import AppTest

from scripts import draw_samples
from ui import gallery

MOST_BYTES = 400_000  # of all together
FONT_DIFFERENCE = 4.0  # of 255, on average: versions of Pillow smooth letters a little differently


def pixels(image: PIL.Image.Image) -> numpy.ndarray:
    return numpy.asarray(image.convert("RGB"), dtype=float)


@pytest.mark.parametrize("name", draw_samples.PICTURES)
def test_what_lies_here_is_what_the_script_draws(name: str) -> None:
    with PIL.Image.open(gallery.FOLDER / f"{name}.png") as kept:
        assert kept.format == "PNG" and kept.mode == "RGB"
        drawn = draw_samples.PICTURES[name]()
        assert kept.size == drawn.size
        assert numpy.abs(pixels(kept) - pixels(drawn)).mean() < FONT_DIFFERENCE


def test_another_picture_is_told_from_it() -> None:
    """The comparison above notices a shape that is elsewhere."""
    drawn = [pixels(draw_samples.ball(number)) for number in range(2)]
    assert numpy.abs(drawn[0] - drawn[1]).mean() > FONT_DIFFERENCE


def test_the_script_writes_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["draw_samples", str(tmp_path)])
    monkeypatch.setattr(draw_samples, "PICTURES", {"sign": draw_samples.sign})
    draw_samples.main()
    assert [file.name for file in tmp_path.iterdir()] == ["sign.png"]


def test_every_file_is_in_a_sample_and_every_sample_is_here() -> None:
    named = [file for sample in gallery.SAMPLES for file in sample.files]
    assert len(named) == len(set(named))
    here = list(gallery.FOLDER.iterdir())
    assert sorted(named) == sorted(file.name for file in here)
    assert sorted(named) == sorted(f"{name}.png" for name in draw_samples.PICTURES)
    assert sum(file.stat().st_size for file in here) < MOST_BYTES


def test_samples_have_names_for_people_and_for_those_who_do_not_see() -> None:
    for words in ("name", "caption", "alt"):
        told = [getattr(sample, words) for sample in gallery.SAMPLES]
        assert len(set(told)) == len(told) and all(told)


def test_files_of_several_samples_come_in_order() -> None:
    names = [name for name, _ in gallery.files(("frames", "shapes"))]
    assert names == [f"frame-{number}.png" for number in (1, 2, 3, 4)] + ["shapes.png"]


def test_the_frames_are_a_ball_that_moves_to_the_right() -> None:
    red = []
    for _, data in gallery.files(("frames",)):
        image = pixels(PIL.Image.open(io.BytesIO(data)))
        ball = (image[..., 0] > 180) & (image[..., 1] < 90)
        red.append(numpy.nonzero(ball)[1].mean())
    assert red == sorted(red) and red[-1] - red[0] > 200


def test_the_receipt_says_what_its_description_does() -> None:
    total = f"{sum(draw_samples.BOUGHT.values()) / 100:.2f}"
    receipt = next(sample for sample in gallery.SAMPLES if sample.name == "receipt")
    assert f" {total} " in receipt.alt


def _page() -> None:
    import streamlit as st

    from ui import gallery

    gallery.draw(lambda files: st.session_state.setdefault("taken", []).append(files))


def test_a_click_gives_the_files_of_a_sample() -> None:
    page = AppTest.from_function(_page).run()
    assert not page.exception
    assert [button.label for button in page.button] == [item.caption for item in gallery.SAMPLES]
    page.button(key="take_frames").click().run()
    assert page.session_state["taken"] == [gallery.files(("frames",))]
