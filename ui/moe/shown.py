"""A chart, and the same as a table for those who cannot see the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from slm_backends.moe.figures import FORMULAS
from ui.markdown import literal

FEW = 8  # rows of a table; one with more scrolls within TALL
TALL = 320  # pixels
#: The height that a chart names is that of its drawing: axes and legend come beside it.
FIT = {"type": "fit-x", "contains": "padding"}


def chart(
    title: str, spec: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], key: str, formula: str
) -> None:
    """Draw it as wide as its place, and the table when it is asked for. `formula` names what stands
    behind the title, if anything does."""
    st.markdown(f"**{title}**", help=FORMULAS.get(formula))
    st.vega_lite_chart({"autosize": FIT, **spec}, width="stretch", key=f"moe_chart_{key}")
    if st.toggle("As a table", key=f"moe_rows_{key}"):
        with st.container(height=TALL if len(rows) > FEW else "content", border=False):
            st.table([_plain(row) for row in rows], border="horizontal")


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Texts of models as text: cells of a table are Markdown."""
    return {
        literal(name): literal(value) if isinstance(value, str) else value
        for name, value in row.items()
    }
