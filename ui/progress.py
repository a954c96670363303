"""How far a fetch is, with a button that ends it."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from slm_backends.fetching import Fetch
from slm_backends.terminal import duration
from ui import problems


def draw(fetch: Fetch, key: str, cancel: Callable[[], None]) -> None:
    """A bar while it runs, the reason where it failed."""
    if fetch.state == "running":
        with st.container(horizontal=True, vertical_alignment="center"):
            st.progress(fetch.progress.fraction if fetch.progress else 0.0, _words(fetch))
            st.button("Cancel", key=f"cancel_{key}", on_click=cancel)
    elif fetch.error is not None:
        problems.show(fetch.error)


def _words(fetch: Fetch) -> str:
    now = fetch.progress
    if now is None:
        return "Waiting for another fetch to end"
    parts = [now.step.capitalize()]
    if now.unit == "bytes" and now.total:
        parts.append(f"{now.done / 1e6:,.0f} of {now.total / 1e6:,.0f} MB")
        if fetch.bytes_per_second:
            parts.append(f"{fetch.bytes_per_second / 1e6:.1f} MB/s")
        if fetch.seconds_left is not None:
            parts.append(f"{duration(fetch.seconds_left)} left")
    elif now.total and now.total > 1:
        parts.append(f"{now.done} of {now.total}")
    return " · ".join(parts)
