"""How each dialect looks on the wire, for tests that play the same to all of them.

To add a dialect, write its Dialect below and put it into DIALECTS: tests/test_failures.py plays its
whole table through each of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from slm_backends.chat import SAMPLING_FIELDS, Capabilities
from slm_backends.endpoints import Endpoint, Key
from slm_backends.endpoints.azure import AzureBackend
from slm_backends.endpoints.ollama import OllamaBackend
from slm_backends.endpoints.openai import OpenAIBackend


@dataclass(frozen=True)
class Dialect:
    """A client, and the bytes that its server sends.

    endpoint   (the server's address, without a path; the key; options of its class) -> the client
    type       content type of a streamed reply
    text       a piece of a reply with that text
    last       everything from the last piece on: the finish reason, and no counts of tokens
    error      an error object in the middle of a reply
    nothing    what may come between pieces and holds nothing
    odd        pieces that have a right to exist, but no text in them
    malformed  pieces that have none, each alone
    filters    whether a finish reason says that a content filter stopped the reply
    """

    name: str
    endpoint: Callable[..., Endpoint]
    type: str
    text: Callable[[str], bytes]
    last: Callable[[str], bytes]
    error: Callable[[dict[str, Any]], bytes]
    nothing: tuple[bytes, ...]
    odd: tuple[bytes, ...]
    malformed: tuple[bytes, ...]
    filters: bool = True

    def __str__(self) -> str:
        return self.name


def event(sent: object) -> bytes:
    """A server-sent event."""
    return f"data: {json.dumps(sent)}\n\n".encode()


def chunk(text: str | None = None, reason: str | None = None) -> dict[str, Any]:
    """A chunk as in OpenAI's API."""
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    kind = "chat.completion.chunk"
    return {"id": "1", "object": kind, "created": 1, "model": "m", "choices": [choice]}


def openai_endpoint(address: str, key: Key = "", **options: Any) -> Endpoint:
    return OpenAIBackend(
        "m@openai", f"{address}/v1", "m", Capabilities(SAMPLING_FIELDS), key=key, **options
    )


OPENAI = Dialect(
    "openai",
    openai_endpoint,
    "text/event-stream",
    text=lambda text: event(chunk(text)),
    last=lambda reason: event(chunk(None, reason)) + b"data: [DONE]\n\n",
    error=lambda error: event({"error": error}),
    nothing=(b": a comment\n\n", b"data:\n\n", b"data: \r\n\r\n", b"event: ping\n\n", b"\n\n\n"),
    odd=(
        event(chunk() | {"choices": []}),
        event(chunk() | {"choices": None}),
        event(chunk() | {"choices": [{"index": 0, "delta": None, "finish_reason": None}]}),
    ),
    malformed=(
        b"data: {nonsense\n\n",
        b"data: [1]\n\n",
        b'data: "words"\n\n',
        b"data: null\n\n",
        b"data: \xff\xfe\n\n",
        b'data: {"choices": 5}\n\n',
        b'data: {"choices": ["x"]}\n\n',
        b'data: {"choices": [{"delta": {"content": 5}}]}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
    ),
)


def azure_endpoint(address: str, key: Key = "", **options: Any) -> Endpoint:
    return AzureBackend(
        "m@azure", f"{address}/models", "m", Capabilities(SAMPLING_FIELDS), key=key, **options
    )


AZURE = replace(OPENAI, name="azure", endpoint=azure_endpoint)  # the same on the wire


def line(sent: object) -> bytes:
    """An object of Ollama's streams."""
    return json.dumps(sent).encode() + b"\n"


def said(text: str | None, **more: Any) -> bytes:
    """A piece of a reply as Ollama sends it."""
    message = {"role": "assistant", "content": text}
    at = "2026-11-20T19:22:45.499127Z"
    return line({"model": "m", "created_at": at, "message": message, "done": False} | more)


def ollama_endpoint(address: str, key: Key = "", **options: Any) -> Endpoint:
    return OllamaBackend(
        "m@ollama", address, "m", Capabilities(SAMPLING_FIELDS), key=key, **options
    )


OLLAMA = Dialect(
    "ollama",
    ollama_endpoint,
    "application/x-ndjson",
    text=said,
    last=lambda reason: said("", done=True, done_reason=reason),
    error=lambda error: line({"error": error["message"]}),
    nothing=(b"\n", b"\r\n", b"   \n\n\n"),
    odd=(
        said(""),
        said(None),
        line({"model": "m", "done": False}),
        line({"model": "m", "message": None, "done": False}),
        line({"message": {"role": "assistant", "content": "", "thinking": ""}, "done": False}),
    ),
    malformed=(
        b"{nonsense\n",
        b"[1]\n",
        b'"words"\n',
        b"null\n",
        b"\xff\xfe\n",
        b'{"message": 5}\n',
        b'{"message": ["x"]}\n',
        b'{"message": {"content": 5}}\n',
        b"[" * 100_000 + b"\n",
    ),
    filters=False,
)

#: Every dialect that slm_backends speaks.
DIALECTS = (OPENAI, AZURE, OLLAMA)
