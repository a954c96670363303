"""`serve` with real weights, spoken to by others' programs: the openai package and llm."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from command_line import PATIENCE, Serving, serve, slm

from slm_backends.worker.scheduler import MAX_WAITING

DEPLOYMENT = "smollm2-135m-instruct@onnx"
KEY = "key-of-this-test"
FRANCE: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]

pytestmark = pytest.mark.usefixtures("embedded")


@pytest.fixture(scope="module")
def server(embedded: object) -> Iterator[Serving]:
    with serve(DEPLOYMENT, key=KEY) as serving:
        serving.wait_ready()
        yield serving


@pytest.fixture
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, **options: Any) -> Any:
    given = {"model": DEPLOYMENT, "messages": FRANCE, "max_tokens": 16, "temperature": 0}
    return client.chat.completions.create(**(given | options))


def status(url: str, body: bytes | None = None, key: str = KEY) -> tuple[int, dict[str, Any]]:
    """Status and JSON of a request made without any package."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


# --- the openai package ---------------------------------------------------------------------------


def test_a_whole_answer_with_usage(client: openai.OpenAI) -> None:
    answer = ask(client)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 1 <= usage.completion_tokens <= 16


def test_a_streamed_answer_is_the_same_and_has_usage_only_when_asked(
    client: openai.OpenAI,
) -> None:
    whole = ask(client)
    plain = list(ask(client, stream=True))
    counted = list(ask(client, stream=True, stream_options={"include_usage": True}))
    for chunks in (plain, counted):
        deltas = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
        assert "".join(deltas) == whole.choices[0].message.content
    assert all(chunk.usage is None for chunk in plain)
    assert counted[-1].usage == whole.usage
    assert counted[-1].choices == []


def test_log_probabilities_of_a_real_model(client: openai.OpenAI) -> None:
    greedy = ask(client, logprobs=True, top_logprobs=5).choices[0]
    told = greedy.logprobs.content
    assert b"".join(bytes(token.bytes) for token in told).decode() == greedy.message.content
    for token in told:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 5
        assert (token.token, token.logprob) == (
            token.top_logprobs[0].token,
            token.top_logprobs[0].logprob,
        )
        chances = [math.exp(other.logprob) for other in token.top_logprobs]
        assert chances == sorted(chances, reverse=True)
        assert sum(chances) <= 1 + 1e-6
    chunks = list(ask(client, logprobs=True, stream=True))
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.logprobs]
    streamed = [token for choice in choices for token in choice.logprobs.content]
    assert [token.token for token in streamed] == [token.token for token in told]
    assert [token.logprob for token in streamed] == pytest.approx(
        [token.logprob for token in told],
        abs=0.1,  # this one read less of its prompt anew
    )
    assert not any(token.top_logprobs for token in streamed)


def test_models_names_the_deployment(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [DEPLOYMENT]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"extra_body": {"mirostat": 1}}, "mirostat"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"messages": []}, "messages"),
        ({"stop": ["a"] * 9}, "stop"),
    ],
)
def test_a_bad_request_names_its_field(
    client: openai.OpenAI, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **options)
    assert caught.value.param == field
    assert field in caught.value.message


def test_a_conversation_that_is_too_long_says_both_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, messages=[{"role": "user", "content": "word " * 9_000}])
    assert caught.value.code == "context_length_exceeded"
    assert "8,192" in caught.value.message
    body: Any = caught.value.body
    assert body["context"] == 8_192
    assert body["prompt_tokens"] > 9_000


def test_a_model_that_only_reads_refuses_pictures(client: openai.OpenAI) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    with pytest.raises(openai.BadRequestError, match="takes no images") as caught:
        ask(client, messages=[{"role": "user", "content": [picture]}])
    assert caught.value.param == "messages"


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-4"):
        ask(client, model="gpt-4")


def test_a_wrong_key_is_refused_and_not_repeated(server: Serving) -> None:
    with (
        openai.OpenAI(base_url=server.url, api_key="wrong-key", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        ask(client)
    assert "wrong-key" not in caught.value.message
    assert KEY not in caught.value.message


def test_a_full_queue_answers_429_and_empties_when_the_callers_go(server: Serving) -> None:
    async def flood() -> list[object]:
        async with openai.AsyncOpenAI(
            base_url=server.url, api_key=KEY, max_retries=0, timeout=PATIENCE
        ) as client:
            replies = await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model=DEPLOYMENT, messages=FRANCE, max_tokens=4_000, stream=True
                    )
                    for _ in range(MAX_WAITING + 16)
                ),
                return_exceptions=True,
            )
            for reply in replies:
                if isinstance(reply, openai.AsyncStream):
                    await reply.close()
            return list(replies)

    replies = asyncio.run(flood())
    refused = [reply for reply in replies if isinstance(reply, BaseException)]
    assert refused
    assert all(isinstance(reply, openai.RateLimitError) for reply in refused)
    assert len(replies) - len(refused) >= MAX_WAITING
    until = time.monotonic() + 10
    while time.monotonic() < until:
        _, health = status(server.url.replace("/v1", "/health"))
        if health["active"] == health["waiting"] == 0:
            break
        time.sleep(0.1)
    assert health == {"status": "ok", "active": 0, "waiting": 0}


def test_every_runtime_is_served(anywhere: str) -> None:
    with (
        serve(anywhere, key=KEY) as serving,
        openai.OpenAI(base_url=serving.url, api_key=KEY, max_retries=0) as client,
    ):
        serving.wait_ready()
        assert "Paris" in ask(client, model=anywhere, max_tokens=8).choices[0].message.content


# --- plain HTTP -----------------------------------------------------------------------------------


def test_a_body_that_is_too_large_answers_413(server: Serving) -> None:
    body = json.dumps({"messages": FRANCE, "user": "x" * (33 << 20)}).encode()
    code, answer = status(f"{server.url}/chat/completions", body)
    assert code == 413
    assert "32 MiB" in answer["error"]["message"]


def test_tokenize_counts(server: Serving) -> None:
    url = server.url.replace("/v1", "/tokenize")
    code, answer = status(url, b'{"content": "Hello, world"}')
    assert (code, len(answer["tokens"])) == (200, 3)
    assert status(url, b"{}")[1]["error"]["param"] == "content"
    assert status(url, b'{"content": "Hello"}', key="wrong")[0] == 401


def test_while_it_loads_it_says_so_and_a_signal_ends_it_at_once() -> None:
    with serve("smollm2-135m-instruct@openvino") as serving:
        until = time.monotonic() + 20
        while True:
            try:
                code, answer = status(serving.url.replace("/v1", "/health"))
                break
            except urllib.error.URLError:  # the listener is there, the server not quite
                assert time.monotonic() < until
        assert (code, answer["status"]) == (503, "loading")
        body = json.dumps({"messages": FRANCE}).encode()
        code, answer = status(f"{serving.url}/chat/completions", body)
        assert (code, answer["error"]["code"]) == (503, "unavailable")
        serving.process.send_signal(signal.SIGINT)
        assert serving.process.wait(5) == 0


def test_without_a_key_only_callers_that_mean_this_computer_are_answered() -> None:
    with serve(DEPLOYMENT) as serving:
        serving.wait_ready()
        url = serving.url.replace("/v1", "/health")
        assert status(url)[0] == 200
        request = urllib.request.Request(url, headers={"Host": "rebound.example"})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=PATIENCE)
        with caught.value:
            assert caught.value.code == 400
        serving.process.send_signal(signal.SIGTERM)
        assert serving.process.wait(5) == 0


def test_a_signal_cuts_a_running_reply_short_without_a_traceback() -> None:
    with (
        serve(DEPLOYMENT, key=KEY) as serving,
        openai.OpenAI(base_url=serving.url, api_key=KEY, max_retries=0) as client,
    ):
        serving.wait_ready()
        stream = ask(client, max_tokens=8_000, stream=True)
        next(iter(stream))
        serving.process.send_signal(signal.SIGINT)
        assert serving.process.wait(10) == 0
        stream.close()
        assert "Traceback" not in serving.errors()


# --- the llm command ------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--stream", "--no-stream"])
def test_the_llm_command_works_unchanged(server: Serving, tmp_path: Path, option: str) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: playground\n"
        f"  model_name: {DEPLOYMENT}\n"
        f"  api_base: {server.url}\n"
        f"  api_key_name: playground\n"
    )
    (tmp_path / "keys.json").write_text(json.dumps({"playground": KEY}))
    arguments = ["--no-log", "-m", "playground", "-o", "temperature", "0", "-o", "max_tokens", "16"]
    streaming = ["--no-stream"] if option == "--no-stream" else []
    done = subprocess.run(
        [sys.executable, "-m", "llm", "prompt", FRANCE[0]["content"], *arguments, *streaming],
        env=os.environ | {"LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout


# --- what it refuses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["fake@"], "nothing to serve"),
        (["phi-3-mini-4k-instruct@ollama"], "on a server already"),
        (["nope@onnx"], "no deployment called"),
        ([DEPLOYMENT, "--host", "0.0.0.0"], "callers need a key"),
        ([DEPLOYMENT, "--host", "0.0.0.0", "--api-key", "ключ"], "ASCII"),
        ([DEPLOYMENT, "--port", "70000"], "from 0 to 65,535"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_sentence(arguments: list[str], reason: str) -> None:
    done = slm("serve", *arguments, env={"SLM_API_KEY": ""})
    assert done.returncode == 1
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_taken_port_is_named(server: Serving) -> None:
    port = server.url.split(":")[2].removesuffix("/v1")
    done = slm("serve", DEPLOYMENT, "--port", port)
    assert done.returncode == 1
    assert f"Port {port} on 127.0.0.1 is taken" in done.stderr


def test_the_introduction_never_shows_the_key(server: Serving) -> None:
    assert KEY not in server.introduction
    assert "SLM_API_KEY" in server.introduction
