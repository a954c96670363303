"""A comparison as a file: Markdown to read, JSON to work with.

Knows what was asked, of which deployment, with which parameters, what came back and its numbers.
Keys are not part of any of it. Knows nothing of pages.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from slm_backends.catalog import Deployment
from slm_backends.chat import ChatRequest
from slm_backends.run import Reply


@dataclass(frozen=True)
class Exchange:
    """One prompt in one pane: the whole request, and the reply to it. `cost` is in US dollars, None
    where it is not known."""

    deployment: str
    request: ChatRequest
    reply: Reply
    cost: float | None = None


Panes = Sequence[Sequence[Exchange]]


def to_json(panes: Panes) -> str:
    """Everything, one entry a pane; images by their size only."""
    return json.dumps(
        {
            "made": _now(),
            "panes": [[_record(exchange) for exchange in pane] for pane in panes],
        },
        ensure_ascii=False,
        indent=2,
    )


def to_markdown(panes: Panes, harmless: Callable[[str], str] = str) -> str:
    """A document with one section a prompt, the deployments' replies below each other.

    `harmless` is applied to each reply: a viewer would load the pictures that a model names.
    """
    lines = ["# Comparison", "", f"Made {_now()}.", ""]
    rounds = max((len(pane) for pane in panes), default=0)
    for number in range(rounds):
        lines += [f"## Prompt {number + 1}", ""]
        shown = None
        for pane in panes:
            if number >= len(pane):
                continue
            exchange = pane[number]
            prompt = exchange.request.messages[-1].content
            if prompt != shown:
                lines += [*_quoted(prompt), ""]
                shown = prompt
            lines += [
                f"### {exchange.deployment}",
                "",
                harmless(exchange.reply.text) or "*(no text)*",
                "",
            ]
            lines += [
                f"*{numbers(exchange.reply, exchange.cost)}*",
                "",
                f"`{_parameters(exchange.request)}`",
                "",
            ]
            if exchange.reply.error is not None:
                lines += ["Error:", "", *_quoted(exchange.reply.error.message), ""]
    return "\n".join(lines)


def numbers(reply: Reply, cost: float | None = None) -> str:
    """The line under a reply, as plain text."""
    parts: list[str] = []
    if reply.completion_tokens is not None:
        parts.append(f"{reply.completion_tokens:,} tokens")
    if reply.tokens_per_second is not None:
        parts.append(f"{reply.tokens_per_second:.1f} tok/s")
    if reply.wait_s is not None:
        parts.append(f"first token {seconds(reply.wait_s)}")
    parts.append(seconds(reply.total_s))
    if cost is not None:
        parts.append(dollars(cost))
    if reply.finish_reason:
        parts.append(reply.finish_reason)
    return " · ".join(parts)


def cost(reply: Reply, deployment: Deployment | None) -> float | None:
    """US dollars for a reply: its tokens at the catalog's prices for a million of them. None where
    a price or a count is not known. Cached tokens count in full, as their prices are not known."""
    if deployment is None or not (deployment.price_in and deployment.price_out):
        return None
    if reply.prompt_tokens is None or reply.completion_tokens is None:
        return None
    tokens_in, tokens_out = reply.prompt_tokens, reply.completion_tokens
    return (tokens_in * deployment.price_in + tokens_out * deployment.price_out) / 1e6


def dollars(value: float) -> str:
    """As in $0.00012: two digits that say something, and cents at least."""
    places = 2 if value <= 0 else max(2, 1 - math.floor(math.log10(value)))
    return f"${value:,.{places}f}"


def seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _record(exchange: Exchange) -> dict[str, Any]:
    reply = exchange.reply
    error = reply.error
    return {
        "deployment": exchange.deployment,
        "about": asdict(reply.about),
        "messages": [
            {"role": message.role, "content": message.content}
            | ({"images": [len(image.data) for image in message.images]} if message.images else {})
            for message in exchange.request.messages
        ],
        "parameters": asdict(exchange.request.sampling),
        "reply": reply.text,
        "logprobs": [asdict(token) for token in reply.logprobs],
        "finish_reason": reply.finish_reason,
        "error": None
        if error is None
        else {"code": error.code, "message": error.message, "hint": error.hint},
        "numbers": {
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "cached_tokens": reply.cached_tokens,
            "tokens_per_second": reply.tokens_per_second,
            "characters_per_second": reply.characters_per_second,
            "room_s": reply.room_s,
            "load_s": reply.load_s,
            "held_s": reply.held_s,
            "queue_s": reply.queue_s,
            "first_token_s": reply.first_token_s,
            "decode_s": reply.decode_s,
            "total_s": reply.total_s,
            "measured_by": "server" if reply.counted else "client",
            "here_first_s": reply.here_first_s,
            "here_decode_s": reply.here_decode_s,
            "server": None if reply.server is None else asdict(reply.server),
            "cost_usd": exchange.cost,
        },
    }


def _parameters(request: ChatRequest) -> str:
    sampling = asdict(request.sampling)
    asked = request.sampling.asked()
    return ", ".join(f"{name}={value!r}" for name, value in sampling.items() if name in asked)


def _quoted(text: str) -> list[str]:
    return [f"> {line}".rstrip() for line in text.splitlines()] or [">"]


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
