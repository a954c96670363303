"""Errors on a page: what happened and what to do, in plain text, as servers wrote parts of it."""

from __future__ import annotations

import streamlit as st

from slm_backends.errors import SLMError


def show(error: SLMError) -> None:
    st.error("That did not work.", icon=":material/error:")
    st.text("\n".join(filter(None, (error.message, error.hint))))


def tell(place: str, error: SLMError) -> None:
    """Have the next run of the page show it, at that place."""
    st.session_state.problem_at = (place, error)


def draw(place: str) -> None:
    """Show what was told of that place, once."""
    told, error = st.session_state.get("problem_at", ("", None))
    if told == place and error is not None:
        del st.session_state.problem_at
        show(error)
