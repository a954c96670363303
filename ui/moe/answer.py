"""A reply on the Experts page: its text, its numbers, what went wrong with it."""

from __future__ import annotations

from typing import Any

import streamlit as st

from slm_backends.moe import agent
from ui import numbers, problems, visitor
from ui.markdown import safe
from ui.moe import tree
from ui.panes import Turn


def draw(turn: Turn, title: str = "") -> None:
    """The reply as far as it is, under a title of ours."""
    reply = turn.reply
    if title:
        st.markdown(f"**{title}**")
    if reply.text:
        st.markdown(safe(reply.text))
    if reply.error is not None:
        problems.show(reply.error)
    elif reply.ended and not reply.text:
        stopped = reply.state == "stopped"
        st.caption("Stopped before the first word." if stopped else "An empty reply.")
    st.caption(numbers.final(reply, [], turn.cost) if reply.ended else numbers.live(reply))
    known = visitor.known().deployments.get(turn.deployment)
    if warning := numbers.past_sound(reply, known):
        st.caption(f":orange[:material/warning: {warning}]")


def draw_json(turn: Turn) -> None:
    """The JSON of a reply as a tree, with what is wrong with it where the agent's was asked for."""
    found = agent.read(turn.reply.text)
    if turn.system == agent.PROMPT:
        tree.draw(found)
    elif found.found and _is_tree(found.content):
        st.json(found.content, expanded=2)


def _is_tree(content: Any) -> bool:
    """Whether more than a plain list, which the text shows as well."""
    return isinstance(content, dict) or all(isinstance(item, dict) for item in content)
