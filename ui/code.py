"""The Code view of a pane: programs that repeat its request."""

from __future__ import annotations

import base64

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
    for write, language in ((snippets.python, "python"), (snippets.curl, "bash")):
        program = _readable(write(request, server), request)
        st.code(program, language=language, wrap_lines=True)


def _readable(program: str, request: ChatRequest) -> str:
    """The program without the bytes of its pictures, which fill thousands of lines."""
    images = [image for message in request.messages for image in message.images]
    for number, image in enumerate(images, 1):
        data = base64.b64encode(image.data).decode("ascii")
        program = program.replace(data, f"(picture {number}, in base64)")
    return program


def _request(pane: Pane) -> ChatRequest:
    if pane.turns and (sent := pane.turns[-1].sent):
        return sent
    messages = pane.conversation(EXAMPLE, parameters.system(pane.settings))
    return ChatRequest(messages, parameters.sampling(pane))
