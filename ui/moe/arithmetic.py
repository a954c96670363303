"""The arithmetic of mixtures beside models without experts: a table, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from slm_backends import fit
from slm_backends.fit import gigabytes
from slm_backends.moe import arithmetic
from slm_backends.moe.arithmetic import (
    BATCH,
    BITS,
    CONTEXT,
    FARTHEST,
    MAX_BATCH,
    READ_BYTES,
    Row,
)
from slm_backends.terminal import count
from ui import visitor
from ui.markdown import literal

MAX_CONTEXT = 131_072
HELP = {
    "Model": "Each mixture of the catalog, and below it the models without experts that are "
    "nearest to its size in all and to what of it works on a token.",
    "Total": "All parameters. They must be in memory, whichever experts work.",
    "Active": "Parameters that work on one token: everything but the experts, and the chosen ones.",
    "Hold": "Total x bits of a weight / 8, without cache and process. "
    f"int4 counts {BITS['int4']} bits: blocks of 32 weights share a scale of 16.",
    "Read": "What one step reads of the weights. For one conversation: active x bits / 8. For B of "
    "them, a share of 1 - (1 - k / E)^B of the E experts on average, if the load is even.",
    "Fits": "Weights, caches and a process within what models may take here.",
    "At most": "Batch x bandwidth / (weights read + caches): tokens a second of all conversations "
    "together, as long as memory is what limits. Computing, reading the prompt and what else the "
    "runtime does come on top. A model that fits into the processor's caches may be faster.",
    "Beside": "How many times the mixture's parameters a model without experts has. Chosen is the "
    f"nearest, of the mixture's own family where it has one, at most {FARTHEST:.0f} times off.",
}


def draw() -> None:
    """The whole section."""
    st.subheader("Arithmetic of a mixture")
    with st.container(horizontal=True, vertical_alignment="bottom", key="moe_arithmetic"):
        context = st.number_input(
            "Context, tokens", 0, MAX_CONTEXT, CONTEXT, step=1_024, key="moe_context", width=180
        )
        batch = st.number_input(
            "Conversations at once", 1, MAX_BATCH, BATCH, key="moe_batch", width=180
        )
        precision = st.segmented_control(
            "Weights", list(BITS), default="int4", required=True, key="moe_precision"
        )
        if st.button("Measure this computer's memory", key="moe_measure"):
            with st.spinner("Reading memory for a second"):
                st.session_state.moe_bandwidth = arithmetic.bandwidth()
    bandwidth = st.session_state.get("moe_bandwidth")
    rows = arithmetic.rows(
        visitor.known().models.values(), bandwidth, context=int(context), batch=int(batch)
    )
    st.dataframe(
        [_cells(row, str(precision)) for row in rows],
        hide_index=True,
        width="stretch",
        column_config={
            name: st.column_config.Column(help=words, pinned=name == "Model")
            for name, words in HELP.items()
        },
        key="moe_costs",
    )
    st.caption(_measured(bandwidth))
    if said := _in_words(rows, str(precision)):
        st.markdown(said)


def _cells(row: Row, precision: str) -> dict[str, Any]:
    cost = row.costs[precision]
    model = row.model
    return {
        "Model": f"– {model.name}" if row.rival_of else model.name,
        "Total": count(model.parameters),
        "Active": count(model.active or model.parameters),
        "Hold": _bytes(cost.hold),
        "Read": _bytes(cost.read),
        "Fits": "yes" if cost.fits else "no",
        "At most": "measure first" if cost.speed is None else f"{cost.speed:,.1f} tok/s",
        "Beside": row.why or "a mixture",
    }


def _bytes(size: int) -> str:
    return gigabytes(size) if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _measured(bandwidth: float | None) -> str:
    budget = f"Models may take {gigabytes(fit.memory_budget())} here."
    if bandwidth is None:
        return (
            f"{budget} How fast memory is read was not measured yet: the button does, in a second."
        )
    return (
        f"{budget} Memory is read at {bandwidth / 1e9:.0f} GB/s, measured by summing "
        f"{READ_BYTES // 2**20} MiB on all cores."
    )


def _in_words(rows: Sequence[Row], precision: str) -> str:
    """What a mixture buys, by the largest of the table."""
    mixtures = [row for row in rows if not row.rival_of]
    if not mixtures:
        return ""
    largest = mixtures[-1]
    cost = largest.costs[precision]
    return (
        f"**{literal(largest.model.name)}** must hold {_bytes(cost.hold)} and reads "
        f"{_bytes(cost.read)} for a step: memory is taken by all its parameters, time by those "
        "that work. A model without experts reads all that it holds. The more conversations are "
        "answered at once, the more experts each step reads, and the less that saves."
    )
