"""The quiet line under a reply, and what lies behind it. Built from numbers that we own."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from slm_backends.catalog import Deployment
from slm_backends.export import numbers, seconds
from slm_backends.run import Reply

_STATES = {
    "queued": "waiting",
    "loading": "loading the model",
    "prefill": "reading the prompt",
}


def live(reply: Reply) -> str:
    """The line while a reply runs."""
    if reply.state == "loading":
        return f"loading the model: {reply.load_step} · {reply.total_s:.0f} s"
    if reply.state in _STATES:
        return f"{_STATES[reply.state]} · {reply.total_s:.1f} s"
    return numbers(reply)


def final(reply: Reply, row: Sequence[Reply]) -> str:
    """The line once it ended, with the best of its row marked where panes differ."""
    parts = []
    if reply.completion_tokens is not None:
        parts.append(f"{reply.completion_tokens:,} tokens")
    for name, text, value, best in (
        ("tokens_per_second", "{:.1f} tok/s", reply.tokens_per_second, max),
        ("first_token_s", "first token {}", reply.first_token_s, min),
        ("total_s", "{}", reply.total_s, min),
    ):
        if value is None:
            continue
        shown = text.format(value if name == "tokens_per_second" else seconds(value))
        values = [getattr(other, name) for other in row if other.state == "done"]
        others = [other for other in values if other is not None]
        wins = len(set(others)) > 1 and value == best(others) and reply.state == "done"
        parts.append(f":green[**★ {shown}**]" if wins else shown)
    if reply.finish_reason:
        parts.append(reply.finish_reason)
    return " · ".join(parts)


def details(reply: Reply) -> None:
    """Everything else that is known of a reply, as a table."""
    speed = reply.characters_per_second
    rows = {
        "Prompt tokens": _count(reply.prompt_tokens),
        "Cached tokens": _count(reply.cached_tokens),
        "Characters/s": "–" if speed is None else f"{speed:.0f}",
        "Queue": seconds(reply.queue_s),
        "Load": seconds(reply.load_s),
        "Runtime": " ".join(filter(None, (reply.about.version, reply.about.device))) or "–",
        "Artefact": reply.about.artefact or "–",
        "Measured": "where the tokens are made" if reply.counted else "here, network included",
    }
    st.table(rows, border="horizontal")


def kinship(deployments: Sequence[Deployment]) -> str:
    """What a comparison of these compares: one artefact, one model, or several."""
    if len({item.id for item in deployments}) < 2:
        return ""
    if len({item.model.id for item in deployments}) > 1:
        return "Different models."
    if len({item.artefact for item in deployments}) > 1:
        artefacts = dict.fromkeys(item.artefact or "unknown" for item in deployments)
        return "The same model, different artefacts: " + " · ".join(artefacts)
    return "The same artefact on different runtimes."


def _count(value: int | None) -> str:
    return "not reported" if value is None else f"{value:,}"
