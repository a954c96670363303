"""The protocol over HTTP, by a plain client, with an engine whose every token is chosen here."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from asking import until
from scripted_engine import EOS, ScriptedEngine
from serving import serving

from slm_backends import catalog, store
from slm_backends.chat import SAMPLING_FIELDS, Capabilities
from slm_backends.errors import NotInstalled
from slm_backends.worker import engines, scheduler, server
from slm_backends.worker.server import Service, build
from slm_backends.worker.text import ChatText

KEY = "a-key-that-must-not-show"
SENTENCE = "Gut: 👨‍👩‍👧‍👦 🇩🇪 漢字と한국어, naïve e\u0301."
HELLO = [{"role": "user", "content": "Hello"}]


class House:
    """A service on a scripted engine, and a client for it."""

    def __init__(self, service: Service, engine: ScriptedEngine, client: httpx2.Client) -> None:
        self.service = service
        self.engine = engine
        self.client = client

    def post(self, path: str = "/v1/chat/completions", **fields: Any) -> httpx2.Response:
        if path.endswith("completions"):
            fields = {"messages": HELLO} | fields
        return self.client.post(path, json=fields)

    def refusal(self, status: int, **fields: Any) -> dict[str, Any]:
        response = self.post(**fields)
        assert response.status_code == status, response.text
        return error_of(response)

    @property
    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("/health").json()
        return found

    def until_counts(self, active: int, waiting: int) -> None:
        until(lambda: self.service.scheduler.counts == (active, waiting), f"{active}, {waiting}")


def error_of(response: httpx2.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) >= {"error"}
    assert {"message", "type", "param", "code"} <= set(body["error"])
    assert body["error"]["message"]
    error: dict[str, Any] = body["error"]
    return error


@pytest.fixture(scope="module")
def folder(embedded: tuple[str, ...]) -> Path:
    return store.folder(catalog.load().deployment(embedded[0]))


@pytest.fixture(scope="module")
def text(folder: Path) -> ChatText:
    return ChatText(folder)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def unloaded(
    engine: ScriptedEngine, folder: Path, text: ChatText, monkeypatch: pytest.MonkeyPatch
) -> Service:
    monkeypatch.setattr(server, "ChatText", lambda folder: text)  # read once for all tests
    monkeypatch.setattr(engines, "load", lambda *given, **how: engine)
    return Service(catalog.load().deployment("smollm2-135m-instruct@openvino"), folder)


@pytest.fixture
def house(unloaded: Service, engine: ScriptedEngine) -> Iterator[House]:
    unloaded.load()
    tokens = unloaded.text.tokens(SENTENCE)
    engine.script = lambda prompt: tokens
    with (
        serving(build(unloaded, KEY)) as address,
        httpx2.Client(base_url=address, timeout=30, trust_env=False) as client,
    ):
        client.headers["authorization"] = f"Bearer {KEY}"
        yield House(unloaded, engine, client)
        engine.go.set()
    unloaded.scheduler.close()


def chunks(response: httpx2.Response) -> list[dict[str, Any]]:
    """The parsed chunks of a stream that must end with [DONE]."""
    lines = [line for line in response.text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


# --- answers -----------------------------------------------------------------------------------


def test_a_whole_reply(house: House) -> None:
    response = house.post(max_tokens=100)
    assert response.status_code == 200
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "smollm2-135m-instruct@openvino"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": SENTENCE},
            "finish_reason": "stop",
        }
    ]
    made = len(house.service.text.tokens(SENTENCE)) + 1
    usage = body["usage"]
    assert usage["completion_tokens"] == made == body["timings"]["predicted_n"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens"] == body["timings"]["prompt_n"]


def test_a_streamed_reply(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "UPDATE_EVERY", 0.0)
    response = house.post(
        stream=True, stream_options={"include_usage": True}, timings_per_token=True, max_tokens=100
    )
    assert response.headers["content-type"].startswith("text/event-stream")
    first, *middle, last, usage = chunks(response)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    pieces = [chunk["choices"][0]["delta"]["content"] for chunk in middle]
    assert "".join(pieces) == SENTENCE
    assert len(pieces) > 10
    assert not any("\ufffd" in piece for piece in pieces)
    counts = [chunk["timings"]["predicted_n"] for chunk in middle]
    assert counts == sorted(set(counts))
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert last["timings"]["predicted_n"] == usage["usage"]["completion_tokens"]
    assert usage["choices"] == []
    assert {chunk["id"] for chunk in (first, *middle, last, usage)} == {first["id"]}
    assert {chunk["object"] for chunk in (first, last, usage)} == {"chat.completion.chunk"}


def test_usage_and_live_numbers_only_for_who_asks(house: House) -> None:
    sent = chunks(house.post(stream=True, max_tokens=100))
    assert not any("usage" in chunk for chunk in sent)
    assert ["timings" in chunk for chunk in sent] == [False] * (len(sent) - 1) + [True]


def test_a_stop_string_and_a_limit(house: House) -> None:
    stopped = house.post(stop="漢", max_tokens=100).json()["choices"][0]
    assert stopped["message"]["content"] == SENTENCE[: SENTENCE.index("漢")]
    assert stopped["finish_reason"] == "stop"
    cut = house.post(max_tokens=2).json()
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 2


def test_models_health_and_tokenize(house: House) -> None:
    model = house.client.get("/v1/models").json()["data"][0]
    assert (model["id"], model["context_length"]) == ("smollm2-135m-instruct@openvino", 1_000)
    assert house.health == {"status": "ok", "active": 0, "waiting": 0}
    tokens = house.post("/tokenize", content="a <|im_end|>").json()["tokens"]
    assert tokens == house.service.text.tokens("a <|im_end|>")
    assert 2 not in tokens


def test_the_conversation_reaches_the_engine_as_the_template_says(house: House) -> None:
    seen: list[list[int]] = []
    house.engine.script = lambda prompt: seen.append(prompt) or []  # type: ignore[func-returns-value]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
    ]
    assert house.post(messages=messages).json()["usage"]["prompt_tokens"] == len(seen[0])
    tokenizer = house.service.text._tokenizer
    assert tokenizer.decode(seen[0], skip_special_tokens=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n"
        "<|im_start|>assistant\nTwo.<|im_end|>\n<|im_start|>user\nThree?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_sampling_reaches_the_engine_and_an_open_end_gets_the_room_that_is_left(
    house: House,
) -> None:
    prompt = house.post(temperature=0.5, seed=3, stream=False).json()["usage"]["prompt_tokens"]
    sampling = house.engine.sampling[house.engine.admitted[-1]]
    assert (sampling.temperature, sampling.seed) == (0.5, 3)
    assert sampling.max_tokens == house.engine.context - prompt


# --- log-probabilities -------------------------------------------------------------------------


@pytest.fixture
def giving(house: House) -> House:
    """A house whose runtime gives log-probabilities."""
    house.service.capabilities = replace(house.service.capabilities, logprobs=True)
    return house


def test_a_runtime_without_log_probabilities_refuses_them_by_name(house: House) -> None:
    for fields in ({"logprobs": True}, {"logprobs": True, "top_logprobs": 5, "stream": True}):
        error = house.refusal(400, **fields)
        assert (error["param"], error["code"]) == ("logprobs", "unsupported_parameter")
    assert house.refusal(400, top_logprobs=5)["param"] == "top_logprobs"
    assert house.post(logprobs=False).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_as_the_openai_package_reads_them(
    giving: House, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(scheduler, "UPDATE_EVERY", 0.0)
    address = str(giving.client.base_url).rstrip("/") + "/v1"
    http = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(base_url=address, api_key=KEY, http_client=http) as client:
        reply = client.chat.completions.create(
            model="smollm2-135m-instruct",
            messages=[{"role": "user", "content": "Hello"}],
            logprobs=True,
            top_logprobs=3,
            max_tokens=100,
            stream=stream,
        )
        told: list[Any] = []
        said = ""
        for part in reply if stream else [reply]:
            (choice,) = part.choices
            said += (choice.delta if stream else choice.message).content or ""
            told += choice.logprobs.content if choice.logprobs else []
            spelled = b"".join(bytes(token.bytes) for token in told)
            assert spelled.decode("utf-8", "ignore") == said  # tokens come with their text
    assert said == SENTENCE
    ids = giving.service.text.tokens(SENTENCE)
    assert [token.id for token in told] == ids  # and no end token
    for token, expected in zip(told, ids, strict=True):
        assert token.logprob == -expected / 1000
        assert [other.id for other in token.top_logprobs] == [EOS, expected, expected + 1]
        assert token.top_logprobs[0].token == "<|im_end|>"
        assert token.top_logprobs[0].bytes is None
        assert token.top_logprobs[1].token == token.token


def test_log_probabilities_without_alternatives_and_up_to_a_stop_string(giving: House) -> None:
    choice = giving.post(logprobs=True, stop="漢", max_tokens=100).json()["choices"][0]
    told = choice["logprobs"]["content"]
    assert choice["logprobs"]["refusal"] is None
    assert [token["top_logprobs"] for token in told] == [[]] * len(told)
    spelled = bytes(byte for token in told for byte in token["bytes"]).decode("utf-8", "ignore")
    assert spelled == choice["message"]["content"] == SENTENCE[: SENTENCE.index("漢")]


def test_who_asks_for_none_gets_none(giving: House) -> None:
    assert "logprobs" not in giving.post().json()["choices"][0]
    streamed = chunks(giving.post(stream=True))
    assert not any("logprobs" in chunk["choices"][0] for chunk in streamed)
    assert set(giving.engine.top.values()) == {None}


# --- the model's names -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "smollm2-135m-instruct@openvino"])
def test_the_model_may_be_named_short_or_long(house: House, name: str) -> None:
    assert house.post(model=name).status_code == 200


# --- refusals ----------------------------------------------------------------------------------


def test_400_names_the_field(house: House) -> None:
    assert house.refusal(400, temperature=9)["param"] == "temperature"
    assert house.refusal(400, mirostat=1)["param"] == "mirostat"
    assert house.refusal(400, messages=[])["param"] == "messages"
    assert house.refusal(400, path="/tokenize", content=5)["param"] == "content"


def test_400_for_what_this_runtime_does_not_honour(
    unloaded: Service, engine: ScriptedEngine
) -> None:
    unloaded.capabilities = Capabilities(SAMPLING_FIELDS - {"presence_penalty"})
    unloaded.load()
    with (
        serving(build(unloaded)) as address,
        httpx2.Client(base_url=address, trust_env=False) as client,
    ):
        response = client.post(
            "/v1/chat/completions", json={"messages": HELLO, "presence_penalty": 0.5}
        )
    assert response.status_code == 400
    error = error_of(response)
    assert (error["param"], error["code"]) == ("presence_penalty", "unsupported_parameter")
    unloaded.scheduler.close()


def test_400_overflow_gives_both_numbers(house: House) -> None:
    error = house.refusal(400, max_tokens=990)
    assert error["code"] == "context_length_exceeded"
    assert (error["max_tokens"], error["context"]) == (990, 1_000)
    assert error["prompt_tokens"] > 10
    long = [{"role": "user", "content": "word " * 1_500}]
    assert house.refusal(400, messages=long)["prompt_tokens"] > 1_500


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b'{"messages": ' + b"[" * 200_000, b"nonsense"]
)
def test_400_for_what_is_not_json(house: House, body: bytes) -> None:
    response = house.client.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert "JSON" in error_of(response)["message"]


def test_401_without_the_key(house: House) -> None:
    del house.client.headers["authorization"]
    for path in ("/v1/chat/completions", "/tokenize", "/v1/models"):
        for given in (
            None,
            "",
            "Bearer",
            f"Bearer {KEY}x",
            f"Bearer {KEY[:-1]}",
            KEY,
            "Basic a",
            "é",
        ):
            response = house.client.request(
                "GET" if path.endswith("models") else "POST",
                path,
                json={"messages": HELLO, "content": "x"},
                headers={} if given is None else {"authorization": given.encode()},
            )
            assert response.status_code == 401
            assert error_of(response)["code"] == "invalid_api_key"
            assert KEY not in response.text
    assert house.health["status"] == "ok"  # /health needs none


def test_404_and_405(house: House) -> None:
    assert "other" in house.refusal(404, model="other")["message"]
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/health", 405),
    ):
        response = house.client.request(method, path)
        assert response.status_code == status
        error_of(response)


@pytest.mark.parametrize("announced", [True, False])
def test_413(house: House, monkeypatch: pytest.MonkeyPatch, announced: bool) -> None:
    monkeypatch.setattr(server, "MAX_BODY", 2**20)
    body = b"x" * (3 * 2**20)
    content = body if announced else iter([body[:1000], body[1000:]])
    response = house.client.post("/v1/chat/completions", content=content)
    assert response.status_code == 413
    assert "1 MiB" in error_of(response)["message"]
    assert house.post().status_code == 200


def test_429_when_the_queue_is_full(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "MAX_WAITING", 2)
    house.engine.go.clear()
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(house.post().status_code)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    house.until_counts(4, 2)
    assert house.health == {"status": "ok", "active": 4, "waiting": 2}
    assert house.refusal(429)["code"] == "busy"
    assert house.refusal(429, stream=True)["code"] == "busy"
    house.engine.go.set()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 6


def test_503_while_loading_then_200(unloaded: Service, engine: ScriptedEngine) -> None:
    unloaded.fraction, unloaded.step = 0.4, "reading weights"
    with (
        serving(build(unloaded)) as address,
        httpx2.Client(base_url=address, trust_env=False) as client,
    ):
        health = client.get("/health")
        assert health.status_code == 503
        assert health.json()["status"] == "loading"
        assert health.json()["progress"] == 0.4
        for path, body in (
            ("/v1/chat/completions", {"messages": HELLO}),
            ("/tokenize", {"content": "x"}),
        ):
            response = client.post(path, json=body)
            assert response.status_code == 503
            assert "reading weights" in error_of(response)["message"]
        unloaded.load()
        assert client.get("/health").status_code == 200
        assert client.post("/v1/chat/completions", json={"messages": HELLO}).status_code == 200
    unloaded.scheduler.close()


def test_a_load_that_failed_says_so_each_time(
    unloaded: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = NotInstalled("No runtime here.", package="openvino-genai")

    def load(*_: object, **__: object) -> None:
        raise missing

    monkeypatch.setattr(engines, "load", load)
    with pytest.raises(NotInstalled):
        unloaded.load()
    with (
        serving(build(unloaded)) as address,
        httpx2.Client(base_url=address, trust_env=False) as client,
    ):
        assert client.get("/health").status_code == 500
        for _ in range(3):
            response = client.post("/v1/chat/completions", json={"messages": HELLO})
            assert response.status_code == 503
            assert error_of(response)["hint"] == "pip install openvino-genai"


def test_an_engine_that_fails(house: House) -> None:
    house.engine.refuses = RuntimeError("no such luck")
    assert "no such luck" in house.refusal(500)["message"]
    sent = chunks(house.post(stream=True))
    assert "no such luck" in sent[-1]["error"]["message"]
    house.engine.refuses = None
    assert house.post().status_code == 200


def test_a_defect_of_ours_is_an_error_in_the_same_shape(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("internal detail")

    monkeypatch.setattr(house.service, "submit", broken)
    error = house.refusal(500)
    assert "ZeroDivisionError" in error["message"]
    assert "internal detail" not in error["message"]


# --- hanging up --------------------------------------------------------------------------------


def hang_up(house: House, stream: bool, wait_for: tuple[int, int]) -> None:
    """Ask over a bare socket, wait until the counts are so, and close it."""
    body = json.dumps({"messages": HELLO, "stream": stream}).encode()
    address = (house.client.base_url.host, house.client.base_url.port)
    with socket.create_connection(address) as wire:  # type: ignore[arg-type]
        wire.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\n"
            + f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        house.until_counts(*wait_for)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_who_hangs_up_frees_his_place(house: House, stream: bool) -> None:
    house.engine.go.clear()
    hang_up(house, stream, (1, 0))
    house.until_counts(0, 0)
    assert house.engine.released == house.engine.admitted


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_who_hangs_up_while_he_waits_leaves_the_line(house: House, stream: bool) -> None:
    house.engine.max_active = 1
    house.engine.go.clear()
    other = threading.Thread(target=house.post)
    other.start()
    house.until_counts(1, 0)
    hang_up(house, stream, (1, 1))
    house.until_counts(1, 0)
    house.engine.go.set()
    other.join()
    assert len(house.engine.admitted) == 1


def test_a_long_prompt_does_not_hold_up_the_others(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokenising a million characters takes a second; the event loop must not wait for it."""
    begun, go = threading.Event(), threading.Event()
    submit = house.service.submit

    def slow(*arguments: Any) -> Any:
        begun.set()
        go.wait(30)
        return submit(*arguments)

    monkeypatch.setattr(house.service, "submit", slow)
    asked = threading.Thread(target=house.post)
    asked.start()
    assert begun.wait(30)
    assert house.client.get("/health", timeout=5).json()["status"] == "ok"
    go.set()
    asked.join()


def test_keys_are_not_logged(house: House, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        house.post()
        house.refusal(400, temperature=9)
        house.client.post("/tokenize", headers={"authorization": f"Bearer {KEY}x"})
    ours = [record for record in caplog.records if not record.name.startswith("http")]
    assert KEY not in "".join(record.getMessage() for record in ours)
    assert KEY not in repr(vars(house.service))
