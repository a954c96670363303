"""The models of an Ollama server on the Models page: what it has, what is in its memory, one more.

The list is asked for when the server was found ready, and again after each change made here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import streamlit as st

from slm_backends import adding, background
from slm_backends.access import Connection
from slm_backends.catalog import Deployment
from slm_backends.errors import SLMError
from slm_backends.fit import gigabytes
from slm_backends.health import Health
from slm_backends.ollama_models import Installed, Loaded, OllamaServer, Shown, full_name
from slm_backends.pulling import Pull
from ui import problems, progress, shell, visitor
from ui.markdown import literal
from ui.states import badge

EVERY = 0.5  # seconds between two looks at a pull

T = TypeVar("T")
Listing = tuple[Sequence[Installed], dict[str, Loaded]]


def manage(connection: Connection, health: Health) -> None:
    """A row for each model that the server has, and a box to pull another one."""
    try:
        models, loaded = _listing(connection, health)
    except SLMError as error:
        problems.show(error)
        return
    with st.expander(f"{len(models)} models on this server", expanded=True, type="compact"):
        known = {
            full_name(item.served_as or item.model.id): item
            for item in visitor.known().deployments.values()
            if item.provider == connection.provider
        }
        for model in models:
            name = full_name(model.name)
            _row(connection, model, loaded.get(name), known.get(name))
        _pull(connection)


def _server(connection: Connection) -> OllamaServer:
    return OllamaServer(
        connection.base_url, key=connection.key.reveal(), start_hint=connection.provider.start
    )


def _ask(connection: Connection, question: Callable[[OllamaServer], Awaitable[T]]) -> T:
    """The server's answer. Raises SLMErrors."""

    async def asked() -> T:
        server = _server(connection)
        try:
            return await question(server)
        finally:
            await server.close()

    return visitor.wait(background.submit(asked()))


def _listing(connection: Connection, health: Health) -> Listing:
    """Asked for once, until the server was found ready anew or something was changed."""
    kept = st.session_state.setdefault("ollama", {})
    place = connection.provider.place
    pull = _pulls().get(place)
    asked_as_of, listing = kept.get(place, (None, None))
    as_of = (health.at, connection.base_url, pull and pull.now.state)
    if listing is None or asked_as_of != as_of:

        async def both(server: OllamaServer) -> Listing:
            models, loaded = await server.models(), await server.running()
            return models, {full_name(item.name): item for item in loaded}

        listing = _ask(connection, both)
        kept[place] = (as_of, listing)
    return listing


def _pulls() -> dict[str, Pull]:
    """The last pull of this session on each server."""
    pulls: dict[str, Pull] = st.session_state.setdefault("pulls", {})
    return pulls


def _forget(connection: Connection) -> None:
    st.session_state.ollama.pop(connection.provider.place, None)


def _row(
    connection: Connection, model: Installed, loaded: Loaded | None, deployment: Deployment | None
) -> None:
    key = f"{connection.provider.place}_{model.name}"
    with st.container(horizontal=True, vertical_alignment="center", key=f"ollama_{key}"):
        with st.container(gap=None):
            st.markdown(f"{literal(model.name)} {badge('loaded') if loaded else ''}")
            st.caption(" · ".join(map(literal, _facts(model, loaded))))
        if st.button("Show", key=f"show_{key}", type="tertiary"):
            _show(connection, model.name)
        if loaded and st.button("Unload", key=f"ollama_unload_{key}"):
            _change(connection, lambda server: server.unload(model.name))
        if deployment is not None:
            shell.link("chat", "Chat", add=deployment.id)
        else:
            st.button("Add", key=f"take_{key}", on_click=_take, args=(connection, model))


def _facts(model: Installed, loaded: Loaded | None) -> list[str]:
    facts = [model.parameter_size, model.quantisation, f"{gigabytes(model.size)} on disk"]
    if loaded is not None:
        facts.append(f"{gigabytes(loaded.memory)} in memory, {loaded.on_gpu:.0%} of it on a GPU")
        if loaded.context:
            facts.append(f"window {loaded.context:,} tokens")
        if loaded.until:
            facts.append(f"until {loaded.until.astimezone():%H:%M}")
    return [fact for fact in facts if fact]


def _change(connection: Connection, question: Callable[[OllamaServer], Awaitable[None]]) -> None:
    try:
        _ask(connection, question)
    except SLMError as error:
        problems.tell(connection.provider.place, error)
    _forget(connection)
    st.rerun()


def _take(connection: Connection, model: Installed) -> None:
    """A model that the catalog does not have, into the one of this session."""
    access = visitor.access()
    try:
        known = adding.model_for(model.name, access)
        access.add_deployment(connection.provider, model.name, known)
    except SLMError as error:
        problems.tell(connection.provider.place, error)


# --- show -----------------------------------------------------------------------------------------


def _show(connection: Connection, name: str) -> None:
    st.dialog(name, width="large")(_draw)(connection, name)


def _draw(connection: Connection, name: str) -> None:
    try:
        told = _ask(connection, lambda server: server.show(name))
    except SLMError as error:
        problems.show(error)
        return
    rows = {title: literal(value) for title, value in _told(told).items() if value}
    st.table(rows, border="horizontal")
    if told.template:
        st.caption("Template")
        st.code(told.template, language=None)
    if told.parameters:
        st.caption("Parameters")
        st.code("\n".join(f"{name} {value}" for name, value in told.parameters), language=None)


def _told(told: Shown) -> dict[str, str]:
    return {
        "Family": told.family,
        "Parameters": told.parameter_size,
        "Quantisation": told.quantisation,
        "Context": f"{told.context:,} tokens" if told.context else "",
        "Can": ", ".join(sorted(told.capabilities)),
        "Licence": told.licence.strip().partition("\n")[0],
    }


# --- pull -----------------------------------------------------------------------------------------


def _pull(connection: Connection) -> None:
    place = connection.provider.place
    pull = _pulls().get(place)
    running = pull is not None and pull.now.state == "running"
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.text_input("Pull a model", key=f"pull_{place}", placeholder="phi3.5")
        if st.button("Pull", key=f"pull_now_{place}", disabled=running) and str(name).strip():
            _pulls()[place] = Pull(_server(connection), str(name).strip())
            st.rerun()
    if pull is None:
        return
    if running:
        st.fragment(_follow, run_every=EVERY)(connection, pull)
    else:
        progress.draw(pull.now, place, pull.cancel)


def _follow(connection: Connection, pull: Pull) -> None:
    if pull.now.state != "running":
        st.rerun()
    st.caption(literal(pull.name))
    progress.draw(pull.now, connection.provider.place, pull.cancel)
