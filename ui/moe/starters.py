"""Prompts to begin with: of kinds that phi-moe-nano was taught, and those of the lesson."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from slm_backends.moe import agent


@dataclass(frozen=True)
class Starter:
    name: str
    prompt: str
    system: str = ""


STARTERS = (
    Starter("A sum", "What is 23 + 45?"),
    Starter("A line of German", "Translate into German: The house is old."),
    Starter(
        "A Python question",
        "Write a Python function called solve that returns the larger of two numbers.",
    ),
    Starter("A story", "Tell me a story about a cat."),
    Starter("Blog and translate", agent.QUESTION),
    Starter("The same as an agent", agent.QUESTION, agent.PROMPT),
)

#: Two prompts each, whose experts are worth a comparison.
PAIRS = {
    "A sum and German": ("What is 23 + 45?", "Translate into German: The house is old."),
    "One sentence in two languages": (
        "What does this mean: The house is old.",
        "What does this mean: Das Haus ist alt.",
    ),
}


def draw(start: Callable[[Starter], None], disabled: bool) -> None:
    """A button each."""
    with st.container(horizontal=True, key="moe_starters"):
        for starter in STARTERS:
            st.button(
                starter.name,
                key=f"start_{starter.name}",
                help=starter.prompt + (" With a system prompt." if starter.system else ""),
                on_click=start,
                args=(starter,),
                disabled=disabled,
            )
