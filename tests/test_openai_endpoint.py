"""The client of every server, against a scripted one: the exact request, and each way to fail."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from asking import ask, request, start, until, until_decoding
from serving import serving
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from slm_backends import background
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
from slm_backends.endpoints.openai import OpenAIBackend
from slm_backends.errors import (
    BadRequest,
    Busy,
    ContextOverflow,
    NotFound,
    SLMError,
    StreamBroken,
    Unauthorized,
    Unavailable,
    Unsupported,
)

KEY = "a-key-that-must-not-show"
TIMINGS = {"prompt_n": 9, "prompt_ms": 30.0, "predicted_n": 3, "predicted_ms": 40.0}


class Cut(Exception):
    """The server's side of the connection breaks."""


class Stream:
    """A reply of server-sent events: dicts become chunks, text is sent as it is."""

    def __init__(self, *parts: dict[str, Any] | str | Exception, type: str = "text/event-stream"):
        self.parts = parts
        self.type = type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", self.type.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in self.parts:
            if isinstance(part, Exception):
                await asyncio.sleep(0.02)  # or what came before would be lost with the connection
                raise part
            data = part if isinstance(part, str) else f"data: {json.dumps(part)}\n\n"
            await send({"type": "http.response.body", "body": data.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class Server:
    """Answers whatever it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: Callable[[Scope, Receive, Send], Awaitable[None]] = Response(status_code=204)
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.left = threading.Event()
        self.address = ""
        self.backends: list[OpenAIBackend] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = Request(scope, receive)
        body = await asked.body()
        self.asked.append(json.loads(body) if body else {})
        self.headers.append(dict(asked.headers))
        self.paths.append(asked.url.path)
        await self.answer(scope, receive, send)

    def backend(self, **options: Any) -> OpenAIBackend:
        made = OpenAIBackend(
            "some-model@openai",
            f"{self.address}/v1",
            "some-model",
            Capabilities(SAMPLING_FIELDS, images=2),
            **{"api_key": KEY} | options,
        )
        self.backends.append(made)
        return made


@pytest.fixture(scope="module")
def _server() -> Iterator[Server]:
    server = Server()
    with serving(server) as server.address:
        yield server


@pytest.fixture
def server(_server: Server) -> Iterator[Server]:
    for seen in (_server.asked, _server.headers, _server.paths):
        seen.clear()
    _server.left.clear()
    _server.answer = Stream(*REPLY)
    yield _server
    while _server.backends:
        background.submit(_server.backends.pop().close()).result(10)


def chunk(content: str | None = None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    kind = "chat.completion.chunk"
    return {"id": "1", "object": kind, "created": 1, "model": "m", "choices": [choice]} | more


USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
REPLY: tuple[dict[str, Any] | str, ...] = (
    chunk(""),
    chunk("Hel"),
    chunk("lo 👋"),
    chunk(None, "stop"),
    chunk() | {"choices": [], "usage": USAGE},
    "data: [DONE]\n\n",
)


def collect(backend: OpenAIBackend, asked: ChatRequest | None = None) -> list[Event]:
    async def all_of_it() -> list[Event]:
        try:
            return [event async for event in backend.stream(asked or request())]
        finally:
            await backend.close()

    return asyncio.run(all_of_it())


def failure(backend: OpenAIBackend, kind: type[SLMError]) -> SLMError:
    with pytest.raises(SLMError) as caught:
        collect(backend)
    error = caught.value
    assert type(error) is kind, repr(error)
    assert error.message
    assert error.hint
    assert KEY not in error.message + error.hint + repr(error)
    return error


# --- what goes over the wire -------------------------------------------------------------------


def test_a_plain_request(server: Server) -> None:
    backend = server.backend(ours=True)
    collect(backend, request("Hello", max_tokens=50, temperature=0.0, top_p=1.0))
    assert server.paths == ["/v1/chat/completions"]
    assert server.asked == [
        {
            "model": "some-model",
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 50,
            "temperature": 0.0,
            "timings_per_token": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert server.headers[0]["accept-encoding"] == "identity"


def test_others_are_told_also_what_is_neutral(server: Server) -> None:
    """Their own default may be another; what they do not honour they are not told."""
    honoured = {"max_tokens", "temperature", "top_p", "presence_penalty", "seed", "stop"}
    backend = OpenAIBackend("m@x", f"{server.address}/v1", "m", Capabilities(frozenset(honoured)))
    server.backends.append(backend)
    collect(backend, request("Hello", max_tokens=50, temperature=0.0, top_p=1.0))
    assert server.asked == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 50,
            "temperature": 0.0,
            "top_p": 1.0,
            "presence_penalty": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_everything_that_can_be_asked(server: Server) -> None:
    messages = (
        Message("system", "Be kind."),
        Message("user", "One?"),
        Message("assistant", "Two."),
        Message("user", "Look", (Image(b"abc", "image/jpeg"),)),
    )
    sampling = Sampling(9, 0.5, 0.9, 40, 0.1, 0.2, 1.1, ("a", "b"), 7)
    collect(server.backend(ours=True), ChatRequest(messages, sampling))
    assert server.asked == [
        {
            "model": "some-model",
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "One?"},
                {"role": "assistant", "content": "Two."},
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,YWJj"}},
                        {"type": "text", "text": "Look"},
                    ],
                },
            ],
            "max_tokens": 9,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "presence_penalty": 0.1,
            "frequency_penalty": 0.2,
            "repetition_penalty": 1.1,
            "stop": ["a", "b"],
            "seed": 7,
            "timings_per_token": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_log_probabilities_are_asked_of_who_gives_them(server: Server) -> None:
    backend = server.backend(ours=True)
    asked = ChatRequest((Message("user", "Hello"),), top_logprobs=5)
    with pytest.raises(Unsupported, match="log-probabilities"):
        collect(backend, asked)
    assert server.asked == []
    backend.capabilities = replace(backend.capabilities, logprobs=True)
    for top in (5, 0, None):
        collect(backend, replace(asked, top_logprobs=top))
    sent = [{key: body[key] for key in body if "logprobs" in key} for body in server.asked]
    assert sent == [{"logprobs": True, "top_logprobs": 5}, {"logprobs": True}, {}]


def test_what_a_server_does_not_honour_is_not_even_sent(server: Server) -> None:
    backend = server.backend()
    backend.capabilities = Capabilities(frozenset({"max_tokens", "temperature", "top_p"}))
    with pytest.raises(Unsupported, match="seed"):
        collect(backend, request(seed=5))
    assert server.asked == []


def test_without_a_key_nothing_of_ours_goes_along(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The openai package reads variables that were set for one provider."""
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "only-for-openai")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://192.0.2.1/v1")
    collect(server.backend(api_key=""))
    assert "only-for-openai" not in json.dumps(server.headers)


def test_our_own_worker_is_not_asked_through_a_proxy(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        proxy = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("ALL_PROXY", proxy)
    failure(server.backend(), Unavailable)
    assert isinstance(collect(server.backend(ours=True))[-1], Finished)


# --- what comes back ---------------------------------------------------------------------------


def test_events(server: Server) -> None:
    assert collect(server.backend()) == [
        Queued(),
        Prefill(),
        Delta("Hel"),
        Delta("lo 👋"),
        Finished("stop", 9, 3),
    ]


def test_timings_of_a_llama_server(server: Server) -> None:
    server.answer = Stream(
        chunk("a", timings=TIMINGS | {"predicted_n": 1, "predicted_ms": 0.0}),
        chunk("bc", "length", timings=TIMINGS | {"cache_n": 4, "queue_ms": 2.0}),
        "data: [DONE]\n\n",
    )
    assert collect(server.backend()) == [
        Queued(),
        Prefill(),
        Delta("a", Timings(9, 30.0, 1, 0.0)),
        Delta("bc", Timings(9, 30.0, 3, 40.0, 2.0, 4)),
        Finished("length", timings=Timings(9, 30.0, 3, 40.0, 2.0, 4)),
    ]
    reply = ask(server.backend())
    assert (reply.counted, reply.completion_tokens) == (True, 3)
    assert reply.tokens_per_second == pytest.approx(50.0)


@pytest.mark.parametrize(
    "timings",
    [5, [], {}, TIMINGS | {"prompt_n": None}, TIMINGS | {"predicted_ms": "40"}, {"prompt_n": 1}],
)
def test_timings_that_are_none_are_left_alone(server: Server, timings: Any) -> None:
    server.answer = Stream(chunk("a", "stop", timings=timings))
    assert collect(server.backend())[-1] == Finished("stop")


def test_not_a_number_is_no_timing(server: Server) -> None:
    broken = json.dumps(chunk("a", "stop", timings=TIMINGS | {"prompt_n": float("nan")}))
    server.answer = Stream(f"data: {broken}\n\n")
    assert collect(server.backend())[-1] == Finished("stop")


def entry(token: str, logprob: float, **more: Any) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())} | more


def with_logprobs(content: str | None, told: Any, reason: str | None = None) -> dict[str, Any]:
    made = chunk(content, reason)
    made["choices"][0]["logprobs"] = told
    return made


def test_log_probabilities(server: Server) -> None:
    top = [entry("Hel", -0.1, id=5), entry("<|end|>", -2.5, bytes=None, id=9)]
    server.answer = Stream(
        with_logprobs("", None),
        with_logprobs("Hel", {"content": [entry("Hel", -0.1, id=5, top_logprobs=top)]}),
        with_logprobs("lo", {"content": [entry("l", -0.2), entry("o", -3, top_logprobs=[])]}),
        with_logprobs(None, {"content": [entry("\ufffd", -1.5)], "refusal": None}),
        chunk(None, "length"),
    )
    assert collect(server.backend())[2:-1] == [
        Delta(
            "Hel",
            logprobs=(
                Logprob("Hel", -0.1, 5, (Logprob("Hel", -0.1, 5), Logprob("<|end|>", -2.5, 9))),
            ),
        ),
        Delta("lo", logprobs=(Logprob("l", -0.2), Logprob("o", -3.0))),
        Delta("", logprobs=(Logprob("\ufffd", -1.5),)),
    ]
    reply = ask(server.backend())
    assert reply.text == "Hello"
    assert [token.token for token in reply.logprobs] == ["Hel", "l", "o", "\ufffd"]


@pytest.mark.parametrize(
    "told",
    [
        5,
        [],
        {},
        {"content": None},
        {"content": 5},
        {"content": {"a": 1}},
        {"content": [5, None, "a", [], {}]},
        {"content": [{"token": "a"}, {"logprob": 1.0}, {"token": 5, "logprob": 1.0}]},
        {"content": [{"token": "a", "logprob": "1.0"}]},
        {"tokens": ["a"], "token_logprobs": [-1.0]},  # as in OpenAI's older API
    ],
)
def test_log_probabilities_that_are_none_are_left_alone(server: Server, told: Any) -> None:
    server.answer = Stream(with_logprobs("a", told, "stop"))
    assert collect(server.backend())[2:] == [Delta("a"), Finished("stop")]


def test_alternatives_that_are_none_are_left_out(server: Server) -> None:
    top = [5, entry("a", -1.0, id="7"), {"token": "b"}, entry("c", -2.0)]
    server.answer = Stream(
        with_logprobs("a", {"content": [entry("a", -1.0, top_logprobs=top)]}, "stop")
    )
    assert ask(server.backend()).logprobs == (
        Logprob("a", -1.0, None, (Logprob("a", -1.0), Logprob("c", -2.0))),
    )


def test_cached_tokens(server: Server) -> None:
    usage = USAGE | {"prompt_tokens_details": {"cached_tokens": 4}}
    server.answer = Stream(chunk("a", "stop"), chunk() | {"choices": [], "usage": usage})
    assert collect(server.backend())[-1] == Finished("stop", 9, 3, 4)


def test_odd_chunks_are_survived(server: Server) -> None:
    """Azure begins without choices, others send null where a list or an object should be."""
    server.answer = Stream(
        chunk() | {"choices": []},
        chunk() | {"choices": None},
        chunk() | {"choices": [{"index": 0, "delta": None, "finish_reason": None}]},
        ": a comment\n\n",
        chunk("a") | {"surprise": {"x": 1}},
        chunk(None, "content_filter"),
    )
    events = collect(server.backend())
    assert events[2:] == [Delta("a"), Finished("content_filter")]


# --- failures ----------------------------------------------------------------------------------


def said(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "t", "param": None, "code": None} | more}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, said("Wrong.", param="top_p"), BadRequest),
        (400, said("No.", param="seed", code="unsupported_parameter"), Unsupported),
        (400, said("Too long.", code="context_length_exceeded"), ContextOverflow),
        (400, said("maximum context length is 8 tokens"), ContextOverflow),
        (401, said("Wrong key."), Unauthorized),
        (403, said("Not for you."), Unauthorized),
        (404, said("No such model."), NotFound),
        (404, {"error": "model 'phi3' not found"}, NotFound),
        (404, {"detail": "Not Found"}, NotFound),
        (410, said("Retired."), NotFound),
        (413, said("Too large."), BadRequest),
        (422, {"detail": [{"loc": ["x"], "msg": "y"}]}, BadRequest),
        (429, said("Slower."), Busy),
        (500, said("Oops."), SLMError),
        (500, {"object": "error", "message": "Oops."}, SLMError),
        (502, "<html><body>Bad gateway</body></html>", Unavailable),
        (503, said("Loading."), Unavailable),
        (503, "", Unavailable),
        (504, [1], Unavailable),
        (500, None, SLMError),
    ],
)
def test_statuses(server: Server, status: int, body: Any, kind: type[SLMError]) -> None:
    server.answer = (
        PlainTextResponse(body, status) if isinstance(body, str) else JSONResponse(body, status)
    )
    error = failure(server.backend(), kind)
    assert len(server.asked) == 1  # no retry behind anyone's back
    assert "<" not in error.message
    if isinstance(body, dict) and not isinstance(body.get("detail"), list):
        inner = body.get("error") or body.get("detail") or body
        words = inner if isinstance(inner, str) else inner["message"]
        assert error.message == words
    else:
        assert str(status) in error.message
    if isinstance(body, dict) and kind in (BadRequest, Unsupported) and "error" in body:
        assert isinstance(error, BadRequest)
        assert error.field == body["error"]["param"]


def test_an_overflow_keeps_its_numbers(server: Server) -> None:
    numbers = {"prompt_tokens": 8_000, "max_tokens": 512, "context": 8_192}
    server.answer = JSONResponse(said("Long.", code="context_length_exceeded", **numbers), 400)
    error = failure(server.backend(), ContextOverflow)
    assert isinstance(error, ContextOverflow)
    assert (error.prompt_tokens, error.max_tokens, error.context) == (8_000, 512, 8_192)
    server.answer = JSONResponse(said("Long.", code="context_length_exceeded", context="x"), 400)
    error = failure(server.backend(), ContextOverflow)
    assert isinstance(error, ContextOverflow)
    assert error.context is None


def test_a_servers_hint_is_passed_on(server: Server) -> None:
    server.answer = JSONResponse(said("Full.", hint="Come back at noon."), 429)
    assert failure(server.backend(), Busy).hint == "Come back at noon."


def test_a_page_of_words_is_cut(server: Server) -> None:
    server.answer = PlainTextResponse("word " * 10_000, 500)
    assert len(failure(server.backend(), SLMError).message) <= 500


def test_a_server_that_repeats_the_key(server: Server) -> None:
    server.answer = JSONResponse(said(f"Incorrect API key provided: {KEY}.", hint=KEY), 401)
    assert "[key]" in failure(server.backend(), Unauthorized).message


def test_redirects_are_not_followed(server: Server) -> None:
    for status in (301, 302, 307, 308):
        server.asked.clear()
        server.answer = RedirectResponse(f"{server.address}/elsewhere", status)
        error = failure(server.backend(), NotFound)
        assert "/elsewhere" in error.message
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (said("It fell over."), StreamBroken),
        (said("Too many.", code=429), Busy),
        (said("Long.", code="context_length_exceeded"), ContextOverflow),
        ({"error": "just words"}, StreamBroken),
    ],
)
def test_an_error_in_mid_stream(server: Server, sent: dict[str, Any], kind: type[SLMError]) -> None:
    server.answer = Stream(chunk("Hel"), sent, "data: [DONE]\n\n")
    error = failure(server.backend(), kind)
    words = sent["error"] if isinstance(sent["error"], str) else sent["error"]["message"]
    assert error.message == words
    reply = start(server.backend()).wait(10)
    assert (reply.state, reply.text) == ("failed", "Hel")


def test_a_connection_that_is_cut_in_mid_stream(server: Server) -> None:
    server.answer = Stream(chunk("Hel"), Cut())
    error = failure(server.backend(), StreamBroken)
    assert "broke off" in error.message
    reply = start(server.backend()).wait(10)
    assert (reply.state, reply.text) == ("failed", "Hel")


@pytest.mark.parametrize("parts", [(chunk("Hel"),), (chunk("Hel"), "data: [DONE]\n\n")])
def test_a_stream_without_an_end(server: Server, parts: tuple[Any, ...]) -> None:
    server.answer = Stream(*parts)
    assert "finish reason" in failure(server.backend(), StreamBroken).message


@pytest.mark.parametrize(
    "garbage",
    ["data: {nonsense\n\n", "data: [1]\n\n", 'data: "x"\n\n', "data: 5\n\n", "data: null\n\n"]
    + ['data: {"choices": 5}\n\n', 'data: {"choices": ["x"]}\n\n', "data: {}\n\ndata: \xff\n\n"]
    + ['data: {"choices": [{"delta": {"content": 5}}]}\n\n'],
)
def test_garbage_instead_of_chunks(server: Server, garbage: str) -> None:
    server.answer = Stream(chunk("Hel"), garbage)
    failure(server.backend(), StreamBroken)


@pytest.mark.parametrize("type", ["text/html", "application/json", "text/event-stream"])
def test_an_answer_that_is_no_stream(server: Server, type: str) -> None:
    server.answer = Stream("<!doctype html><title>A web interface</title>", type=type)
    error = failure(server.backend(), StreamBroken)
    assert "/v1" in error.hint


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for hint in ("", "Start it with `ollama serve`."):
        backend = OpenAIBackend(
            "m@openai", f"http://127.0.0.1:{port}/v1", "m", Capabilities(SAMPLING_FIELDS),
            start_hint=hint,
        )  # fmt: skip
        error = failure(backend, Unavailable)
        assert f"127.0.0.1:{port}" in error.message
        assert not error.message.endswith(": .")
        assert hint in error.hint


def test_who_answers_with_another_protocol() -> None:
    def talk(listener: socket.socket) -> None:
        wire, _ = listener.accept()
        with wire:
            wire.recv(65_536)
            wire.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=talk, args=(listener,), daemon=True).start()
        port = listener.getsockname()[1]
        failure(
            OpenAIBackend("m@x", f"http://127.0.0.1:{port}/v1", "m", Capabilities(SAMPLING_FIELDS)),
            Unavailable,
        )


def test_a_missing_model_points_to_the_way_to_get_it(server: Server) -> None:
    server.answer = JSONResponse({"error": "model 'phi3' not found"}, 404)
    backend = server.backend(start_hint="Fetch it with `ollama pull phi3`.")
    assert failure(backend, NotFound).hint == "Fetch it with `ollama pull phi3`."


# --- the rest ----------------------------------------------------------------------------------


class Endless:
    """Keeps talking until the client leaves; `first` chunks come before the silence."""

    def __init__(self, server: Server, *first: dict[str, Any]) -> None:
        self.server = server
        self.first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in self.first:
            data = f"data: {json.dumps(part)}\n\n".encode()
            await send({"type": "http.response.body", "body": data, "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.server.left.set()


@pytest.mark.parametrize("first", [(), (chunk("Hel"),)], ids=["before a word", "in mid-stream"])
def test_cancelling_reaches_the_server(server: Server, first: tuple[dict[str, Any], ...]) -> None:
    server.answer = Endless(server, *first)
    run = start(server.backend())
    if first:
        until_decoding(run)
    else:
        until(lambda: server.asked)
    run.cancel()
    assert server.left.wait(10)
    reply = run.wait(10)
    assert (reply.state, reply.text) == ("stopped", "Hel" if first else "")


def test_one_client_for_many_requests_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openai

    made: list[object] = []
    original = openai.AsyncOpenAI

    def counted(*arguments: Any, **options: Any) -> openai.AsyncOpenAI:
        made.append(options)
        return original(*arguments, **options)

    monkeypatch.setattr(openai, "AsyncOpenAI", counted)
    backend = server.backend()
    runs = [start(backend) for _ in range(8)]
    assert {run.wait(30).text for run in runs} == {"Hello 👋"}
    assert len(made) == 1


def test_the_key_is_nowhere_to_be_read(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    backend = server.backend()
    with caplog.at_level(logging.DEBUG):
        collect(backend)
        server.answer = JSONResponse(said("Wrong key."), 401)
        failure(server.backend(), Unauthorized)
    assert KEY not in repr(backend)
    assert KEY not in str(backend)
    assert KEY not in caplog.text
