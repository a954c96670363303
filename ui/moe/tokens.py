"""The tokens of a prompt and its reply, each with the experts that worked on it in one layer.

A component of its own: a button a token, coloured and numbered by expert; the one that is chosen
shows its experts in all layers. The browser is sent MOST tokens at once, and of one token alone the
weights and scores. The texts in it are data to its script, never code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from slm_backends.moe.trace import Trace

MOST = 2_000  # tokens that the browser is given at once
HALF = "\ufffd"  # in a token's text, where it is only a part of a character
CHOSEN = "moe_token"  # in the session: place of the token that was pressed last

_strip = st.components.v2.component(
    "slm_tokens",
    html="<div></div>",
    js=Path(__file__).with_suffix(".js").read_text(encoding="utf-8"),
    isolate_styles=False,  # colours are in style.css, with those of the other pages
)


def draw(trace: Trace) -> None:
    """The strip, with its layer and, where there are too many tokens, which of them are shown."""
    with st.container(horizontal=True, vertical_alignment="bottom", key="moe_strip_row"):
        layer = st.selectbox(
            "Layer whose experts are shown",
            range(trace.layers),
            format_func=lambda number: f"Layer {number}",
            key="moe_layer",
            width=240,
        )
        begin = _begin(len(trace))

    st.caption(
        "A token carries the numbers of the experts that worked on it in this layer, best first, "
        "and the colour of the first. Press one, or move with the arrow keys, to see its experts "
        "in all layers. The last token of a reply has none: the model never reads it."
    )

    def choose() -> None:
        if (place := st.session_state.moe_strip.place) is not None:
            st.session_state[CHOSEN] = int(place)

    _strip(
        data=data(trace, int(layer), begin, st.session_state.get(CHOSEN)),
        key="moe_strip",
        on_place_change=choose,
    )


def _begin(count: int) -> int:
    """The first token that is shown; the last ones are, until somebody chooses."""
    if count <= MOST:
        return 0
    starts = list(range(0, count, MOST))
    begin = st.selectbox(
        "Tokens that are shown",
        starts,
        index=len(starts) - 1,
        format_func=lambda start: f"{start:,} to {min(start + MOST, count) - 1:,}",
        key=f"moe_window_{len(starts)}",
        width=240,
    )
    shown = min(MOST, count - begin)
    st.caption(f"{count - shown:,} of {count:,} tokens are not shown.")
    return int(begin)


def data(trace: Trace, layer: int, begin: int, place: int | None) -> dict[str, Any]:
    """What the script draws of a window of tokens; `place` is the chosen one."""
    end = min(begin + MOST, len(trace))
    return {
        "begin": begin,
        "prompt": trace.prompt_tokens,
        "layer": layer,
        "tokens": list(trace.tokens[begin:end]),
        "chosen": trace.chosen[begin:end, layer].tolist(),
        "opened": None if place is None or place >= len(trace) else opened(trace, layer, place),
    }


def opened(trace: Trace, layer: int, place: int) -> dict[str, Any]:
    """All that is known of one token; weights and scores are None where nobody tells them."""
    weights, scores = trace.weights, trace.scores
    return {
        "place": place,
        "text": trace.tokens[place],
        "layers": trace.chosen[place].tolist(),
        "weights": None if weights is None else weights[place].astype(float).round(3).tolist(),
        "scores": None if scores is None else scores[place, layer].astype(float).round(4).tolist(),
    }
