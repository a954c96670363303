"""The mixture that comes with the playground beside its twin without experts: as they were taught,
and as they answer now. Asks nobody before a button is pressed."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from slm_backends.fit import gigabytes
from slm_backends.moe import charts, nano, tables
from ui.moe import answer, shown
from ui.moe.twins import IDS, Twins
from ui.picker import label


def draw(twins: Twins | None, begin: Callable[[], None], prompt: str, running: bool) -> None:
    """`begin` asks both the prompt. Call it in a fragment."""
    found = nano.comparison()
    pair = (found.mixture, found.twin)
    st.markdown(
        f"Both learnt the same {found.mixture.lessons:,} lessons in {found.mixture.steps:,} steps. "
        f"The mixture has {found.mixture.parameters / 1e6:.1f} M parameters, of which "
        f"{found.mixture.active / 1e6:.1f} M work on a token: as many as its twin has in all."
    )
    st.table([_row(kind, pair) for kind in found.mixture.scores], border="horizontal")
    st.caption(
        "Right answers to fresh questions, to the last character, and after the dot the perplexity "
        "of the expected answers: 1 would be certainty. Of a story no answer is the right one: it "
        "has a perplexity only."
    )
    curves = nano.curves()
    shown.chart(
        "Loss while they learnt", charts.curves(curves), tables.curves(curves), "curves", "loss"
    )
    if st.button(
        "Run both",
        key="moe_twins",
        icon=":material/compare_arrows:",
        disabled=running or not prompt,
        help=f"Ask both, one after the other: {prompt}" if prompt else "Ask something above first.",
    ):
        begin()
        st.rerun()
    if twins is None:
        return
    for column, deployment_id in zip(st.columns(2), IDS, strict=True):
        turn = next((turn for turn in twins.turns if turn.deployment == deployment_id), None)
        with column, st.container(border=True):
            if turn is None:
                st.markdown(f"**{label(deployment_id)}**")
                st.caption("It is asked when the other has ended.")
                continue
            answer.draw(turn, label(deployment_id))
            if memory := twins.memory.get(deployment_id):
                st.caption(f"Its process takes {gigabytes(memory)}, most of it the runtime's own.")


def _row(kind: str, pair: tuple[nano.Taught, nano.Taught]) -> dict[str, str]:
    row = {"questions": kind}
    for taught in pair:
        score = taught.scores[kind]
        right = "" if score.right is None else f"{score.right} of {score.asked} · "
        row[taught.model_id] = f"{right}{score.perplexity:.2f}"
    return row
