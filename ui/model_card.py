"""A model's card: facts and their sources, its prompt template, what is known to be wrong."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from slm_backends import fit
from slm_backends.catalog import Deployment, Model


def card(model: Model, deployments: Sequence[Deployment]) -> None:
    """Open the card as a dialog."""
    st.dialog(model.name, width="large")(_draw)(model, deployments)


def _draw(model: Model, deployments: Sequence[Deployment]) -> None:
    st.table({name: value for name, value in _facts(model).items() if value}, border="horizontal")
    limits = [*model.limits, *_limits(deployments)]
    if limits:
        st.caption("Known limits")
        st.markdown("\n".join(f"- {limit}" for limit in limits))
    if model.template:
        st.caption("A question as it reaches the weights")
        st.code(model.template, language=None)
    if model.card:
        st.markdown(f"[The publisher's page]({model.card})")
    if model.facts:
        st.caption("Facts from: " + ", ".join(f"<{address}>" for address in model.facts))


def _facts(model: Model) -> dict[str, str]:
    cache = 2 * model.layers * model.kv_heads * model.head_size * fit.KV_BYTES
    return {
        "Family": model.family,
        "Parameters": f"{model.parameters:,}" if model.parameters else "",
        "Active on a token": f"{model.active:,}" if model.active else "",
        "Context": f"{model.context:,} tokens" if model.context else "",
        "Cache of a token": f"{cache / 1024:,.0f} KiB" if cache else "",
        "Inputs": " and ".join(model.inputs),
        "Languages": ", ".join(model.languages),
        "Released": model.released,
        "Licence": model.licence,
    }


def _limits(deployments: Sequence[Deployment]) -> list[str]:
    """What is wrong on one runtime, once for all the deployments that share it."""
    said: dict[str, list[str]] = {}
    for item in deployments:
        if item.sound_to:
            said.setdefault(f"past {item.sound_to:,} tokens: {item.sound_note}", []).append(item.id)
    return [f"{', '.join(ids)}, {note}" for note, ids in said.items()]
