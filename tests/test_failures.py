"""Every failure of a server, one by one, through every dialect: each ends in a sentence and a hint,
keeps what came before it, shows no key, and asks nobody twice."""

from __future__ import annotations

import gzip
import logging
import re
import socket
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from asking import PATIENCE, request
from dialects import DIALECTS, Dialect
from failing_server import (
    MEGABYTE,
    Cut,
    FailingServer,
    Flood,
    Part,
    Play,
    Silence,
    answer,
    failing,
    self_signed,
)

from slm_backends import background, run
from slm_backends.chat import MAX_CHARACTERS
from slm_backends.endpoints import Endpoint, failures
from slm_backends.errors import (
    BadRequest,
    Busy,
    ContextOverflow,
    Filtered,
    NotFound,
    Retired,
    SLMError,
    StreamBroken,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from slm_backends.run import Reply

KEY = "a-key-that-must-not-show"
STALL = 0.2
HTML = {"content-type": "text/html; charset=utf-8"}
PAGE = "<!doctype html><html><title>A web interface</title>"
END_OF_LIFE = "has reached its end of life on 2026-07-27T00:00:00Z and is no longer available."


def said(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "t", "param": None, "code": None} | more}


@dataclass(frozen=True)
class Case:
    """What a server does, and what must become of it.

    play   what it does in that dialect
    words  a pattern that is in the message
    text   of the reply that came before
    more   attributes of the error
    """

    name: str
    play: Callable[[Dialect], Play]
    kind: type[SLMError]
    words: str
    text: str = ""
    more: dict[str, Any] = field(default_factory=dict)


def status(
    number: int, body: Any, kind: type[SLMError], words: str, headers: Any = (), **more: Any
) -> Case:
    name = f"{number} {words}"
    return Case(name, lambda _: answer(number, body, **dict(headers)), kind, words, more=more)


def stream(
    name: str,
    parts: Callable[[Dialect], tuple[Part, ...]],
    kind: type[SLMError],
    words: str,
    text: str = "",
    **more: Any,
) -> Case:
    def play(dialect: Dialect) -> Play:
        return Play(200, parts(dialect), {"content-type": dialect.type})

    return Case(name, play, kind, words, text, more)


STATUSES = [
    status(400, said("top_p: no.", param="top_p"), BadRequest, "top_p: no", field="top_p"),
    status(400, said("Too much.", param="top_p"), BadRequest, "top_p: Too much", field="top_p"),
    status(400, "", BadRequest, "status 400"),
    status(400, said("maximum context length is 8 tokens"), ContextOverflow, "context length"),
    status(400, said("No.", code="content_filter"), Filtered, "No"),
    status(400, "The plain HTTP request was sent to HTTPS port", Unavailable, "HTTPS port"),
    status(
        400, f"<html>{PAGE} The plain HTTP request was sent to HTTPS port", Unavailable, "HTTPS",
        hint="Write https:// in the address.",
    ),
    status(401, said("Wrong key."), Unauthorized, "Wrong key"),
    status(401, "", Unauthorized, "does not accept the key"),
    status(402, "", Unauthorized, "no credit"),
    status(403, said("Not for you."), Unauthorized, "Not for you"),
    status(404, said("No such model."), NotFound, "No such model"),
    status(404, {"detail": "Not Found"}, NotFound, "Not Found"),
    status(404, {"detail": f"The model 'm' {END_OF_LIFE}"}, Retired, "end of", on="2026-07-27"),
    status(
        404, {"status": 404, "title": "Not Found",
              "detail": "Function 'f-1': Not found for account 'account-7'"},
        Retired, "does not run it any more", on="",
    ),
    status(408, "", Unavailable, "waited too long"),
    status(410, {"detail": f"The model 'm' {END_OF_LIFE}"}, Retired, "end of", on="2026-07-27"),
    status(410, "", Retired, "status 410", on=""),
    status(413, "", BadRequest, "larger than this server takes"),
    status(413, said("Payload too large."), BadRequest, "Payload"),
    status(
        422, {"detail": [{"loc": ["body", "top_p"], "msg": "Input should be less than 1"}]},
        BadRequest, "top_p: Input should be less than 1", field="top_p",
    ),
    status(429, said("Slower."), Busy, "Slower", retry_after=None),
    status(429, "", Busy, "limit of this account", {"retry_after": "7"}, retry_after=7.0),
    status(
        429, said("You exceeded your quota.", code="insufficient_quota"), Unauthorized, "quota"
    ),
    status(500, said("It fell over."), SLMError, "It fell over"),
    status(500, {"object": "error", "message": "It fell over."}, SLMError, "It fell over"),
    status(500, None, SLMError, "status 500"),
    status(502, PAGE, Unavailable, "status 502"),
    status(503, said("Loading."), Unavailable, "Loading", retry_after=None),
    status(503, "", Unavailable, "status 503", {"retry_after": "3"}, retry_after=3.0),
    status(504, [1], Unavailable, "did not answer its gateway"),
    status(401, said(f"Incorrect: {KEY}.", param=KEY, hint=KEY), Unauthorized, r"\[key\]"),
    status(301, "", NotFound, "/elsewhere", {"location": f"/elsewhere?key={KEY}"}),
    status(302, "", NotFound, r"\[key\]", {"location": f"https://nobody.invalid/{KEY}"}),
    status(307, "", NotFound, "/elsewhere", {"location": "/elsewhere"}),
    status(308, "", NotFound, "/elsewhere", {"location": "/elsewhere"}),
    status(500, gzip.compress(bytes(40 * MEGABYTE)), SLMError, "500", {"content_encoding": "gzip"}),
    status(200, gzip.compress(b"{}"), StreamBroken, "compressed", {"content_encoding": "gzip"}),
    status(200, PAGE, StreamBroken, "web page", HTML),
    status(200, "", StreamBroken, "not with a"),
]  # fmt: skip

BROKEN = [
    Case("no answer", lambda _: Play(0, (Cut(),)), Unavailable, "No answer"),
    Case("another protocol", lambda _: Play(0, (b"SSH-2.0-x\r\n",)), Unavailable, "No answer"),
    Case("500, then silence", lambda _: Play(500, (b"{", Silence())), SLMError, "status 500"),
    Case("500, then a cut", lambda _: Play(500, (b"{", Cut())), SLMError, "status 500"),
    stream("an empty stream", lambda d: (), StreamBroken, "not with a"),
    stream("a cut", lambda d: (d.text("Hel"), Cut()), StreamBroken, "broke off", "Hel"),
    stream("a cut in a piece", lambda d: (d.text("Hel"), d.text("lo")[:-9], Cut()), StreamBroken,
           "broke off", "Hel"),
    stream("no end", lambda d: (d.text("Hel"),), StreamBroken, "finish reason", "Hel"),
    stream("half a piece", lambda d: (d.text("Hel"), d.text("lo")[:-9]), StreamBroken, "", "Hel"),
    stream("a stall", lambda d: (d.text("Hel"), Silence()), StreamBroken, "0.2 seconds", "Hel"),
    stream("an error inside", lambda d: (d.text("Hel"), d.error({"message": f"Oh, {KEY}."})),
           StreamBroken, r"Oh, \[key\]", "Hel"),
]  # fmt: skip

FILTERED = stream(
    "a filter", lambda d: (d.text("Hel"), d.last("content_filter")), Filtered, "filter", "Hel"
)

FLOODS = [
    Case("an error", lambda _: Play(500, (Flood(b"word "),)), SLMError, "word word"),
    Case("JSON of an error", lambda _: Play(400, (b'{"error": "', Flood(b"word "))), BadRequest,
         "status 400"),
    Case("a web page", lambda _: Play(200, (PAGE.encode(), Flood(b"<p>")), HTML), StreamBroken, ""),
    stream("one line", lambda d: (d.text("Hel"), b"data: ", Flood(b"x")), StreamBroken,
           "8 MB", "Hel"),
    stream("nothing", lambda d: (d.text("Hel"), Flood(d.nothing[0])), StreamBroken, "8 MB", "Hel"),
]  # fmt: skip


@pytest.fixture(scope="module")
def _server() -> Iterator[FailingServer]:
    with failing() as server:
        yield server


@pytest.fixture
def server(_server: FailingServer) -> FailingServer:
    _server.asked.clear()
    _server.sent = 0
    return _server


@pytest.fixture(params=DIALECTS, ids=str)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    found = request.param
    assert isinstance(found, Dialect)
    return found


def reply_of(endpoint: Endpoint) -> Reply:
    reply = run.start(endpoint, request()).wait(PATIENCE)
    background.submit(endpoint.close()).result(PATIENCE)
    return reply


def failure(endpoint: Endpoint, kind: type[SLMError], words: str, text: str = "") -> SLMError:
    """The error that the reply ended with, after what must hold for each."""
    reply = reply_of(endpoint)
    error = reply.error
    assert error is not None, reply
    assert type(error) is kind, repr(error)
    assert re.search(words, error.message), error.message
    for sentence in (error.message, error.hint):
        assert sentence
        assert sentence.isprintable()
        assert len(sentence) < 700
    assert (reply.state, reply.text) == ("failed", text)
    told = "".join(traceback.format_exception(error))
    assert KEY not in f"{error.message} {error.hint} {error!r} {vars(error)} {endpoint!r} {told}"
    return error


@pytest.mark.parametrize(
    ("dialect", "case"),
    [
        pytest.param(dialect, case, id=f"{dialect} {case.name}")
        for dialect in DIALECTS
        for case in [*STATUSES, *BROKEN, *([FILTERED] if dialect.filters else [])]
    ],
)
def test_failures(
    case: Case, dialect: Dialect, server: FailingServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.play = play = case.play(dialect)
    with caplog.at_level(logging.DEBUG):
        error = failure(
            dialect.endpoint(server.address, KEY, stall_s=STALL), case.kind, case.words, case.text
        )
    for name, value in case.more.items():
        assert getattr(error, name) == value
    assert len(server.asked) == 1  # no retry behind anyone's back
    assert KEY.encode() in server.asked[0]
    if "location" not in play.headers:  # headers that come are written down at this level
        assert KEY not in caplog.text


@pytest.mark.parametrize("case", FLOODS, ids=lambda case: case.name)
def test_fifty_megabytes_are_not_read(case: Case, dialect: Dialect, server: FailingServer) -> None:
    server.play = case.play(dialect)
    failure(dialect.endpoint(server.address, KEY), case.kind, case.words, case.text)
    assert server.sent < 24 * MEGABYTE  # what the system keeps on the way included


def test_a_reply_without_end(dialect: Dialect, server: FailingServer) -> None:
    piece = dialect.text("word " * 2_000)
    server.play = Play(200, (Flood(piece),), {"content-type": dialect.type})
    reply = reply_of(dialect.endpoint(server.address, KEY))
    assert type(reply.error) is StreamBroken
    assert "1,000,000 characters" in reply.error.message
    assert reply.error.hint
    assert MAX_CHARACTERS - 10_000 <= len(reply.text) <= MAX_CHARACTERS
    assert server.sent < 24 * MEGABYTE


def test_garbage_instead_of_pieces(dialect: Dialect, server: FailingServer) -> None:
    for garbage in dialect.malformed:
        parts = (dialect.text("Hel"), garbage, dialect.last("stop"))
        server.play = Play(200, parts, {"content-type": dialect.type})
        failure(dialect.endpoint(server.address, KEY), StreamBroken, "not a piece", "Hel")


def test_what_a_server_may_send_or_leave_out(dialect: Dialect, server: FailingServer) -> None:
    """Comments, empty events, pieces without text, no counts: a reply is none the worse for it."""
    parts = (
        *dialect.nothing, dialect.text("Hel"), *dialect.odd, *dialect.nothing,
        dialect.text("lo"), dialect.last("stop"),
    )  # fmt: skip
    server.play = Play(200, parts, {"content-type": dialect.type})
    reply = reply_of(dialect.endpoint(server.address, KEY))
    assert (reply.error, reply.state, reply.text) == (None, "done", "Hello")
    assert reply.prompt_tokens is None
    assert reply.completion_tokens is None


def test_a_reply_in_pieces_of_one_byte(dialect: Dialect, server: FailingServer) -> None:
    whole = dialect.text("Hel") + dialect.nothing[0] + dialect.text("lö 👋") + dialect.last("stop")
    parts = tuple(bytes([byte]) for byte in whole)
    server.play = Play(200, parts, {"content-type": dialect.type})
    assert reply_of(dialect.endpoint(server.address, KEY)).text == "Hellö 👋"


def test_a_failing_reply_leaves_others_alone(dialect: Dialect, server: FailingServer) -> None:
    parts: tuple[Part, ...] = (dialect.text("Hel"), Silence())
    server.play = Play(200, parts, {"content-type": dialect.type})
    endpoint = dialect.endpoint(server.address, KEY, stall_s=STALL)
    stalled = run.start(endpoint, request())
    while not stalled.reply.text:
        stalled.wait(0.01)
    server.play = answer(503)
    assert run.start(endpoint, request()).wait(PATIENCE).state == "failed"
    assert not stalled.reply.ended
    parts = (dialect.text("Hel"), dialect.text("lo"), dialect.last("stop"))
    server.play = Play(200, parts, {"content-type": dialect.type})
    assert reply_of(endpoint).text == "Hello"
    assert stalled.wait(PATIENCE).state == "failed"


# --- where nobody answers -------------------------------------------------------------------------


def test_nobody_listens(dialect: Dialect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    error = failure(dialect.endpoint(address, KEY), Unavailable, "nothing listens there")
    assert address in error.message
    error = failure(
        dialect.endpoint(address, KEY, start_hint="Start it with `it serve`."), Unavailable, ""
    )
    assert error.hint == "Start it with `it serve`."


def test_a_name_that_nobody_has(dialect: Dialect) -> None:
    error = failure(
        dialect.endpoint("https://models.invalid", KEY), Unavailable, "no computer of that name"
    )
    assert "models.invalid" in error.message


@pytest.mark.parametrize(
    "address",
    ["http://[::1", "http://127.0.0.1:x", "http://127.0.0.1:99999", "http://127.0.0.1:0"]
    + ["http://a..b", "http://", "ftp://a", f"http://{'a' * 70}.invalid", "http://a b", ""],
)
def test_an_address_that_is_none(dialect: Dialect, address: str) -> None:
    with pytest.raises(Unavailable, match="no address") as caught:
        dialect.endpoint(address, KEY)
    assert caught.value.hint


def test_a_certificate_that_nobody_signed(dialect: Dialect, tmp_path: Path) -> None:
    with failing(self_signed(tmp_path)) as server:
        failure(dialect.endpoint(server.address, KEY), Unavailable, "certificate.*self-signed")
        assert not server.asked
        plain = server.address.replace("https", "http")
        assert "https" in failure(dialect.endpoint(plain, KEY), Unavailable, "No answer").hint
        assert not server.asked


def test_a_secure_address_of_a_server_that_is_not(dialect: Dialect, server: FailingServer) -> None:
    address = server.address.replace("http", "https")
    assert "http://" in failure(dialect.endpoint(address, KEY), Unavailable, "secure").hint
    assert not server.asked


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}\r\nX: y", f"{KEY} ", f"{KEY}\x00", f"{KEY}é"])
def test_a_key_that_no_header_can_carry(dialect: Dialect, server: FailingServer, key: str) -> None:
    async def provided() -> str:
        return key

    for given in (key, provided):
        failure(dialect.endpoint(server.address, given), Unauthorized, "The key has a line break")
    assert not server.asked


def test_a_key_that_was_provided_does_not_show(dialect: Dialect, server: FailingServer) -> None:
    async def provided() -> str:
        return KEY

    server.play = answer(401, said(f"Incorrect: {KEY}."))
    failure(dialect.endpoint(server.address, provided), Unauthorized, r"\[key\]")
    assert KEY.encode() in server.asked[0]


def test_what_is_secret_in_an_address_does_not_show(dialect: Dialect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    failure(
        dialect.endpoint(f"http://me:{KEY}@127.0.0.1:{port}"), Unavailable, f"//127.0.0.1:{port}"
    )


# --- the list of models ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("play", "kind"),
    [
        (answer(401, said(f"Wrong: {KEY}.")), Unauthorized),
        (answer(429, "", retry_after="2"), Busy),
        (answer(410), Retired),
        (Play(200, (PAGE.encode(),), HTML), NotFound),
        (answer(200, "[" * 100_000, content_type="application/json"), NotFound),
        (answer(200, {"data": 5}), NotFound),
        (answer(200, "words"), NotFound),
        (Play(200, (b"[", Flood(b" ")), {"content-type": "application/json"}), StreamBroken),
        (Play(200, (b"[", Cut())), Unavailable),
    ],
    ids=["401", "429", "410", "page", "deep", "no list", "words", "flood", "cut"],
)
def test_a_list_of_models_that_is_none(
    play: Play, kind: type[SLMError], dialect: Dialect, server: FailingServer
) -> None:
    server.play = play
    endpoint = dialect.endpoint(server.address, KEY)
    with pytest.raises(SLMError) as caught:
        background.submit(endpoint.models()).result(PATIENCE)
    background.submit(endpoint.close()).result(PATIENCE)
    assert type(caught.value) is kind, repr(caught.value)
    assert caught.value.hint
    assert KEY not in caught.value.message + caught.value.hint


# --- what servers say, one by one -----------------------------------------------------------------

ASKED = ("max_tokens", "top_k", "repetition_penalty", "seed", "stream_options", "temperature")
VLLM = "[{{'type': '{}', 'loc': ('body', '{}'), 'msg': '{}', 'input': 5}}]"


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        (said("No.", param="seed", code="unsupported_parameter"), "seed"),
        (said("No.", param="top_k", code="unknown_parameter"), "top_k"),
        (said("Unrecognized request argument supplied: top_k"), "top_k"),
        (said("Unrecognized request arguments supplied: a, top_k"), "top_k"),
        (said("Unsupported parameter: 'max_tokens' is not supported with this model. Use "
              "'max_completion_tokens' instead."), "max_tokens"),
        (said("Unknown name \"top_k\": Cannot find field."), "top_k"),
        (said("The parameter seed is not supported by this model."), "seed"),
        (said("This model does not support the parameter `top_k`."), "top_k"),
        ({"detail": "Unexpected fields in the request: {'a', 'stream_options'}"}, "stream_options"),
        ({"detail": [{"type": "extra_forbidden", "loc": ["body", "top_k"],
                      "msg": "Extra inputs are not permitted"}]}, "top_k"),
        ({"message": {"detail": [{"loc": ["body", "seed"],
                                  "msg": "Extra inputs are not permitted"}]}}, "seed"),
        ({"object": "error", "message":
          VLLM.format("extra_forbidden", "top_k", "Extra inputs are not permitted")}, "top_k"),
        ({"status": 422, "code": "parameter_not_supported", "message": "Invalid values.",
          "detail": {"loc": ["body", "repetition_penalty"], "input": 5}}, "repetition_penalty"),
        (said("unknown field: repeat_penalty"), "repetition_penalty"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [400, 422])
def test_a_parameter_that_a_server_does_not_know(status: int, sent: Any, field: str) -> None:
    error = failures.refused(status, sent, asked=ASKED)
    assert type(error) is Unsupported, repr(error)
    assert error.field == field
    assert error.hint


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        (said("Unsupported value: 'temperature' does not support 0.3 with this model.",
              param="temperature", code="unsupported_value"), "temperature"),
        (said("temperature 3 is not supported: at most 2."), None),
        (said("Unsupported value for parameter temperature"), None),
        (said("Unsupported parameter: 'frequency'"), None),
        (said("seed must be an integer", param="seed", code="invalid_value"), "seed"),
        ({"object": "error", "message":
          VLLM.format("less_than", "top_k", "Input should be less than 5")}, "top_k"),
        ({"detail": [{"loc": ["body", "messages", 0, "content"], "msg": "Field required"}]},
         "messages"),
        ({"detail": [{"loc": 5}, 5, {"loc": [5], "msg": 5}]}, None),
        ({"detail": {"loc": []}}, None),
    ],
)  # fmt: skip
def test_a_value_that_a_server_does_not_take(sent: Any, field: str | None) -> None:
    error = failures.refused(422, sent, asked=ASKED)
    assert type(error) is BadRequest, repr(error)
    assert error.field == field
    assert field is None or field in error.message


def test_an_overflow_keeps_its_numbers() -> None:
    numbers = {"prompt_tokens": 8_000, "max_tokens": 512, "context": 8_192}
    error = failures.refused(400, said("Long.", code="context_length_exceeded", **numbers))
    assert isinstance(error, ContextOverflow)
    assert (error.prompt_tokens, error.max_tokens, error.context) == (8_000, 512, 8_192)
    error = failures.refused(400, said("Long.", code="context_length_exceeded", context="x"))
    assert isinstance(error, ContextOverflow)
    assert error.context is None


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (said("Too many.", code=429), Busy),
        (said("Too many.", code="429"), Busy),
        (said("Long.", code="context_length_exceeded"), ContextOverflow),
        (said("Not that.", code="content_filter"), Filtered),
        ({"error": "just words"}, StreamBroken),
        ("just words", StreamBroken),
        (None, StreamBroken),
        (said("Odd.", code=7), StreamBroken),
    ],
)
def test_an_error_in_the_middle_of_a_reply(sent: Any, kind: type[SLMError]) -> None:
    error = failures.refused(0, sent)
    assert type(error) is kind
    assert error.hint


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "12"}, 12.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "12", "retry-after-ms": "1500"}, 1.5),
        ({"x-ms-retry-after-ms": "250"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": formatdate(1_000_030, usegmt=True),
          "date": formatdate(1_000_000, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(1_000_000, usegmt=True)}, 0.0),
        ({"retry-after": "Fri, 99 Foo 2026 00:00:00 GMT"}, None),
    ],
)  # fmt: skip
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert failures.wait(headers) == seconds


def test_a_servers_hint_is_passed_on() -> None:
    assert failures.refused(429, said("Full.", hint="Come at noon.")).hint == "Come at noon."
    error = failures.refused(404, said("No.", hint="Come at noon."), hint="Pull it.")
    assert error.hint == "Pull it."
    assert failures.refused(410, said("No."), hint="Pull it.").hint != "Pull it."


def test_words_stay_on_one_line() -> None:
    error = failures.refused(500, said("one\ntwo\x1b[31m\tthree\u202e " + "x" * 10_000))
    assert error.message.startswith("one two [31m three x")
    assert len(error.message) <= failures.MAX_ERROR


def test_layers_without_end_are_survived() -> None:
    sent: Any = "words"
    for _ in range(900):
        sent = {"error": sent}
    assert type(failures.refused(400, sent)) is BadRequest
