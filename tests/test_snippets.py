"""The programs of the code view: exactly the request, no key in them, and they run."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from asking import PATIENCE, until

from slm_backends import catalog, snippets
from slm_backends.chat import PARAMETERS, ChatRequest, Message, Sampling
from slm_backends.endpoints.openai import wanted

ROOT = Path(__file__).resolve().parents[1]
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


def call_in(program: str) -> dict[str, Any]:
    """The arguments of the call that the program makes, without running it."""
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("completions.create"):
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
        assert call_in(snippets.python(request("Hi"), server))["model"] == server.model
        assert curl_in(snippets.curl(request("Hi"), server))[1]["model"] == server.model


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
