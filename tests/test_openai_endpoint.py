"""The client of servers that speak OpenAI's API, against a scripted one: the exact request, what is
made of each answer, and what is asked again. How it fails: test_failures.py."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy
import pytest
from asking import PATIENCE, ask, request, start, until, until_decoding
from drawn import picture
from serving import serving
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
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
from slm_backends.endpoints.openai import OpenAIBackend
from slm_backends.errors import (
    BadRequest,
    Busy,
    Filtered,
    SLMError,
    StreamBroken,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from slm_backends.routing import Experts

KEY = "a-key-that-must-not-show"
TIMINGS = {"prompt_n": 9, "prompt_ms": 30.0, "predicted_n": 3, "predicted_ms": 40.0}


class Stream:
    """A reply of server-sent events: dicts become chunks, text is sent as it is."""

    def __init__(self, *parts: dict[str, Any] | str):
        self.parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in self.parts:
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
            **{"key": KEY} | options,
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
            "return_progress": True,
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
    collect(server.backend(key=""))
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
        chunk(None, "tool_calls"),
    )
    events = collect(server.backend())
    assert events[2:] == [Delta("a"), Finished("tool_calls")]


# --- in one piece ------------------------------------------------------------------------------


def completion(content: str | None, reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}}
    kind = "chat.completion"
    made = {"id": "1", "object": kind, "created": 1, "model": "m"}
    return made | {"choices": [choice | {"finish_reason": reason}]} | more


def test_a_reply_in_one_piece(server: Server) -> None:
    server.answer = JSONResponse(completion("Hello 👋", usage=USAGE, timings=TIMINGS))
    events = collect(server.backend(streamed=False))
    timings = Timings(9, 30.0, 3, 40.0)
    assert events == [
        Queued(),
        Delta("Hello 👋", timings),
        Finished("stop", 9, 3, timings=timings),
    ]
    assert "stream" not in server.asked[0]
    assert "stream_options" not in server.asked[0]


def test_numbers_of_a_reply_in_one_piece(server: Server) -> None:
    """When its first token was made nobody knows: until its arrival, everything is waiting."""
    server.answer = JSONResponse(completion("Hello", usage=USAGE))
    reply = ask(server.backend(streamed=False))
    assert (reply.text, reply.completion_tokens, reply.counted) == ("Hello", 3, False)
    assert reply.first_token_s == reply.here_first_s
    assert reply.first_token_s is not None
    assert 0 < reply.first_token_s <= reply.total_s
    assert reply.tokens_per_second is None


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (JSONResponse(completion("No", "content_filter")), Filtered, "content filter"),
        (JSONResponse({"error": {"message": "Oh.", "code": 429}}), Busy, "Oh."),
        (JSONResponse({"object": "error", "message": "Oh."}), StreamBroken, "Oh."),
        (JSONResponse(completion("") | {"choices": []}), StreamBroken, "no reply in it"),
        (JSONResponse(completion("") | {"choices": None}), StreamBroken, "no reply in it"),
        (JSONResponse(completion("") | {"choices": [{"message": None}]}), StreamBroken, "piece"),
        (JSONResponse([1]), StreamBroken, "piece"),
        (JSONResponse(completion(5)), StreamBroken, "piece"),  # type: ignore[arg-type]
        (JSONResponse(completion("a" * 1_000_001)), StreamBroken, "1,000,000 characters"),
        (PlainTextResponse("{nonsense", media_type="application/json"), StreamBroken, "piece"),
        (HTMLResponse("<html>A web interface"), StreamBroken, "web page"),
        (PlainTextResponse("Hello"), StreamBroken, "not with a"),
    ],
)
def test_failures_of_a_reply_in_one_piece(
    server: Server, answer: Response, kind: type[SLMError], words: str
) -> None:
    server.answer = answer
    assert words in failure(server.backend(streamed=False), kind).message
    assert len(server.asked) == 1


# --- keys --------------------------------------------------------------------------------------


def test_where_the_key_travels(server: Server) -> None:
    for auth, name, value in (
        ("bearer", "authorization", f"Bearer {KEY}"),
        ("api-key",) * 2 + (KEY,),
    ):
        server.headers.clear()
        collect(server.backend(auth=auth))
        told = {header: text for header, text in server.headers[0].items() if KEY in text}
        assert told == {name: value}
    assert "authorization" not in server.headers[0]
    collect(server.backend(key="", auth="bearer"))
    assert not {"authorization", "api-key"} & server.headers[-1].keys()


def test_a_key_is_asked_for_anew_each_time(server: Server) -> None:
    given = iter(["first-token", "second-token"])

    async def token() -> str:
        return next(given)

    async def twice() -> None:
        backend = server.backend(key=token)
        for _ in range(2):
            assert [event async for event in backend.stream(request())]
        await backend.close()

    asyncio.run(twice())
    sent = [headers["authorization"] for headers in server.headers]
    assert sent == ["Bearer first-token", "Bearer second-token"]


def test_where_no_key_can_be_had(server: Server) -> None:
    async def token() -> str:
        raise Unauthorized("Nobody is signed in.", hint="Sign in.")

    assert failure(server.backend(key=token), Unauthorized).hint == "Sign in."
    assert server.asked == []


# --- asked otherwise, where the server does not take it ----------------------------------------


class Picky:
    """Refuses a request as `refusal` says, and answers others; `what` finds what it dislikes."""

    def __init__(
        self, server: Server, what: Callable[[dict[str, Any]], object], refusal: Response
    ) -> None:
        self.server = server
        self.what = what
        self.refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        disliked = self.what(self.server.asked[-1])
        await (self.refusal if disliked else Stream(*REPLY[:4]))(scope, receive, send)


def test_a_server_that_cannot_count_in_a_stream(server: Server) -> None:
    """Learnt once: it is no parameter of the user's, and the counts are then not known."""
    words = {"error": {"message": "Unrecognized request argument supplied: stream_options"}}
    server.answer = Picky(server, lambda asked: "stream_options" in asked, JSONResponse(words, 400))
    backend = server.backend()
    for _ in range(2):
        reply = start(backend).wait(10)
        assert (reply.text, reply.completion_tokens) == ("Hello 👋", None)
    assert ["stream_options" in asked for asked in server.asked] == [True, False, False]


def test_many_learn_it_at_once(server: Server) -> None:
    words = {"error": {"message": "Unrecognized request argument supplied: stream_options"}}
    server.answer = Picky(server, lambda asked: "stream_options" in asked, JSONResponse(words, 400))
    backend = server.backend()
    runs = [start(backend) for _ in range(4)]
    assert [run.wait(10).state for run in runs] == ["done"] * 4


def test_a_server_that_dislikes_whatever_it_is_asked(server: Server) -> None:
    words = {"error": {"message": "Unrecognized request argument supplied: stream_options"}}
    server.answer = JSONResponse(words, 400)
    failure(server.backend(), BadRequest)
    assert len(server.asked) == 2


def test_what_was_learnt_is_not_sent_any_more(server: Server) -> None:
    backend = server.backend()
    words = {"error": {"message": "Unknown parameter: 'top_k'.", "code": "unknown_parameter"}}
    server.answer = Picky(server, lambda asked: "top_k" in asked, JSONResponse(words, 400))
    with pytest.raises(Unsupported) as caught:
        collect(backend)
    assert caught.value.field == "top_k"
    backend.capabilities = Capabilities(SAMPLING_FIELDS - {"top_k"})
    assert isinstance(collect(backend)[-1], Finished)


def has_parts(asked: dict[str, Any]) -> bool:
    return isinstance(asked["messages"][-1]["content"], list)


LOOK = ChatRequest((Message("user", "Look", (picture(), picture("JPEG"))),))
NO_PARTS = JSONResponse({"detail": "content must be a string"}, 422)


def test_pictures_in_the_text_where_parts_are_refused(server: Server) -> None:
    server.answer = Picky(server, has_parts, NO_PARTS)
    backend = server.backend(inline_images=True)
    for _ in range(2):
        assert isinstance(collect(backend, LOOK)[-1], Finished)
    assert [has_parts(asked) for asked in server.asked] == [True, False, False]
    png, jpeg = (base64.b64encode(image.data).decode() for image in LOOK.messages[0].images)
    assert server.asked[-1]["messages"][-1]["content"] == (
        f'Look <img src="data:image/png;base64,{png}" /> '
        f'<img src="data:image/jpeg;base64,{jpeg}" />'
    )


def test_pictures_stay_parts_where_those_are_taken(server: Server) -> None:
    backend = server.backend(inline_images=True)
    collect(backend, LOOK)
    server.answer = NO_PARTS
    with pytest.raises(BadRequest):
        collect(backend, LOOK)
    assert [has_parts(asked) for asked in server.asked] == [True, True]


@pytest.mark.parametrize(
    ("options", "answer", "asked"),
    [
        ({"inline_images": False}, NO_PARTS, LOOK),
        ({"inline_images": True}, NO_PARTS, request()),
        ({"inline_images": True}, JSONResponse({}, 401), LOOK),
        ({"inline_images": True}, JSONResponse({}, 413), LOOK),
        (
            {"inline_images": True},
            JSONResponse({"error": {"message": "Too high.", "param": "top_p"}}, 400),
            LOOK,
        ),
    ],
    ids=["not allowed", "no picture", "another error", "too large", "a parameter"],
)
def test_pictures_are_not_sent_twice_for_nothing(
    server: Server, options: dict[str, Any], answer: Response, asked: ChatRequest
) -> None:
    server.answer = answer
    with pytest.raises(SLMError):
        collect(server.backend(**options), asked)
    assert len(server.asked) == 1


def test_the_first_refusal_counts_where_neither_form_is_taken(server: Server) -> None:
    other: Response = JSONResponse({"detail": "too long a text"}, 400)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await (NO_PARTS if has_parts(server.asked[-1]) else other)(scope, receive, send)

    server.answer = answer
    backend = server.backend(inline_images=True)
    for _ in range(2):
        with pytest.raises(BadRequest, match="content must be a string"):
            collect(backend, LOOK)
    assert len(server.asked) == 4  # nothing was learnt
    other = PlainTextResponse("", 429)
    with pytest.raises(Busy):  # this one may pass, and tells more
        collect(backend, LOOK)


# --- the list of models ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "names"),
    [
        ({"object": "list", "data": [{"id": "b"}, {"id": "a"}]}, ("b", "a")),
        ({"data": []}, ()),
        ([{"id": "org/a", "name": "A"}, {"name": "b"}], ("org/a", "b")),
        ({"models": [{"name": "a:latest", "model": "a:latest"}, "b"]}, ("a:latest", "b")),
        ({"data": [{"id": "a"}, {"id": 5}, {}, 5, None, {"id": "a"}, {"id": "b\n"}]}, ("a",)),
        ({"data": [{"id": "a" * 1_000}, {"id": "b"}]}, ("b",)),
    ],
)
def test_the_list_of_models(server: Server, sent: Any, names: tuple[str, ...]) -> None:
    server.answer = JSONResponse(sent)
    backend = server.backend()
    assert background.submit(backend.models()).result(10) == names
    assert server.paths == ["/v1/models"]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


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


def test_a_server_that_never_begins(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from slm_backends.endpoints import openai as module

    monkeypatch.setattr(module, "READ_SECONDS", 0.2)
    server.answer = Endless(server)
    assert "too long" in failure(server.backend(), StreamBroken).message
    server.answer = Endless(server, chunk(""))  # it is alive, and has not said a word yet
    assert "too long" in failure(server.backend(), StreamBroken).message


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
        server.answer = JSONResponse({"error": "Wrong key."}, 401)
        failure(server.backend(), Unauthorized)
    assert KEY not in repr(backend)
    assert KEY not in str(backend)
    assert KEY not in caplog.text


# --- experts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "means", [{"region": "eu"}, {"ids": [1]}, ["a", {"b": 1}], "eu", 7], ids=str
)
def test_what_others_call_routing_is_not_read(server: Server, means: Any) -> None:
    server.answer = Stream(chunk("Hello", "stop", routing=means), "data: [DONE]\n\n")
    reply = ask(server.backend())
    assert (reply.text, reply.routing) == ("Hello", ())
    message = {"role": "assistant", "content": "Hello"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    server.answer = JSONResponse(chunk(object="chat.completion", choices=[choice], routing=means))
    reply = ask(server.backend(streamed=False))
    assert (reply.text, reply.routing) == ("Hello", ())


def test_a_worker_is_asked_for_experts_by_name(server: Server) -> None:
    told = {
        "start": 0, "ids": [4], "tokens": ["x"], "layers": 1, "experts": 2, "k": 1,
        "chosen": "AQA=", "weights": "AACAPw==", "scores": "AAAAPA==",
    }  # fmt: skip
    server.answer = Stream(chunk("Hi", "stop", routing=told), "data: [DONE]\n\n")
    backend = server.backend(ours=True)
    backend.capabilities = Capabilities(SAMPLING_FIELDS, routing=True, knife=True)
    asked = replace(request(), experts=Experts(k=1, off=((-1, 0),), reply="Hi"))
    reply = run.start(backend, asked).wait(PATIENCE)
    assert server.asked[-1]["experts"] == {"k": 1, "off": [[-1, 0]], "reply": "Hi"}
    assert "return_token_ids" not in server.asked[-1]
    (routed,) = reply.routing
    assert (routed.ids, routed.chosen) == ((4,), b"\x01\x00")
    assert numpy.frombuffer(routed.weights, "<f4").tolist() == [1.0]
    assert numpy.frombuffer(routed.scores, "<f2").tolist() == [0.0, 1.0]
