"""The lesson's demo in one click, or what to do first; and the scores that its makers published."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from slm_backends.fit import gigabytes
from slm_backends.multilingual import lesson
from slm_backends.multilingual.lesson import Offer, Wanted, Way
from slm_backends.multilingual.plan import Plan
from ui import shell, visitor
from ui.markdown import literal


def button(start: Callable[[Plan], None]) -> None:
    """Starts the demo where both of its models can answer; says what is missing where not."""
    if not st.button(
        "The lesson's demo",
        icon=":material/school:",
        key="ml_demo",
        help="Chinese prompts, Phi-3 mini beside Phi-3.5 mini",
    ):
        return
    offer = lesson.offer(visitor.access())
    if offer.whole and offer.plan is not None:
        start(offer.plan)
        st.rerun()
    _missing(offer, start)


@st.dialog("The lesson's demo", width="large")
def _missing(offer: Offer, start: Callable[[Plan], None]) -> None:
    st.markdown("Chinese prompts, answered by Phi-3 mini beside Phi-3.5 mini.")
    for wanted in offer.wanted:
        _draw_wanted(wanted)
    shell.link("models", "Fetch models and set up servers on the Models page", find="phi-3")
    if offer.plan is not None and st.button("Start with the one that is here", type="primary"):
        start(offer.plan)
        st.rerun()
    draw_published()


def _draw_wanted(wanted: Wanted) -> None:
    if wanted.deployment:
        st.markdown(f":green[:material/check:] **{wanted.model.name}** can answer here.")
        return
    st.markdown(f":orange[:material/warning:] **{wanted.model.name}** cannot answer here yet:")
    for way in wanted.ways[:1]:
        _draw_way(way)
    if wanted.ways[1:]:
        with st.expander("Other ways", type="compact", key=f"ml_ways_{wanted.model.id}"):
            for way in wanted.ways[1:]:
                _draw_way(way)


def _draw_way(way: Way) -> None:
    size = f" ({gigabytes(way.size)})" if way.size else ""
    st.caption(f"{literal(way.label)}{size}: {literal(way.what)}")
    if way.command and way.fits:
        st.code(way.command, language="bash")


def draw_published() -> None:
    """The published scores, each table with its source and how far it can be compared."""
    for table in lesson.published():
        st.markdown(f"**{literal(table.title)}**")
        columns = {"": list(table.scores)}
        for place, model in enumerate(table.models):
            columns[model] = [f"{scores[place]:g}" for scores in table.scores.values()]
        st.table(columns, border="horizontal")
        st.caption(f"{literal(table.note)} [Source]({table.source})")
