"""What was read in a picture on screen: every line with its box's number and its confidence."""

from __future__ import annotations

import io

import PIL.Image
from drawn import picture
from streamlit.testing.v1 import AppTest

from slm_backends import ocr
from slm_backends.ocr import Line, Reading


def line(text: str, y: float, confidence: float) -> Line:
    return Line(text, ((10, y), (90, y), (90, y + 20), (10, y + 20)), confidence)


READING = Reading(((line("TOTAL", 10, 0.987),), (line("<b>12.40</b>", 50, 0.5),)), 100, 100, 0.25)


def _page() -> None:
    import streamlit as st

    from ui import reading

    reading.draw(st.session_state.image, st.session_state.reading)


def shown(reading: Reading) -> AppTest:
    page = AppTest.from_function(_page)
    page.session_state["image"] = picture("PNG", 100, 100)
    page.session_state["reading"] = reading
    page.run()
    assert not page.exception
    return page


def test_a_row_for_each_line() -> None:
    page = shown(READING)
    table = page.dataframe[0].value
    assert table["Box"].tolist() == [1, 2]
    assert table["Text"].tolist() == ["TOTAL", "<b>12.40</b>"]  # text, nothing that is drawn
    assert table["Confidence"].tolist() == ["99%", "50%"]
    assert "0.2 s" in page.caption[0].value
    assert page.get("image")[0].proto.imgs[0].alt.startswith("The picture, with a numbered box")


def test_nothing_that_was_read_is_said() -> None:
    page = shown(Reading((), 100, 100, 0.1))
    assert [caption.value for caption in page.caption] == ["No text was found in this picture."]
    assert not page.dataframe


def test_the_picture_has_the_boxes() -> None:
    drawn = PIL.Image.open(io.BytesIO(ocr.drawn(picture("PNG", 100, 100), READING)))
    assert drawn.size == (100, 100)
