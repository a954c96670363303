"""From a deployment's id to a Backend that answers: cached, loaded once, counted, evicted.

    selector.backend("smollm2-135m-instruct@onnx")   # at once; its first request loads it

Knows who uses what and how much memory that takes. A backend in use is never evicted; one that is
idle is, least recently used first, when another needs its room. Knows no runtime and no page.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import importlib.util
import os
import threading
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass

from slm_backends import background, catalog, store
from slm_backends.catalog import Deployment
from slm_backends.chat import (
    SAMPLING_FIELDS,
    About,
    Backend,
    Capabilities,
    ChatRequest,
    Event,
    Loading,
)
from slm_backends.endpoints.fake import PREFIX, FakeBackend
from slm_backends.endpoints.openai import OpenAIBackend
from slm_backends.errors import (
    MemoryExceeded,
    NotFetched,
    SLMError,
    StreamBroken,
    Unauthorized,
    Unavailable,
    WorkerDied,
)
from slm_backends.worker import engines
from slm_backends.worker.process import WorkerProcess

MEMORY_SHARE = 0.8  # of this computer's memory, for all workers together; SLM_MEMORY_GB sets it
POLL_SECONDS = 0.05  # between two looks at a worker that loads
IMPATIENT_SECONDS = 300.0  # for a load; a large model from a slow disk takes minutes


class LocalBackend:
    """A deployment on a runtime of this computer, in a worker process started when needed."""

    def __init__(self, deployment: Deployment, owner: Selector) -> None:
        self.id = deployment.id
        self.deployment = deployment
        self.leases = 0
        self.last_used = 0.0
        self.loads = 0  # how often a worker was started, for those who count
        self.capabilities = Capabilities(
            engines.sampling_fields(deployment.runtime), deployment.model.context
        )
        self.worker: WorkerProcess | None = None
        self._owner = owner
        self._client: OpenAIBackend | None = None
        self._loading: asyncio.Task[None] | None = None

    @property
    def about(self) -> About:
        if self.worker is not None and self.worker.ready:
            return self.worker.about
        return About(self.deployment.runtime_name, artefact=self.deployment.artefact)

    @property
    def loaded(self) -> bool:
        # The client is made a moment after the worker is ready: before that, nobody could ask it.
        return self._client is not None and self.worker is not None and self.worker.ready

    @property
    def in_use(self) -> bool:
        return self.leases > 0 or (self._loading is not None and not self._loading.done())

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self.capabilities.check(request)
        self.leases += 1
        try:
            async with aclosing(self.load()) as progress:
                async for step in progress:
                    yield step
            worker, client = self.worker, self._client
            if worker is None or client is None:
                raise WorkerDied(f"{self.id} was unloaded.", hint="Send the prompt again.")
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
            self.leases -= 1
            self.last_used = time.monotonic()

    async def load(self) -> AsyncGenerator[Loading, None]:
        """Load the model unless it is there, with progress; any number of callers, one load."""
        if self.loaded:
            return
        if self._loading is None or self._loading.done():
            self._loading = asyncio.ensure_future(self._load())
            # Looked at here too, as all who wait for it may have been cancelled.
            self._loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        task = self._loading
        while not task.done():
            if self.worker is not None:
                yield Loading(self.worker.fraction, self.worker.step)
            await asyncio.wait((task,), timeout=POLL_SECONDS)
        task.result()

    async def _load(self) -> None:
        if not store.is_ready(self.deployment):
            raise NotFetched(
                f"The weights of {self.id} are not on this computer.",
                hint=f"Fetch them with: python -m slm_backends fetch {self.id}",
            )
        await self._end_worker()  # one that died
        folder = store.folder(self.deployment)
        async with self._owner.room:  # held until the new worker counts, or two could pass at once
            await self._owner.make_room(self)
            worker = self.worker = await asyncio.to_thread(WorkerProcess, self.id, folder)
        self.loads += 1
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
        self.capabilities = Capabilities(self.capabilities.sampling, worker.context)
        self._client = OpenAIBackend(
            self.id,
            worker.base_url,
            self.id,
            self.capabilities,
            api_key=worker.token,
            about=worker.about,
            ours=True,
        )

    async def unload(self) -> None:
        """End the worker process; its memory goes back. Runs that use it, or wait for it, fail."""
        async with self._owner.room:  # or one that is being started would be overlooked
            await self._end_worker()

    async def _end_worker(self) -> None:
        worker, self.worker = self.worker, None
        await self._drop_client()
        if worker is not None:
            await asyncio.to_thread(worker.stop)

    async def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


@dataclass(frozen=True)
class State:
    """Whether a deployment can answer now: one of the words below, and why not in a sentence.

    ready, loaded      it can
    fetchable          its weights are not here yet
    not installed      its runtime's package is missing
    needs key          an environment variable is not set
    unknown            a server that nobody has asked yet
    """

    word: str
    reason: str = ""

    @property
    def usable(self) -> bool:
        return self.word in ("ready", "loaded", "unknown")


class Selector:
    """All backends of one process. Made once, at the bottom of this module."""

    def __init__(self) -> None:
        self._backends: dict[str, Backend] = {}
        self._lock = threading.Lock()
        self.room = asyncio.Lock()

    def backend(self, deployment_id: str) -> Backend:
        """The backend of that id, the same object for every caller. From any thread, at once.

        Raises NotFound, or Unauthorized where the key that the deployment names is not set.
        """
        with self._lock:
            cached = self._backends.get(deployment_id)
            if cached is None:
                cached = self._backends[deployment_id] = self._make(deployment_id)
            return cached

    def _make(self, deployment_id: str) -> Backend:
        if deployment_id.startswith(PREFIX):
            return FakeBackend(deployment_id)
        deployment = catalog.load().deployment(deployment_id)
        if deployment.local:
            return LocalBackend(deployment, self)
        key = os.environ.get(deployment.key, "") if deployment.key else ""
        if deployment.key and not key:
            raise Unauthorized(
                f"{deployment_id} needs a key.", hint=f"Set the variable {deployment.key}."
            )
        return OpenAIBackend(
            deployment_id,
            deployment.base_url,
            deployment.served_as or deployment.model.id,
            Capabilities(frozenset(deployment.sampling), deployment.model.context),
            api_key=key,
            about=About(deployment.runtime_name, artefact=deployment.artefact),
            start_hint=deployment.start,
        )

    def loaded(self) -> list[LocalBackend]:
        """Local backends whose worker runs, most recently used last."""
        with self._lock:
            local = [item for item in self._backends.values() if isinstance(item, LocalBackend)]
        return sorted((item for item in local if item.worker), key=lambda item: item.last_used)

    def unload(self, deployment_id: str) -> None:
        """End the worker of that deployment, if it has one, and wait for it. Not from the loop."""
        with self._lock:
            found = self._backends.get(deployment_id)
        if isinstance(found, LocalBackend):
            background.submit(found.unload()).result()

    async def make_room(self, wanted: LocalBackend) -> None:
        """Unload idle backends until `wanted` fits the budget. Raises MemoryExceeded.

        The caller holds `room`.
        """
        budget = memory_budget()
        while True:
            others = [item for item in self.loaded() if item is not wanted]
            if _memory(others) + wanted.deployment.memory <= budget:
                return
            busy = [item for item in others if item.in_use]
            if _memory(busy) + wanted.deployment.memory > budget:  # evicting would be in vain
                raise MemoryExceeded(
                    f"{wanted.id} needs {gigabytes(wanted.deployment.memory)} of memory; "
                    f"{gigabytes(_memory(busy))} of {gigabytes(budget)} are in use by "
                    f"{', '.join(item.id for item in busy) or 'nothing'}.",
                    hint="Wait for the running replies, or set SLM_MEMORY_GB higher.",
                )
            idle = next(item for item in others if not item.in_use)
            await idle._end_worker()

    def close(self) -> None:
        """End every worker. Called at exit; safe to call twice."""
        for item in self.loaded():
            worker, item.worker = item.worker, None
            if worker is not None:
                worker.stop()


def check(deployment_id: str) -> None:
    """Raise NotFound unless there is such a deployment."""
    if deployment_id.startswith(PREFIX):
        FakeBackend(deployment_id)
    else:
        catalog.load().deployment(deployment_id)


def honoured(deployment_id: str) -> tuple[str, frozenset[str]]:
    """(the runtime's name, the fields of Sampling that this deployment honours), without a key."""
    if deployment_id.startswith(PREFIX):
        return "Fake", SAMPLING_FIELDS
    deployment = catalog.load().deployment(deployment_id)
    if deployment.local:
        return deployment.runtime_name, engines.sampling_fields(deployment.runtime)
    return deployment.runtime_name, frozenset(deployment.sampling)


def state(deployment: Deployment) -> State:
    """Whether this deployment can answer now. Looks at files and variables, asks no server."""
    if deployment.local:
        missing = not_installed(deployment)
        if missing:
            return State("not installed", f"pip install {missing}")
        if not store.is_ready(deployment):
            return State(
                "fetchable", f"not on this computer: python -m slm_backends fetch {deployment.id}"
            )
        cached = _selector._backends.get(deployment.id)
        loaded = isinstance(cached, LocalBackend) and cached.loaded
        return State("loaded" if loaded else "ready")
    if deployment.key and not os.environ.get(deployment.key):
        return State("needs key", f"set {deployment.key}")
    return State("unknown", deployment.start)


def not_installed(deployment: Deployment) -> str:
    """What `pip install` must be given for this deployment's runtime, or empty."""
    _, modules, package = catalog.LOCAL_RUNTIMES[deployment.runtime]
    if all(importlib.util.find_spec(module) for module in modules):
        return ""
    return package


def memory_budget() -> int:
    """Bytes that all workers may take together."""
    own = os.environ.get("SLM_MEMORY_GB", "")
    try:
        return int(float(own) * 1e9) if own else int(MEMORY_SHARE * total_memory())
    except (ValueError, OverflowError):
        raise SLMError(
            f"SLM_MEMORY_GB must be a number, not {own!r}.", hint="Set it to 8, for example."
        ) from None


def total_memory() -> int:
    """Bytes of memory in this computer."""
    import psutil

    return int(psutil.virtual_memory().total)


def _memory(backends: Iterable[LocalBackend]) -> int:
    return sum(item.deployment.memory for item in backends)


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


_selector = Selector()
atexit.register(_selector.close)

backend = _selector.backend
unload = _selector.unload
loaded = _selector.loaded
close = _selector.close
