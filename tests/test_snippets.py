"""The programs of the code view: exactly the request, no key in them, and they run."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import planted
import pytest
from asking import PATIENCE, until
from dialects import chunk, event
from planted import KEY
from serving import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from slm_backends import catalog, snippets
from slm_backends.access import EVERYONE, Access
from slm_backends.chat import PARAMETERS, SAMPLING_FIELDS, ChatRequest, Message, Sampling
from slm_backends.endpoints.openai import wanted
from slm_backends.routing import ALL_LAYERS, Experts
from slm_backends.worker.wire import read_request

ROOT = Path(__file__).resolve().parents[1]
METHODS = {"openai": "chat.completions.create", "azure": "complete", "ollama": "chat"}
LOCAL = "smollm2-135m-instruct@onnx"
CLOUD = snippets.Server("https://models.example/v1", "phi-4", "EXAMPLE_API_KEY", "# Ask for access")

NASTY = [
    "plain",
    "double \" and single ' and both '\"'\"",
    "two\nlines\r\nand\ttabs\n",
    "back\\slash, \\n and \\u0041, a dollar $HOME `id` $(id) !! %s {x} #",
    "emoji 👩‍🚀, 中文, العربية, é as e\u0301, \u2028 \u2029 \u0085 \ufeff",
    "triple \"\"\" and ''' and a comment # here",
    "\x00 \x1b[31m \x7f",
    "-d @/etc/passwd",
    "EOF\nEOF",
]
EVERYTHING = Sampling(
    max_tokens=99,
    temperature=0.7,
    top_p=0.5,
    top_k=40,
    presence_penalty=-0.5,
    frequency_penalty=0.25,
    repetition_penalty=1.1,
    stop=('"', "\n\n", "end'"),
    seed=7,
)


def request(text: str, sampling: Sampling = EVERYTHING) -> ChatRequest:
    return ChatRequest(
        (
            Message("system", text),
            Message("user", "First."),
            Message("assistant", text),
            Message("user", f"{text}?"),
        ),
        sampling,
    )


def messages(asked: ChatRequest) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in asked.messages]


def call_in(program: str, method: str = "chat.completions.create") -> dict[str, Any]:
    """The arguments of the call that the program makes, without running it."""
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"client.{method}":
            assert not node.args
            return {word.arg or "": ast.literal_eval(word.value) for word in node.keywords}
    raise AssertionError("it calls nobody")


def curl_in(script: str) -> tuple[list[str], dict[str, Any]]:
    """(the words, the JSON that is sent) of the one command in the script."""
    words = shlex.split(script, comments=True)
    assert words[0] == "curl"
    data = json.loads(words[words.index("-d") + 1])
    assert isinstance(data, dict)
    return words, data


def flat(arguments: dict[str, Any]) -> dict[str, Any]:
    """As it goes over the wire: the openai package puts `extra_body` beside the rest."""
    arguments = dict(arguments)
    return arguments | arguments.pop("extra_body", {})


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("server", [CLOUD, snippets.server(LOCAL)])
def test_text_and_parameters_survive(text: str, server: snippets.Server) -> None:
    asked = request(text)
    expected = {
        "model": server.model,
        "messages": messages(asked),
        "max_tokens": 99,
        "temperature": 0.7,
        "top_p": 0.5,
        "top_k": 40,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.25,
        "repetition_penalty": 1.1,
        "stop": ['"', "\n\n", "end'"],
        "seed": 7,
        "stream": True,
    }
    assert flat(call_in(snippets.python(asked, server))) == expected
    words, data = curl_in(snippets.curl(asked, server))
    assert data == expected
    assert f"{server.base_url}/chat/completions" in words


def test_parameters_that_ask_for_nothing_are_left_out() -> None:
    asked = request("Hello", Sampling(max_tokens=5, temperature=0, top_p=1))
    sent = {"max_tokens": 5, "temperature": 0}
    fixed = {"model": "phi-4", "messages": messages(asked), "stream": True}
    assert flat(call_in(snippets.python(asked, CLOUD))) == fixed | sent
    assert curl_in(snippets.curl(asked, CLOUD))[1] == fixed | sent


def test_a_server_with_defaults_of_its_own_is_told_neutral_values_too() -> None:
    server = snippets.Server(
        "http://127.0.0.1:11434/v1", "phi3", explicit=frozenset({"top_p", "seed", "stop", "top_k"})
    )
    asked = request("Hello", Sampling(max_tokens=5, temperature=0, top_p=1))
    sent = {"max_tokens": 5, "temperature": 0, "top_p": 1, "top_k": 0}
    fixed = {"model": "phi3", "messages": messages(asked), "stream": True}
    assert flat(call_in(snippets.python(asked, server))) == fixed | sent
    assert curl_in(snippets.curl(asked, server))[1] == fixed | sent


def test_every_parameter_has_its_place() -> None:
    assert set(wanted(EVERYTHING)) == {*PARAMETERS, "stop"}


def test_parameters_that_the_openai_package_does_not_know_travel_in_the_body() -> None:
    call = call_in(snippets.python(request("Hello"), CLOUD))
    assert call["extra_body"] == {"top_k": 40, "repetition_penalty": 1.1}


def test_a_key_is_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_API_KEY", "sk-very-secret")
    asked = request("Hello")
    program, script = snippets.python(asked, CLOUD), snippets.curl(asked, CLOUD)
    assert "sk-very-secret" not in program + script
    assert 'api_key=os.environ["EXAMPLE_API_KEY"]' in program
    assert "import os\n" in program
    assert '-H "Authorization: Bearer $EXAMPLE_API_KEY"' in script  # the shell fills it in
    assert "# Ask for access" in program
    assert "# Ask for access" in script


def test_a_local_deployment_starts_from_serve() -> None:
    server = snippets.server(LOCAL, 8123)
    assert server is not None
    for text in (
        snippets.python(request("Hi"), server),
        snippets.curl(request("Hi"), server),
    ):
        assert f"#   python -m slm_backends serve {LOCAL} --port 8123\n" in text
        assert "http://127.0.0.1:8123/v1" in text
        assert "import os" not in text
        assert "Bearer" not in text


def test_every_deployment_of_the_catalog_has_a_program() -> None:
    for deployment in catalog.load().deployments.values():
        server = snippets.server(deployment.id)
        assert server is not None
        program = snippets.python(request("Hi"), server)
        assert call_in(program, METHODS[server.dialect])["model"] == server.model
        assert curl_in(snippets.curl(request("Hi"), server))[1]["model"] == server.model


# --- dialects: the programs run, against servers that keep what they were asked -------------------


@dataclass
class Asked:
    """One request, as it came in."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@contextmanager
def listening() -> Iterator[tuple[str, list[Asked]]]:
    """A server that says "Hello" in every dialect: (its address, what it was asked)."""
    seen: list[Asked] = []

    async def answer(got: Request) -> Response:
        target = got.url.path + (f"?{got.url.query}" if got.url.query else "")
        seen.append(Asked(target, dict(got.headers), await got.json()))
        if got.url.path.endswith("/api/chat"):
            message = {"role": "assistant", "content": "Hello"}
            line = {"model": "m", "message": message, "done": True, "done_reason": "stop"}
            return Response(json.dumps(line) + "\n", media_type="application/x-ndjson")
        sent = chunk("Hello") | {"object": "chat.completion.chunk"}
        stream = event(sent) + event(chunk(None, "stop")) + b"data: [DONE]\n\n"
        return Response(stream, media_type="text/event-stream")

    with serving(Starlette(routes=[Route("/{rest:path}", answer, methods=["POST"])])) as address:
        yield address, seen


def run_both(
    server: snippets.Server, seen: list[Asked], tmp_path: Path, **env: str
) -> tuple[Asked, Asked]:
    """(what the Python program asked, what curl did); both print the reply."""
    asked = request('It\'s "quoted" $HOME', EVERYTHING)
    script = tmp_path / "snippet.py"
    script.write_text(snippets.python(asked, server), encoding="utf-8")
    for command in ([sys.executable, str(script)], ["sh", "-c", snippets.curl(asked, server)]):
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE,
            env=os.environ | {"PYTHONUTF8": "1"} | env,
        )
        assert done.returncode == 0, done.stderr
        assert "Hello" in done.stdout
    first, second = seen
    return first, second


def test_what_is_asked_of_experts_is_asked_again() -> None:
    experts = Experts(k=1, off=((2, 3), (ALL_LAYERS, 0)))
    asked = dataclasses.replace(request("Hi"), experts=experts)
    local = snippets.server("phi-moe-nano@transformers")
    assert local is not None
    _, sent = curl_in(snippets.curl(asked, local))
    for found in (flat(call_in(snippets.python(asked, local))), sent):
        assert read_request(json.loads(json.dumps(found))).request == asked
    for program in (snippets.python(asked, CLOUD), snippets.curl(asked, CLOUD)):
        assert "experts" not in program, "no other server knows the word"


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")


@needs_curl
@pytest.mark.parametrize("auth", ["bearer", "api-key"])
def test_the_programs_of_the_openai_dialect(auth: str, tmp_path: Path) -> None:
    with listening() as (address, seen):
        server = snippets.Server(
            f"{address}/openai/v1", "phi", "PHI_KEY", explicit=SAMPLING_FIELDS, auth=auth
        )
        python, curl = run_both(server, seen, tmp_path, PHI_KEY="a-key")
    assert python.path == curl.path == "/openai/v1/chat/completions"
    assert python.body == curl.body
    for asked in (python, curl):
        if auth == "api-key":
            assert asked.headers["api-key"] == "a-key"
        else:
            assert asked.headers["authorization"] == "Bearer a-key"


@needs_curl
def test_the_programs_of_the_azure_dialect(tmp_path: Path) -> None:
    with listening() as (address, seen):
        server = snippets.Server(
            f"{address}/models", "Phi-4", "PHI_KEY", explicit=SAMPLING_FIELDS, dialect="azure",
            auth="api-key",
        )  # fmt: skip
        python, curl = run_both(server, seen, tmp_path, PHI_KEY="a-key")
    assert python.path == curl.path == "/models/chat/completions?api-version=2024-05-01-preview"
    assert python.body == curl.body
    assert python.body["top_k"] == 40
    for asked in (python, curl):
        assert asked.headers["api-key"] == "a-key"
        assert asked.headers["extra-parameters"] == "pass-through"


@needs_curl
@pytest.mark.parametrize("key", ["", "PHI_KEY"])
def test_the_programs_of_the_ollama_dialect(key: str, tmp_path: Path) -> None:
    with listening() as (address, seen):
        server = snippets.Server(
            address, "phi4", key, explicit=SAMPLING_FIELDS, dialect="ollama", context=16_384
        )
        python, curl = run_both(server, seen, tmp_path, PHI_KEY="a-key")
    assert python.path == curl.path == "/api/chat"
    assert python.body["options"] == curl.body["options"]
    assert python.body["options"]["repeat_penalty"] == 1.1
    assert python.body["messages"] == curl.body["messages"]
    assert (curl.body["truncate"], curl.body["shift"]) == (False, False)
    for asked in (python, curl):
        assert asked.headers.get("authorization") == ("Bearer a-key" if key else None)


def test_a_server_s_address_is_as_the_visitor_reaches_it_and_its_key_a_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SLM_CATALOG", raising=False)
    unset = snippets.server("phi-4@foundry")
    assert unset is not None
    assert unset.base_url == "https://<resource>.openai.azure.com/openai/v1"
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://owner.openai.azure.com")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
    mine = Access()
    mine.set_address(catalog.load().providers["foundry"], "https://mine.openai.azure.com/")
    for access, host in ((EVERYONE, "owner"), (mine, "mine")):
        server = snippets.server("phi-4@foundry", access=access)
        assert server is not None
        assert server.base_url == f"https://{host}.openai.azure.com/openai/v1"
        assert (server.key_variable, server.auth) == ("AZURE_OPENAI_API_KEY", "api-key")
    mine.set_address(catalog.load().providers["nim"], "http://127.0.0.1:8000/v1")
    server = snippets.server("phi-4-mini-instruct@nim", access=mine)
    assert server is not None
    assert server.key_variable == ""  # a NIM of one's own asks for none
    added = mine.add_server("http://gpu-box:8000/v1", KEY)
    server = snippets.server(mine.add_deployment(added, "my/model").id, access=mine)
    assert server is not None
    assert (server.base_url, server.model) == ("http://gpu-box:8000/v1", "my/model")
    assert server.key_variable == "API_KEY"
    for program in (snippets.python(request("Hi"), server), snippets.curl(request("Hi"), server)):
        assert not planted.found(program + repr(server))


def test_the_scripted_backend_has_none() -> None:
    assert snippets.server("fake@tokens=5") is None


@pytest.mark.usefixtures("embedded")
def test_the_programs_run_as_they_are_shown(tmp_path: Path) -> None:
    """Starts the command that the snippet names, then the Python, then curl's request."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = snippets.server(LOCAL, port)
    assert server is not None
    asked = ChatRequest(
        (Message("user", 'What is the "capital" of\nFrance? It\'s …'),),
        Sampling(max_tokens=30, temperature=0),
    )
    program = snippets.python(asked, server)
    found = re.search(r"^#   python (-m slm_backends serve .*)$", program, re.MULTILINE)
    assert found is not None
    script = tmp_path / "snippet.py"
    script.write_text(program, encoding="utf-8")
    serving = subprocess.Popen(
        [sys.executable, *shlex.split(found[1])],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONUTF8": "1"},
        encoding="utf-8",
    )
    assert serving.stdout is not None
    with serving.stdout:
        try:
            until(lambda: serving.stdout.readline().startswith("Ready"), "Ready")
            done = subprocess.run(
                [sys.executable, str(script)],
                capture_output=True,
                encoding="utf-8",
                timeout=PATIENCE,
                env=os.environ | {"PYTHONUTF8": "1"},
            )
            assert done.returncode == 0, done.stderr
            assert "Paris" in done.stdout
            if subprocess.run(["sh", "-c", "command -v curl"], capture_output=True).returncode == 0:
                done = subprocess.run(
                    ["sh", "-c", snippets.curl(asked, server)],
                    capture_output=True,
                    encoding="utf-8",
                    timeout=PATIENCE,
                )
                assert "Paris" in done.stdout, done.stderr
                assert done.stdout.rstrip().endswith("data: [DONE]")
        finally:
            serving.terminate()
            serving.wait(PATIENCE)
