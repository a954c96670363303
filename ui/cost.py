"""What a pane's pictures cost before they are sent, how its deployment is shown them, and to whom
they go."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import streamlit as st

from slm_backends import showing
from slm_backends.errors import SLMError
from ui import parameters, visitor
from ui.markdown import literal
from ui.panes import Pane, going_on
from ui.pictures import Picture

TOLD = {
    showing.SHEET: "All on one picture: fewer tokens, and less of each to see.",
    showing.FIRST: "The others are left out.",
    showing.TEXT: "The text is read on this computer and handed on; it sees nothing else.",
}


def draw(pane: Pane, pictures: Sequence[Picture]) -> None:
    """Lines between a pane's head and its turns; `pictures` are those in the tray."""
    try:
        takes = pane.backend().capabilities.images
    except SLMError as error:
        st.caption(literal(f"{error.message} {error.hint}"))
        return
    count = len(pane.sent_pictures) + len(pictures)
    way = showing.fitting(takes, count, pane.wanted)
    with st.container(key=f"cost_{pane.number}", gap="xxsmall"):
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
            _choice(pane, takes, count, way)
            if count:
                _cost(pane, pictures)
        if host := _host(pane):
            what = "The text in pictures is" if way == showing.TEXT else "Pictures are"
            st.caption(f":material/lock_open: {what} sent to {literal(host)}.")


def _choice(pane: Pane, takes: int, count: int, way: str) -> None:
    """How it is shown them, where there is more than one way, and why."""
    if takes == 0:
        st.caption(":orange-badge[reads text only, sees nothing else]")
        return
    takes_them = "takes one picture" if takes == 1 else f"takes {takes} pictures"
    if not count:
        st.caption(takes_them)
        return
    with st.popover(showing.WAYS[way], type="tertiary", key=f"ways_{pane.number}"):
        st.caption(f"It {takes_them} in a conversation; there are {count}.")
        ways = showing.offered(takes, count)
        st.radio(
            "What it is shown",
            ways,
            ways.index(way),
            format_func=showing.WAYS.__getitem__,
            captions=[TOLD.get(each, "") for each in ways],
            key=f"way_{pane.number}_{takes}_{count}",
            on_change=going_on,
            args=(_choose, pane, f"way_{pane.number}_{takes}_{count}"),
        )
        if takes < count:
            st.caption("Another deployment may take more: choose it above.")


def _choose(pane: Pane, key: str) -> None:
    pane.wanted = st.session_state[key]


def _cost(pane: Pane, pictures: Sequence[Picture]) -> None:
    try:
        most = parameters.sampling(pane).max_tokens
    except SLMError:  # said once something is sent
        most = 1
    cost = pane.cost(pictures, most)
    if cost is None:
        return
    st.caption(cost.words, help=literal(cost.arithmetic))
    if cost.refusal:
        st.caption(f":red[:material/block: {literal(cost.refusal)}]")
    elif cost.warning:
        st.caption(f":orange[:material/warning: {literal(cost.warning)}]")


def _host(pane: Pane) -> str:
    """Of the server that would get the pictures; empty where this computer answers."""
    deployment = visitor.known().deployments.get(pane.deployment)
    if deployment is None or deployment.provider is None:
        return ""
    return urlsplit(visitor.access().connection(deployment.provider).base_url).netloc
