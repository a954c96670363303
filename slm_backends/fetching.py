"""Fetches in the background, which any page or session may start, follow and cancel.

    fetching.start("smollm2-135m-instruct@onnx")
    fetching.status("smollm2-135m-instruct@onnx").seconds_left

Knows which fetches run in this program, how fast they are and how the last ones ended. How weights
arrive is the store's. Every function may be called from any thread and returns at once.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from slm_backends import catalog, store
from slm_backends.catalog import Deployment
from slm_backends.errors import SLMError
from slm_backends.store import Progress

AT_ONCE = 2  # more would only share the line, and the disk
SPEED_OVER = 5.0  # seconds of which the speed is told
GRACE = 2.0  # seconds that fetches have to stop when the program ends

State = Literal["running", "done", "cancelled", "failed"]


@dataclass(frozen=True)
class Fetch:
    """A fetch as it is now, or as it ended.

    progress          None while it waits for another fetch to end
    bytes_per_second  over the last seconds, None where no bytes are counted
    seconds_left      of the present step at that speed
    error             why it failed
    """

    deployment_id: str
    state: State = "running"
    progress: Progress | None = None
    bytes_per_second: float | None = None
    seconds_left: float | None = None
    error: SLMError | None = None


class Speedometer:
    """Tells the speed of a step that counts bytes, over the last seconds and not since its begin:
    a line that became slow shows, and what an earlier fetch had brought already counts for nothing.
    """

    def __init__(self) -> None:
        self._step = ""
        self._seen: deque[tuple[float, int]] = deque()

    def read(self, now: Progress, clock: float | None = None) -> tuple[float | None, float | None]:
        """(bytes a second, seconds left of the step), None where they are not known yet.

        `clock` is when it was so, in seconds; None: now.
        """
        clock = time.monotonic() if clock is None else clock
        if now.step != self._step:
            self._step = now.step
            self._seen.clear()
        if now.unit != "bytes":
            return None, None
        if not self._seen or self._seen[-1][1] != now.done:
            self._seen.append((clock, now.done))
        while len(self._seen) > 1 and clock - self._seen[1][0] > SPEED_OVER:
            self._seen.popleft()
        begun, done = self._seen[0]
        if clock - begun < 0.5:
            return None, None
        speed = (now.done - done) / (clock - begun)
        if now.total is None or speed <= 0:
            return speed, None
        return speed, max(now.total - now.done, 0) / speed


class _Going:
    """A fetch that waits or runs."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.now = Fetch(deployment.id)
        self.cancelled = threading.Event()
        self.thread: threading.Thread | None = None
        self._speed = Speedometer()

    def look(self, progress: Progress | None = None) -> Fetch:
        """How far it is: with this progress, or still with the last. The caller holds the lock."""
        progress = progress or self.now.progress
        if progress is not None:
            speed, left = self._speed.read(progress)
            self.now = Fetch(self.deployment.id, "running", progress, speed, left)
        return self.now


class Fetches:
    """All fetches of one program. Made once, at the bottom of this module."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._going: dict[str, _Going] = {}  # in the order in which they were asked for
        self._ended: dict[str, Fetch] = {}

    def start(self, deployment_id: str) -> None:
        """Begin to fetch, or join the fetch that runs. Raises NotFound; all else that goes wrong is
        in `status`."""
        deployment = catalog.load().deployment(deployment_id)
        with self._lock:
            if deployment_id not in self._going:
                self._ended.pop(deployment_id, None)
                self._going[deployment_id] = _Going(deployment)
                self._begin_next()

    def status(self, deployment_id: str) -> Fetch | None:
        """The fetch of that deployment, running or ended; None where there was none."""
        with self._lock:
            going = self._going.get(deployment_id)
            return going.look() if going else self._ended.get(deployment_id)

    def running(self) -> list[Fetch]:
        """Those that run or wait, in the order in which they were asked for."""
        with self._lock:
            return [going.look() for going in self._going.values()]

    def cancel(self, deployment_id: str) -> None:
        """Stop a fetch; what it brought is kept, and the next one goes on from there."""
        with self._lock:
            going = self._going.get(deployment_id)
            if going is None:
                return
            going.cancelled.set()
            if going.thread is None:
                self._end(going, "cancelled")

    def clear(self, deployment_id: str) -> None:
        """Forget how a fetch ended."""
        with self._lock:
            self._ended.pop(deployment_id, None)

    def close(self) -> None:
        """Stop all of them, and wait for that a little."""
        for fetch in self.running():
            self.cancel(fetch.deployment_id)
        until = time.monotonic() + GRACE
        with self._lock:
            threads = [going.thread for going in self._going.values() if going.thread]
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _begin_next(self) -> None:
        """The caller holds the lock."""
        running = sum(going.thread is not None for going in self._going.values())
        for going in self._going.values():
            if running < AT_ONCE and going.thread is None:
                running += 1
                # A daemon: a program that ends does not wait for gigabytes.
                going.thread = threading.Thread(
                    target=self._fetch, args=(going,), name="fetch", daemon=True
                )
                going.thread.start()

    def _fetch(self, going: _Going) -> None:
        def progress(now: Progress) -> None:
            with self._lock:
                going.look(now)

        state: State = "done"
        problem = None
        try:
            store.fetch(going.deployment, progress, going.cancelled.is_set)
        except SLMError as error:
            state, problem = "failed", error
        except Exception as error:  # a defect of ours must still end it, with its name
            state, problem = "failed", SLMError(f"{type(error).__name__}: {error}")
        if problem is not None and going.cancelled.is_set():
            state, problem = "cancelled", None
        with self._lock:
            self._end(going, state, problem)

    def _end(self, going: _Going, state: State, problem: SLMError | None = None) -> None:
        """The caller holds the lock."""
        del self._going[going.deployment.id]
        self._ended[going.deployment.id] = Fetch(
            going.deployment.id, state, going.now.progress, error=problem
        )
        self._begin_next()


_fetches = Fetches()
atexit.register(_fetches.close)

start = _fetches.start
status = _fetches.status
running = _fetches.running
cancel = _fetches.cancel
clear = _fetches.clear
