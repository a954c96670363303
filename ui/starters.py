"""Tasks to begin with on the Vision page: a prompt each, and a sample for an empty tray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st

from ui.pictures import Picture


@dataclass(frozen=True)
class Starter:
    """`sample` is a name of the gallery's, `fewest` how many pictures it needs."""

    name: str
    prompt: str
    sample: str
    fewest: int = 1


STARTERS = (
    Starter("Describe", "Describe this picture.", "shapes"),
    Starter("Read the text", "Read the text in this picture.", "receipt"),
    Starter("Chart to table", "Turn this chart into a Markdown table.", "bars"),
    Starter("Compare two", "Compare these two images.", "pair", fewest=2),
    Starter("Frames", "What happens in these frames?", "frames", fewest=2),
    Starter("Code for a chart", "Write Python code that draws this chart.", "bars"),
)


def draw(pictures: Sequence[Picture], start: Callable[[Starter], None]) -> None:
    """A button each; those that need more pictures than lie in the tray are greyed out."""
    for starter in STARTERS:
        short = 0 < len(pictures) < starter.fewest
        asks = starter.prompt if pictures else f"{starter.prompt} About a sample."
        st.button(
            starter.name,
            key=f"start_{starter.name}",
            help=f"It needs {starter.fewest} pictures." if short else asks,
            on_click=start,
            args=(starter,),
            disabled=short,
        )
