"""The models on an Ollama server, against one that follows Ollama's published API."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from datetime import datetime, timezone
from typing import Any, TypeVar

import httpx
import ollama_server
import pytest
from asking import until
from ollama_server import LAYERS, VERSION, Ollama
from serving import serving
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from slm_backends.endpoints import incoming, ollama_client
from slm_backends.errors import BadRequest, FetchFailed, NotFound, SLMError, Unavailable
from slm_backends.ollama_models import Installed, Loaded, OllamaServer, full_name
from slm_backends.watch import Progress

T = TypeVar("T")


@pytest.fixture(scope="module")
def _ollama() -> Iterator[Ollama]:
    with ollama_server.serving_ollama() as server:
        yield server


@pytest.fixture
def ollama(_ollama: Ollama) -> Ollama:
    _ollama.reset()
    _ollama.add("phi3.5")
    _ollama.add("llava-phi3:3.8b", family="llama", capabilities=("completion", "vision"))
    return _ollama


def ask(address: str, question: Callable[[OllamaServer], Awaitable[T]]) -> T:
    """What one call gives; the client is closed after it."""

    async def asked() -> T:
        server = OllamaServer(address, start_hint="Start it.")
        try:
            return await question(server)
        finally:
            await server.close()

    return asyncio.run(asked())


def pulled(address: str, name: str, enough: int = 10_000) -> list[Progress]:
    """The steps of a pull, which is cancelled after so many."""

    async def steps(server: OllamaServer) -> list[Progress]:
        seen: list[Progress] = []
        async with aclosing(server.pull(name)) as told:
            async for progress in told:
                seen.append(progress)
                if len(seen) == enough:
                    break
        return seen

    return ask(address, steps)


def test_names() -> None:
    for same in ("phi3.5", "phi3.5:latest", "Phi3.5", " library/phi3.5", "library/phi3.5:latest"):
        assert full_name(same) == "phi3.5:latest"
    assert full_name("registry.ollama.ai/library/phi3.5") == "phi3.5:latest"
    assert full_name("phi3:3.8b-mini-4k-instruct-q4_0") == "phi3:3.8b-mini-4k-instruct-q4_0"
    assert full_name("someone/phi3") == "someone/phi3:latest"
    assert full_name("hf.co/Qwen/Qwen3-0.6B-GGUF:Q8_0") == "hf.co/qwen/qwen3-0.6b-gguf:q8_0"
    assert full_name("localhost:5000/me/phi3") == "localhost:5000/me/phi3:latest"


def test_what_it_has(ollama: Ollama) -> None:
    assert ask(ollama.address, OllamaServer.version) == VERSION
    first, second = ask(ollama.address, OllamaServer.models)
    assert first == Installed(
        "phi3.5:latest",
        2_176_178_843,
        ollama.models["phi3.5:latest"].digest,
        "3.8B",
        "Q4_0",
        "phi3",
        first.modified,
    )
    assert first.modified is not None
    assert first.modified.astimezone(timezone.utc) == datetime(
        2026, 5, 10, 15, 6, 48, 639712, timezone.utc
    )
    assert second.name == "llava-phi3:3.8b"
    assert [path for path, _ in ollama.asked] == ["GET /api/version", "GET /api/tags"]


def test_load_and_unload(ollama: Ollama) -> None:
    assert ask(ollama.address, OllamaServer.running) == []
    ollama.loaded["phi3.5:latest"] = 8192
    (loaded,) = ask(ollama.address, OllamaServer.running)
    size = ollama.models["phi3.5:latest"].size
    assert loaded == Loaded("phi3.5:latest", 2 * size, size, 8192, loaded.until)
    assert loaded.on_gpu == 0.5
    assert loaded.until is not None
    assert loaded.until.utcoffset() is not None
    ask(ollama.address, lambda server: server.unload("phi3.5"))
    assert ollama.asked[-1] == (
        "POST /api/generate", {"model": "phi3.5", "stream": False, "keep_alive": 0},
    )  # fmt: skip
    assert ask(ollama.address, OllamaServer.running) == []


def test_what_it_tells_of_a_model(ollama: Ollama) -> None:
    shown = ask(ollama.address, lambda server: server.show("llava-phi3:3.8b"))
    assert shown.template == "<|user|>\n{{ .Prompt }}<|end|>\n<|assistant|>\n"
    assert shown.parameters == (("stop", "<|end|>"), ("stop", "<|user|>"), ("num_ctx", "4096"))
    assert shown.context == 131_072
    assert shown.capabilities == {"completion", "vision"}
    assert shown.licence.startswith("MIT License\n")
    assert (shown.family, shown.parameter_size, shown.quantisation) == ("llama", "3.8B", "Q4_0")


def test_remove(ollama: Ollama) -> None:
    ask(ollama.address, lambda server: server.remove("phi3.5"))
    assert ollama.asked == [("DELETE /api/delete", {"model": "phi3.5"})]
    assert list(ollama.models) == ["llava-phi3:3.8b"]


@pytest.mark.parametrize("question", [OllamaServer.show, OllamaServer.unload, OllamaServer.remove])
def test_a_model_that_is_not_there(
    ollama: Ollama, question: Callable[[OllamaServer, str], Awaitable[Any]]
) -> None:
    with pytest.raises(NotFound, match="model 'phi4' not found") as caught:
        ask(ollama.address, lambda server: question(server, "phi4"))
    assert caught.value.hint == "Bring it with `ollama pull phi4`."


# --- pull -----------------------------------------------------------------------------------------


def test_pull(ollama: Ollama) -> None:
    ollama.library.add("phi4-mini:latest")
    steps = pulled(ollama.address, "phi4-mini")
    assert ollama.asked == [("POST /api/pull", {"model": "phi4-mini", "stream": True})]
    assert "phi4-mini:latest" in ollama.models
    weights, licence = LAYERS.values()
    assert steps[0] == Progress("asking the registry", 0, None, "steps", 0.0)
    assert steps[1] == Progress("downloading", 0, weights, "bytes", 0.0)
    assert steps[2].done == ollama_server.STEP
    assert steps[2].fraction == pytest.approx(0.9 * ollama_server.STEP / weights)
    whole = weights + licence
    assert Progress("downloading", whole, whole, "bytes", pytest.approx(0.9)) in steps
    assert [step.step for step in steps[-3:]] == ["checking", "finishing", "ready"]
    assert steps[-1].fraction == 1.0
    fractions = [step.fraction for step in steps]
    assert fractions == sorted(fractions)


def test_a_pull_may_have_any_number_of_steps(
    ollama: Ollama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "MAX_BYTES", 500)
    ollama.library.add("phi4:latest")
    assert pulled(ollama.address, "phi4")[-1].step == "ready"


def test_closing_a_pull_cancels_it(ollama: Ollama) -> None:
    ollama.library.add("phi4:latest")
    ollama.pause = 0.02
    steps = pulled(ollama.address, "phi4", enough=4)
    assert len(steps) == 4
    until(ollama.left.is_set, "the server to see it")
    assert "phi4:latest" not in ollama.models


def test_a_pull_that_fails(ollama: Ollama) -> None:
    with pytest.raises(FetchFailed) as caught:
        pulled(ollama.address, "phi9")
    assert caught.value.message == (
        "Ollama did not get phi9: pull model manifest: file does not exist"
    )
    assert "ollama.com/library" in caught.value.hint
    with pytest.raises(BadRequest, match="invalid model name"):
        pulled(ollama.address, "no name at all")


@pytest.mark.parametrize("lines", ['{"status":"pulling manifest"}\n', ""])
def test_a_pull_without_an_end(lines: str) -> None:
    with serving(PlainTextResponse(lines)) as address, pytest.raises(FetchFailed) as caught:
        pulled(address, "phi4")
    assert "in the middle of getting phi4" in caught.value.message


# --- others than Ollama ---------------------------------------------------------------------------

QUESTIONS: list[Callable[[OllamaServer], Awaitable[Any]]] = [
    OllamaServer.version,
    OllamaServer.models,
    OllamaServer.running,
    lambda server: server.show("phi3.5"),
]


def failing(address: str, kind: type[SLMError]) -> None:
    for question in QUESTIONS:
        with pytest.raises(SLMError) as caught:
            ask(address, question)
        assert type(caught.value) is kind, repr(caught.value)
        assert caught.value.hint


@pytest.mark.parametrize(
    "answer",
    [
        Response("<!doctype html><title>Hello</title>", media_type="text/html"),
        JSONResponse({}),
        JSONResponse([1]),
        JSONResponse({"models": [5], "version": {}, "model_info": 5}),
    ],
)
def test_another_kind_of_server(answer: Response) -> None:
    with serving(answer) as address:
        failing(address, NotFound)


def test_nobody_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        failing(address, Unavailable)
        with pytest.raises(Unavailable, match="nothing listens there"):
            pulled(address, "phi3.5")


def test_the_package_does_not_hide_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has one sentence for whatever kept it from connecting."""
    failing("http://127.0.0.1:70000", Unavailable)

    async def no_route(*_: object, **__: object) -> None:
        raise httpx.ConnectError("No route to host")

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", no_route)
    with pytest.raises(Unavailable, match=r"^No answer from http://127.0.0.1:9: No route to host"):
        ask("http://127.0.0.1:9", OllamaServer.models)


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    monkeypatch.setattr(ollama_client, "ASK_SECONDS", 0.1)
    with serving(silent) as address:
        failing(address, Unavailable)
        with pytest.raises(Unavailable, match="it took too long") as caught:
            ask(address, OllamaServer.models)
    assert caught.value.hint == "Start it."


def test_a_server_shows_no_key() -> None:
    assert repr(OllamaServer("http://x:1", key="a-key")) == "OllamaServer('http://x:1')"
