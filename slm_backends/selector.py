"""From a deployment's id to a Backend that answers: cached, and known by everybody under that id.

    selector.backend("smollm2-135m-instruct@onnx")   # at once; its first request loads it

Knows which backends there are, whether a deployment can answer here, and what is loaded. A worker's
life is local.py's, who may load is memory.py's, how a server is asked is remote.py's. Where a
visitor has typed a key or an address, the backends made with it are kept apart, under their Access:
nobody else is ever given them. Knows no runtime and no page.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import importlib.metadata
import importlib.util
import re
import shutil
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from slm_backends import background, catalog, fit, remote, settings, store
from slm_backends.access import EVERYONE, Access, Connection
from slm_backends.catalog import Deployment, Model
from slm_backends.chat import SAMPLING_FIELDS, Backend, Loading
from slm_backends.endpoints.fake import PREFIX, FakeBackend
from slm_backends.errors import BadRequest, SLMError
from slm_backends.health import UNKNOWN, Board, Health
from slm_backends.local import LocalBackend, Worker
from slm_backends.memory import Memory
from slm_backends.providers import Provider
from slm_backends.remote import RemoteBackend
from slm_backends.worker import engines

#: OpenVINO's device -> what the system has where it has a driver for such a device
LINUX_DRIVERS = {"GPU": Path("/dev/dri"), "NPU": Path("/dev/accel")}


@dataclass(frozen=True)
class State:
    """Whether a deployment can answer now: one of the words below, and why not in a sentence.

    ready, loaded      it can, unless `reason` says that it is too large for this computer's memory
    fetchable          its weights are not here yet
    not installed      its runtime's package is missing
    not here           this computer lacks what it needs
    needs key          its server was given no key, or no address, or refused the key
    unknown            a server that nobody has asked yet, or that does not say
    not reachable, rate limited, retired  what its server, or its provider, last said

    `label` is the word as it is shown: with the day or the time of some.
    """

    word: str
    reason: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.word)

    @property
    def usable(self) -> bool:
        """Whether it may be asked. A server that was silent may have been started since."""
        return self.word in ("ready", "loaded", "unknown", "not reachable", "rate limited")


class _Shelf:
    """What belongs to those who share their connections: everyone, or one visitor."""

    def __init__(self) -> None:
        self.backends: dict[str, RemoteBackend] = {}
        self.board = Board()

    def close(self) -> None:
        for backend in self.backends.values():
            background.submit(backend.leave())
        self.backends = {}


class Selector:
    """All backends of one process. Made once, at the bottom of this module."""

    def __init__(self) -> None:
        self._backends: dict[str, Backend] = {}
        self._lock = threading.Lock()
        self._memory = Memory(self.loaded)
        self._everyones = _Shelf()
        self._visitors: weakref.WeakKeyDictionary[Access, _Shelf] = weakref.WeakKeyDictionary()

    def backend(self, deployment_id: str, access: Access = EVERYONE) -> Backend:
        """The backend of that id, from any thread, at once: the same object for every caller, but
        for servers that this visitor reaches with a key or at an address of their own.

        Raises NotFound, Unauthorized where its server was given no address or no key, and Retired
        where its provider has ended: a key that is set for something else is not sent there.
        """
        with self._lock:
            cached = self._backends.get(deployment_id)
            if cached is not None:
                return cached
            if deployment_id.startswith(PREFIX):
                made: Backend = FakeBackend(deployment_id)
            else:
                deployment = access.catalog().deployment(deployment_id)
                if deployment.provider is not None:
                    return self._remote(deployment, deployment.provider, access)
                made = LocalBackend(deployment, self._memory)
            self._backends[deployment_id] = made
            return made

    def _remote(self, deployment: Deployment, provider: Provider, access: Access) -> RemoteBackend:
        connection = access.connection(provider)
        if connection.ended:
            raise remote.ended(connection)
        if connection.missing:
            raise remote.missing(connection)
        shelf = self._shelf(connection, access)
        cached = shelf.backends.get(deployment.id)
        if cached is not None:
            if cached.connection == connection and cached.deployment == deployment:
                return cached
            background.submit(cached.leave())
        made = shelf.backends[deployment.id] = RemoteBackend(deployment, connection, shelf.board)
        return made

    def _shelf(self, connection: Connection, access: Access) -> _Shelf:
        if not connection.own:
            return self._everyones
        if access not in self._visitors:
            self._visitors[access] = shelf = _Shelf()
            weakref.finalize(access, shelf.close)
        return self._visitors[access]

    def health(self, provider: Provider, access: Access = EVERYONE, served_as: str = "") -> Health:
        """What is known of a server, or of one model on it. Asks nobody."""
        connection = access.connection(provider)
        with self._lock:
            board = self._shelf(connection, access).board
        known = board.model(connection, served_as) if served_as else board.server(connection)
        if connection.ended:
            return replace(known, word="retired", reason=provider.notice, on=provider.retired)
        if connection.missing:
            return Health("needs key", f"It needs {connection.missing}.")
        return known

    def probe(
        self, provider: Provider, access: Access = EVERYONE, deployment: Deployment | None = None
    ) -> Future[Health]:
        """Ask a server for its models; and that deployment for one token, where the owner allows it
        with SLM_PROBE_TOKENS=1. Raises as `backend` does."""
        asked = deployment or Deployment(
            provider.place, Model("", provider.name), provider.id, provider=provider
        )
        one_token = deployment is not None and settings.flag("SLM_PROBE_TOKENS", default=False)
        with self._lock:
            backend = self._remote(asked, provider, access)
        return background.submit(backend.probe(one_token=one_token))

    def look(self, provider: Provider, access: Access = EVERYONE) -> Health:
        """What is known of a server; where that is old and somebody has configured the server, it
        is asked anew in the background."""
        known = self.health(provider, access)
        connection = access.connection(provider)
        if connection.configured and not known.fresh and not self.probing(provider, access):
            self.probe(provider, access)
            background.submit(asyncio.sleep(0)).result()  # it has begun: `probing` knows of it
        return known

    def probing(self, provider: Provider, access: Access = EVERYONE) -> bool:
        """Whether that server is being asked now."""
        connection = access.connection(provider)
        with self._lock:
            return self._shelf(connection, access).board.asking(connection)

    def loaded(self) -> list[LocalBackend]:
        """Local backends whose worker runs, most recently used last."""
        running = [item for item in self._local() if item.worker and item.worker.alive]
        return sorted(running, key=lambda item: item.last_used)

    def workers(self) -> list[Worker]:
        """The workers as they are now, in the order in which they were first asked for."""
        return [worker for item in self._local() if (worker := item.facts()) is not None]

    def load(self, deployment_id: str) -> Future[None]:
        """Begin to load without a request; `loading` tells how far it is, the future how it ended.

        Raises as `backend` does, and BadRequest for what runs on a server.
        """
        found = self.backend(deployment_id)
        if not isinstance(found, LocalBackend):
            raise BadRequest(f"{deployment_id} runs on a server: there is nothing to load.")

        async def load() -> None:
            async for _ in found.load():
                pass

        future = background.submit(load())
        background.submit(asyncio.sleep(0)).result()  # it has begun: `loading` knows of it
        return future

    def loading(self, deployment_id: str) -> Loading | None:
        """How far the load is that is under way, waiting for memory included; None without one."""
        found = self._found(deployment_id)
        return found.loading if found else None

    def load_failure(self, deployment_id: str) -> SLMError | None:
        """Why the last load of that deployment failed, until another one begins."""
        found = self._found(deployment_id)
        return found.failure if found else None

    def unload(self, deployment_id: str, *, force: bool = False) -> None:
        """End the worker of that deployment, if it has one, or its load, and wait for that.

        Not from the loop. Raises Busy while runs use it, or wait for it; with `force` they fail.
        """
        found = self._found(deployment_id)
        if found:
            background.submit(found.unload(force)).result()

    def _found(self, deployment_id: str) -> LocalBackend | None:
        with self._lock:
            found = self._backends.get(deployment_id)
        return found if isinstance(found, LocalBackend) else None

    def _local(self) -> list[LocalBackend]:
        with self._lock:
            return [item for item in self._backends.values() if isinstance(item, LocalBackend)]

    def close(self) -> None:
        """End every worker. Called at exit; safe to call twice."""
        for item in self.loaded():
            worker, item.worker = item.worker, None
            if worker is not None:
                worker.stop()


def ask_servers(seconds: float) -> None:
    """Ask every server that the owner has set up, all at once, and wait for that long at most; then
    each deployment that looks ready for one token, where the owner allows that."""
    known = catalog.load()
    deadline = time.monotonic() + seconds
    asked = []
    for provider in known.servers:
        with contextlib.suppress(SLMError):  # set up wrongly: `state` says how
            if EVERYONE.connection(provider).configured:
                asked.append(probe(provider))
    futures.wait(asked, seconds)
    if not settings.flag("SLM_PROBE_TOKENS", default=False):
        return
    for item in known.deployments.values():
        if item.provider is not None and state(item).word == "ready":
            left = max(0.0, deadline - time.monotonic())
            futures.wait([probe(item.provider, deployment=item)], left)


def check(deployment_id: str, access: Access = EVERYONE) -> None:
    """Raise NotFound unless there is such a deployment."""
    if deployment_id.startswith(PREFIX):
        FakeBackend(deployment_id)
    else:
        access.catalog().deployment(deployment_id)


def honoured(deployment_id: str, access: Access = EVERYONE) -> tuple[str, frozenset[str]]:
    """(the runtime's name, the fields of Sampling that this deployment honours), without a key."""
    if deployment_id.startswith(PREFIX):
        return "Fake", SAMPLING_FIELDS
    deployment = access.catalog().deployment(deployment_id)
    if deployment.local:
        return deployment.runtime_name, engines.sampling_fields(deployment.runtime)
    try:
        fields = backend(deployment_id, access).capabilities.sampling
    except SLMError:
        fields = frozenset(deployment.sampling)
    return deployment.runtime_name, fields


def state(deployment: Deployment, access: Access = EVERYONE) -> State:
    """Whether this deployment can answer now, as far as is known. Looks at files, variables and
    what servers said before; asks no server."""
    if deployment.provider is not None:
        return _state_of_server(deployment, deployment.provider, access)
    lacking = _lacking(deployment)
    if lacking:
        return State("not here", f"needs {lacking}")
    missing = not_installed(deployment)
    if missing:
        return State("not installed", f"pip install {missing}")
    too_large = fit.fits(deployment).reason
    if not store.is_ready(deployment):
        command = f"not on this computer: python -m slm_backends fetch {deployment.id}"
        return State("fetchable", too_large or command)
    cached = _selector._backends.get(deployment.id)
    loaded = isinstance(cached, LocalBackend) and cached.loaded
    return State("loaded" if loaded else "ready", "" if loaded else too_large)


def _state_of_server(deployment: Deployment, provider: Provider, access: Access) -> State:
    name = deployment.served_as or deployment.model.id
    try:
        connection = access.connection(provider)
        known = health(provider, access, name)
    except SLMError as error:  # what is set can be no key or no address, or cannot be read
        return State("needs key", error.message)
    if connection.ended:
        return State("retired", known.reason, known.label)
    listed = known.models if provider.lists and known.word == "ready" else None
    named = listed is not None and _lists(listed, name)
    # That the server answers says nothing of a model which was taken from it.
    if deployment.retired and not named and not (known.of_model and known.word == "ready"):
        gone = f"{provider.name} does not run it any more"
        return State("retired", gone, f"retired on {deployment.retired}")
    if connection.missing:
        return State("needs key", f"set {connection.missing}, or type it on the Models page")
    if listed is not None and not named and not known.of_model:
        return State("unknown", f"the server does not list {name}")
    if known is UNKNOWN:
        return State("unknown", deployment.start)
    reason = known.reason
    if known.word == "not reachable":
        reason = f"{reason} {deployment.start}".strip()
    return State(known.word, reason, known.label)


def _lists(models: Iterable[str], name: str) -> bool:
    """Whether a server's list has that name; Ollama's names may leave `:latest` out."""
    return name in models or f"{name}:latest" in models


def not_installed(deployment: Deployment) -> str:
    """What `pip install` must be given for this deployment's runtime, or empty."""
    _, modules, package = catalog.LOCAL_RUNTIMES[deployment.runtime]
    if not all(_has_module(module) for module in modules):
        return deployment.package or package
    # The module may come from another build of the runtime, which lacks what this one needs.
    named = re.findall(r"[A-Za-z0-9._-]+(?:\[[^\]]*\])?", deployment.package)
    if not all(_has_package(name.partition("[")[0]) for name in named):
        return deployment.package
    return ""


def _lacking(deployment: Deployment) -> str:
    """What this computer lacks for the deployment, in words, or empty. Looks, and starts nothing:
    whether a driver works is only known when a worker tries it."""
    if deployment.runtime == "mlx" and sys.platform == "win32":
        return "macOS or Linux"
    device = deployment.device.partition(":")[0]  # cuda:1 is one of several
    if device == "dml" and sys.platform != "win32":
        return deployment.needs or "Windows"
    if device == "mps" and sys.platform != "darwin":
        return deployment.needs or "a Mac with Apple silicon"
    if device == "cuda" and not _has_nvidia():
        return deployment.needs or "an NVIDIA GPU"
    driver = LINUX_DRIVERS.get(device)
    if driver is not None and sys.platform == "linux" and not driver.exists():
        return deployment.needs or f"an Intel {device}"
    return ""


@functools.cache
def _has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@functools.cache
def _has_package(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@functools.cache
def _has_nvidia() -> bool:
    return Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None


_selector = Selector()
atexit.register(_selector.close)

backend = _selector.backend
load = _selector.load
loading = _selector.loading
load_failure = _selector.load_failure
unload = _selector.unload
loaded = _selector.loaded
workers = _selector.workers
health = _selector.health
probe = _selector.probe
look = _selector.look
probing = _selector.probing
close = _selector.close
