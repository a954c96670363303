"""A pull that goes on in the background: how far it is, how it ends, and that it can be ended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from asking import until
from ollama_server import Ollama, serving_ollama

from slm_backends.errors import FetchFailed, SLMError
from slm_backends.ollama_models import OllamaServer
from slm_backends.pulling import Pull


@pytest.fixture(scope="module")
def serving() -> Iterator[Ollama]:
    with serving_ollama() as server:
        yield server


@pytest.fixture
def ollama(serving: Ollama) -> Ollama:
    serving.reset()
    serving.library.add("phi3.5:latest")
    return serving


def begin(ollama: Ollama, name: str = "phi3.5") -> Pull:
    return Pull(OllamaServer(ollama.address), name)


def test_it_goes_on_by_itself_to_the_end(ollama: Ollama) -> None:
    ollama.pause = 0.02
    pull = begin(ollama)
    until(lambda: pull.now.progress and pull.now.progress.done)
    assert pull.now.state == "running"
    assert pull.now.progress is not None
    assert 0 < pull.now.progress.fraction < 1
    until(lambda: pull.now.state != "running")
    assert pull.now.state == "done"
    assert "phi3.5:latest" in ollama.models


def test_cancelled_the_server_is_left_at_once(ollama: Ollama) -> None:
    ollama.pause = 0.05
    pull = begin(ollama)
    until(lambda: pull.now.progress and pull.now.progress.unit == "bytes")
    pull.cancel()
    assert pull.now.state == "cancelled"
    assert ollama.left.wait(5)
    assert "phi3.5:latest" not in ollama.models


def test_what_fails_tells_why(ollama: Ollama) -> None:
    pull = begin(ollama, "no-such-model")
    until(lambda: pull.now.state != "running")
    assert pull.now.state == "failed"
    assert isinstance(pull.now.error, SLMError)
    assert "no-such-model" in pull.now.error.message
    assert isinstance(pull.now.error, FetchFailed)


def test_nobody_there_is_told(ollama: Ollama) -> None:
    pull = Pull(OllamaServer("http://127.0.0.1:9", start_hint="Start it."), "phi3.5")
    until(lambda: pull.now.state != "running")
    assert pull.now.error is not None
    assert pull.now.error.hint == "Start it."
