"""The view of replies: which rows are shown, in which order, and how much of each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import streamlit as st

from slm_backends.multilingual import scores
from slm_backends.multilingual.languages import LANGUAGES
from ui.multilingual import cells
from ui.multilingual.grid import OPENED, Grid

EVERY = 0.5  # seconds between two drawings of a grid in which something may change,
LARGE = 40  # replies, past which it is drawn half as often
MANY = 200  # replies, past which texts are shown when they are asked for
FILTERS = ("All", "Where they part", "Wrong language", "Failed")
ORDERS = ("As asked", "By language", "By parting")


def draw(grid: Grid) -> None:
    """Filters and the grid, which is drawn again and again while the run goes on."""
    count = len(grid.campaign.results.plan.keys)
    many = count > MANY
    with st.container(horizontal=True, vertical_alignment="bottom", key="ml_filters"):
        shown = st.segmented_control(
            "Rows", FILTERS, default=FILTERS[0], required=True, key="ml_filter", wrap=True
        )
        order = st.selectbox("Order", ORDERS, key="ml_order", width=160)
        texts = st.toggle("Texts", not many, key=f"ml_texts_{many}")
        st.caption("A badge opens its reply, with the prompt, all numbers and what differs.")
    asked = shown == "Where they part" or order == "By parting"
    apart = _partings(grid) if asked else {}
    languages = [code for code in grid.rows if _takes(grid, code, str(shown), apart)]
    if order == "By language":
        languages.sort(key=lambda code: LANGUAGES[code].name)
    elif order == "By parting":
        languages.sort(key=lambda code: -apart.get(code, 0.0))
    if not languages:
        st.caption(f"There is no row for “{shown}”.")
        return
    if grid.campaign.running:
        every = EVERY if count <= LARGE else 2 * EVERY
        st.fragment(_growing, run_every=every)(grid, languages, texts)
    else:
        grid.draw(languages, texts)


def _growing(grid: Grid, languages: Sequence[str], texts: bool) -> None:
    grid.draw(languages, texts)
    if OPENED in st.session_state:
        st.rerun()


def _takes(grid: Grid, code: str, shown: str, apart: Mapping[str, float]) -> bool:
    if shown == "Failed":
        return "failed" in grid.badges(code)
    if shown == "Wrong language":
        return bool(grid.badges(code) & cells.WRONG)
    return shown == "All" or code in apart


def _partings(grid: Grid) -> dict[str, float]:
    """Languages in which any two deployments part, and how far they do at most."""
    found: dict[str, float] = {}
    for first, second in itertools.combinations(grid.deployments, 2):
        for parting in scores.partings(grid.campaign.results, first, second):
            if parting.reasons:
                code = parting.question.language
                found[code] = max(found.get(code, 0.0), parting.weight)
    return found
