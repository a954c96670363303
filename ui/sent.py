"""The pictures of a turn, small, beside its prompt, and how its deployment was shown them."""

from __future__ import annotations

import streamlit as st

from slm_backends import showing
from slm_backends.reading import Reading
from ui import full_view, reading
from ui.panes import Pane, Turn, going_on

TOLD = {
    showing.SHEET: "All pictures of the conversation were sent on one contact sheet.",
    showing.FIRST: "Only the conversation's first picture was sent.",
    showing.TEXT: "Not sent: the text in it was read here and handed on. It sees nothing else.",
}


def draw(pane: Pane, turn: Turn) -> None:
    """A row of thumbnails with the numbers that the model knows them by."""
    place = next(place for place, other in enumerate(pane.turns) if other is turn)
    before = pane.turns[pane.sent_from : place]
    first = 1 + sum(len(other.pictures) for other in before)
    key = f"{pane.number}_{turn.id}"
    with st.container(
        horizontal=True, wrap=False, gap="xsmall", vertical_alignment="bottom", key=f"sent_{key}"
    ):
        for number, picture in enumerate(turn.pictures, first):
            with st.container(key=f"small_{key}_{number}"):
                st.image(picture.small, alt=f"Picture {number}: {picture.name}")
                st.caption(f"{number} · {picture.at}" if picture.at else str(number))
        st.button(
            "Full view",
            key=f"full_{key}",
            type="tertiary",
            on_click=going_on,
            args=(full_view.ask, turn.pictures, first),
        )
    if turn.way in TOLD:
        st.caption(TOLD[turn.way])
    if turn.run is not None and isinstance(turn.run.backend, Reading):
        _draw_read(turn.run.backend, turn, first, key)


def _draw_read(reader: Reading, turn: Turn, first: int, key: str) -> None:
    """What was read in the turn's pictures; drawn once it is opened, as that takes a while."""
    told = st.expander("What was read", type="compact", key=f"read_{key}", on_change=going_on)
    if not told.open:
        return
    with told:
        if reader.asked is None:
            st.caption("It was not read to its end.")
            return
        for number, (image, found) in enumerate(reader.read[-len(turn.pictures) :], first):
            st.caption(f"Picture {number}")
            reading.draw(image, found)
