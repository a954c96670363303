"""Choosing a deployment: the model, then the runtime, with what is missing greyed out and why."""

from __future__ import annotations

import streamlit as st

from slm_backends import catalog, selector
from slm_backends.errors import SLMError
from ui import shell
from ui.panes import Pane


def label(deployment_id: str) -> str:
    """A deployment's name for people; its id where the catalog does not have it."""
    found = catalog.load().deployments.get(deployment_id)
    return found.label if found else deployment_id


def picker(pane: Pane) -> None:
    """A button with the pane's deployment that opens the choice."""
    known = catalog.load()
    current = known.deployments.get(pane.deployment)
    with st.popover(label(pane.deployment), key=f"picker_{pane.number}", width="stretch"):
        models = {item.model.id: item.model for item in known.deployments.values()}
        ids = list(models)
        chosen = st.selectbox(
            "Model",
            ids,
            index=ids.index(current.model.id) if current else 0,
            format_func=lambda model_id: models[model_id].name,
            key=f"model_{pane.number}",
        )
        st.caption("Runtime")
        for deployment in known.deployments.values():
            if deployment.model.id != chosen:
                continue
            state = _state(deployment)
            picked = deployment.id == pane.deployment
            if st.button(
                deployment.place,
                key=f"pick_{pane.number}_{deployment.id}",
                type="primary" if picked else "secondary",
                disabled=not state.usable,
                help=deployment.artefact or None,
                width="stretch",
            ):
                pane.deployment = deployment.id
                st.rerun()
            if state.reason:
                st.caption(f"{state.word}: {state.reason}")
        shell.link("models", "More on the Models page")


def next_deployment(taken: list[str]) -> str:
    """What a new pane starts with: the first of this computer's that can answer and is not on
    screen yet. Where there is none, the one that is on screen last."""
    for deployment in catalog.load().deployments.values():
        if deployment.local and deployment.id not in taken and _state(deployment).usable:
            return deployment.id
    return taken[-1]


def _state(deployment: catalog.Deployment) -> selector.State:
    try:
        return selector.state(deployment)
    except SLMError as error:
        return selector.State("not ready", error.message)
