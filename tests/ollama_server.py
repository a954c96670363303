"""An Ollama server of our own, that follows the published API to the letter, on this machine.

    with ollama_server.serving_ollama() as ollama:
        ollama.add("phi3.5:latest")
        OllamaBackend("m@ollama", ollama.address, "phi3.5", ...)

Routes, fields, statuses, the words of errors and the order of a pull's lines are those of
docs/api.md and, where that is silent, of server/routes.go in ollama/ollama. The models are made up:
a reply is the last message, word for word, and a token is a word, so that a test knows them. It
keeps what it was asked, counts what it sends, and can be told to be slow or to fail.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import itertools
import json
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from serving import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

VERSION = "0.12.6"
# In Go's form: up to nine digits of a second, and a zone.
MODIFIED = "2026-05-10T08:06:48.639712648-07:00"
NOW = "2026-11-20T19:22:45.499127Z"
UNTIL = "2026-11-20T12:27:45.83753-07:00"
LOAD, TOTAL, PROMPT, EVAL = 1_500_000_000, 2_100_000_000, 400_000_000, 100_000_000  # nanoseconds
LAYERS = {"sha256:" + "a1" * 32: 2_176_178_401, "sha256:" + "b2" * 32: 1_084}  # of every pull
STEP = 200_000_000  # bytes of a layer between two lines of a pull


@dataclass
class Model:
    name: str
    size: int = 2_176_178_843
    family: str = "phi3"
    context: int = 131_072  # that it was trained for
    capabilities: tuple[str, ...] = ("completion",)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    @property
    def details(self) -> dict[str, Any]:
        return {
            "parent_model": "",
            "format": "gguf",
            "family": self.family,
            "families": [self.family],
            "parameter_size": "3.8B",
            "quantization_level": "Q4_0",
        }


@dataclass
class Ollama:
    """`address` is the base URL. The rest is told by tests, or kept for them."""

    address: str = ""
    models: dict[str, Model] = field(default_factory=dict)
    loaded: dict[str, int] = field(default_factory=dict)  # name -> tokens of its window
    library: set[str] = field(default_factory=set)  # names that can be pulled

    pause: float = 0.0  # seconds before each piece of a reply or line of a pull
    thinks: str = ""  # the model thinks this before it answers
    last: dict[str, Any] = field(default_factory=dict)  # changes to a reply's last object
    fails_after: int | None = None  # pieces of a reply before an error
    refuses: tuple[int, str] | None = None  # status and words, in answer to everything

    asked: list[tuple[str, Any]] = field(default_factory=list)  # method and path, JSON
    headers: list[dict[str, str]] = field(default_factory=list)
    sent: int = 0  # pieces of replies and lines of pulls
    left: threading.Event = field(default_factory=threading.Event)  # a client went before the end

    def reset(self) -> None:
        """As when it was made."""
        vars(self).update(vars(Ollama(self.address)))

    def add(self, name: str, **about: Any) -> Model:
        model = Model(_full(name), **about)
        self.models[model.name] = model
        return model


class Refusal(Exception):
    """An answer that is an error: its status and words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


Handler = Callable[[Ollama, dict[str, Any]], Awaitable[Response]]


def _route(ollama: Ollama, method: str, path: str, handler: Handler) -> Route:
    async def answer(request: Request) -> Response:
        raw = await request.body()
        try:
            sent = json.loads(raw) if raw else None
            ollama.asked.append((f"{method} {path}", sent))
            ollama.headers.append(dict(request.headers))
            if ollama.refuses is not None:
                raise Refusal(*ollama.refuses)
            if method != "GET" and sent is None:
                raise Refusal(400, "missing request body")
            return await handler(ollama, sent or {})
        except Refusal as refusal:
            return JSONResponse({"error": str(refusal)}, refusal.status)

    return Route(path, answer, methods=[method])


def _app(ollama: Ollama) -> Starlette:
    return Starlette(
        routes=[
            _route(ollama, "GET", "/api/version", _version),
            _route(ollama, "GET", "/api/tags", _tags),
            _route(ollama, "GET", "/api/ps", _ps),
            _route(ollama, "POST", "/api/show", _show),
            _route(ollama, "POST", "/api/chat", _chat),
            _route(ollama, "POST", "/api/generate", _generate),
            _route(ollama, "POST", "/api/pull", _pull),
            _route(ollama, "DELETE", "/api/delete", _delete),
        ],
        exception_handlers={404: lambda *_: PlainTextResponse("404 page not found", 404)},
    )


def _found(ollama: Ollama, sent: dict[str, Any]) -> Model:
    name = str(sent.get("model", ""))
    if _full(name) not in ollama.models:
        raise Refusal(404, f"model '{name}' not found")
    return ollama.models[_full(name)]


# --- models ---------------------------------------------------------------------------------------


async def _version(ollama: Ollama, sent: dict[str, Any]) -> Response:
    return JSONResponse({"version": VERSION})


async def _tags(ollama: Ollama, sent: dict[str, Any]) -> Response:
    models = [
        {
            "name": model.name,
            "model": model.name,
            "modified_at": MODIFIED,
            "size": model.size,
            "digest": model.digest,
            "details": model.details,
        }
        for model in ollama.models.values()
    ]
    return JSONResponse({"models": models})


async def _ps(ollama: Ollama, sent: dict[str, Any]) -> Response:
    models = [
        {
            "name": name,
            "model": name,
            "size": 2 * ollama.models[name].size,
            "digest": ollama.models[name].digest,
            "details": ollama.models[name].details,
            "expires_at": UNTIL,
            "size_vram": ollama.models[name].size,
            "context_length": window,
        }
        for name, window in ollama.loaded.items()
    ]
    return JSONResponse({"models": models})


async def _show(ollama: Ollama, sent: dict[str, Any]) -> Response:
    if not sent.get("model"):
        raise Refusal(400, "model is required")
    model = _found(ollama, sent)
    return JSONResponse(
        {
            "license": "MIT License\n\nPermission is hereby granted",
            "modelfile": f"FROM {model.name}\nPARAMETER stop <|end|>",
            "parameters": 'stop                           "<|end|>"\n'
            'stop                           "<|user|>"\n'
            "num_ctx                        4096",
            "template": "<|user|>\n{{ .Prompt }}<|end|>\n<|assistant|>\n",
            "details": model.details,
            "model_info": {
                "general.architecture": model.family,
                "general.parameter_count": 3_821_079_648,
                f"{model.family}.context_length": model.context,
                "tokenizer.ggml.tokens": [],
            },
            "capabilities": list(model.capabilities),
            "modified_at": MODIFIED,
        }
    )


async def _generate(ollama: Ollama, sent: dict[str, Any]) -> Response:
    """To load and unload a model; texts are what /api/chat is for."""
    if sent.get("prompt"):
        raise Refusal(501, "made for an empty prompt")
    _hold(ollama, _found(ollama, sent), sent)
    reason = "unload" if sent.get("keep_alive") == 0 else "load"
    return JSONResponse(
        {"model": sent["model"], "created_at": NOW, "response": "", "done": True}
        | {"done_reason": reason}
    )


async def _delete(ollama: Ollama, sent: dict[str, Any]) -> Response:
    model = _found(ollama, sent)
    del ollama.models[model.name]
    ollama.loaded.pop(model.name, None)
    return Response(status_code=200)


async def _pull(ollama: Ollama, sent: dict[str, Any]) -> Response:
    name = str(sent.get("model", ""))
    if not re.fullmatch(r"[\w./:-]+", name):
        raise Refusal(400, "invalid model name")
    lines = _steps(ollama, name)
    if sent.get("stream", True) is False:
        answer = [line async for line in lines][-1]
        return JSONResponse(answer, 500 if "error" in answer else 200)
    return await _streamed(ollama, lines)


async def _steps(ollama: Ollama, name: str) -> AsyncIterator[dict[str, Any]]:
    yield {"status": "pulling manifest"}
    if _full(name) not in ollama.library:
        yield {"error": "pull model manifest: file does not exist"}
        return
    for digest, total in LAYERS.items():
        about = {"status": f"pulling {digest[7:19]}", "digest": digest, "total": total}
        yield about  # `completed` is left out while it is 0
        for completed in [*range(STEP, total, STEP), total]:
            if ollama.pause:
                await asyncio.sleep(ollama.pause)
            yield about | {"completed": completed}
    yield {"status": "verifying sha256 digest"}
    yield {"status": "writing manifest"}
    ollama.add(name)
    yield {"status": "success"}


# --- chat -----------------------------------------------------------------------------------------


async def _chat(ollama: Ollama, sent: dict[str, Any]) -> Response:
    if not 0 <= sent.get("top_logprobs", 0) <= 20:
        raise Refusal(400, "top_logprobs must be between 0 and 20")
    model = _found(ollama, sent)
    window = _hold(ollama, model, sent)
    messages = sent.get("messages") or []
    if not messages:
        reason = "unload" if sent.get("keep_alive") == 0 else "load"
        return JSONResponse(_piece(sent, "", done=True, done_reason=reason))
    used = sum(len(_words(message["content"])) for message in messages)
    if used >= window and sent.get("truncate", True) is False:
        raise Refusal(400, _overflow(used, window))
    while used >= window and len(messages) > 1:
        used -= len(_words(messages.pop(0)["content"]))
    for image in itertools.chain(*(message.get("images") or () for message in messages)):
        base64.b64decode(image, validate=True)
    pieces = _reply(ollama, sent, messages, used)
    if sent.get("stream", True) is False:
        return _whole([piece async for piece in pieces])
    return await _streamed(ollama, pieces)


def _hold(ollama: Ollama, model: Model, sent: dict[str, Any]) -> int:
    """Load or unload it as asked; tokens of the window that it has then."""
    if sent.get("keep_alive") == 0:
        ollama.loaded.pop(model.name, None)
        return 0
    asked = (sent.get("options") or {}).get("num_ctx", 4096)
    ollama.loaded[model.name] = min(asked, model.context)
    return ollama.loaded[model.name]


async def _reply(
    ollama: Ollama, sent: dict[str, Any], messages: list[dict[str, Any]], used: int
) -> AsyncIterator[dict[str, Any]]:
    for word in _words(ollama.thinks):
        yield _piece(sent, "", thinking=word)
    options = sent.get("options") or {}
    words = _words(messages[-1]["content"])
    most = options.get("num_predict", -1)
    reason = "length" if 0 < most <= len(words) else "stop"
    words = words[:most] if most > 0 else words
    for place, word in enumerate(words):
        if place == ollama.fails_after:
            yield {"error": "an error was encountered while running the model"}
            return
        if ollama.pause:
            await asyncio.sleep(ollama.pause)
        yield _piece(sent, word, **_logprobs(sent, word))
    measured = {
        "total_duration": TOTAL,
        "load_duration": LOAD,
        "prompt_eval_count": used,
        "prompt_eval_duration": PROMPT,
        "eval_count": len(words),
        "eval_duration": EVAL,
    }
    last = _piece(sent, "", done=True, done_reason=reason) | measured | ollama.last
    yield {name: value for name, value in last.items() if value is not None}


def _logprobs(sent: dict[str, Any], word: str) -> dict[str, Any]:
    if not sent.get("logprobs"):
        return {}
    token = {"token": word, "logprob": -0.25, "bytes": list(word.encode())}
    others = [{"token": f"other{place}", "logprob": -2.0 - place} for place in range(19)]
    top = [token, *others][: sent.get("top_logprobs", 0)]
    return {"logprobs": [token | ({"top_logprobs": top} if top else {})]}


def _piece(
    sent: dict[str, Any], content: str, *, thinking: str = "", done: bool = False, **more: Any
) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    if thinking:
        message["thinking"] = thinking
    about = {"model": sent["model"], "created_at": NOW, "message": message, "done": done}
    return about | more


def _whole(pieces: list[dict[str, Any]]) -> Response:
    """All of it in one object, as for `"stream": false`."""
    if "error" in pieces[-1]:
        return JSONResponse(pieces[-1], 500)
    message = {"role": "assistant"}
    for name in ("content", "thinking"):
        text = "".join(piece["message"].get(name, "") for piece in pieces)
        if text or name == "content":
            message[name] = text
    logprobs = [item for piece in pieces for item in piece.get("logprobs", ())]
    answer = pieces[-1] | {"message": message} | ({"logprobs": logprobs} if logprobs else {})
    return JSONResponse(answer)


async def _streamed(ollama: Ollama, pieces: AsyncIterator[dict[str, Any]]) -> Response:
    """A line for each; an error before all of them is an answer with a status of its own."""
    first = await anext(pieces)
    if "error" in first:
        return JSONResponse(first, 500)

    async def lines() -> AsyncIterator[bytes]:
        ended = False
        try:
            yield json.dumps(first, ensure_ascii=False).encode() + b"\n"
            async for piece in pieces:
                ollama.sent += 1
                yield json.dumps(piece, ensure_ascii=False).encode() + b"\n"
            ended = True
        finally:
            if not ended:
                ollama.left.set()

    return StreamingResponse(lines(), media_type="application/x-ndjson")


def _overflow(used: int, window: int) -> str:
    """llama-server's own answer, which Ollama hands on as the text of its error."""
    return json.dumps(
        {
            "error": {
                "code": 400,
                "message": f"request ({used} tokens) exceeds the available context size "
                f"({window} tokens), try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": used,
                "n_ctx": window,
            }
        }
    )


def _full(name: str) -> str:
    return name if ":" in name else f"{name}:latest"


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+", text)


@contextlib.contextmanager
def serving_ollama() -> Iterator[Ollama]:
    ollama = Ollama()
    with serving(_app(ollama)) as ollama.address:
        yield ollama
