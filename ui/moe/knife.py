"""Experts under the knife: the untouched model beside one with fewer experts.

Off until somebody switches it on. Stands in no link, and is gone when the page is left.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from slm_backends.moe.figures import FORMULAS
from slm_backends.moe.trace import Trace
from slm_backends.routing import ALL_LAYERS, Experts
from ui.markdown import literal
from ui.moe import answer
from ui.moe.cut import Cut

COUNTS = (1, 2, 4)  # experts that may work on a token
AROUND = 60  # characters that are shown around the place where two replies part


def draw(trace: Trace, cut: Cut | None, begin: Callable[[Experts], None], running: bool) -> None:
    """`begin` runs the prompt of the reply on screen both ways. Call it in a fragment."""
    if not st.toggle("Limit experts", key="moe_knife"):
        st.caption(
            "Off: nothing on this page changes a model. Switched on, the same prompt is answered "
            "by the model as it is and by one whose experts you limit, side by side."
        )
        return
    st.warning(
        "What you see below is not the model as it was made. It counts for this comparison only.",
        icon=":material/content_cut:",
    )
    experts = _choose(trace)
    if st.button(
        "Run both ways",
        key="moe_cut",
        icon=":material/content_cut:",
        disabled=running or experts is None,
    ):
        begin(experts or Experts())
        st.rerun()
    if experts is None:
        st.caption("Choose another number of experts, or some to switch off.")
    if cut is not None:
        _draw_both(cut)


def _choose(trace: Trace) -> Experts | None:
    """What is asked for; None where that changes nothing."""
    offered = [count for count in COUNTS if count <= trace.experts]
    with st.container(horizontal=True, vertical_alignment="bottom", key="moe_knife_row"):
        k = st.segmented_control(
            "Experts that work on a token",
            offered,
            default=trace.k if trace.k in offered else None,
            key="moe_k",
            help=f"The model was made for {trace.k}.",
        )
        off = st.multiselect(
            "Experts switched off",
            range(trace.experts),
            format_func=lambda expert: f"Expert {expert}",
            key="moe_off",
            placeholder="None",
        )
        layers = st.multiselect(
            "in layers",
            range(trace.layers),
            format_func=lambda layer: f"Layer {layer}",
            key="moe_off_layers",
            placeholder="Everywhere",
            disabled=not off,
        )
    pairs = [(layer, expert) for layer in layers or (ALL_LAYERS,) for expert in off]
    asked = Experts(k=0 if k in (None, trace.k) else int(k), off=tuple(pairs))
    return asked if asked.cuts else None


def _draw_both(cut: Cut) -> None:
    st.caption(
        f"“{literal(cut.untouched.prompt)}”, each time with the likeliest token. "
        f"Limited: {said(cut.experts)}."
    )
    titles = ("Untouched", "Limited")
    for column, turn, title in zip(
        st.columns(2), (cut.untouched, cut.limited), titles, strict=True
    ):
        with column, st.container(border=True):
            answer.draw(turn, title)
    if not (cut.untouched.reply.state == cut.limited.reply.state == "done"):
        return
    _draw_parting(cut)
    for turn in cut.written:
        if turn.reply.error is not None:
            answer.draw(turn, "Perplexity")
            return
    if (found := cut.perplexities) is not None:
        with st.container(horizontal=True, key="moe_perplexity"):
            for title, value in zip(titles, found, strict=True):
                st.metric(
                    f"Perplexity of the untouched reply, {title.lower()} model",
                    f"{value:.3f}" if value < 1e6 else f"{value:.1e}",
                    help=FORMULAS["perplexity"],
                )
    elif cut.running:
        st.caption("Both write the untouched reply, for its perplexity.")


def _draw_parting(cut: Cut) -> None:
    at = cut.parting
    if at is None:
        st.caption("The two replies are the same.")
        return
    both = [turn.reply.text for turn in (cut.untouched, cut.limited)]
    st.markdown(f"They part after {at:,} characters:")
    begin = max(0, at - AROUND)
    before = ("…" if begin else "") + literal(both[0][begin:at])
    for title, text in zip(("Untouched", "Limited"), both, strict=True):
        after = literal(text[at : at + AROUND]) or "*ends here*"
        st.markdown(f"{title}: {before} :orange-background[{after}]")


def said(experts: Experts) -> str:
    """What is limited, in words."""
    parts = []
    if experts.k:
        many = "expert works" if experts.k == 1 else "experts work"
        parts.append(f"{experts.k} {many} on a token")
    for layer in dict.fromkeys(layer for layer, _ in experts.off):
        off = ", ".join(str(expert) for at, expert in experts.off if at == layer)
        where = "in all layers" if layer == ALL_LAYERS else f"in layer {layer}"
        parts.append(f"without {off} {where}")
    return "; ".join(parts)
