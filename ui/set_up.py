"""Where a visitor types a key or an address for a server: theirs alone, for their session.

A key is never shown again, not even to who typed it: its box is emptied at once.
"""

from __future__ import annotations

import streamlit as st

from slm_backends import settings
from slm_backends.access import Connection, Secret, exposed, may_add_servers
from slm_backends.errors import SLMError
from slm_backends.providers import Provider
from ui import problems, visitor


def set_up(provider: Provider, connection: Connection) -> None:
    """A button that opens the boxes."""
    with st.popover("Set up", key=f"set_up_{provider.place}", type="tertiary"):
        if provider.address and may_add_servers():
            _address(provider)
        _key(provider, connection)
        warn_when_exposed(connection.base_url, bool(connection.key))


def warn_when_exposed(address: str, has_key: bool) -> None:
    if has_key and exposed(address):
        st.warning(
            "Anybody on the way can read the key: the address begins with http:// and leads to "
            "another computer. Use https:// where the server has it.",
            icon=":material/lock_open:",
        )


def _address(provider: Provider) -> None:
    box = f"address_{provider.place}"
    mine = visitor.access().address(provider)
    st.text_input(
        "Address",
        mine,
        key=box,
        placeholder=provider.form or provider.base_url,
        on_change=_take_address,
        args=(provider, box),
    )
    if mine:
        st.caption("Yours, for this session. Empty the box to forget it.")
    elif where := settings.source(provider.address):
        st.caption(f"The owner's counts: {provider.address} in {where}.")


def _key(provider: Provider, connection: Connection) -> None:
    access = visitor.access()
    box = f"key_{provider.place}"
    needed = provider.key and not provider.key_optional
    st.text_input(
        "Key" if needed else "Key, where it wants one",
        key=box,
        type="password",
        placeholder="Type it, then press Enter",
        on_change=_take_key,
        args=(provider, box),
    )
    if access.has_key(provider):
        st.caption("A key of yours is in use, for this session.")
        st.button(
            "Forget", key=f"forget_{provider.place}", on_click=access.set_key, args=(provider, "")
        )
    elif connection.key:
        st.caption(f"Set by the owner: {provider.key} in {settings.source(provider.key)}.")
    elif connection.entra:
        st.caption("The owner has signed in with Entra ID.")
    else:
        st.caption("None is set. What you type is yours alone, and gone with this session.")


def _take_address(provider: Provider, box: str) -> None:
    try:
        visitor.access().set_address(provider, st.session_state[box] or "")
    except SLMError as error:
        problems.tell(provider.place, error)


def _take_key(provider: Provider, box: str) -> None:
    key, st.session_state[box] = Secret(st.session_state[box] or ""), ""
    try:
        if key:
            visitor.access().set_key(provider, key.reveal())
    except SLMError as error:
        problems.tell(provider.place, error)
