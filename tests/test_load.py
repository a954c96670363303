"""The load script as a person starts it: against our own `serve`, and against servers that fail."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import PATIENCE, ROOT, Serving, serve, slm
from serving import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from benchmarks import load
from benchmarks.load import Load, Reply

DEPLOYMENT = "smollm2-135m-instruct@openvino"
KEY = "key-of-the-load-test"
COMMAND = (sys.executable, "-m", "benchmarks.load")
ENVIRONMENT = os.environ | {"LOAD_KEY": KEY, "PYTHONUTF8": "1"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        cwd=ROOT,
        env=ENVIRONMENT,
        encoding="utf-8",
    )


# --- our own server, with real weights ------------------------------------------------------------


@pytest.fixture(scope="module")
def server(embedded: object) -> Iterator[Serving]:
    with serve(DEPLOYMENT, key=KEY) as serving:
        serving.wait_ready()
        yield serving


def test_conversations_with_our_own_server_give_sane_numbers(server: Serving) -> None:
    done = run(
        *(server.url, "--conversations", "6", "--turns", "3", "--seconds", "4"),
        *("--max-tokens", "24", "--key-variable", "LOAD_KEY", "--json"),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["model"] == DEPLOYMENT
    assert (report["failed"], report["errors"], report["without_usage"]) == (0, {}, 0)
    assert report["done"] >= 6
    # Requests begin for four seconds, and the last ones may end.
    assert 4 <= report["seconds"] < 4 + PATIENCE / 2
    assert report["done"] <= report["tokens"] <= 24 * report["done"]
    assert report["tokens_per_s"] == pytest.approx(report["tokens"] / report["seconds"])
    first, speed = report["first_token_s"], report["reply_tokens_per_s"]
    assert 0 < first["p50"] <= first["p90"] <= first["p99"] <= report["seconds"]
    assert speed["p50"] >= speed["p90"] >= speed["p99"] > 0
    # Six were answered together: none of them was as fast as all.
    assert report["tokens_per_s"] > speed["p99"]
    assert KEY not in done.stdout + done.stderr


def test_a_wrong_key_is_told_and_not_shown(server: Serving) -> None:
    done = run(server.url)
    assert done.returncode == 1
    assert "HTTP 401" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_catalog_for_a_team_finds_it_by_its_address_alone(
    server: Serving, tmp_path: Path
) -> None:
    text = (ROOT / "deploy" / "catalog.toml").read_text()
    own = tmp_path / "catalog.toml"
    own.write_text(text.replace("phi-3.5-mini-instruct", "smollm2-135m-instruct"))
    done = slm(
        *("chat", "smollm2-135m-instruct@team", "What is the capital of France?"),
        *("--temperature", "0", "--max-tokens", "16"),
        env={"SLM_CATALOG": str(own), "TEAM_SERVER": server.url, "TEAM_SERVER_KEY": KEY},
    )
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout


# --- a server that fails --------------------------------------------------------------------------


class Scripted:
    """Answers each request with the next of its answers, and keeps what it was asked.

    A number is a status; "usage" and "plain" are replies with and without usage, "cut" one that
    lacks its end, and "endless" one that never comes to it.
    """

    def __init__(self, *answers: str, models: tuple[str, ...] = ("only",)) -> None:
        self.answers = iter(answers)
        self.models = models
        self.asked: list[list[dict[str, str]]] = []
        self.endless = threading.Event()
        self.app = Starlette(
            routes=[
                Route("/v1/models", self.listed),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
            ]
        )

    def listed(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": name} for name in self.models]})

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body["messages"])
        answer = next(self.answers)
        if answer.isdigit():
            return JSONResponse({"error": {"message": "no"}}, int(answer))
        deltas: list[dict[str, Any]] = [{"delta": {"content": text}} for text in ("Say", " it")]
        if answer != "cut":
            deltas.append({"delta": {}, "finish_reason": "stop"})
        lines = [json.dumps({"choices": [{"index": 0, **delta}]}) for delta in deltas]
        if answer == "usage":
            lines.append(json.dumps({"choices": [], "usage": {"completion_tokens": 7}}))
        events = [f"data: {line}\n\n" for line in (*lines, "[DONE]")]
        source = self.begin(events[0]) if answer == "endless" else iter(events)
        return StreamingResponse(source, media_type="text/event-stream")

    async def begin(self, event: str) -> AsyncIterator[str]:
        yield event
        self.endless.set()
        await asyncio.Event().wait()


def test_errors_are_counted_by_kind_and_the_conversation_goes_on() -> None:
    scripted = Scripted("usage", "429", "cut", "plain", "500")
    with serving(scripted.app) as url:
        done = run(f"{url}/v1", "--conversations", "1", "--turns", "5", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["errors"] == {"HTTP 429": 1, "cut off before its end": 1, "HTTP 500": 1}
    assert (report["done"], report["failed"]) == (2, 3)
    # Seven by the server's usage, and two chunks of the reply that came without.
    assert (report["tokens"], report["without_usage"]) == (9, 1)
    roles = [[message["role"] for message in messages] for messages in scripted.asked]
    assert roles == [
        ["user"],
        *[["user", "assistant", "user"]] * 3,
        ["user", "assistant"] * 2 + ["user"],
    ]
    assert scripted.asked[1][1]["content"] == "Say it"


def test_ctrl_c_prints_what_it_has() -> None:
    scripted = Scripted("plain", "endless")
    with serving(scripted.app) as url:
        process = subprocess.Popen(
            [*COMMAND, f"{url}/v1", "--conversations", "1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            encoding="utf-8",
        )
        try:
            assert scripted.endless.wait(PATIENCE)
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0, errors
    assert "Stopped" in errors
    assert "Traceback" not in errors
    assert "1 done, 0 failed" in out
    assert "1 replies came without usage" in out


def test_of_several_models_one_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    scripted = Scripted("usage", models=("this", "that"))
    with serving(scripted.app) as url:
        with pytest.raises(SystemExit, match="--model.*this, that"):
            load.command([f"{url}/v1"])
        asked = [f"{url}/v1", "--model", "that", "--conversations", "1", "--turns", "1"]
        assert load.command(asked) == 0
    assert "that at http" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["http://127.0.0.1:9/v1"], "connection (ConnectError)"),
        (["127.0.0.1:8000"], "an address looks like"),
        (["http://me:secret@127.0.0.1/v1"], "holds no key"),
        (["http://127.0.0.1:9/v1", "--turns", "0"], "must be 1 or more"),
        (["http://127.0.0.1:9/v1", "--key-variable", "LOAD_NO_KEY"], "LOAD_NO_KEY holds no key"),
        (["http://127.0.0.1:9/v1", "--key-variable", "sk-123"], "the name of a variable"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        load.command(arguments)
    said = capsys.readouterr()
    assert said.out == ""
    assert reason in f"{caught.value.code} {said.err}"
    assert "secret" not in f"{caught.value.code} {said.err}"
    assert "sk-123" not in f"{caught.value.code} {said.err}"


def test_percentiles_are_values_that_were_measured() -> None:
    replies = [
        Reply(first / 10, 1.0, tokens, False)
        for first, tokens in zip(range(1, 11), range(11, 1, -1), strict=True)
    ]
    report = Load("http://here/v1", replies=replies, begun=0.0, ended=5.0).report()
    assert report["first_token_s"] == {"p50": 0.5, "p90": 0.9, "p99": 1.0}
    assert report["reply_tokens_per_s"] == {"p50": 6.0, "p90": 2.0, "p99": 1.0}
    assert report["tokens_per_s"] == 65 / 5
    silent = Load("http://here/v1", replies=[Reply(None, 0.0, 0, False)], ended=1.0).report()
    assert silent["first_token_s"] is silent["reply_tokens_per_s"] is silent["tokens_per_s"] is None
    assert "tok/s" not in load.show(silent)
