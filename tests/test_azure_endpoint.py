"""The client of Azure's model-inference protocol: the exact request, and the replies of a server
that plays what it is told to, and of our own. How it fails is in test_failures.py, with the others.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from asking import PATIENCE, ask, request, start, until, until_decoding
from dialects import chunk, event
from failing_server import FailingServer, Part, Play, Silence, answer, failing
from scripted_engine import ScriptedEngine
from serving import serving
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from slm_backends import background, catalog, store
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
from slm_backends.endpoints.azure import AzureBackend
from slm_backends.errors import (
    BadRequest,
    NotFound,
    SLMError,
    StreamBroken,
    Unauthorized,
    Unsupported,
)
from slm_backends.worker import engines, server
from slm_backends.worker.server import Service, build
from slm_backends.worker.text import ChatText

KEY = "a-key-that-must-not-show"
TIMINGS = {"prompt_n": 9, "prompt_ms": 30.0, "predicted_n": 3, "predicted_ms": 40.0}
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


@dataclass(frozen=True)
class Asked:
    """A request as it came over the wire; names of headers in lower case."""

    line: str
    headers: dict[str, str]
    body: Any

    @classmethod
    def read(cls, sent: bytes) -> Asked:
        head, _, body = sent.partition(b"\r\n\r\n")
        line, *lines = head.decode().split("\r\n")
        pairs = (text.partition(": ") for text in lines)
        headers = {name.lower(): value for name, _, value in pairs}
        return cls(line, headers, json.loads(body) if body else None)

    @property
    def path(self) -> str:
        return urlsplit(self.line.split()[1]).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.line.split()[1]).query)


class Playing:
    """A server that plays `play` to all, and clients for it."""

    def __init__(self, wire: FailingServer) -> None:
        self._wire = wire
        self._backends: list[AzureBackend] = []

    def plays(self, *parts: dict[str, Any] | Part, type: str = "text/event-stream") -> None:
        sent = tuple(event(part) if isinstance(part, dict) else part for part in parts)
        self._wire.play = Play(200, sent, {"content-type": type})

    def answers(self, play: Play) -> None:
        self._wire.play = play

    @property
    def asked(self) -> list[Asked]:
        return [Asked.read(sent) for sent in self._wire.asked]

    @property
    def left(self) -> bool:
        """Whether the last client went away, waiting for it."""
        return self._wire.left.wait(PATIENCE)

    def backend(self, path: str = "", **options: Any) -> AzureBackend:
        made = AzureBackend(
            "some-model@azure",
            self._wire.address + path,
            "some-model",
            Capabilities(SAMPLING_FIELDS, images=2),
            **{"key": KEY} | options,
        )
        self._backends.append(made)
        return made

    def close(self) -> None:
        for made in self._backends:
            background.submit(made.close()).result(10)


@pytest.fixture
def wire() -> Iterator[Playing]:
    with failing() as failing_server:
        made = Playing(failing_server)
        made.plays(*REPLY)
        yield made
        made.close()


REPLY: tuple[dict[str, Any] | bytes, ...] = (
    chunk(""),
    chunk("Hel"),
    chunk("lo 👋"),
    chunk(None, "stop"),
    chunk() | {"choices": [], "usage": USAGE},
    b"data: [DONE]\n\n",
)
EVENTS = [Queued(), Prefill(), Delta("Hel"), Delta("lo 👋"), Finished("stop", 9, 3)]


def collect(backend: AzureBackend, asked: ChatRequest | None = None) -> list[Event]:
    async def all_of_it() -> list[Event]:
        try:
            return [event async for event in backend.stream(asked or request())]
        finally:
            await backend.close()

    return asyncio.run(all_of_it())


def models(backend: AzureBackend) -> tuple[str, ...]:
    async def listed() -> tuple[str, ...]:
        try:
            return tuple(await backend.models())
        finally:
            await backend.close()

    return asyncio.run(listed())


# --- what goes over the wire -------------------------------------------------------------------


def test_a_plain_request(wire: Playing) -> None:
    backend = wire.backend("/models")
    backend.capabilities = Capabilities(frozenset({"max_tokens", "temperature", "top_p", "stop"}))
    collect(backend, request("Hello", max_tokens=50, temperature=0.0, top_p=1.0))
    (asked,) = wire.asked
    assert asked.line.startswith("POST ")
    assert asked.path == "/models/chat/completions"
    assert asked.query == {"api-version": ["2024-05-01-preview"]}
    assert asked.body == {
        "model": "some-model",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 50,
        "temperature": 0.0,
        "top_p": 1.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    # Serverless and managed endpoints want the key in the one place, others in the other.
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["api-key"] == KEY
    assert asked.headers["extra-parameters"] == "pass-through"
    assert asked.headers["accept-encoding"] == "identity"


def test_everything_that_can_be_asked(wire: Playing) -> None:
    messages = (
        Message("system", "Be kind."),
        Message("user", "One?"),
        Message("assistant", "Two."),
        Message("user", "Look", (Image(b"abc", "image/jpeg"),)),
    )
    sampling = Sampling(9, 0.5, 0.9, 40, 0.1, 0.2, 1.1, ("a", "b"), 7)
    backend = wire.backend()
    backend.capabilities = replace(backend.capabilities, logprobs=True)
    collect(backend, ChatRequest(messages, sampling, top_logprobs=5))
    assert wire.asked[0].body == {
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
        "logprobs": True,
        "top_logprobs": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_what_a_server_does_not_honour_is_not_even_sent(wire: Playing) -> None:
    backend = wire.backend()
    backend.capabilities = Capabilities(SAMPLING_FIELDS - {"top_k"})
    with pytest.raises(Unsupported, match="top_k"):
        collect(backend, request(top_k=5))
    assert wire.asked == []
    collect(backend)
    assert "top_k" not in wire.asked[0].body


def test_another_version_of_the_api(wire: Playing) -> None:
    collect(wire.backend(api_version="2025-04-01"))
    assert wire.asked[0].query == {"api-version": ["2025-04-01"]}


def test_nothing_about_this_computer_goes_along(
    wire: Playing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK would add the system's name, and what a variable says."""
    monkeypatch.setenv("AZURE_HTTP_USER_AGENT", "somebody")
    collect(wire.backend(key=""))
    (asked,) = wire.asked
    assert asked.headers["user-agent"] == "azsdk-python-ai-inference"
    assert not {"authorization", "api-key", "x-ms-client-request-id", "traceparent"} & {
        *asked.headers
    }


def test_a_token_is_asked_for_before_each_request(wire: Playing) -> None:
    tokens = iter(("first-token", "second-token"))

    async def token() -> str:
        return next(tokens)

    backend = wire.backend(key=token)
    for expected in ("first-token", "second-token"):
        assert ask(backend).text == "Hello 👋"
        assert wire.asked[-1].headers["authorization"] == f"Bearer {expected}"
        assert "api-key" not in wire.asked[-1].headers


def test_a_token_is_in_no_error(wire: Playing) -> None:
    async def token() -> str:
        return KEY

    wire.answers(answer(401, {"error": {"message": f"{KEY} is no token."}}))
    with pytest.raises(Unauthorized, match=r"^\[key\] is no token"):
        collect(wire.backend(key=token))


def test_a_provider_of_tokens_that_fails(wire: Playing) -> None:
    async def token() -> str:
        raise Unauthorized("Nobody is signed in.", hint="Sign in.")

    with pytest.raises(Unauthorized, match="Nobody is signed in"):
        collect(wire.backend(key=token))
    assert wire.asked == []


# --- what comes back ---------------------------------------------------------------------------


def test_events(wire: Playing) -> None:
    assert collect(wire.backend()) == EVENTS


def test_events_as_other_servers_write_them(wire: Playing) -> None:
    """The SDK's own reader stops at each of these."""
    wire.plays(
        b": ping\n\n",
        event(chunk("Hel")).replace(b"\n", b"\r\n"),
        b"event: message\nid: 1\n" + event(chunk("lo 👋")).replace(b"data: ", b"data:"),
        b"retry: 1\n\ndata:\n\n",
        b'data: {"choices": [{"delta": {},\ndata: "finish_reason": "stop"}]}\n\n',
        event(chunk() | {"choices": [], "usage": USAGE}),
        b"data: [DONE]\r\n\r\n",
    )
    assert collect(wire.backend()) == EVENTS


def test_events_that_come_in_other_pieces_than_they_were_sent(wire: Playing) -> None:
    whole = b"".join(part if isinstance(part, bytes) else event(part) for part in REPLY)
    wire.plays(*(whole[at : at + 3] for at in range(0, len(whole), 3)))
    assert collect(wire.backend()) == EVENTS


def test_a_reply_in_one_piece(wire: Playing) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello 👋"}}
    body = {"id": "1", "created": 1, "model": "m", "choices": [choice | {"finish_reason": "stop"}]}
    wire.answers(answer(200, body | {"usage": USAGE, "timings": TIMINGS}))
    events = collect(wire.backend(streamed=False))
    measured = Timings(9, 30.0, 3, 40.0)
    assert events == [
        Queued(),
        Delta("Hello 👋", measured),
        Finished("stop", 9, 3, timings=measured),
    ]
    assert not {"stream", "stream_options"} & wire.asked[0].body.keys()


def test_timings_and_log_probabilities(wire: Playing) -> None:
    top = [{"token": "Hi", "logprob": -0.1, "id": 5}, {"token": "Oh", "logprob": -2.5, "id": 9}]
    last = chunk("Hi", "stop") | {"timings": TIMINGS | {"cache_n": 4, "queue_ms": 2.0}}
    last["choices"][0]["logprobs"] = {"content": [top[0] | {"top_logprobs": top}]}
    wire.plays(last, b"data: [DONE]\n\n")
    timings = Timings(9, 30.0, 3, 40.0, 2.0, 4)
    likely = (Logprob("Hi", -0.1, 5), Logprob("Oh", -2.5, 9))
    assert collect(wire.backend())[2:] == [
        Delta("Hi", timings, (Logprob("Hi", -0.1, 5, likely),)),
        Finished("stop", timings=timings),
    ]


def test_cached_tokens(wire: Playing) -> None:
    usage = USAGE | {"prompt_tokens_details": {"cached_tokens": 4}}
    wire.plays(chunk("a", "stop"), chunk() | {"choices": [], "usage": usage})
    assert collect(wire.backend())[-1] == Finished("stop", 9, 3, 4)


class Strict:
    """An ASGI app with the chat API as it was before it could count in a stream."""

    def __init__(self) -> None:
        self.asked: list[bool] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        counted = "stream_options" in await Request(scope, receive).json()
        self.asked.append(counted)
        refusal = {"message": "Unrecognized request argument supplied: stream_options"}
        reply = Response(event(chunk("Hello", "stop")), media_type="text/event-stream")
        await (JSONResponse({"error": refusal}, 400) if counted else reply)(scope, receive, send)


def test_counts_are_done_without_where_they_are_refused() -> None:
    strict = Strict()
    with serving(strict) as address:
        backend = AzureBackend("m@azure", address, "m", Capabilities(SAMPLING_FIELDS))
        runs = [start(backend) for _ in range(4)]
        for run in runs:
            reply = run.wait(PATIENCE)
            assert (reply.error, reply.text, reply.completion_tokens) == (None, "Hello", None)
        before = len(strict.asked)
        assert ask(backend).text == "Hello"
        assert strict.asked[before:] == [False]
        background.submit(backend.close()).result(10)


class Bare:
    """An ASGI app that knows its address alone, as mlx_lm.server does."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        query = Request(scope, receive).url.query
        self.asked.append(query)
        reply = Response(event(chunk("Hello", "stop")), media_type="text/event-stream")
        await (PlainTextResponse("Not Found", 404) if query else reply)(scope, receive, send)


def test_the_version_is_left_out_where_the_address_is_not_known_with_it() -> None:
    bare = Bare()
    with serving(bare) as address:
        backend = AzureBackend("m@azure", address, "m", Capabilities(SAMPLING_FIELDS))
        assert ask(backend).text == "Hello"
        assert bare.asked == ["api-version=2024-05-01-preview", ""]
        assert ask(backend).text == "Hello"
        assert bare.asked[2:] == [""]
        background.submit(backend.close()).result(10)


def test_an_address_that_is_not_known_at_all(wire: Playing) -> None:
    wire.answers(answer(404, "Not Found"))
    with pytest.raises(NotFound):
        collect(wire.backend())
    assert [bool(asked.query) for asked in wire.asked] == [True, False]


def test_a_server_that_refuses_counts_that_were_not_asked_for(wire: Playing) -> None:
    refusal = {"message": "No.", "param": "stream_options", "code": "unknown_parameter"}
    wire.answers(answer(400, {"error": refusal}))
    with pytest.raises(Unsupported):
        collect(wire.backend())
    assert ["stream_options" in asked.body for asked in wire.asked] == [True, False]


def test_a_parameter_that_the_server_does_not_know(wire: Playing) -> None:
    wire.answers(answer(400, {"error": {"message": "Unrecognized request argument: top_k"}}))
    with pytest.raises(Unsupported) as caught:
        collect(wire.backend(), request(top_k=5))
    assert caught.value.field == "top_k"


@pytest.mark.parametrize("streamed", [True, False])
def test_an_answer_without_a_reply(wire: Playing, streamed: bool) -> None:
    wire.answers(Play(204))
    with pytest.raises(StreamBroken, match="not with a"):
        collect(wire.backend(streamed=streamed))


def test_a_web_page_of_many_lines(wire: Playing) -> None:
    wire.plays(b"<!doctype html>\n<title>A gateway</title>\n", type="text/html")
    with pytest.raises(StreamBroken, match="web page"):
        collect(wire.backend())


def test_what_is_no_event_is_not_quoted_with_the_key(wire: Playing) -> None:
    """Without a type it may be a stream; the SDK shows the line that it does not understand."""
    wire.answers(Play(200, (f"You are {KEY}\n".encode(),)))
    with pytest.raises(StreamBroken) as caught:
        collect(wire.backend())
    assert "You are [key]" in caught.value.message


@pytest.mark.parametrize("first", [(), (event(chunk("Hel")),)], ids=["before a word", "after one"])
def test_cancelling_reaches_the_server(wire: Playing, first: tuple[bytes, ...]) -> None:
    wire.answers(Play(200, (*first, Silence()), {"content-type": "text/event-stream"}))
    run = start(wire.backend())
    if first:
        until_decoding(run)
    else:
        until(lambda: wire.asked)
    run.cancel()
    assert wire.left
    reply = run.wait(10)
    assert (reply.state, reply.text) == ("stopped", "Hel" if first else "")


def test_who_reads_no_further_hangs_up(wire: Playing) -> None:
    wire.plays(chunk("Hel"), Silence())

    async def first_word() -> None:
        backend = wire.backend()
        async with aclosing(backend.stream(request())) as events:
            async for event in events:
                if isinstance(event, Delta):
                    break
        # The client is not closed before that was seen.
        assert await asyncio.to_thread(lambda: wire.left)
        await backend.close()

    asyncio.run(first_word())


def test_many_requests_at_once_and_a_client_that_is_used_again(wire: Playing) -> None:
    backend = wire.backend()
    runs = [start(backend) for _ in range(8)]
    assert {run.wait(30).text for run in runs} == {"Hello 👋"}
    background.submit(backend.close()).result(10)
    assert ask(backend).text == "Hello 👋"


def test_the_key_is_nowhere_to_be_read(wire: Playing, caplog: pytest.LogCaptureFixture) -> None:
    backend = wire.backend()
    with caplog.at_level(logging.DEBUG):
        collect(backend)
        wire.answers(answer(200, LISTED))
        assert models(wire.backend()) == ("phi-a", "phi-b")
    assert KEY not in repr(backend)
    assert KEY not in caplog.text


# --- the list of models ------------------------------------------------------------------------

INFO = {"model_name": "Phi21", "model_type": "chat_completion", "model_provider_name": "Microsoft"}
LISTED = {"object": "list", "data": [{"id": "phi-a"}, {"id": "phi-b"}]}


class Routes:
    """An ASGI app with an answer for some paths, 404 for the others."""

    def __init__(self, **answers: tuple[int, Any]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        asked = Request(scope, receive)
        name = asked.url.path.removeprefix("/v1/")
        self.asked.append((asked.method, name, asked.headers.get("api-key", "")))
        status, body = self.answers.get(name, (404, {"error": "no such route"}))
        await JSONResponse(body, status)(scope, receive, send)


def routed(routes: Routes) -> tuple[str, ...]:
    with serving(routes) as address:
        return models(
            AzureBackend("m@azure", f"{address}/v1", "m", Capabilities(SAMPLING_FIELDS), key=KEY)
        )


def test_an_endpoint_of_one_model_names_it() -> None:
    routes = Routes(info=(200, INFO))
    assert routed(routes) == ("Phi21",)
    assert routes.asked == [("GET", "info", KEY)]


@pytest.mark.parametrize(
    "info",
    [
        (404, {}),
        (405, {}),
        (400, {"error": {"code": "no_model"}}),
        (200, {"error": "?"}),
        (200, []),
    ],
)
def test_an_endpoint_without_that_lists_what_it_has(info: tuple[int, Any]) -> None:
    routes = Routes(info=info, models=(200, LISTED))
    assert routed(routes) == ("phi-a", "phi-b")
    assert routes.asked == [("GET", "info", KEY), ("GET", "models", KEY)]


def test_every_probe_asks_anew() -> None:
    """The SDK would remember the first answer, also that of a server that is gone."""
    routes = Routes(info=(200, INFO))
    with serving(routes) as address:
        backend = AzureBackend("m@azure", f"{address}/v1", "m", Capabilities(SAMPLING_FIELDS))
        assert background.submit(backend.models()).result(10) == ("Phi21",)
        routes.answers = {"info": (200, INFO | {"model_name": "Phi22"})}
        assert background.submit(backend.models()).result(10) == ("Phi22",)
        background.submit(backend.close()).result(10)


def test_an_endpoint_that_names_none() -> None:
    with pytest.raises(NotFound) as caught:
        routed(Routes())
    assert "does not name its models" in caught.value.message
    assert caught.value.hint


def test_a_key_that_is_refused_is_not_tried_twice() -> None:
    routes = Routes(info=(401, {"error": {"message": "Wrong key."}}))
    with pytest.raises(Unauthorized):
        routed(routes)
    assert len(routes.asked) == 1


# --- our own server ----------------------------------------------------------------------------

SENTENCE = "Gut: 👨‍👩‍👧‍👦 🇩🇪 漢字と한국어, naïve e\u0301."


@pytest.fixture(scope="module")
def text(embedded: tuple[str, ...]) -> ChatText:
    return ChatText(store.folder(catalog.load().deployment(embedded[0])))


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def service(
    engine: ScriptedEngine, text: ChatText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    monkeypatch.setattr(server, "ChatText", lambda folder: text)  # read once for all tests
    monkeypatch.setattr(engines, "load", lambda *given, **how: engine)
    made = Service(catalog.load().deployment("smollm2-135m-instruct@openvino"), tmp_path)
    made.load()
    tokens = text.tokens(SENTENCE)
    engine.script = lambda prompt: tokens
    yield made
    engine.go.set()
    made.scheduler.close()


@pytest.fixture(params=[True, False], ids=["streamed", "whole"])
def ours(service: Service, request: pytest.FixtureRequest) -> Iterator[AzureBackend]:
    with serving(build(service, KEY)) as address:
        made = AzureBackend(
            "m@azure", f"{address}/v1", service.deployment.id, service.capabilities,
            key=KEY, streamed=request.param,
        )  # fmt: skip
        yield made
        background.submit(made.close()).result(10)


def test_our_server_answers(ours: AzureBackend, service: Service) -> None:
    reply = ask(ours, max_tokens=100)
    assert (reply.text, reply.finish_reason) == (SENTENCE, "stop")
    assert reply.counted
    assert reply.server is not None
    assert reply.completion_tokens == len(service.text.tokens(SENTENCE)) + 1
    assert reply.prompt_tokens == reply.server.prompt_n > 0


def test_our_server_stops_at_a_word_and_at_a_limit(ours: AzureBackend) -> None:
    reply = ask(ours, max_tokens=100, stop=["🇩🇪"])
    assert (reply.text, reply.finish_reason) == ("Gut: 👨‍👩‍👧‍👦 ", "stop")
    reply = ask(ours, max_tokens=3)
    assert (reply.finish_reason, reply.completion_tokens) == ("length", 3)


def test_what_is_asked_reaches_the_engine(ours: AzureBackend, engine: ScriptedEngine) -> None:
    ask(ours, max_tokens=30, top_k=40, repetition_penalty=1.1, seed=7)
    (sampling,) = engine.sampling.values()
    assert (sampling.top_k, sampling.repetition_penalty, sampling.seed) == (40, 1.1, 7)


def test_cancelling_stops_our_server(
    ours: AzureBackend, service: Service, engine: ScriptedEngine
) -> None:
    engine.go.clear()
    run = start(ours)
    until(lambda: service.scheduler.counts == (1, 0), "a place")
    run.cancel()
    until(lambda: service.scheduler.counts == (0, 0), "its end")
    assert run.wait(10).state == "stopped"


def test_our_server_refuses(ours: AzureBackend) -> None:
    with pytest.raises(SLMError) as caught:
        ask(ours, "word " * 2_000, max_tokens=100)
    assert isinstance(caught.value, BadRequest)
    assert caught.value.field == "messages"


def test_our_server_lists_its_model(ours: AzureBackend, service: Service) -> None:
    assert background.submit(ours.models()).result(10) == (service.deployment.id,)
