"""Servers on the Models page: whether each answers, with whose key, what it serves; and one more.

What a visitor types here is theirs alone and goes with their session. Nothing is asked but servers
that somebody has set up, and those whose Test is pressed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import streamlit as st

from slm_backends import adding, selector
from slm_backends.access import Connection, Secret, may_add_servers
from slm_backends.catalog import Catalog, Deployment
from slm_backends.errors import SLMError
from slm_backends.export import seconds
from slm_backends.health import Health
from slm_backends.providers import Provider
from slm_backends.terminal import duration
from ui import ollama_models, problems, shell, visitor
from ui.markdown import literal
from ui.set_up import set_up, warn_when_exposed
from ui.states import badge

EVERY = 0.5  # seconds between two looks at a server that is being asked


def overview(known: Catalog) -> None:
    """A row for each server."""
    asked = [_row(provider, found, known) for provider, found in _servers(known)]
    if any(asked):
        _redraw_when_told()


def _servers(known: Catalog) -> list[tuple[Provider, list[Deployment]]]:
    """Every address that the catalog knows, with the deployments there."""
    found = {
        provider.place: (provider, list[Deployment]())
        for provider in known.providers.values()
        if provider.base_url or provider.address
    }
    for item in known.deployments.values():
        if item.provider is not None:
            found.setdefault(item.provider.place, (item.provider, []))[1].append(item)
    return list(found.values())


@st.fragment(run_every=EVERY)
def _redraw_when_told() -> None:
    providers = [provider for provider, _ in _servers(visitor.known())]
    if not any(_probing(provider) for provider in providers):
        st.rerun()


def _probing(provider: Provider) -> bool:
    try:
        return selector.probing(provider, visitor.access())
    except SLMError:
        return False


def _row(provider: Provider, deployments: Sequence[Deployment], known: Catalog) -> bool:
    """Draw it; whether the server is being asked now."""
    place = provider.place
    with st.container(border=True, key=f"server_{place}", gap="xsmall"):
        try:
            connection = visitor.access().connection(provider)
            selector.look(provider, visitor.access())
            probing = _probing(provider)
            # After that: what a probe has learnt that ended meanwhile would never be drawn.
            health = selector.health(provider, visitor.access())
        except SLMError as error:  # a key or a file of the owner's that cannot be used
            connection = Connection(provider, provider.base_url, Secret(""))
            health, probing = Health("needs key", error.message), False
        with st.container(horizontal=True, vertical_alignment="center", key=f"server_head_{place}"):
            with st.container(gap=None):
                state = badge("asking") if probing else badge(health.word, health.label)
                st.markdown(f"**{literal(_name(provider, known))}** {state}")
                st.caption(_facts(connection, health))
            missing = bool(connection.missing)
            if st.button("Test", key=f"test_{place}", disabled=missing or probing):
                _test(provider)
            set_up(provider, connection)
            if provider in visitor.access().added:
                st.button(
                    "Remove",
                    key=f"remove_server_{place}",
                    type="tertiary",
                    on_click=visitor.access().remove_server,
                    args=(provider,),
                )
        with st.container(gap=None):
            _words(provider, health, known)
        problems.draw(place)
        if provider.dialect == "ollama" and health.word == "ready":
            ollama_models.manage(connection, health)
        _models(provider, health, deployments)
    return probing


def _name(provider: Provider, known: Catalog) -> str:
    """A server of a deployment's own is told from its provider by its address."""
    if known.providers.get(provider.id) == provider:
        return provider.name
    return f"{provider.name} · {provider.base_url.partition('://')[2]}"


def _facts(connection: Connection, health: Health) -> str:
    facts = [f"`{connection.base_url}`" if connection.base_url else "no address yet"]
    if health.at:
        age = round(time.time() - health.at)
        facts.append(f"asked {duration(age)} ago" if age >= 10 else "asked just now")
    if health.round_trip_s is not None:
        facts.append(f"{seconds(health.round_trip_s)} there and back")
    if health.models is not None:
        facts.append(f"lists {len(health.models)} models")
    return " · ".join(facts)


def _words(provider: Provider, health: Health, known: Catalog) -> None:
    """What to know of it, and what went wrong."""
    if health.reason and health.reason != provider.notice:
        st.caption(literal(health.reason))
    if health.word == "not reachable" and provider.start:
        st.caption(provider.start)
    elif health.hint:
        st.caption(literal(health.hint))
    if provider.notice:
        names = [known.providers[other].name for other in provider.instead]
        instead = f" Instead: {', '.join(names)}." if names else ""
        source = f" [Source]({provider.source})" if provider.source else ""
        st.caption(f":material/info: {provider.notice}{instead}{source}")


def _test(provider: Provider) -> None:
    with st.spinner(f"Asking {provider.name}"):
        try:
            found = visitor.wait(selector.probe(provider, visitor.access()))
        except SLMError as error:
            problems.tell(provider.place, error)
        else:
            st.session_state[f"models_{provider.place}"] = found.word == "ready"
    st.rerun()


def _models(provider: Provider, health: Health, deployments: Sequence[Deployment]) -> None:
    """The deployments there, and names that it lists beside them. Drawn while the fold is open."""
    # One label whatever is in it: a fold whose label changes is closed.
    fold = st.expander(
        "In the catalog", key=f"models_{provider.place}", on_change="rerun", type="compact"
    )
    if not fold.open:
        return
    with fold:
        if provider.names:
            st.caption(provider.names)
        for item in deployments:
            _deployment(item)
        if may_add_servers() and provider.dialect != "ollama":  # whose own list has a button
            _more(provider, health, deployments)
        mine = [item for item in deployments if visitor.added(item)]
        if mine:
            st.caption("For everyone, and for longer, put this into a file that SLM_CATALOG names:")
            has_key = visitor.access().has_key(provider)
            st.code(adding.toml(provider, mine, with_key=has_key), language="toml")


def _deployment(item: Deployment) -> None:
    state = visitor.state(item)
    with st.container(horizontal=True, vertical_alignment="center", key=f"served_{item.id}"):
        with st.container(gap=None):
            st.markdown(f"{literal(item.id)} {badge(state.word, state.label)}")
            said = [item.served_as or item.model.id]
            if item.provider is not None and state.reason not in (item.provider.notice, ""):
                said.append(state.reason)
            st.caption(" · ".join(map(literal, said)))
        if state.usable:
            shell.link("chat", "Chat", add=item.id)


def _more(provider: Provider, health: Health, deployments: Sequence[Deployment]) -> None:
    """Take names that the server lists, or that a person knows, into this session's catalog."""
    names = {item.served_as or item.model.id for item in deployments}
    listed = (health.models or ()) if provider.lists else ()
    box = f"more_{provider.place}"
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.multiselect(
            "More models of this server" if listed else "A model, by the name it has there",
            [name for name in listed if name not in names],
            key=box,
            accept_new_options=True,
            placeholder="Choose, or type a name",
        )
        st.button("Add", key=f"add_{provider.place}", on_click=_take, args=(provider, box))


def _take(provider: Provider, box: str) -> None:
    access = visitor.access()
    names, st.session_state[box] = st.session_state[box], []
    try:
        for name in names:
            access.add_deployment(provider, name, adding.model_for(name, access))
    except SLMError as error:
        problems.tell(provider.place, error)


# --- one more -------------------------------------------------------------------------------------


def add() -> None:
    """A form that takes an address, and asks the server there."""
    if not may_add_servers():
        return
    with st.container(border=True, key="add_server"):
        st.markdown("**Add a server**")
        st.caption(
            "Whatever speaks OpenAI's chat completions: vLLM, llama-server, LM Studio, NIM, this "
            "playground's own serve. It is yours alone, for this session."
        )
        if asked := st.session_state.pop("adding", None):
            _add(*asked)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            address = st.text_input(
                "Address", key="new_address", placeholder="http://192.168.1.20:8000/v1"
            )
            key = st.text_input("Key, where it wants one", key="new_key", type="password")
            st.button("Test and add", key="new_server", on_click=_remember)
        warn_when_exposed(str(address), bool(key))
        problems.draw("new")


def _remember() -> None:
    """Take the key out of its box before anything else happens."""
    key, st.session_state.new_key = st.session_state.new_key, ""
    st.session_state.adding = (st.session_state.new_address or "", Secret(key or ""))


def _add(address: str, key: Secret) -> None:
    try:
        with st.spinner("Asking the server"):
            provider, health = adding.find(visitor.access(), address, key.reveal(), visitor.wait)
    except SLMError as error:
        problems.tell("new", error)
        return
    if health.word == "not reachable":
        problems.tell("new", SLMError(health.reason, hint=health.hint))
        return
    st.session_state[f"models_{provider.place}"] = True
    st.session_state.new_address = ""
    st.rerun()
