"""The quiet line under a reply, and what lies behind it. Built from numbers that we own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from slm_backends.catalog import Deployment
from slm_backends.chat import Looking
from slm_backends.export import dollars, numbers, seconds
from slm_backends.health import Health
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
        return f"{_looking(reply.looking) or _STATES[reply.state]} · {reply.total_s:.1f} s"
    return numbers(reply)


def _looking(at: Looking | None) -> str:
    """How far it is with the images, or empty: before the first, or when all have been seen."""
    if at is None or (at.image, at.crop) == (at.images, at.crops):
        return ""
    crop = f", crop {at.crop} of {at.crops}" if at.crops > 1 else ""
    return f"looking at image {at.image} of {at.images}{crop}"


def final(reply: Reply, row: Sequence[Reply], cost: float | None = None) -> str:
    """The line once it ended, with the best of its row marked where panes differ, and its cost in
    US dollars where that is known.

    The whole time is not a contest: it holds the load, and longer replies take longer.
    """
    done = [other for other in row if other.state == reply.state == "done"]
    parts = []
    if reply.completion_tokens is not None:
        parts.append(f"{reply.completion_tokens:,} tokens")
    if (speed := reply.tokens_per_second) is not None:
        speeds = [other.tokens_per_second for other in done]
        parts.append(_marked(speed, speeds, max, lambda value: f"{value:.1f} tok/s"))
    if (wait := reply.wait_s) is not None:
        waits = [other.wait_s for other in done]
        parts.append(_marked(wait, waits, min, lambda value: f"first token {seconds(value)}"))
    if reply.room_s >= 0.1:
        parts.append(f"waited {seconds(reply.room_s)} for memory")
    if reply.held_s >= 0.1:
        parts.append(f"waited {seconds(reply.held_s)} as the server asked")
    parts.append(seconds(reply.total_s))
    if cost is not None:
        # A second dollar in the line would make maths of all between them.
        parts.append(dollars(cost).replace("$", r"\$"))
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


def details(reply: Reply, server: Health | None = None, cost: float | None = None) -> None:
    """Everything else that is known of a reply, as tables: first what was measured in two places.

    `server` is the health of the server that answered, None where this computer did.
    """
    st.table(measured(reply, server), border="horizontal")
    speed = reply.characters_per_second
    rows = {
        "Prompt tokens": _count(reply.prompt_tokens),
        "Cached tokens": _count(reply.cached_tokens),
        "Characters/s": "–" if speed is None else f"{speed:.0f}",
        "Waiting for memory": seconds(reply.room_s),
        "Load": seconds(reply.load_s),
        "Held by the server": seconds(reply.held_s),
        "Cost": "not known" if cost is None else dollars(cost),
        "Runtime": " ".join(filter(None, (reply.about.version, reply.about.device))) or "–",
        "Artefact": reply.about.artefact or "–",
        "Measured": "where the tokens are made" if reply.counted else "here, network included",
    }
    if server is None:
        del rows["Held by the server"], rows["Cost"]
    st.table(rows, border="horizontal")


def measured(reply: Reply, server: Health | None = None) -> dict[str, list[str]]:
    """Column -> its cells: times by the clock of this program beside those that the server sent.

    Here, the first token is counted from when the prompt was sent: the way there and back and the
    server's queue are in it. The server counts from when it began with the prompt.
    """
    told = reply.server
    rows = {
        "First token": (_time(reply.here_first_s), _time(told and told.prompt_ms / 1000)),
        "Tokens/s": (_speed(reply.here_tokens_per_second), _speed(told and told.tokens_per_second)),
        "Queue": ("–", _time(told and (told.queue_ms - told.load_ms) / 1000)),
    }
    if told and told.load_ms:
        rows["Loading the model"] = ("–", _time(told.load_ms / 1000))
    if server is not None:
        rows["There and back"] = (_time(server.round_trip_s), "–")
    return {
        "": list(rows),
        "measured here": [here for here, _ in rows.values()],
        f"by the {'worker' if server is None else 'server'}": [own for _, own in rows.values()],
    }


def past_sound(reply: Reply, deployment: Deployment | None) -> str:
    """A warning where a conversation is longer than its runtime computes rightly, or empty."""
    used = (reply.prompt_tokens or 0) + (reply.completion_tokens or 0)
    if deployment is None or not 0 < deployment.sound_to < used:
        return ""
    return f"Past {deployment.sound_to:,} tokens: {deployment.sound_note}"


def _time(value: float | None) -> str:
    return "–" if value is None else seconds(value)


def _speed(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _count(value: int | None) -> str:
    return "not reported" if value is None else f"{value:,}"
