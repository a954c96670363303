"""The charts of a run. What they show, and how the numbers were got, is charts' to say."""

from __future__ import annotations

import streamlit as st

from slm_backends.errors import SLMError
from slm_backends.multilingual import charts, report
from slm_backends.multilingual.results import Results
from ui import problems, visitor
from ui.markdown import literal


def draw(results: Results) -> None:
    """All for which there is something to draw."""
    try:
        drawn = charts.drawn(results, report.counts(results, visitor.access()))
    except SLMError as error:
        problems.show(error)
        return
    if not drawn:
        st.caption("There is nothing to draw yet.")
    for chart in drawn:
        st.vega_lite_chart(chart.spec, width="stretch", key=f"ml_chart_{chart.name}")
        st.caption(literal(chart.caption))
