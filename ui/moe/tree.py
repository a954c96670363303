"""An agent's reply as a tree, below what is wrong with it."""

from __future__ import annotations

import streamlit as st

from slm_backends.moe.agent import Answer
from ui.markdown import literal


def draw(answer: Answer) -> None:
    """Nothing of it is carried out: the tools exist in the prompt alone."""
    if answer.problems:
        said = "\n".join(f"- {literal(problem)}" for problem in answer.problems)
        st.warning(f"Not the answer that the prompt asks for:\n\n{said}", icon=":material/rule:")
    else:
        st.caption(":material/check: Valid JSON, with steps and a result as the prompt asks for.")
    if answer.found:
        st.json(answer.content, expanded=2)
