"""What a reply's routing looks like: tokens, load, flow, pairs. One is drawn at a time."""

from __future__ import annotations

import streamlit as st

from slm_backends.moe import charts, figures, tables
from slm_backends.moe.figures import FORMULAS
from slm_backends.moe.trace import Trace
from ui.moe import shown, tokens

ALL_LAYERS = -1


def draw_load(trace: Trace) -> None:
    """Layers x experts, and how even it is."""
    found = figures.balance(trace)
    worst = max(found, key=lambda balance: balance.max_over_mean)
    unused = sum(len(balance.unused) for balance in found)
    with st.container(horizontal=True, key="moe_balance"):
        st.metric(
            "Load, max / mean",
            f"{worst.max_over_mean:.2f}",
            f"most uneven: layer {worst.layer}",
            delta_color="off",
            delta_arrow="off",
            help=FORMULAS["max_over_mean"],
        )
        st.metric(
            "Normalised entropy",
            f"{sum(balance.entropy for balance in found) / len(found):.3f}",
            "mean of the layers",
            delta_color="off",
            delta_arrow="off",
            help=FORMULAS["entropy"],
        )
        st.metric(
            "Never used",
            f"{unused:,}",
            f"of {trace.layers * trace.experts:,} experts in all layers",
            delta_color="off",
            delta_arrow="off",
            help=FORMULAS["unused"],
        )
    shown.chart(
        "Share of each layer's work, by expert",
        charts.heat_map(trace),
        tables.heat_map(trace),
        "load",
        "load",
    )


def draw_flow(trace: Trace) -> None:
    layer = _layer("flow", trace)
    shown.chart(
        "Share of each expert, from token to token",
        charts.flow(trace, layer),
        tables.flow(trace, layer),
        "flow",
        "load",
    )


def draw_pairs(trace: Trace) -> None:
    layer = _layer("pairs", trace)
    shown.chart(
        "Experts that worked on the same tokens",
        charts.pairs(trace, layer),
        tables.pairs(trace, layer),
        "pairs",
        "pairs",
    )


VIEWS = {"Tokens": tokens.draw, "Load": draw_load, "Flow": draw_flow, "Pairs": draw_pairs}


def _layer(view: str, trace: Trace) -> int | None:
    """One layer, or None for all of them."""
    found = st.selectbox(
        "Layer",
        (ALL_LAYERS, *range(trace.layers)),
        format_func=lambda layer: "All layers" if layer == ALL_LAYERS else f"Layer {layer}",
        key=f"moe_layer_{view}",
        width=240,
    )
    return None if found == ALL_LAYERS else int(found)
