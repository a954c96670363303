"""Pictures in full, over the page: as they are sent, with what was done to them."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from ui.markdown import literal
from ui.pictures import Picture


def ask(pictures: Sequence[Picture], first: int) -> None:
    """Have this run of the page show them; `first` is the first one's number."""
    st.session_state.full_view = (pictures, first)


def draw() -> None:
    """Show what was asked for, once."""
    pictures, first = st.session_state.pop("full_view", ((), 0))
    if pictures:
        _dialog(pictures, first)


@st.dialog("As it is sent", width="large")
def _dialog(pictures: Sequence[Picture], first: int) -> None:
    for number, picture in enumerate(pictures, first):
        st.image(picture.image.data, alt=f"Picture {number}: {picture.name}")
        size = f"{picture.width} × {picture.height} pixels"
        told = filter(None, (f"**{number}** {literal(picture.name)}", picture.at, size))
        st.caption(" · ".join(told))
        for note in picture.notes:
            st.caption(literal(note))
