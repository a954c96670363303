"""The list of models on the Models page: filters, facts, and what to do with each deployment.

Knows how a deployment's states look and which button belongs to each. What a state means is the
selector's, what fits is fit's, how weights arrive is fetching's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import streamlit as st

from slm_backends import fetching, fit, selector, store
from slm_backends.catalog import Catalog, Deployment, Model
from slm_backends.errors import SLMError
from slm_backends.fit import gigabytes
from slm_backends.selector import State
from slm_backends.terminal import count
from ui import problems, progress, shell, visitor
from ui.markdown import literal
from ui.model_card import card
from ui.states import badge

EVERY = 0.5  # seconds between two looks at a fetch or a load

HERE = {
    "loaded": ":green-badge[:material/memory: loaded]",
    "ready": ":blue-badge[:material/check: on this computer]",
    "fetchable": "",
}


@dataclass(frozen=True)
class Filters:
    """What the list is narrowed to; an empty choice narrows nothing."""

    text: str
    families: tuple[str, ...]
    runtimes: tuple[str, ...]
    inputs: tuple[str, ...]
    fits: bool
    here: bool

    def take(self, deployment: Deployment) -> bool:
        model = deployment.model
        words = f"{model.name} {deployment.id} {deployment.artefact}".lower()
        return (
            all(word in words for word in self.text.lower().split())
            and (not self.families or model.family in self.families)
            and (not self.runtimes or deployment.runtime in self.runtimes)
            and set(self.inputs) <= set(model.inputs)
            and (not self.fits or not deployment.local or fit.fits(deployment).fits)
            and (not self.here or _is_here(deployment))
        )


def _is_here(deployment: Deployment) -> bool:
    return deployment.local and visitor.state(deployment).word in ("ready", "loaded")


def filters(known: Catalog) -> Filters:
    """Draw them; what was chosen travels in the link."""
    deployments = known.deployments.values()
    names = {item.runtime: item.runtime_name for item in deployments}
    with st.container(horizontal=True, vertical_alignment="bottom", key="filters"):
        text = st.text_input("Search", key="find", bind="query-params", placeholder="phi-3.5 onnx")
        families = _choice("Family", dict.fromkeys(item.model.family for item in deployments))
        runtimes = _choice("Runtime", names, names)
        inputs = _choice(
            "Input", dict.fromkeys(kind for item in deployments for kind in item.model.inputs)
        )
        fits = st.toggle("Fits in memory", key="fits", bind="query-params")
        here = st.toggle("On this computer", key="here", bind="query-params")
    return Filters(str(text or ""), families, runtimes, inputs, fits, here)


def _choice(
    label: str, options: Iterable[str], names: dict[str, str] | None = None
) -> tuple[str, ...]:
    chosen = st.multiselect(
        label,
        list(options),
        format_func=lambda option: (names or {}).get(option, option),
        key=label.lower(),
        bind="query-params",
        placeholder="Any",
    )
    return tuple(chosen)


def matching(known: Catalog, chosen: Filters) -> dict[Model, list[Deployment]]:
    """Models with those of their deployments that the filters let through."""
    found: dict[Model, list[Deployment]] = {}
    for deployment in known.deployments.values():
        if chosen.take(deployment):
            found.setdefault(deployment.model, []).append(deployment)
    return found


def headline(model: Model, known: Catalog) -> None:
    """A model's name and facts, with a button that opens its card."""
    with st.container(horizontal=True, vertical_alignment="center", key=f"headline_{model.id}"):
        with st.container(gap=None):
            st.markdown(f"**{model.name}**")
            st.caption(" · ".join(_facts(model)))
        if st.button("Card", icon=":material/description:", key=f"card_{model.id}"):
            card(model, [item for item in known.deployments.values() if item.model == model])


def _facts(model: Model) -> list[str]:
    facts = []
    if model.parameters:
        active = f", {count(model.active)} active" if model.active else ""
        facts.append(f"{count(model.parameters)} parameters{active}")
    if model.context:
        facts.append(f"context {model.context:,}")
    if model.languages:
        facts.append(
            "English" if model.languages == ("en",) else f"{len(model.languages)} languages"
        )
    return [*facts, " and ".join(model.inputs), *filter(None, [model.licence])]


def rows(model: Model, deployments: Sequence[Deployment]) -> None:
    """A row for each deployment on this computer, and a fold with those on servers."""
    remote = [item for item in deployments if not item.local]
    for deployment in deployments:
        if deployment.local:
            _local(deployment)
    if not remote:
        return
    names = dict.fromkeys(item.runtime_name for item in remote)
    fold = st.expander(
        f"On servers: {literal(', '.join(names))}",
        key=f"servers_of_{model.id}",
        type="compact",
        on_change="rerun",
    )
    if fold.open:
        with fold:
            for deployment in remote:
                _remote(deployment)


def _remote(deployment: Deployment) -> None:
    state = visitor.state(deployment)
    with st.container(
        horizontal=True, vertical_alignment="center", key=f"row_{deployment.id}", gap="small"
    ):
        with st.container(gap=None):
            st.markdown(f"{literal(deployment.place)} {badge(state.word, state.label)}")
            st.caption(literal(state.reason or deployment.artefact or deployment.served_as))
        if state.usable:
            shell.link("chat", "Chat", add=deployment.id)


def _local(deployment: Deployment) -> None:
    """While it is fetched or loaded, the row draws itself again and again."""
    busy = _busy(deployment)
    drawn = st.fragment(_row, run_every=EVERY) if busy else _row
    drawn(deployment, busy)


def _row(deployment: Deployment, busy: bool) -> None:
    if busy and not _busy(deployment):
        st.rerun()
    state = visitor.state(deployment)
    with st.container(
        horizontal=True, vertical_alignment="center", key=f"row_{deployment.id}", gap="small"
    ):
        with st.container(gap=None):
            st.markdown(f"{deployment.place} {HERE.get(state.word, badge(state.word))}")
            st.caption(_takes(deployment))
            if state.reason and state.word not in ("fetchable", "ready"):
                st.caption(state.reason)
        _buttons(deployment, state)
    _progress(deployment)


def _takes(deployment: Deployment) -> str:
    """What it takes: bytes on disk, and memory with its arithmetic."""
    verdict = fit.fits(deployment)
    size = gigabytes(store.size(deployment) or deployment.size)
    memory = f"needs {verdict.need.arithmetic}"
    if not verdict.fits:
        memory = f":orange[does not fit: {memory}, of {gigabytes(verdict.budget)}]"
    elif verdict.partly:
        memory = f":orange[partly on the disk: {memory}, of {gigabytes(verdict.budget)}]"
    return " · ".join(filter(None, (deployment.artefact, f"{size} on disk", memory)))


def _buttons(deployment: Deployment, state: State) -> None:
    if state.word == "fetchable":
        running = fetching.status(deployment.id)
        if running is None or running.state != "running":
            st.button(
                f"Fetch {gigabytes(deployment.size)}",
                icon=":material/download:",
                key=f"fetch_{deployment.id}",
                on_click=fetching.start,
                args=(deployment.id,),
            )
    elif state.word == "ready":
        if selector.loading(deployment.id) is None:
            st.button(
                "Load", key=f"load_{deployment.id}", on_click=selector.load, args=(deployment.id,)
            )
        removable = not deployment.shipped
        if removable and st.button("Remove", key=f"remove_{deployment.id}", type="tertiary"):
            _remove(deployment)
    if state.usable:
        shell.link("chat", "Chat", add=deployment.id)


@st.dialog("Remove from this computer?")
def _remove(deployment: Deployment) -> None:
    if not store.size(deployment):
        st.rerun()
    st.markdown(f"**{deployment.label}**: {gigabytes(store.size(deployment))} will be deleted.")
    st.caption("It can be fetched again at any time.")
    st.button(
        "Remove", key="remove_really", type="primary", on_click=_remove_really, args=(deployment,)
    )
    if problem := st.session_state.pop("not_removed", ""):
        st.error(problem)


def _remove_really(deployment: Deployment) -> None:
    try:
        selector.unload(deployment.id)
        store.remove(deployment)
    except SLMError as error:
        st.session_state.not_removed = error.message
    fetching.clear(deployment.id)


def _progress(deployment: Deployment) -> None:
    loading = selector.loading(deployment.id)
    if loading is not None:
        st.progress(loading.fraction, f"Loading: {loading.step}")
    elif failure := selector.load_failure(deployment.id):
        problems.show(failure)
    if fetch := fetching.status(deployment.id):
        progress.draw(fetch, deployment.id, lambda: fetching.cancel(deployment.id))


def _busy(deployment: Deployment) -> bool:
    fetch = fetching.status(deployment.id)
    return (fetch is not None and fetch.state == "running") or (
        selector.loading(deployment.id) is not None
    )
