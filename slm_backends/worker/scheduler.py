"""One thread that owns the engine: takes requests, advances them together, hands out text.

Knows queues, stop conditions and timings. Knows nothing of HTTP: a job's updates go to a callback.
Every limit is a named constant, and every reply is measured here, where its tokens are made.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from slm_backends.chat import Looking, Sampling, Timings
from slm_backends.errors import Busy, SLMError
from slm_backends.routing import Experts
from slm_backends.worker.engines import Engine, Fired, Token
from slm_backends.worker.pieces import Piece
from slm_backends.worker.text import ReplyText

MAX_WAITING = 64  # jobs beside those that the engine can advance; one more is refused
UPDATE_EVERY = 0.040  # seconds: a chunk a token would cost a tenth of the speed
CHUNKS_FOR = 2  # replies at that pace; with more at once each is sent less often, or the chunks of
# eight would take that tenth again
# Seconds that the thread rests for each first word. A runtime may hold the interpreter lock for the
# whole of its next step, and the word would wait for that before it leaves the process.
LET_GO = 0.001


@dataclass(frozen=True)
class Started:
    """The job has its place in the batch: its prompt is being read."""


@dataclass(frozen=True)
class Text:
    """More text, with the timings so far and, where they were asked for, the tokens with their
    log-probabilities whose text began since the last update."""

    text: str
    timings: Timings
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Ended:
    """The last update: "stop" or "length" with the final timings, or an error."""

    reason: str
    timings: Timings | None = None
    error: SLMError | None = None


Update = Started | Looking | Fired | Text | Ended


class Told:
    """Which tokens may be told: those of whose text some is certain.

    A token of a text that is held back for a stop string waits with it, and never shows if the
    string comes. One without text of its own, half a character for example, goes with the next.
    """

    def __init__(self) -> None:
        self.unsent: list[Token] = []
        self._waiting: deque[tuple[int, Token]] = deque()  # with the characters before each
        self._certain = 0  # characters of the reply
        self._all = 0  # and with those that are held back

    def grow(self, token: Token, certain: str, held: int) -> None:
        """The reply has one token more, `certain` more text and now holds so much back."""
        self._waiting.append((self._all, token))
        self._certain += len(certain)
        self._all = self._certain + held
        while self._waiting and self._waiting[0][0] < self._certain:
            self.unsent.append(self._waiting.popleft()[1])

    def end(self) -> None:
        """The reply ended by itself: nothing is held back any more."""
        self.unsent += [token for _, token in self._waiting]
        self._waiting.clear()

    def take(self) -> tuple[Token, ...]:
        """Those since the last call."""
        taken, self.unsent = tuple(self.unsent), []
        return taken


@dataclass(eq=False)
class Job:
    """One reply. `notify` is called on the scheduler's thread and must not block."""

    prompt: list[int]
    sampling: Sampling
    reply: ReplyText
    notify: Callable[[Update], None]
    top_logprobs: int | None = None
    pieces: Sequence[Piece] = ()
    experts: Experts | None = None
    written: Sequence[int] = ()
    key: int = 0
    asked: float = field(default_factory=time.perf_counter)
    admitted: float = 0.0
    first: float = 0.0
    last: float = 0.0
    tokens: int = 0
    cached: int | None = None
    unsent: str = ""
    sent: float = 0.0
    fired: list[Fired] = field(default_factory=list)
    told: Told | None = field(init=False)

    def __post_init__(self) -> None:
        self.told = None if self.top_logprobs is None else Told()

    @property
    def news(self) -> bool:
        """Whether there is something to send."""
        return bool(self.unsent or (self.told and self.told.unsent))

    def tell_fired(self) -> None:
        """Send what worked on the tokens since the last time."""
        for whole in joined(self.fired):
            self.notify(whole)
        self.fired = []

    def timings(self) -> Timings:
        now = time.perf_counter()
        return Timings(
            prompt_n=len(self.prompt),
            prompt_ms=1000 * ((self.first or now) - self.admitted) if self.admitted else 0.0,
            predicted_n=self.tokens,
            predicted_ms=1000 * (self.last - self.first),
            queue_ms=1000 * ((self.admitted or now) - self.asked),
            cache_n=self.cached,
        )


def joined(fired: Sequence[Fired]) -> list[Fired]:
    """As few of them as say the same: those that follow each other in one."""
    found: list[list[Fired]] = []
    place = -1
    for part in fired:
        if part.start != place:
            found.append([])
        found[-1].append(part)
        place = part.start + len(part.ids)
    return [
        Fired(
            parts[0].start,
            [token for part in parts for token in part.ids],
            parts[0].k,
            *(b"".join(arrays) for arrays in zip(*(part[3:] for part in parts), strict=True)),
        )
        for parts in found
    ]


class Scheduler:
    """Runs an Engine. `submit` and `cancel` may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: deque[Job] = deque()
        self._active: dict[int, Job] = {}
        self._cancelled: set[Job] = set()
        self._changed = threading.Condition()
        self._next_key = 1
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> tuple[int, int]:
        """(jobs that the engine advances, jobs that wait)."""
        with self._changed:
            return len(self._active), len(self._waiting)

    def lay_out(self, pieces: Sequence[Piece]) -> list[int]:
        """The tokens of a prompt with pictures; at once, on the caller's thread."""
        return self._engine.lay_out(pieces)

    def submit(self, job: Job) -> None:
        """Put the job in line. Raises Busy where MAX_WAITING others wait already."""
        with self._changed:
            # Counted together: a job waits for a moment also where the engine has room for it.
            jobs = len(self._active) + len(self._waiting)
            if jobs >= self._engine.max_active + MAX_WAITING:
                raise Busy(
                    f"{jobs} requests are being answered or wait, and no more are taken.",
                    hint="Try again when some of them are done.",
                )
            job.key, self._next_key = self._next_key, self._next_key + 1
            self._waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """End the job without a further update. Does nothing for one that has ended."""
        with self._changed:
            self._cancelled.add(job)
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout=5)

    def _work(self) -> None:
        while self._take_changes():
            try:
                for key, tokens in self._engine.step():
                    job = self._active.get(key)
                    if job is not None and job not in self._cancelled:
                        self._advance(job, tokens)
            except Exception as error:  # a runtime may raise anything: its jobs must hear of it
                for job in list(self._active.values()):
                    self._fail(job, error)

    def _take_changes(self) -> bool:
        """Wait for work; apply cancellations and admissions. False once closed."""
        with self._changed:
            while not (self._waiting or self._active or self._closing):
                self._cancelled.clear()
                self._changed.wait()
            if self._closing:
                return False
            cancelled, self._cancelled = self._cancelled, set()
            self._waiting = deque(job for job in self._waiting if job not in cancelled)
            ended = [job for job in self._active.values() if job in cancelled]
            for job in ended:
                del self._active[job.key]
            admitted = []
            while self._waiting and len(self._active) < self._engine.max_active:
                job = self._waiting.popleft()
                self._active[job.key] = job
                admitted.append(job)
        for job in ended:
            self._release(job)
        for job in admitted:
            self._admit(job)
        return True

    def _admit(self, job: Job) -> None:
        job.admitted = time.perf_counter()
        try:
            # Engines know nothing of what they are never given.
            more: dict[str, Any] = {"pieces": job.pieces} if job.pieces else {}
            if job.experts is not None:
                more |= {"experts": job.experts, "written": job.written}
            job.cached = self._engine.admit(
                job.key, job.prompt, job.sampling, job.top_logprobs, **more
            )
            job.notify(Started())
            time.sleep(LET_GO)
        except Exception as error:
            self._fail(job, error)

    def _advance(self, job: Job, tokens: list[Token] | Looking | Fired | Exception) -> None:
        """Grow one job; what goes wrong with it is not the others' business."""
        try:
            if isinstance(tokens, Exception):
                raise tokens
            if isinstance(tokens, Looking):
                job.notify(tokens)
            elif isinstance(tokens, Fired):
                job.fired.append(tokens)
                if len(tokens.ids) > 1:  # a piece of the prompt: large, and the next takes a while
                    job.tell_fired()
            else:
                self._grow(job, tokens)
        except Exception as error:
            self._fail(job, error)

    def _grow(self, job: Job, tokens: list[Token]) -> None:
        reason = ""
        for token in tokens:
            job.last = time.perf_counter()
            job.first = job.first or job.last
            job.tokens += 1
            if token.id in self._engine.eos:
                reason = "stop"
            else:
                certain = job.reply.feed(token.id)
                job.unsent += certain
                if job.told:
                    job.told.grow(token, certain, job.reply.held)
                if job.reply.stopped:
                    reason = "stop"
                elif job.tokens >= job.sampling.max_tokens:
                    reason = "length"
            if reason:
                break
        if reason:
            job.unsent += job.reply.end()
            if job.told and not job.reply.stopped:
                job.told.end()
        now = time.perf_counter()
        every = UPDATE_EVERY * max(1.0, len(self._active) / CHUNKS_FOR)
        if job.news and (reason or now - job.sent >= every):
            job.tell_fired()
            job.notify(Text(job.unsent, job.timings(), job.told.take() if job.told else ()))
            if not job.sent:
                time.sleep(LET_GO)
            job.unsent, job.sent = "", now
        if reason:
            job.tell_fired()
            self._end(job, Ended(reason, job.timings()))

    def _end(self, job: Job, ended: Ended) -> None:
        with self._changed:
            self._active.pop(job.key, None)
        self._release(job)
        job.notify(ended)

    def _fail(self, job: Job, error: Exception) -> None:
        with contextlib.suppress(Exception):  # nobody listens any more: its event loop has closed
            self._end(job, Ended("error", error=_as_error(error)))

    def _release(self, job: Job) -> None:
        with contextlib.suppress(Exception):  # the thread must outlive whatever a runtime does
            self._engine.release(job.key)


def _as_error(error: Exception) -> SLMError:
    if isinstance(error, SLMError):
        return error
    return SLMError(
        f"The runtime failed: {error or type(error).__name__}.",
        hint="Send the prompt again; if it fails again, unload the model first.",
    )
