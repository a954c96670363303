"""The OpenAI chat-completions protocol over one engine: a Starlette app.

Knows HTTP: routes, statuses, streams, keys, sizes, and that a client which hangs up wants its model
back. Knows no runtime. `/health`, `/tokenize` and `timings` are as in llama-server.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import socket
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from slm_backends.catalog import Deployment
from slm_backends.chat import PARAMETERS, About, Capabilities, ChatRequest, Looking
from slm_backends.errors import (
    BadRequest,
    ContextOverflow,
    NotFound,
    SLMError,
    Unauthorized,
    Unavailable,
)
from slm_backends.worker import engines, wire
from slm_backends.worker.engines import Fired, Mixture, Token
from slm_backends.worker.pieces import Piece
from slm_backends.worker.scheduler import (
    Ended,
    Job,
    Scheduler,
    Started,
    Text,
    Update,
    joined,
)
from slm_backends.worker.text import ChatText

MAX_BODY = 32 * 2**20  # bytes of a request: a long conversation, or several images
HUNG_UP = 499  # status for a client that is not there to read it; only logs see it


class BodyTooLarge(SLMError):
    status = 413
    code = "request_too_large"


class Service:
    """One deployment being served: not loaded, loading, ready, or failed.

    `context` is what the engine shall hold at most, in tokens; None: all that the model can.
    """

    def __init__(
        self,
        deployment: Deployment,
        folder: Path,
        context: int | None = None,
        memory: int | None = None,
    ) -> None:
        self.deployment = deployment
        self.capabilities = Capabilities(
            engines.sampling_fields(deployment.runtime),
            logprobs=engines.gives_logprobs(deployment.runtime),
        )
        self.about = About()
        self.mixture: Mixture | None = None
        self.fraction, self.step = 0.0, "starting"
        self._folder = folder
        self._context = context
        self._memory = memory
        self._text: ChatText | None = None
        self._scheduler: Scheduler | None = None
        self._failed: SLMError | None = None

    def load(self, report: Callable[[float, str], None] = lambda fraction, step: None) -> None:
        """Load the model, blocking. Raises an SLMError, which `/health` then repeats."""

        def progress(fraction: float, step: str) -> None:
            self.fraction, self.step = fraction, step
            report(fraction, step)

        try:
            progress(0.05, "reading the tokenizer")
            text = ChatText(self._folder)
            engine = engines.load(
                self.deployment.runtime,
                self._folder,
                progress,
                device=self.deployment.device,
                context=self._context,
                memory=self._memory,
            )
        except Exception as error:
            self._failed = (
                error
                if isinstance(error, SLMError)
                else SLMError(f"{self.deployment.id} did not load: {error}")
            )
            raise self._failed from error
        mixed = engine.mixture is not None
        self.capabilities = replace(
            self.capabilities,
            context=engine.context,
            images=engine.images,
            routing=mixed,
            knife=mixed,
        )
        self.mixture = engine.mixture
        self.about = About(
            self.deployment.runtime_name, engine.version, engine.device, self.deployment.artefact
        )
        self._text = text
        self._scheduler = Scheduler(engine)
        progress(1.0, "ready")

    @property
    def text(self) -> ChatText:
        self._check_ready()
        assert self._text is not None
        return self._text

    @property
    def scheduler(self) -> Scheduler:
        self._check_ready()
        assert self._scheduler is not None
        return self._scheduler

    def _check_ready(self) -> None:
        if self._failed is not None:
            raise self._failed.with_traceback(None)  # or it would grow with each request
        if self._scheduler is None:
            raise Unavailable(
                f"{self.deployment.id} is loading: {self.step} ({self.fraction:.0%}).",
                hint="Try again in a few seconds.",
            )

    def submit(self, asked: wire.Asked, notify: Callable[[Update], None]) -> Job:
        """Put a request in line, or raise what is wrong with it. A long prompt takes a second."""
        scheduler, text = self.scheduler, self.text
        names = (self.deployment.id, self.deployment.model.id, None)
        if asked.model not in names:
            raise NotFound(f"There is no model called {asked.model!r} here, only {names[0]!r}.")
        self.capabilities.check(asked.request)
        pieces: list[Piece] = []
        if any(message.images for message in asked.request.messages):
            pieces = text.pieces(asked.request.messages)
            prompt = scheduler.lay_out(pieces)
        else:
            prompt = text.prompt(asked.request.messages)
        experts = asked.request.experts
        written: list[int] = []
        if experts is not None:
            assert self.mixture is not None  # or the capabilities would have refused it
            experts.check(*self.mixture)
            written = text.tokens(experts.reply)
            if experts.reply and not written:
                raise BadRequest("experts: nothing in reply can be written.", field="experts")
        request = self._fitted(asked, len(prompt), len(written))
        sampling = request.sampling
        reply = text.reply(sampling.stop)
        job = Job(prompt, sampling, reply, notify, request.top_logprobs, pieces, experts, written)
        scheduler.submit(job)
        return job

    def _fitted(self, asked: wire.Asked, prompt_tokens: int, written: int) -> ChatRequest:
        """The request with its room for a reply: as many tokens as are written for it, or what it
        asks, or all that is left."""
        context = self.capabilities.context
        assert context is not None
        request = asked.request
        most = request.sampling.max_tokens
        if written:
            most = written
        elif asked.open_ended:
            most = min(max(1, context - prompt_tokens), int(PARAMETERS["max_tokens"].maximum))
        if prompt_tokens + most > context:
            raise ContextOverflow.measured(prompt_tokens, most, context)
        return replace(request, sampling=replace(request.sampling, max_tokens=most))


def build(service: Service, api_key: str = "") -> Starlette:
    """The app. With `api_key`, every route but /health wants it as a bearer token."""

    async def health(_: Request) -> Response:
        try:
            active, waiting = service.scheduler.counts
        except Unavailable as error:
            status = {"status": "loading", "progress": service.fraction, "step": service.step}
            return JSONResponse(wire.write_error(error) | status, error.status)
        except SLMError as error:
            return JSONResponse(wire.write_error(error) | {"status": "error"}, 500)
        return JSONResponse({"status": "ok", "active": active, "waiting": waiting})

    async def models(request: Request) -> Response:
        _authorize(request, api_key)
        model = {
            "id": service.deployment.id,
            "object": "model",
            "created": int(started),
            "owned_by": "slm_backends",
            "context_length": service.capabilities.context,
        }
        return JSONResponse({"object": "list", "data": [model]})

    async def tokenize(request: Request) -> Response:
        _authorize(request, api_key)
        body = await _json(request)
        content = body.get("content") if isinstance(body, dict) else None
        if not isinstance(content, str):
            raise BadRequest("content must be a string.", field="content")
        return JSONResponse({"tokens": service.text.tokens(content)})

    async def completions(request: Request) -> Response:
        _authorize(request, api_key)
        asked = wire.read_request(await _json(request))
        reply = _Reply(service, asked, request)
        await reply.submit()
        return reply if asked.stream else await reply.whole()

    started = time.time()
    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/chat/completions", completions, methods=["POST"]),
            Route("/tokenize", tokenize, methods=["POST"]),
        ],
        exception_handlers={
            SLMError: _on_error,
            HTTPException: _on_http_error,
            ClientDisconnect: _on_hang_up,
            Exception: _on_defect,
        },
    )


def send_at_once(listener: socket.socket) -> None:
    """Let small writes go out as they are made; accepted connections inherit it.

    asyncio does so for sockets of its own; with one that was made before, a chunk may wait 40 ms
    for the client's kernel.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _Reply(Response):
    """A reply that ends its job when the client hangs up, streamed or whole."""

    def __init__(self, service: Service, asked: wire.Asked, request: Request) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self._service = service
        self._asked = asked
        self._request = request
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._updates: asyncio.Queue[Update] = asyncio.Queue()
        self._job: Job | None = None
        self._logprobs: wire.Logprobs | None = None

    async def submit(self) -> None:
        """Put the request in line, or raise what is wrong with it; `whole` or a call must follow.

        In a thread: while a long prompt is tokenised, the others' replies go on.
        """
        loop = asyncio.get_running_loop()

        def notify(update: Update) -> None:
            loop.call_soon_threadsafe(self._updates.put_nowait, update)

        self._job = await asyncio.to_thread(self._service.submit, self._asked, notify)
        if self._job.top_logprobs is not None:
            self._logprobs = wire.Logprobs(self._service.text.vocabulary)

    async def whole(self) -> Response:
        text = ""
        tokens: list[Token] = []
        fired: list[Fired] = []
        async with aclosing(self._until_ended()) as updates:
            async for update in updates:
                if isinstance(update, Text):
                    text += update.text
                    tokens += update.tokens
                elif isinstance(update, Fired):
                    fired.append(update)
                elif isinstance(update, Ended):
                    told = [self._written(whole) for whole in joined(fired)]
                    made = self._completion(text, tokens, update)
                    return JSONResponse(made | {"routing": told} if told else made)
        return Response(status_code=HUNG_UP)

    def _completion(self, text: str, tokens: list[Token], ended: Ended) -> dict[str, Any]:
        if ended.error is not None or ended.timings is None:
            raise ended.error or SLMError("The reply ended without a reason.")
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": ended.reason}
        if self._logprobs is not None:
            choice["logprobs"] = self._logprobs.write(tokens)
        return self._object("chat.completion") | {
            "choices": [choice],
            "usage": wire.write_usage(ended.timings),
            "timings": wire.write_timings(ended.timings),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

        async def write(payload: dict[str, Any] | str) -> None:
            data = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
            await send(
                {
                    "type": "http.response.body",
                    "body": f"data: {data}\n\n".encode(),
                    "more_body": True,
                }
            )

        async with aclosing(self._until_ended()) as updates:
            async for update in updates:
                for chunk in self._chunks(update):
                    await write(chunk)
        await write("[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _chunks(self, update: Update) -> list[dict[str, Any]]:
        if isinstance(update, Started):
            return [self._chunk({"role": "assistant", "content": ""})]
        if isinstance(update, Looking):
            progress = {"prompt_progress": wire.write_progress(update)}
            return [self._chunk({}) | progress] if self._asked.return_progress else []
        if isinstance(update, Fired):
            return [self._chunk({}) | {"routing": self._written(update)}]
        if isinstance(update, Text):
            chunk = self._chunk({"content": update.text})
            if self._logprobs is not None:
                chunk["choices"][0]["logprobs"] = self._logprobs.write(update.tokens)
            if self._asked.timings_per_token:
                chunk["timings"] = wire.write_timings(update.timings)
            return [chunk]
        if update.error is not None or update.timings is None:
            return [wire.write_error(update.error or SLMError("The reply ended early."))]
        last = self._chunk({}, update.reason)
        last["timings"] = wire.write_timings(update.timings)
        if not self._asked.include_usage:
            return [last]
        usage = self._object("chat.completion.chunk") | {"choices": []}
        return [last, usage | {"usage": wire.write_usage(update.timings)}]

    def _written(self, fired: Fired) -> dict[str, Any]:
        assert self._service.mixture is not None
        return wire.write_routing(fired, self._service.mixture, self._service.text.vocabulary)

    def _chunk(self, delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return self._object("chat.completion.chunk") | {"choices": [choice]}

    def _object(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._service.deployment.id,
        }

    async def _until_ended(self) -> AsyncGenerator[Update, None]:
        """Updates up to the last, or until the client hangs up; the job never outlives this."""
        gone = asyncio.ensure_future(_hang_up(self._request))
        try:
            while True:
                update = asyncio.ensure_future(self._updates.get())
                await asyncio.wait((update, gone), return_when=asyncio.FIRST_COMPLETED)
                if not update.done():
                    update.cancel()
                    return
                yield update.result()
                if isinstance(update.result(), Ended):
                    return
        finally:
            gone.cancel()
            if self._job is not None:
                self._service.scheduler.cancel(self._job)


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _authorize(request: Request, api_key: str) -> None:
    if not api_key:
        return
    given = request.headers.get("authorization", "")
    if not hmac.compare_digest(given.encode(), f"Bearer {api_key}".encode()):
        raise Unauthorized(
            "The key is missing or wrong.", hint="Send it as 'Authorization: Bearer <key>'."
        )


async def _json(request: Request) -> Any:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise BodyTooLarge(f"The request is larger than {MAX_BODY // 2**20} MiB.")
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The body is not valid JSON: {error}.") from None


async def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, SLMError)
    return JSONResponse(wire.write_error(error), error.status)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    wrong = SLMError(f"{request.method} {request.url.path}: {error.detail}.")
    wrong.status, wrong.code = error.status_code, "http_error"
    return JSONResponse(wire.write_error(wrong), error.status_code)


async def _on_hang_up(_: Request, __: Exception) -> Response:
    return Response(status_code=HUNG_UP)


async def _on_defect(_: Request, error: Exception) -> Response:
    """A mistake of ours; its traceback goes to the log, not to the client."""
    return JSONResponse(
        wire.write_error(SLMError(f"The server failed: {type(error).__name__}.")), 500
    )
