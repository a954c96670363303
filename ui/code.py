"""The Code view of a pane: programs that repeat its request."""

from __future__ import annotations

import streamlit as st

from slm_backends import snippets
from slm_backends.chat import ChatRequest
from slm_backends.errors import SLMError
from ui import parameters, visitor
from ui.panes import Pane

EXAMPLE = "Why is the sky blue?"


def draw_code(pane: Pane) -> None:
    """The request that this pane sent last or, before that, would send."""
    try:
        server = snippets.server(pane.deployment, access=visitor.access())
        if server is None:
            st.caption("The scripted backend has no server, so there is no program for it.")
            return
        request = _request(pane)
    except SLMError as error:
        st.text(error.message)
        return
    st.code(snippets.python(request, server), language="python", wrap_lines=True)
    st.code(snippets.curl(request, server), language="bash", wrap_lines=True)


def _request(pane: Pane) -> ChatRequest:
    if pane.turns and pane.turns[-1].request:
        return pane.turns[-1].request
    messages = pane.conversation(EXAMPLE, parameters.system(pane.settings))
    return ChatRequest(messages, parameters.sampling(pane))
