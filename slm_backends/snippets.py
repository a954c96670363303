"""Programs that repeat a request: Python with the openai package, and curl.

Made from the same ChatRequest that a pane sends, so that the parameters are exactly these. Keys
appear as environment variables, never as values. Knows the catalog's fields, calls nobody.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

from slm_backends import catalog
from slm_backends.chat import ChatRequest
from slm_backends.endpoints.fake import PREFIX
from slm_backends.endpoints.openai import body

SERVE_PORT = 8000


@dataclass(frozen=True)
class Server:
    """Where a snippet sends its request.

    `first` is a command that must run before, or a comment, or empty; `explicit` are the fields to
    name also with a neutral value.
    """

    base_url: str
    model: str
    key_variable: str = ""
    first: str = ""
    explicit: frozenset[str] = frozenset()


def server(deployment_id: str, port: int = SERVE_PORT) -> Server | None:
    """The server for a deployment; None for the scripted one, which no program can reach."""
    if deployment_id.startswith(PREFIX):
        return None
    deployment = catalog.load().deployment(deployment_id)
    if deployment.local:
        return Server(
            f"http://127.0.0.1:{port}/v1",
            deployment.id,
            first=f"python -m slm_backends serve {deployment.id} --port {port}",
        )
    return Server(
        deployment.base_url,
        deployment.served_as or deployment.model.id,
        deployment.key,
        f"# {deployment.start}" if deployment.start else "",
        frozenset(deployment.sampling),
    )


def python(request: ChatRequest, server: Server) -> str:
    """A program that streams the reply to the terminal."""
    lines = ["# pip install openai", *_before(server)]
    if server.key_variable:
        lines += ["import os", ""]
    key = f'os.environ["{server.key_variable}"]' if server.key_variable else '"none"'
    lines += [
        "from openai import OpenAI",
        "",
        f'client = OpenAI(base_url="{server.base_url}", api_key={key})',
        "stream = client.chat.completions.create(",
        *_arguments(body(request, server.model, server.explicit)),
        "    stream=True,",
        ")",
        "for chunk in stream:",
        "    if chunk.choices:",
        '        print(chunk.choices[0].delta.content or "", end="", flush=True)',
        "print()",
    ]
    return "\n".join(lines) + "\n"


def curl(request: ChatRequest, server: Server) -> str:
    """The same request for a shell."""
    arguments = body(request, server.model, server.explicit)
    sent = arguments | arguments.pop("extra_body", {}) | {"stream": True}
    lines = [
        *_before(server),
        f"curl --no-buffer {shlex.quote(server.base_url + '/chat/completions')} \\",
        "  -H 'Content-Type: application/json' \\",
    ]
    if server.key_variable:
        lines.append(f'  -H "Authorization: Bearer ${server.key_variable}" \\')
    data = json.dumps(sent, ensure_ascii=False, indent=2)
    lines.append(f"  -d {shlex.quote(data)}")
    return "\n".join(lines) + "\n"


def _before(server: Server) -> list[str]:
    """What must be so before the program runs, as comments."""
    if not server.first or server.first.startswith("#"):
        return [server.first] if server.first else []
    return ["# In another terminal, in the playground's folder:", f"#   {server.first}"]


def _arguments(arguments: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, value in arguments.items():
        if name == "messages":
            lines.append("    messages=[")
            lines += [f"        {_literal(message)}," for message in value]
            lines.append("    ],")
        else:
            lines.append(f"    {name}={_literal(value)},")
    return lines


def _literal(value: Any) -> str:
    """A Python literal with double quotes where that is as easy to read."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{_literal(name)}: {_literal(item)}" for name, item in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return repr(value)
