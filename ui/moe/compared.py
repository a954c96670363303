"""Two prompts on one deployment: the share of each expert, and how far their loads lie apart."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from slm_backends.moe import charts, tables
from slm_backends.moe.trace import Trace
from ui.markdown import literal
from ui.moe import answer, asking, shown
from ui.moe.starters import PAIRS
from ui.panes import MAX_PROMPT, Turn

NAME = 40  # characters of a prompt as a name in a chart


def draw(
    first: Turn,
    other: Turn | None,
    compare: Callable[[str], None],
    both: Callable[[str, str], None],
) -> None:
    """`compare` asks a second prompt, `both` asks two. Call it in a fragment."""
    with st.container(horizontal=True, vertical_alignment="bottom", key="moe_pairs"):
        for name, prompts in PAIRS.items():
            if st.button(name, key=f"moe_pair_{name}", help=" / ".join(prompts)):
                both(*prompts)
                st.rerun()
    with st.form("moe_compare", border=False):
        second = st.text_input(
            "Compare it with another prompt, or the same in another language",
            max_chars=MAX_PROMPT,
            key="moe_second",
        )
        if st.form_submit_button("Ask it too") and second.strip():
            compare(second)
            st.rerun()
    if other is None:
        return
    for column, turn in zip(st.columns(2), (first, other), strict=True):
        with column, st.container(border=True):
            answer.draw(turn, literal(_name(turn.prompt)))
    traces = asking.traced(first), asking.traced(other)
    if traces[0] is not None and traces[1] is not None:
        _charts(traces[0], traces[1], (_name(first.prompt), _name(other.prompt)))


def _charts(first: Trace, second: Trace, names: tuple[str, str]) -> None:
    shown.chart(
        "How far their loads lie apart, by layer",
        charts.divergence(first, second),
        tables.divergence(first, second),
        "divergence",
        "divergence",
    )
    layer = st.selectbox(
        "Layer",
        range(first.layers),
        format_func=lambda number: f"Layer {number}",
        key="moe_layer_shares",
        width=240,
    )
    shown.chart(
        f"Share of each expert in layer {layer}",
        charts.shares(first, second, layer, names),
        tables.shares(first, second, layer, names),
        "shares",
        "load",
    )


def _name(prompt: str) -> str:
    text = " ".join(prompt.split())
    return text if len(text) <= NAME else f"{text[: NAME - 1]}…"
