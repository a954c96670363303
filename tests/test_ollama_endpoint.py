"""The client of Ollama, against a server that follows Ollama's published API."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Iterator
from typing import Any

import ollama_server
import pytest
from asking import request, start, until, until_decoding
from ollama_server import Ollama
from serving import serving
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from slm_backends import background, run
from slm_backends.chat import (
    SAMPLING_FIELDS,
    Capabilities,
    ChatRequest,
    Delta,
    Event,
    Finished,
    Image,
    Logprob,
    Message,
    Prefill,
    Queued,
    Sampling,
    Timings,
)
from slm_backends.endpoints import incoming
from slm_backends.endpoints.ollama import (
    IMAGE_TOKENS,
    SMALLEST_WINDOW,
    OllamaBackend,
    timings,
    window,
)
from slm_backends.errors import (
    Busy,
    ContextOverflow,
    MemoryExceeded,
    NotFound,
    SLMError,
    StreamBroken,
    Unauthorized,
    Unavailable,
)

KEY = "a-key-that-must-not-show"
START = "Start it with `ollama serve`."
ALL = Capabilities(SAMPLING_FIELDS, 131_072, images=2, logprobs=True)


@pytest.fixture(scope="module")
def _ollama() -> Iterator[Ollama]:
    with ollama_server.serving_ollama() as server:
        yield server


@pytest.fixture
def ollama(_ollama: Ollama) -> Ollama:
    _ollama.reset()
    _ollama.add("phi3.5")
    return _ollama


def backend(address: str, capabilities: Capabilities = ALL, **options: Any) -> OllamaBackend:
    return OllamaBackend(
        "phi-3.5-mini-instruct@ollama",
        address,
        "phi3.5",
        capabilities,
        **{"start_hint": START} | options,
    )


def collect(asked: OllamaBackend, prompt: ChatRequest | None = None) -> list[Event]:
    async def all_of_it() -> list[Event]:
        try:
            return [event async for event in asked.stream(prompt or request())]
        finally:
            await asked.close()

    return asyncio.run(all_of_it())


def models(asked: OllamaBackend) -> list[str]:
    async def all_of_them() -> list[str]:
        try:
            return list(await asked.models())
        finally:
            await asked.close()

    return asyncio.run(all_of_them())


def failure(
    asked: OllamaBackend, kind: type[SLMError], prompt: ChatRequest | None = None
) -> SLMError:
    with pytest.raises(SLMError) as caught:
        collect(asked, prompt)
    error = caught.value
    assert type(error) is kind, repr(error)
    assert error.message
    assert error.hint
    assert KEY not in error.message + error.hint + repr(error)
    return error


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


# --- what goes over the wire -------------------------------------------------------------------


def test_a_plain_request(ollama: Ollama) -> None:
    collect(backend(ollama.address), request("Hello", max_tokens=50, temperature=0.0))
    assert ollama.asked == [
        (
            "POST /api/chat",
            {
                "model": "phi3.5",
                "messages": [{"role": "user", "content": "Hello"}],
                "options": {
                    "num_predict": 50,
                    "temperature": 0.0,
                    "top_p": 0.95,
                    "top_k": 0,
                    "presence_penalty": 0.0,
                    "frequency_penalty": 0.0,
                    "repeat_penalty": 1.0,
                    "num_ctx": 4096,
                },
                "stream": True,
                "truncate": False,
                "shift": False,
            },
        )
    ]
    assert "authorization" not in ollama.headers[0]
    assert ollama.headers[0]["accept-encoding"] == "identity"


def test_what_is_not_honoured_is_not_named(ollama: Ollama) -> None:
    collect(
        backend(ollama.address, Capabilities(frozenset({"max_tokens", "temperature", "top_p"})))
    )
    assert set(ollama.asked[0][1]["options"]) == {
        "num_predict", "temperature", "top_p", "num_ctx",
    }  # fmt: skip


def test_everything_that_can_be_asked_for(ollama: Ollama) -> None:
    sampling = Sampling(
        max_tokens=7, temperature=1.5, top_p=0.5, top_k=3, presence_penalty=0.5,
        frequency_penalty=-0.5, repetition_penalty=1.1, stop=("\n", "END"), seed=42,
    )  # fmt: skip
    picture = Image(b"\x89PNG and so on")
    messages = (
        Message("system", "Be brief."),
        Message("user", "What is this?", (picture, picture)),
        Message("assistant", "A cat."),
        Message("user", "And this?"),
    )
    collect(backend(ollama.address), ChatRequest(messages, sampling))
    sent = ollama.asked[0][1]
    encoded = base64.b64encode(picture.data).decode()
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is this?", "images": [encoded, encoded]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "And this?"},
    ]
    assert sent["options"] == {
        "num_predict": 7,
        "temperature": 1.5,
        "top_p": 0.5,
        "top_k": 3,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repeat_penalty": 1.1,
        "repeat_last_n": -1,
        "stop": ["\n", "END"],
        "seed": 42,
        "num_ctx": 4096,
    }


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/", "/api"])
def test_the_address_as_other_clients_are_given_it(ollama: Ollama, ending: str) -> None:
    events = collect(backend(ollama.address + ending))
    assert text_of(events) == "Hello"
    assert ollama.asked[0][0] == "POST /api/chat"


# --- how much of a conversation it holds ----------------------------------------------------------


def test_the_window_is_as_large_as_it_must_be() -> None:
    assert window(request("Hello"), None) == SMALLEST_WINDOW
    letters = "many words " * 400  # 4,400 letters and blanks
    assert window(request(letters, max_tokens=512), 131_072) == 4096
    assert window(request(letters, max_tokens=4096), 131_072) == 8192
    assert window(request("字" * 4000, max_tokens=512), 131_072) == 16_384  # three bytes each
    assert window(request("字" * 4000, max_tokens=512), 8_192) == 8_192  # the model's context
    assert window(request("1" * 4096, max_tokens=1), None) == 8192  # some read digits one by one
    seen = (Message("user", "What is this?", (Image(b"1"),) * 4),)
    assert window(ChatRequest(seen), None) == 2 * 4 * IMAGE_TOKENS


def test_a_conversation_that_fits_is_never_cut(ollama: Ollama) -> None:
    """Ollama's own window of 4,096 tokens would drop the oldest turns of it."""
    turns = [Message("user" if place % 2 == 0 else "assistant", "a b " * 500) for place in range(9)]
    events = collect(backend(ollama.address), ChatRequest(tuple(turns)))
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.prompt_tokens == 9 * 1000
    assert ollama.loaded == {"phi3.5:latest": 16_384}


def test_one_that_does_not_fit_is_refused_and_not_cut(ollama: Ollama) -> None:
    ollama.models["phi3.5:latest"].context = 4096
    small = Capabilities(SAMPLING_FIELDS, 4096)
    turns = tuple(Message("user", "a b " * 1000) for _ in range(3))
    error = failure(backend(ollama.address, small), ContextOverflow, ChatRequest(turns))
    assert isinstance(error, ContextOverflow)
    assert error.message == (
        "request (6000 tokens) exceeds the available context size (4096 tokens), try increasing it"
    )
    assert (error.prompt_tokens, error.context) == (6000, 4096)


# --- what comes back ------------------------------------------------------------------------------


def test_the_events_of_a_reply(ollama: Ollama) -> None:
    events = collect(backend(ollama.address), request("One two three"))
    measured = Timings(3, 400.0, 3, 100.0, queue_ms=1600.0, load_ms=1500.0)
    assert events == [
        Queued(),
        Prefill(),
        Delta("One"),
        Delta(" two"),
        Delta(" three"),
        Finished("stop", 3, 3, timings=measured),
    ]


def test_a_reply_in_one_piece(ollama: Ollama) -> None:
    events = collect(backend(ollama.address, streamed=False), request("One two three"))
    assert ollama.asked[0][1]["stream"] is False
    assert [type(event) for event in events] == [Queued, Prefill, Delta, Finished]
    assert text_of(events) == "One two three"


def test_the_limit_of_tokens(ollama: Ollama) -> None:
    last = collect(backend(ollama.address), request("One two three", max_tokens=2))[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.completion_tokens) == ("length", 2)


def test_log_probabilities(ollama: Ollama) -> None:
    asked = ChatRequest((Message("user", "One two"),), top_logprobs=2)
    pieces = [event for event in collect(backend(ollama.address), asked) if type(event) is Delta]
    assert [piece.logprobs for piece in pieces] == [
        (Logprob("One", -0.25, top=(Logprob("One", -0.25), Logprob("other0", -2.0))),),
        (Logprob(" two", -0.25, top=(Logprob(" two", -0.25), Logprob("other0", -2.0))),),
    ]
    collect(backend(ollama.address))
    assert [sent.get("logprobs") for _, sent in ollama.asked] == [True, None]


@pytest.mark.parametrize("streamed", [True, False])
def test_what_a_model_thinks_is_not_lost(ollama: Ollama, streamed: bool) -> None:
    ollama.thinks = "They greet me."
    events = collect(backend(ollama.address, streamed=streamed))
    assert text_of(events) == "<think>\nThey greet me.\n</think>\n\nHello"


def test_only_a_line_feed_ends_a_line(ollama: Ollama) -> None:
    """Python takes this for a line break as well; Go does not escape it."""
    assert text_of(collect(backend(ollama.address), request("one\x85two"))) == "one\x85two"


def test_a_run_shows_the_numbers_of_the_server_beside_ours(ollama: Ollama) -> None:
    asked = backend(ollama.address)
    reply = start(asked, "One two three").wait(10)
    background.submit(asked.close()).result(10)
    assert reply.state == "done"
    assert reply.counted
    assert reply.server == Timings(3, 400.0, 3, 100.0, queue_ms=1600.0, load_ms=1500.0)
    assert reply.tokens_per_second == pytest.approx(20.0)  # two tokens in 100 ms
    assert reply.here_first_s is not None
    assert reply.here_first_s < reply.total_s


def test_timings() -> None:
    last = {
        "total_duration": 4_883_583_458,
        "load_duration": 1_334_875,
        "prompt_eval_count": 26,
        "prompt_eval_duration": 342_546_000,
        "eval_count": 282,
        "eval_duration": 4_535_599_000,
    }
    known = timings(last)  # those of docs/api.md
    assert known is not None
    assert (known.prompt_n, known.predicted_n) == (26, 282)
    assert known.load_ms == pytest.approx(1.334875)
    assert known.queue_ms == pytest.approx(5.438458)
    assert known.tokens_per_second == pytest.approx(281 / 4.535599)
    for name in last:
        assert timings({key: value for key, value in last.items() if key != name}) is None
        assert timings(last | {name: "a while"}) is None
        assert timings(last | {name: float("nan")}) is None
        assert timings(last | {name: 10**400}) is None


def test_an_old_version_that_says_less(ollama: Ollama) -> None:
    ollama.last = {"done_reason": None, "prompt_eval_count": None}
    last = collect(backend(ollama.address))[-1]
    assert last == Finished("stop", None, 1)


def test_its_models(ollama: Ollama) -> None:
    ollama.add("smollm2:135m")
    assert models(backend(ollama.address)) == ["phi3.5:latest", "smollm2:135m"]
    assert ollama.asked == [("GET /api/tags", None)]


# --- keys, and where they go ----------------------------------------------------------------------


def test_nothing_of_the_environment_is_sent(
    ollama: Ollama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", KEY)
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", f"http://{KEY}@127.0.0.1:9")
    assert text_of(collect(backend(ollama.address))) == "Hello"
    assert "authorization" not in ollama.headers[0]
    assert KEY not in repr(ollama.headers)


async def token() -> str:
    return KEY


@pytest.mark.parametrize("key", [KEY, token])
def test_a_key_is_sent_and_never_shown(ollama: Ollama, key: Any) -> None:
    asked = backend(ollama.address, key=key)
    collect(asked)
    assert ollama.headers[0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(asked)
    ollama.refuses = (401, f"the key {KEY} is wrong")
    assert failure(asked, Unauthorized).message == "the key [key] is wrong"


@pytest.mark.parametrize("key", ["a-key\nX-Header: more", "ein schlüssel"])
def test_a_key_that_can_be_none(ollama: Ollama, key: str) -> None:
    error = failure(backend(ollama.address, key=key), Unauthorized)
    assert key not in error.message + error.hint
    assert not ollama.asked


def test_a_redirect_is_not_followed(ollama: Ollama) -> None:
    async def elsewhere(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()
        await RedirectResponse(f"{ollama.address}/api/chat", 307)(scope, receive, send)

    with serving(elsewhere) as address:
        error = failure(backend(address, key=KEY), NotFound)
    assert ollama.address in error.message
    assert not ollama.asked


# --- ways to fail ---------------------------------------------------------------------------------


def test_a_model_that_is_not_there(ollama: Ollama) -> None:
    ollama.models.clear()
    error = failure(backend(ollama.address), NotFound)
    assert error.message == "model 'phi3.5' not found"
    assert error.hint == "Bring it with `ollama pull phi3.5`."


def test_another_kind_of_server() -> None:
    with serving(Response("404 page not found", 404)) as address:
        assert "Check the address" in failure(backend(address), NotFound).hint
    page = Response("<!doctype html><title>Hello</title>", media_type="text/html")
    with serving(page) as address:
        asked = backend(address)
        assert "web page" in failure(asked, StreamBroken).message
        with pytest.raises(NotFound, match="not as Ollama does") as caught:
            models(asked)
        assert "Check the address" in caught.value.hint


def test_nobody_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        asked = backend(f"http://127.0.0.1:{unused.getsockname()[1]}")
        error = failure(asked, Unavailable)
        assert error.hint == START
        assert "nothing listens there" in error.message
        with pytest.raises(Unavailable, match="nothing listens there") as caught:
            models(asked)
        assert caught.value.hint == START


def test_an_error_in_the_middle_keeps_what_came(ollama: Ollama) -> None:
    ollama.fails_after = 2
    reply = start(asked := backend(ollama.address), "One two three").wait(10)
    background.submit(asked.close()).result(10)
    assert (reply.state, reply.text) == ("failed", "One two")
    assert type(reply.error) is StreamBroken
    assert reply.error.message == "an error was encountered while running the model"


def test_an_error_before_the_first_word(ollama: Ollama) -> None:
    ollama.fails_after = 0
    assert "while running the model" in failure(backend(ollama.address), SLMError).message


def test_what_it_refuses(ollama: Ollama) -> None:
    asked = backend(ollama.address)
    ollama.refuses = (503, "server busy, please try again. maximum pending requests exceeded")
    assert "Try again" in failure(asked, Unavailable).hint
    ollama.refuses = (429, "too many requests")
    failure(asked, Busy)
    ollama.refuses = (
        500, "model requires more system memory (5.6 GiB) than is available (3.1 GiB)",
    )  # fmt: skip
    assert "Unload another model" in failure(asked, MemoryExceeded).hint
    ollama.refuses = (400, "the input length exceeds the context length")
    failure(asked, ContextOverflow)


def test_a_reply_without_an_end(ollama: Ollama) -> None:
    ollama.last = {"done": False}
    assert "without a finish reason" in failure(backend(ollama.address), StreamBroken).message


def test_pieces_without_text_may_not_go_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "MAX_BYTES", 2_000)
    piece = '{"message": {"role": "assistant", "content": ""}, "done": false}\n'
    with serving(PlainTextResponse(piece * 100)) as address:
        assert "without a piece" in failure(backend(address), StreamBroken).message


@pytest.mark.parametrize("reason", ["load", "unload"])
def test_a_model_that_was_only_loaded(ollama: Ollama, reason: str) -> None:
    ollama.last = {"done_reason": reason}
    assert f"did {reason} the model" in failure(backend(ollama.address), StreamBroken).message


def test_a_stalled_reply(ollama: Ollama) -> None:
    ollama.pause = 0.6
    asked = backend(ollama.address, stall_s=0.2)
    error = failure(asked, StreamBroken, request("One two"))
    assert "silent for 0.2 seconds" in error.message


def test_stopping_reaches_the_server_at_once(ollama: Ollama) -> None:
    ollama.pause = 0.01
    asked = backend(ollama.address)
    running = run.start(asked, request("word " * 2000))
    until_decoding(running)
    running.cancel()
    assert until(ollama.left.is_set, "the server to see it") < 10  # of the 20 that it would take
    sent = ollama.sent
    reply = running.wait(10)
    background.submit(asked.close()).result(10)
    assert reply.state == "stopped"
    assert reply.text
    assert ollama.sent <= sent + 1
    assert sent < 1000
