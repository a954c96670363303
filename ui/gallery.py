"""Sample pictures to try the Vision page with: made up, drawn by scripts/draw_samples.py.

Knows their names and what is on them. Whoever draws the gallery says what becomes of a choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

FOLDER = Path(__file__).with_name("samples")

File = tuple[str, bytes]  # its name and what is in it


@dataclass(frozen=True)
class Sample:
    """One choice: a picture, or several that belong together, in order.

    name     as code calls it
    files    in FOLDER
    caption  what a person reads below it; `alt` what stands for it where it is not seen
    """

    name: str
    files: tuple[str, ...]
    caption: str
    alt: str

    def read(self) -> list[File]:
        return [(file, (FOLDER / file).read_bytes()) for file in self.files]


SAMPLES = (
    Sample(
        "shapes", ("shapes.png",), "Shapes", "A red circle, a blue square and a yellow star."
    ),
    Sample("bars", ("bars.png",), "Bars", "Four bars, A to D, with the values 4, 7, 2 and 5."),
    Sample(
        "pair", ("pair-1.png", "pair-2.png"), "Two that differ",
        "A red circle and a green triangle, the second time with a purple square.",
    ),
    Sample(
        "frames", tuple(f"frame-{number}.png" for number in range(1, 5)), "Four frames",
        "A red circle moves to the right, below a blue square.",
    ),
    Sample(
        "chart", ("chart.png",), "Chart", "Bicycles sold in 2025: 120, 310, 380, 190 a quarter."
    ),
    Sample("table", ("table.png",), "Table", "Opening hours and visitors of four days."),
    Sample("receipt", ("receipt.png",), "Receipt", "A bakery's receipt, 12.40 euros in all."),
    Sample("sign", ("sign.png",), "Street sign", "Rue de la Gare, below it Bahnhofstrasse."),
)  # fmt: skip
_BY_NAME = {sample.name: sample for sample in SAMPLES}


def files(names: Iterable[str]) -> list[File]:
    """All files of those samples, in order."""
    return [file for name in names for file in _BY_NAME[name].read()]


def draw(add: Callable[[Sequence[File]], None]) -> None:
    """A thumbnail and a button for each; `add` is called with the files of what was chosen."""
    with st.container(horizontal=True, key="gallery", gap="small"):
        for sample in SAMPLES:
            with st.container(width=120, gap=None, key=f"sample_{sample.name}"):
                st.image(str(FOLDER / sample.files[0]), width="stretch", alt=sample.alt)
                st.button(
                    sample.caption,
                    key=f"take_{sample.name}",
                    help=sample.alt,
                    type="tertiary",
                    on_click=_take,
                    args=(sample, add),
                )


def _take(sample: Sample, add: Callable[[Sequence[File]], None]) -> None:
    add(sample.read())
