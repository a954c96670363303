"""Short words for tests: ask a backend, wait until something is so."""

from __future__ import annotations

import time
from collections.abc import Callable

from slm_backends import run
from slm_backends.chat import Backend, ChatRequest, Message, Sampling
from slm_backends.run import Reply, Run

PATIENCE = 120.0  # seconds after which a test gives up; nothing here takes more than a few
LONG = "Write a very long story about a dragon who learns to cook."


def request(prompt: str = "Hello", **sampling: object) -> ChatRequest:
    return ChatRequest((Message("user", prompt),), Sampling(**sampling))  # type: ignore[arg-type]


def start(backend: Backend, prompt: str = "Hello", **sampling: object) -> Run:
    return run.start(backend, request(prompt, **sampling))


def ask(backend: Backend, prompt: str = "Hello", **sampling: object) -> Reply:
    """The whole reply; an error that ended it is raised."""
    reply = start(backend, prompt, **sampling).wait(PATIENCE)
    if reply.error is not None:
        raise reply.error
    assert reply.state == "done", reply
    return reply


def until(condition: Callable[[], object], what: str = "") -> float:
    """Seconds that it took until `condition` held."""
    begun = time.perf_counter()
    while not condition():
        assert time.perf_counter() - begun < PATIENCE, f"waited in vain: {what or condition}"
        time.sleep(0.001)
    return time.perf_counter() - begun


def until_decoding(run: Run, characters: int = 1) -> None:
    until(lambda: len(run.reply.text) >= characters or run.reply.ended, "text")
    assert run.reply.state == "decoding", run.reply
