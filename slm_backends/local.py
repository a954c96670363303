"""A deployment on a runtime of this computer: a Backend with a worker process behind it.

Knows one worker's life: started when it is first needed, one load for any number of callers, used,
ended when it is idle for long. Who may load when memory is short is memory.py's matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

import psutil

from slm_backends import fit, store
from slm_backends.catalog import Deployment
from slm_backends.chat import About, Capabilities, ChatRequest, Event, Loading, Queued
from slm_backends.endpoints.openai import OpenAIBackend
from slm_backends.errors import (
    Busy,
    NotFetched,
    SLMError,
    StreamBroken,
    Unavailable,
    WorkerDied,
)
from slm_backends.memory import Memory
from slm_backends.worker import engines
from slm_backends.worker.process import WorkerProcess

POLL_SECONDS = 0.05  # between two looks at a worker that loads
IMPATIENT_SECONDS = 300.0  # for a load; a large model from a slow disk takes minutes
IDLE_MINUTES = 15.0  # after which a worker that nobody uses ends; SLM_IDLE_MINUTES sets it


@dataclass(frozen=True)
class Worker:
    """A worker process as it is now.

    memory_bytes  what the process takes now (its resident set)
    held_bytes    what is set aside for it in the memory budget
    in_use        runs in progress, those that wait for its load included
    waiting       runs that wait for memory before they may use it
    idle_s        seconds since it was last used; 0 while it is in use
    loads         how often this deployment was loaded by this program
    """

    deployment_id: str
    pid: int
    memory_bytes: int
    held_bytes: int
    in_use: int
    waiting: int
    idle_s: float
    loads: int
    about: About


@dataclass
class _Visit:
    """Someone who wants the worker: a run, or a load without one.

    inside   there is memory for it: the worker is not ended under it
    dropped  the worker was unloaded while it waited
    """

    run: bool
    inside: bool = False
    dropped: bool = False


class LocalBackend:
    """Made by the selector, once for each deployment. Lives on the background loop; its properties
    and `facts` may be asked from any thread."""

    def __init__(self, deployment: Deployment, memory: Memory) -> None:
        self.id = deployment.id
        self.deployment = deployment
        self.leaving = False  # set by the memory: no new visit may begin
        self.held = 0  # bytes that are set aside for the worker
        self.last_used = 0.0
        self.loads = 0  # how often a worker was started, for those who count
        mixed = bool(deployment.model.experts) and engines.gives_routing(deployment.runtime)
        self.capabilities = Capabilities(
            engines.sampling_fields(deployment.runtime),
            fit.context(deployment),
            images=deployment.images,
            logprobs=engines.gives_logprobs(deployment.runtime),
            routing=mixed,
            knife=mixed,
        )
        self.worker: WorkerProcess | None = None
        self._memory = memory
        self._client: OpenAIBackend | None = None
        self._visits: list[_Visit] = []
        self._loading: asyncio.Task[None] | None = None
        self._given_up: asyncio.Task[None] | None = None  # a load that was cancelled
        self._starting = False  # from the moment when there is memory until it is loaded
        self._changing = asyncio.Lock()  # one start or end of the process at a time
        self._idle_watch: asyncio.Task[None] | None = None

    # --- what others may know ---------------------------------------------------------------------

    @property
    def about(self) -> About:
        worker = self.worker
        if worker is not None and worker.ready:
            return worker.about
        return About(self.deployment.runtime_name, artefact=self.deployment.artefact)

    @property
    def loaded(self) -> bool:
        # The client is made a moment after the worker is ready: before that, nobody could ask it.
        worker = self.worker
        return self._client is not None and worker is not None and worker.ready

    @property
    def leases(self) -> int:
        """Runs that use the worker, or wait for the load that is under way for them."""
        return sum(visit.run and visit.inside for visit in self._visits)

    @property
    def in_use(self) -> bool:
        return self._starting or any(visit.inside for visit in self._visits)

    @property
    def loading(self) -> Loading | None:
        """How far the load is that is under way, waiting for memory included."""
        task = self._loading
        if task is None or task.done():
            return None
        now = self._progress()
        return Loading(0.0, now.reason) if isinstance(now, Queued) else now

    @property
    def failure(self) -> SLMError | None:
        """Why the last load failed, until another one begins."""
        task = self._loading
        if task is None or not task.done() or task.cancelled():
            return None
        error = task.exception()
        return error if error is None or isinstance(error, SLMError) else SLMError(str(error))

    def facts(self) -> Worker | None:
        """The worker as it is now; None without one."""
        worker = self.worker
        if worker is None or not worker.alive:
            return None
        taken = 0
        with contextlib.suppress(psutil.Error):  # it ended this very moment
            taken = psutil.Process(worker.pid).memory_info().rss
        runs = [visit for visit in list(self._visits) if visit.run]
        inside = sum(visit.inside for visit in runs)
        return Worker(
            self.id,
            worker.pid,
            taken,
            self.held,
            inside,
            len(runs) - inside,
            0.0 if self.in_use else time.monotonic() - self.last_used,
            self.loads,
            self.about,
        )

    # --- using it ---------------------------------------------------------------------------------

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self.capabilities.check(request)
        visit = _Visit(run=True)
        self._visits.append(visit)
        try:
            async with aclosing(self._enter(visit)) as progress:
                async for step in progress:
                    yield step
            worker, client = self.worker, self._client
            if worker is None or client is None:
                raise self._unloaded()
            try:
                async with aclosing(client.stream(request)) as events:
                    async for event in events:
                        yield event
            except (StreamBroken, Unavailable):
                # A socket may close a moment before its process can be seen to have ended.
                await asyncio.sleep(0 if not worker.alive else 0.2)
                if not worker.alive:
                    raise worker.death() from None
                raise
        finally:
            self._leave(visit)

    async def load(self) -> AsyncGenerator[Queued | Loading, None]:
        """Load the model unless it is there, with progress; any number of callers, one load."""
        visit = _Visit(run=False)
        self._visits.append(visit)
        try:
            async with aclosing(self._enter(visit)) as progress:
                async for step in progress:
                    yield step
        finally:
            self._leave(visit)

    async def _enter(self, visit: _Visit) -> AsyncGenerator[Queued | Loading, None]:
        """Until the visit may use a loaded worker."""
        while True:
            if visit.dropped:
                raise self._unloaded()
            if not self.leaving and (self.loaded or self._starting):
                visit.inside = True
            if visit.inside and self.loaded:
                return
            task = self._begin_load()
            await asyncio.wait((task,), timeout=POLL_SECONDS)
            if not task.done():
                yield self._progress()
            elif not task.cancelled():
                task.result()

    def _leave(self, visit: _Visit) -> None:
        self._visits.remove(visit)
        self.last_used = time.monotonic()
        if not self._visits and not self._starting:
            # Out of the line for memory. A load that has begun goes on: someone may want it soon.
            self._give_up_load()

    def _progress(self) -> Queued | Loading:
        if not self._starting:
            return self._memory.queued(self)
        worker = self.worker
        if worker is None:
            return Loading(0.0, "starting a process")
        return Loading(worker.fraction, worker.step)

    def _unloaded(self) -> WorkerDied:
        return WorkerDied(f"{self.id} was unloaded.", hint="Send the prompt again.")

    # --- the worker's life ------------------------------------------------------------------------

    def _begin_load(self) -> asyncio.Task[None]:
        """The load that is under way, or a new one."""
        if self._loading is None or self._loading.done():
            self._loading = asyncio.ensure_future(self._load(self._given_up))
            # Looked at here too, as all who wait for it may have been cancelled.
            self._loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._loading

    def _give_up_load(self) -> None:
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
            self._given_up, self._loading = self._loading, None
            self._starting = False

    async def _load(self, given_up: asyncio.Task[None] | None) -> None:
        if given_up is not None:
            await asyncio.wait((given_up,))
        if not store.is_ready(self.deployment):
            raise NotFetched(
                f"The weights of {self.id} are not on this computer.",
                hint=f"Fetch them with: python -m slm_backends fetch {self.id}",
            )
        patience = idle_seconds()
        try:
            worker = await self._start()
            if worker is not None:
                await self._settle(worker)
                if patience:
                    self._idle_watch = asyncio.ensure_future(self._end_when_idle(worker, patience))
        finally:
            self._starting = False

    async def _start(self) -> WorkerProcess | None:
        """A new process, once there is memory for it; None where the worker is there after all."""
        folder = store.folder(self.deployment)
        async with self._memory.turn(self):
            if not self.loaded:
                await self.end_worker()  # one that died
                self._starting = True
            for visit in self._visits:
                visit.inside = True
            if self.loaded:
                return None
            async with self._changing:
                verdict = fit.fits(self.deployment)
                self.held = verdict.held
                context = fit.context(self.deployment)
                worker = await asyncio.to_thread(
                    WorkerProcess, self.id, folder, context, verdict.kept
                )
                self.worker = worker
        self.loads += 1
        return worker

    async def _settle(self, worker: WorkerProcess) -> None:
        """Wait until the worker is ready, and make the client that speaks to it."""
        # The client's import takes a second: now, beside the load, and in no first reply.
        preparing = asyncio.ensure_future(asyncio.to_thread(importlib.import_module, "openai"))
        try:
            until = time.monotonic() + IMPATIENT_SECONDS
            # Not in a thread: Python waits for its threads when it ends, also for one that waits.
            while not worker.settled.is_set() and time.monotonic() < until:
                await asyncio.sleep(POLL_SECONDS)
            if worker.failed is not None:
                raise worker.failed
            if not worker.settled.is_set():
                raise Unavailable(f"{self.id} did not load in {IMPATIENT_SECONDS:.0f} seconds.")
            await preparing
        except BaseException:
            await asyncio.to_thread(worker.stop)
            if self.worker is worker:
                self.worker = None
            raise
        self.capabilities = replace(self.capabilities, context=worker.context)
        self.last_used = time.monotonic()
        self._client = OpenAIBackend(
            self.id,
            worker.base_url,
            self.id,
            self.capabilities,
            key=worker.token,
            about=worker.about,
            ours=True,
        )

    async def unload(self, force: bool = False) -> None:
        """End the worker process, or its load; its memory goes back.

        Raises Busy while runs use it or wait for it; with `force` they fail instead.
        """
        runs = sum(visit.run for visit in self._visits)
        if runs and not force:
            raise Busy(
                f"{self.id} is in use by {runs} {'reply' if runs == 1 else 'replies'}.",
                hint="Wait for the end of what is running, or stop it.",
            )
        async with self._changing:  # or one that is being started would be overlooked
            for visit in self._visits:
                visit.dropped = True
            self._give_up_load()
        await self.end_worker()

    async def end_worker(self) -> None:
        """End the process, if there is one, and wait for that. A cancelled caller does not wait."""
        watch, self._idle_watch = self._idle_watch, None
        if watch is not None and watch is not asyncio.current_task():
            watch.cancel()
        client, self._client = self._client, None  # from here on it is not loaded
        await asyncio.shield(self._end(client))

    async def _end(self, client: OpenAIBackend | None) -> None:
        async with self._changing:
            if client is not None:
                await client.close()
            if self.worker is not None:
                await asyncio.to_thread(self.worker.stop)
                self.worker = None

    async def _end_when_idle(self, worker: WorkerProcess, patience: float) -> None:
        while self.worker is worker and worker.alive:
            left = patience if self.in_use else self.last_used + patience - time.monotonic()
            if left <= 0:
                await self.end_worker()
            else:
                await asyncio.sleep(left)


def idle_seconds() -> float:
    """Seconds after which a worker that nobody uses ends; 0: never."""
    own = os.environ.get("SLM_IDLE_MINUTES", "")
    try:
        minutes = float(own) if own else IDLE_MINUTES
    except ValueError:
        minutes = -1.0
    if not 0 <= minutes < float("inf"):
        raise SLMError(
            f"SLM_IDLE_MINUTES must be a number of minutes, not {own!r}.",
            hint="Set it to 15, for example; 0 keeps workers until the program ends.",
        )
    return minutes * 60
