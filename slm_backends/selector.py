"""From a deployment's id to a Backend that answers: cached, and known by everybody under that id.

    selector.backend("smollm2-135m-instruct@onnx")   # at once; its first request loads it

Knows which backends there are, whether a deployment can answer here, and what is loaded. A worker's
life is local.py's, who may load is memory.py's. Knows no runtime and no page.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from slm_backends import background, catalog, fit, store
from slm_backends.catalog import Deployment
from slm_backends.chat import SAMPLING_FIELDS, About, Backend, Capabilities, Loading
from slm_backends.endpoints.fake import PREFIX, FakeBackend
from slm_backends.endpoints.openai import OpenAIBackend
from slm_backends.errors import BadRequest, SLMError, Unauthorized
from slm_backends.fit import free_memory as free_memory
from slm_backends.fit import gigabytes as gigabytes
from slm_backends.fit import memory_budget as memory_budget
from slm_backends.fit import total_memory as total_memory
from slm_backends.local import LocalBackend
from slm_backends.local import Worker as Worker
from slm_backends.memory import Memory
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
        self._memory = Memory(self.loaded)

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
            return LocalBackend(deployment, self._memory)
        key = os.environ.get(deployment.key, "") if deployment.key else ""
        if deployment.key and not key:
            raise Unauthorized(
                f"{deployment_id} needs a key.", hint=f"Set the variable {deployment.key}."
            )
        return OpenAIBackend(
            deployment_id,
            deployment.base_url,
            deployment.served_as or deployment.model.id,
            Capabilities(
                frozenset(deployment.sampling),
                deployment.model.context,
                logprobs=deployment.logprobs,
            ),
            api_key=key,
            about=About(deployment.runtime_name, artefact=deployment.artefact),
            start_hint=deployment.start,
        )

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
    if not deployment.local:
        if deployment.key and not os.environ.get(deployment.key):
            return State("needs key", f"set {deployment.key}")
        return State("unknown", deployment.start)
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
close = _selector.close
