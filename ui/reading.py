"""What was read in a picture, as a person can check it: boxes on the picture, lines, confidence."""

from __future__ import annotations

import streamlit as st

from slm_backends import ocr
from slm_backends.chat import Image
from slm_backends.ocr import Reading

ALT = "The picture, with a numbered box around each line of text that was read in it."


def draw(image: Image, reading: Reading) -> None:
    """The picture with boxes, and below it a row for each of their numbers."""
    if not reading.lines:
        st.caption("No text was found in this picture.")
        return
    st.image(ocr.drawn(image, reading), alt=ALT)
    st.dataframe(
        {
            "Box": list(range(1, len(reading.lines) + 1)),
            "Text": [line.text for line in reading.lines],
            "Confidence": [f"{line.confidence:.0%}" for line in reading.lines],
        },
        hide_index=True,
        width="stretch",
    )
    st.caption(
        f"Read in {reading.seconds:.1f} s on this computer. Text only: nothing else was seen."
    )
