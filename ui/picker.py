"""Choosing a deployment: the model, then the runtime, with what is missing greyed out and why."""

from __future__ import annotations

import contextlib

import streamlit as st

from slm_backends import selector
from slm_backends.catalog import Deployment
from slm_backends.errors import SLMError
from ui import shell, visitor
from ui.markdown import literal
from ui.panes import Pane


def label(deployment_id: str) -> str:
    """A deployment's name for people; its id where the catalog does not have it."""
    found = visitor.known().deployments.get(deployment_id)
    return found.label if found else deployment_id


def picker(pane: Pane) -> None:
    """A button with the pane's deployment that opens the choice."""
    known = visitor.known()
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
        offered = [item for item in known.deployments.values() if item.model.id == chosen]
        for title, local in (("On this computer", True), ("On servers", False)):
            group = [item for item in offered if item.local is local]
            if group:
                st.caption(title)
            for deployment in group:
                _choice(pane, deployment)
        shell.link("models", "More on the Models page")


def _choice(pane: Pane, deployment: Deployment) -> None:
    if deployment.provider is not None:
        with contextlib.suppress(SLMError):  # a key that cannot be used: its state says so
            selector.look(deployment.provider, visitor.access())
    state = visitor.state(deployment)
    if st.button(
        deployment.place,
        key=f"pick_{pane.number}_{deployment.id}",
        type="primary" if deployment.id == pane.deployment else "secondary",
        disabled=not state.usable,
        help=deployment.artefact or None,
        width="stretch",
    ):
        pane.pick(deployment.id)
        st.rerun()
    if deployment.provider is not None:  # servers wrote parts of it
        st.caption(literal(": ".join(filter(None, (state.label, state.reason)))))
    elif state.reason:
        st.caption(f"{state.word}: {state.reason}")


def next_deployment(taken: list[str], pictures: bool = False) -> str:
    """What a new pane starts with: the first of this computer's that can answer and is not on
    screen yet, before others one that takes pictures or, without `pictures`, one that takes none.
    Where there is none, the one that is on screen last."""
    known = visitor.known().deployments.values()
    for deployment in sorted(known, key=lambda item: bool(item.images) != pictures):
        if deployment.local and deployment.id not in taken and visitor.state(deployment).usable:
            return deployment.id
    return taken[-1]
