"""Programs that repeat a request: Python with the package of the server's dialect, and curl.

Made from the same ChatRequest that a pane sends, so that the parameters are exactly these; only the
two switches of Ollama's that its package does not know stand in curl alone. Keys appear as
environment variables, never as values. Knows connections and dialects, calls nobody.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

from slm_backends import selector
from slm_backends.access import EVERYONE, Access
from slm_backends.catalog import Deployment
from slm_backends.chat import Capabilities, ChatRequest
from slm_backends.endpoints import azure, ollama, openai
from slm_backends.endpoints.fake import PREFIX
from slm_backends.errors import SLMError
from slm_backends.providers import Provider

SERVE_PORT = 8000
ANY_KEY = "API_KEY"  # the variable, where a visitor typed the key of a server that has none


@dataclass(frozen=True)
class Server:
    """Where a snippet sends its request.

    dialect   openai, azure or ollama
    auth      how its key travels: bearer or api-key
    first     a command that must run before, or a comment, or empty
    explicit  the fields to name also with a neutral value
    context   tokens that the model holds, None where that is not known
    ours      it is a worker: it understands what is asked of experts
    """

    base_url: str
    model: str
    key_variable: str = ""
    first: str = ""
    explicit: frozenset[str] = frozenset()
    dialect: str = "openai"
    auth: str = "bearer"
    context: int | None = None
    ours: bool = False


def server(
    deployment_id: str, port: int = SERVE_PORT, *, access: Access = EVERYONE
) -> Server | None:
    """The server for a deployment, as this visitor reaches it; None for the scripted one, which no
    program can reach."""
    if deployment_id.startswith(PREFIX):
        return None
    deployment = access.catalog().deployment(deployment_id)
    if deployment.provider is not None:
        return _remote(deployment, deployment.provider, access)
    return Server(
        f"http://127.0.0.1:{port}/v1",
        deployment.id,
        first=f"python -m slm_backends serve {deployment.id} --port {port}",
        ours=True,
    )


def _remote(deployment: Deployment, provider: Provider, access: Access) -> Server:
    key = provider.key
    base_url = ""
    try:
        connection = access.connection(provider)
        base_url = connection.base_url
        if connection.given and provider.key_optional and not connection.key:
            key = ""
        elif connection.key:
            key = key or ANY_KEY
    except SLMError:  # what the owner has set is wrong, and the request itself will tell
        pass
    base_url = base_url or provider.base_url or provider.form
    if provider.dialect == "ollama":
        base_url = re.sub(r"/(v1|api)$", "", base_url)
    return Server(
        base_url,
        deployment.served_as or deployment.model.id,
        key,
        f"# {deployment.start}" if deployment.start else "",
        selector.honoured(deployment.id, access)[1],
        provider.dialect,
        provider.auth,
        deployment.model.context,
    )


def python(request: ChatRequest, server: Server) -> str:
    """A program that streams the reply to the terminal."""
    write = {"openai": _openai, "azure": _azure, "ollama": _ollama}[server.dialect]
    package, imports, client, call, arguments, text = write(request, server)
    lines = [f"# pip install {package}", *_before(server)]
    if server.key_variable:
        lines += ["import os", ""]
    lines += [*imports, "", *client, f"stream = client.{call}(", *_arguments(arguments)]
    lines += ["    stream=True,", ")", "for chunk in stream:", *text, "print()"]
    return "\n".join(lines) + "\n"


#: package, imports, lines that make the client, its method, arguments, lines that print a chunk
Program = tuple[str, list[str], list[str], str, dict[str, Any], list[str]]
PRINT = '        print(chunk.choices[0].delta.content or "", end="", flush=True)'


def _openai(request: ChatRequest, server: Server) -> Program:
    key = f'os.environ["{server.key_variable}"]' if server.key_variable else '"none"'
    client = [f"client = OpenAI(base_url={_literal(server.base_url)}, api_key={key})"]
    if server.key_variable and server.auth == "api-key":
        client = [
            f"key = {key}",
            "client = OpenAI(",
            f"    base_url={_literal(server.base_url)},",
            "    api_key=key,",
            '    default_headers={"api-key": key},',
            ")",
        ]
    return (
        "openai",
        ["from openai import OpenAI"],
        client,
        "chat.completions.create",
        _body(request, server),
        ["    if chunk.choices:", PRINT],
    )


def _azure(request: ChatRequest, server: Server) -> Program:
    arguments = _body(request, server)
    if "extra_body" in arguments:
        arguments["model_extras"] = arguments.pop("extra_body")
    key = f'os.environ["{server.key_variable}"]' if server.key_variable else '"none"'
    return (
        "azure-ai-inference",
        [
            "from azure.ai.inference import ChatCompletionsClient",
            "from azure.core.credentials import AzureKeyCredential",
        ],
        [
            "client = ChatCompletionsClient(",
            f"    endpoint={_literal(server.base_url)},",
            f"    credential=AzureKeyCredential({key}),",
            ")",
        ],
        "complete",
        arguments,
        ["    if chunk.choices:", PRINT],
    )


def _ollama(request: ChatRequest, server: Server) -> Program:
    arguments = _ollama_body(request, server)
    for name in ("stream", "truncate", "shift"):
        del arguments[name]
    client = [f"client = Client(host={_literal(server.base_url)})"]
    if server.key_variable:
        client = [
            "client = Client(",
            f"    host={_literal(server.base_url)},",
            f'    headers={{"Authorization": "Bearer " + os.environ["{server.key_variable}"]}},',
            ")",
        ]
    return (
        "ollama",
        ["from ollama import Client"],
        client,
        "chat",
        arguments,
        ['    print(chunk.message.content or "", end="", flush=True)'],
    )


def curl(request: ChatRequest, server: Server) -> str:
    """The same request for a shell."""
    headers = ["Content-Type: application/json"]
    if server.dialect == "ollama":
        url = f"{server.base_url}/api/chat"
        sent = _ollama_body(request, server)
    else:
        url = f"{server.base_url}/chat/completions"
        arguments = _body(request, server)
        extra = arguments.pop("extra_body", {})
        sent = arguments | extra | {"stream": True}
        if server.dialect == "azure":
            url += f"?api-version={azure.API_VERSION}"
            if extra:
                headers.append("extra-parameters: pass-through")
    lines = [*_before(server), f"curl --no-buffer {shlex.quote(url)} \\"]
    lines += [f"  -H '{header}' \\" for header in headers]
    if server.key_variable:
        name = "api-key: " if server.auth == "api-key" else "Authorization: Bearer "
        lines.append(f'  -H "{name}${server.key_variable}" \\')
    data = json.dumps(sent, ensure_ascii=False, indent=2)
    lines.append(f"  -d {shlex.quote(data)}")
    return "\n".join(lines) + "\n"


def _body(request: ChatRequest, server: Server) -> dict[str, Any]:
    experts = openai.routing(request) if server.ours else {}
    return openai.body(request, server.model, server.explicit, **experts)


def _ollama_body(request: ChatRequest, server: Server) -> dict[str, Any]:
    return ollama.body(request, server.model, Capabilities(server.explicit, server.context))


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
