"""An OpenAI-compatible server whose answers are written down beforehand, one for each prompt.

    with scripted() as server:
        server.answers = [refusal(429, "Slow down.", retry_after="0.1")]   # then replies again
        server.asked[0].headers["authorization"]

It keeps what it was asked. What it says and when is the test's; it knows no model.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from asking import PATIENCE
from serving import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from slm_backends import background, selector
from slm_backends.selector import Selector

Answer = Callable[[Mapping[str, Any]], Response]


@dataclass(frozen=True)
class Asked:
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


@dataclass
class Server:
    """`address` ends in /v1. `listing` is the answer to a request for its models; `timings` is what
    a reply of its own ends with, as llama-server's do."""

    address: str = ""
    models: list[str] = field(default_factory=lambda: ["m"])
    answers: list[Answer] = field(default_factory=list)
    listing: Answer | None = None
    timings: dict[str, float] | None = None
    asked: list[Asked] = field(default_factory=list)

    @property
    def prompts(self) -> list[Asked]:
        return [item for item in self.asked if item.path.endswith("/chat/completions")]

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(Asked(request.url.path, dict(request.headers), body))
        usual = reply("Hello", timings=self.timings)
        return (self.answers.pop(0) if self.answers else usual)(body)

    async def list(self, request: Request) -> Response:
        self.asked.append(Asked(request.url.path, dict(request.headers), {}))
        if self.listing is not None:
            return self.listing({})
        return JSONResponse({"object": "list", "data": [{"id": name} for name in self.models]})


def reply(
    text: str,
    *,
    until: threading.Event | None = None,
    fails: str = "",
    timings: dict[str, float] | None = None,
) -> Answer:
    """The text in one piece. It ends when `until` is set; with `fails`, as an error in there."""

    def answer(_: Mapping[str, Any]) -> Response:
        return StreamingResponse(
            _pieces(text, until, fails, timings), media_type="text/event-stream"
        )

    return answer


async def _pieces(
    text: str, until: threading.Event | None, fails: str, timings: dict[str, float] | None
) -> AsyncIterator[bytes]:
    yield _event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})
    while until is not None and not until.is_set():
        await asyncio.sleep(0.005)
    if fails:
        yield _event({"error": {"message": fails, "code": 429}})
        return
    last: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    yield _event(last | ({"timings": timings} if timings else {}))
    yield b"data: [DONE]\n\n"


def _event(sent: dict[str, Any]) -> bytes:
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps(chunk | sent).encode() + b"\n\n"


def refusal(status: int, message: str, *, param: str | None = None, **headers: str) -> Answer:
    """An error as in OpenAI's API; `retry_after="1"` is a header."""
    error = {"message": message, "type": "t", "param": param, "code": None}
    if param:
        error["code"] = "unsupported_parameter"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: JSONResponse({"error": error}, status, headers=named)


@contextmanager
def own_selector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Selector]:
    """A selector in the place of the process's, for all that concerns servers; its clients end with
    it."""
    made = Selector()
    for name in ("backend", "health", "probe", "look", "probing"):
        monkeypatch.setattr(selector, name, getattr(made, name))
    yield made
    for shelf in (made._everyones, *made._visitors.values()):
        for backend in shelf.backends.values():
            background.submit(backend.close()).result(PATIENCE)


@contextmanager
def scripted() -> Iterator[Server]:
    made = Server()
    routes = [
        Route("/v1/chat/completions", made.complete, methods=["POST"]),
        Route("/v1/models", made.list),
    ]
    with serving(Starlette(routes=routes)) as address:
        made.address = f"{address}/v1"
        yield made
