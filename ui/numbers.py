"""The quiet line under a reply, and what lies behind it. Built from numbers that we own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from slm_backends.catalog import Deployment
from slm_backends.export import numbers, seconds
from slm_backends.run import Reply

_STATES = {
    "queued": "waiting",
    "prefill": "reading the prompt",
}


def live(reply: Reply) -> str:
    """The line while a reply runs."""
    if reply.state == "loading":
        return f"loading the model: {reply.load_step} · {reply.total_s:.0f} s"
    if reply.state == "queued" and reply.queue_reason:
        place = f" · place {reply.queue_place} in line" if reply.queue_place else ""
        return f"{reply.queue_reason}{place} · {reply.total_s:.0f} s"
    if reply.state in _STATES:
        return f"{_STATES[reply.state]} · {reply.total_s:.1f} s"
    return numbers(reply)


def final(reply: Reply, row: Sequence[Reply]) -> str:
    """The line once it ended, with the best of its row marked where panes differ.

    The whole time is not a contest: it holds the load, and longer replies take longer.
    """
    done = [other for other in row if other.state == reply.state == "done"]
    parts = []
    if reply.completion_tokens is not None:
        parts.append(f"{reply.completion_tokens:,} tokens")
    if (speed := reply.tokens_per_second) is not None:
        speeds = [other.tokens_per_second for other in done]
        parts.append(_marked(speed, speeds, max, lambda value: f"{value:.1f} tok/s"))
    if (wait := reply.first_token_s) is not None:
        waits = [other.first_token_s for other in done]
        parts.append(_marked(wait, waits, min, lambda value: f"first token {seconds(value)}"))
    if reply.room_s >= 0.1:
        parts.append(f"waited {seconds(reply.room_s)} for memory")
    parts.append(seconds(reply.total_s))
    if reply.finish_reason:
        parts.append(reply.finish_reason)
    return " · ".join(parts)


def _marked(
    value: float,
    row: Sequence[float | None],
    best: Callable[[list[float]], float],
    show: Callable[[float], str],
) -> str:
    """The value as text, with a star where it is the best of a row that differs on screen."""
    known = [other for other in row if other is not None]
    differs = len({show(other) for other in known}) > 1
    wins = differs and show(value) == show(best(known))
    return f":green[**★ {show(value)}**]" if wins else show(value)


def details(reply: Reply) -> None:
    """Everything else that is known of a reply, as a table."""
    speed = reply.characters_per_second
    rows = {
        "Prompt tokens": _count(reply.prompt_tokens),
        "Cached tokens": _count(reply.cached_tokens),
        "Characters/s": "–" if speed is None else f"{speed:.0f}",
        "Queue": seconds(reply.queue_s),
        "Waiting for memory": seconds(reply.room_s),
        "Load": seconds(reply.load_s),
        "Runtime": " ".join(filter(None, (reply.about.version, reply.about.device))) or "–",
        "Artefact": reply.about.artefact or "–",
        "Measured": "where the tokens are made" if reply.counted else "here, network included",
    }
    st.table(rows, border="horizontal")


def past_sound(reply: Reply, deployment: Deployment | None) -> str:
    """A warning where a conversation is longer than its runtime computes rightly, or empty."""
    used = (reply.prompt_tokens or 0) + (reply.completion_tokens or 0)
    if deployment is None or not 0 < deployment.sound_to < used:
        return ""
    return f"Past {deployment.sound_to:,} tokens: {deployment.sound_note}"


def _count(value: int | None) -> str:
    return "not reported" if value is None else f"{value:,}"
