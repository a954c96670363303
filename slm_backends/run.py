"""One prompt on one Backend: a Run grows a reply, carries its numbers, can be cancelled.

Knows time and states. Does not know what a backend is made of, nor who watches. A Run lives on the
background loop; every method may be called from any other thread and returns at once, but `wait`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal

from slm_backends import background
from slm_backends.chat import (
    About,
    Backend,
    ChatRequest,
    Delta,
    Event,
    Finished,
    Held,
    Loading,
    Logprob,
    Looking,
    Prefill,
    Queued,
    Timings,
    decode_speed,
)
from slm_backends.errors import SLMError
from slm_backends.routing import Routed

State = Literal["queued", "loading", "prefill", "decoding", "done", "stopped", "failed"]
ENDED: frozenset[State] = frozenset({"done", "stopped", "failed"})


@dataclass(frozen=True)
class Reply:
    """What a Run has so far; frozen, so that a watcher may keep it. Times are seconds.

    queue_place    while it waits: 1 for the next, 0 where it is not known; queue_reason says why
    room_s         waiting for memory that other models held, before the load; 0 where none was
    looking        while the model looks at images: how far it is
    load_s         waiting for the model to be loaded; 0 where it was
    held_s         waiting because the server asked us to come back later
    queue_s        waiting for a place beside other requests
    first_token_s  from that place to the first token
    decode_s       from the first token to the last
    total_s        from start to end, everything counted
    counted        True where the server counted the tokens and took the times, False where they
                   were taken here, network included
    here_first_s, here_decode_s  as first_token_s and decode_s, always by the clock of this process:
                   the first from when the prompt was sent, so that the server's queue is in it
    server         the server's own times and counts, None where it sends none
    cached_tokens  None where the runtime does not say
    logprobs       of the reply's tokens, where the request asked for them
    routing        which experts worked on the tokens so far, where the request asked for that
    """

    state: State = "queued"
    text: str = ""
    error: SLMError | None = None
    finish_reason: str = ""
    load_fraction: float = 0.0
    load_step: str = ""
    queue_place: int = 0
    queue_reason: str = ""
    looking: Looking | None = None
    room_s: float = 0.0
    load_s: float = 0.0
    held_s: float = 0.0
    queue_s: float = 0.0
    first_token_s: float | None = None
    decode_s: float | None = None
    total_s: float = 0.0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    counted: bool = False
    here_first_s: float | None = None
    here_decode_s: float | None = None
    server: Timings | None = None
    about: About = About()
    logprobs: tuple[Logprob, ...] = ()
    routing: tuple[Routed, ...] = ()

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def wait_s(self) -> float | None:
        """To the first token, by the server's clock where it sends its times. Else by ours, from
        when the prompt was sent: how much of that was a queue, nobody knows."""
        return self.first_token_s if self.counted else self.here_first_s

    @property
    def tokens_per_second(self) -> float | None:
        return decode_speed(self.completion_tokens, self.decode_s)

    @property
    def here_tokens_per_second(self) -> float | None:
        """The same by the clock of this program, whatever the server says."""
        return decode_speed(self.completion_tokens, self.here_decode_s)

    @property
    def characters_per_second(self) -> float | None:
        """Characters of the reply over the decode time: comparable where tokenizers differ."""
        if not self.decode_s or not self.text:
            return None
        return len(self.text) / self.decode_s


class Run:
    """Made by `start`. `reply` is the latest snapshot."""

    def __init__(self, backend: Backend, request: ChatRequest) -> None:
        self.backend = backend
        self.request = request
        self._reply = Reply(about=backend.about)
        self._pieces: list[str] = []
        self._logprobs: list[Logprob] = []
        self._routing: list[Routed] = []
        self._begun = time.perf_counter()
        self._roomy_at = self._begun
        self._loaded_at = self._begun
        self._held_s = 0.0
        self._placed_at = 0.0
        self._first_at = 0.0
        self._last_at = 0.0
        self._ended = threading.Event()
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        background.call(self._begin)

    @property
    def reply(self) -> Reply:
        """The reply so far, with its text and, while it runs, its age."""
        reply = self._reply
        if reply.ended:
            return reply
        age = time.perf_counter() - self._begun
        return replace(
            reply,
            text="".join(self._pieces),
            logprobs=tuple(self._logprobs),
            routing=tuple(self._routing),
            total_s=age,
        )

    def cancel(self) -> None:
        """Stop the model; the text so far is kept. Does nothing to a run that has ended."""
        background.call(self._cancel)

    def wait(self, timeout: float | None = None) -> Reply:
        """Block until it has ended, or for `timeout` seconds."""
        self._ended.wait(timeout)
        return self.reply

    async def ended(self) -> Reply:
        """As `wait`, for whoever is on the background loop."""
        while self._task is None:
            await asyncio.sleep(0)
        await asyncio.wait({self._task})
        return self.reply

    # Everything below happens on the loop, so that a state is never overwritten by an earlier one.

    def _begin(self) -> None:
        self._task = asyncio.ensure_future(self._live())
        self._task.add_done_callback(self._end_unbegun)

    def _cancel(self) -> None:
        # Once: a second cancellation would interrupt the first one's closing of the stream.
        if self._task is not None and not self._cancelled:
            self._cancelled = True
            self._task.cancel()

    async def _live(self) -> None:
        try:
            async with aclosing(self.backend.stream(self.request)) as events:
                async for event in events:
                    self._take(event)
            self._end("done")
        except asyncio.CancelledError:
            self._end("stopped", finish_reason="stopped")
            raise
        except SLMError as error:
            self._end("failed", error=error, finish_reason="error")
        except Exception as error:  # a defect of ours must still end the run, with its name
            wrapped = SLMError(f"{type(error).__name__}: {error}")
            wrapped.__cause__ = error
            self._end("failed", error=wrapped, finish_reason="error")

    def _take(self, event: Event) -> None:
        now = time.perf_counter()
        reply = self._reply
        if isinstance(event, Loading):
            self._loaded_at = now
            self._reply = replace(
                reply,
                state="loading",
                load_fraction=event.fraction,
                load_step=event.step,
                load_s=now - self._roomy_at,
            )
        elif isinstance(event, Queued):
            self._loaded_at = now
            if event.reason:  # the server's own line gives none: this one is for memory
                self._roomy_at = now
            load_s = now - self._roomy_at if reply.state == "loading" else reply.load_s
            self._reply = replace(
                reply,
                state="queued",
                queue_place=event.place,
                queue_reason=event.reason,
                room_s=self._roomy_at - self._begun,
                load_s=load_s,
            )
        elif isinstance(event, Held):
            self._held_s += event.seconds
            self._loaded_at = now + event.seconds
            self._reply = replace(
                reply, state="queued", queue_reason=event.reason, held_s=self._held_s
            )
        elif isinstance(event, Prefill):
            self._placed_at = now
            self._reply = replace(reply, state="prefill", queue_s=now - self._loaded_at)
        elif isinstance(event, Looking):
            self._reply = replace(reply, looking=event)
        elif isinstance(event, Routed):
            self._routing.append(event)
        elif isinstance(event, Delta):
            self._grow(event, now)
        else:
            self._finish(event)

    def _grow(self, event: Delta, now: float) -> None:
        if not self._first_at:
            self._first_at = now
        self._last_at = now
        self._pieces.append(event.text)
        self._logprobs += event.logprobs
        reply = replace(
            self._reply,
            state="decoding",
            first_token_s=self._first_at - (self._placed_at or self._loaded_at),
            decode_s=now - self._first_at,
            here_first_s=self._first_at - self._loaded_at,
            here_decode_s=now - self._first_at,
        )
        self._reply = _measured(reply, event.timings)

    def _finish(self, event: Finished) -> None:
        reply = replace(
            self._reply,
            finish_reason=event.reason,
            prompt_tokens=event.prompt_tokens,
            completion_tokens=event.completion_tokens,
            cached_tokens=event.cached_tokens,
        )
        self._reply = _measured(reply, event.timings)

    def _end_unbegun(self, _: object) -> None:
        """A run whose task was cancelled before its first step has ended too."""
        if not self._ended.is_set():
            self._end("stopped", finish_reason="stopped")

    def _end(self, state: State, error: SLMError | None = None, finish_reason: str = "") -> None:
        self._reply = replace(
            self._reply,
            state=state,
            text="".join(self._pieces),
            logprobs=tuple(self._logprobs),
            routing=tuple(self._routing),
            error=error,
            finish_reason=finish_reason or self._reply.finish_reason,
            total_s=time.perf_counter() - self._begun,
            about=self.backend.about,
        )
        self._ended.set()


def _measured(reply: Reply, timings: Timings | None) -> Reply:
    """The reply with the server's own numbers in place of those taken here, where it has any."""
    if timings is None:
        return reply
    cached = timings.cache_n if timings.cache_n is not None else reply.cached_tokens
    return replace(
        reply,
        queue_s=timings.queue_ms / 1000,
        first_token_s=timings.prompt_ms / 1000,
        decode_s=timings.predicted_ms / 1000,
        prompt_tokens=timings.prompt_n,
        completion_tokens=timings.predicted_n,
        cached_tokens=cached,
        counted=True,
        server=timings,
    )


def start(backend: Backend, request: ChatRequest) -> Run:
    """Begin to answer, on the background loop. Errors end the Run, they are not raised here."""
    return Run(backend, request)
