"""Works through a plan in the background, and can be stopped, resumed and cut off.

Local deployments that fit into the memory together run at the same time, the others one group after
the other; servers run beside them. Each has several requests under way, since runtimes answer many
at once faster than one by one. A reply is written to the file as it comes.

Knows Runs and memory. Knows no page: who watches asks for `progress` and `live()`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections import deque
from collections.abc import Awaitable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from filelock import FileLock, Timeout

from slm_backends import background, fit, run, selector
from slm_backends.access import EVERYONE, Access
from slm_backends.catalog import Deployment
from slm_backends.chat import Backend
from slm_backends.errors import (
    Busy,
    MemoryExceeded,
    NotFetched,
    NotFound,
    NotInstalled,
    SLMError,
    Unauthorized,
    Unavailable,
    Unsupported,
    WorkerDied,
)
from slm_backends.multilingual import results as files
from slm_backends.multilingual.plan import Key, Question
from slm_backends.multilingual.results import Cell, Results
from slm_backends.run import Reply, Run

LOCAL_AT_ONCE = 16  # requests to a local deployment; what its runtime cannot take yet waits there
BATCHED_AT_ONCE = 32  # where the runtime computes them all in one batch: a quarter faster than 16
REMOTE_AT_ONCE = 4  # to a server, which others use too
BUSY_SECONDS = 1.0  # until a worker whose line is full is asked again
BUSY_TIMES = 60  # at most
#: After one of these there is no use in asking the same deployment the next question,
HOPELESS = (MemoryExceeded, NotFetched, NotFound, NotInstalled, Unauthorized, Unsupported)
#: and after so many times in a row that it was found ended.
DEAD = (WorkerDied, Unavailable)
DEAD_TIMES = 3


@dataclass(frozen=True)
class Progress:
    """Cells that are done, that failed, and all there are.

    seconds_left  a guess from those of this run that have ended; None before there are two
    doing         what is under way, in a few words
    """

    done: int
    failed: int
    total: int
    seconds_left: float | None
    doing: str


@dataclass
class _Lane:
    """One deployment's part of a run: the questions that it has still to be asked.

    ready       when it began to answer, its load behind it; 0 before a reply of it has ended
    ended       replies, of `characters` together
    left        questions without a reply
    dead, died  how often in a row it was found ended, and when the last time
    """

    id: str
    deployment: Deployment | None
    waiting: deque[Question]
    ready: float = 0.0
    ended: int = 0
    characters: int = 0
    left: int = field(init=False)
    dead: int = 0
    died: float = 0.0

    def __post_init__(self) -> None:
        self.left = len(self.waiting)

    @property
    def local(self) -> bool:
        return self.deployment is not None and self.deployment.local

    @property
    def at_once(self) -> int:
        if not self.local:
            return REMOTE_AT_ONCE
        batches = self.deployment is not None and self.deployment.runtime == "openvino"
        return BATCHED_AT_ONCE if batches else LOCAL_AT_ONCE


class Campaign:
    """A plan being worked through. Every method may be called from any thread and returns at once,
    but `wait`.

    problem  why nothing can be written to the file any more; empty: all is well
    kept     whether the file could be begun at the last start
    """

    def __init__(
        self,
        results: Results,
        file: Path | None = None,
        access: Access = EVERYONE,
    ) -> None:
        self.results = results
        self.problem = ""
        self.kept = False
        self._file = file
        self._access = access
        self._lock = threading.Lock()
        self._future: Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._live: dict[Key, Run] = {}
        self._groups: list[list[_Lane]] = []
        self._stream: TextIO | None = None
        self._claim: FileLock | None = None

    @property
    def running(self) -> bool:
        return self._future is not None and not self._future.done()

    def start(self, only: Collection[Key] | None = None) -> None:
        """Ask for all cells that have no whole reply, or for these; nothing while it runs.

        Raises Busy where another run writes the file.
        """
        with self._lock:
            if self.running:
                return
            wanted = set(self.results.missing if only is None else only)
            lanes = [
                _Lane(
                    deployment,
                    self._access.catalog().deployments.get(deployment),
                    deque(q for q in self.results.plan.questions if (q.id, deployment) in wanted),
                )
                for deployment in self.results.plan.deployments
            ]
            groups = _groups([lane for lane in lanes if lane.waiting])
            self._claim_file()
            self._groups, self._stopping = groups, False
            self._future = background.submit(self._work())

    def stop(self) -> None:
        """End what is under way; replies that are not whole are not kept."""

        def cancel() -> None:
            self._stopping = True  # also where it has not begun yet
            if self._task is not None:
                self._task.cancel()

        background.call(cancel)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until nothing runs any more, or for `timeout` seconds; whether that is so."""
        if self._future is not None:
            ended, _ = concurrent.futures.wait((self._future,), timeout)
            for future in ended:
                future.result()  # a defect of ours is not passed over
        return not self.running

    def live(self) -> dict[Key, Reply]:
        """The replies that are being written, as far as they are."""
        return {key: running.reply for key, running in self._live.copy().items()}

    @property
    def progress(self) -> Progress:
        plan, cells = self.results.plan, self.results.cells
        found = [cell for key in plan.keys if (cell := cells.get(key)) is not None]
        done = sum(cell.done for cell in found)
        return Progress(
            done,
            len(found) - done,
            len(plan.keys),
            self._seconds_left() if self.running else None,
            self._doing() if self.running else "",
        )

    def _seconds_left(self) -> float | None:
        """Groups come one after the other; in a group the slowest counts. Half of a reply counts
        as half, going by the usual length."""
        lanes = [lane for group in self._groups for lane in group]
        if sum(lane.ended for lane in lanes) < 2:
            return None
        now = time.monotonic()
        parts = dict.fromkeys((lane.id for lane in lanes), 0.0)
        usual = sum(lane.characters for lane in lanes) / sum(lane.ended for lane in lanes)
        for (_, deployment), reply in self.live().items():
            parts[deployment] += min(0.95, len(reply.text) / max(1, usual))
        each = {
            lane.id: (now - lane.ready) / (lane.ended + parts[lane.id])
            for lane in lanes
            if lane.ended
        }
        mean = sum(each.values()) / len(each)
        return sum(
            max(each.get(lane.id, mean) * max(0.0, lane.left - parts[lane.id]) for lane in group)
            for group in self._groups
        )

    def _doing(self) -> str:
        replies = self.live()
        loading = {
            deployment: reply
            for (_, deployment), reply in replies.items()
            if reply.state == "loading" or (reply.state == "queued" and reply.queue_reason)
        }
        said = []
        for deployment, reply in loading.items():
            why = reply.queue_reason if reply.state == "queued" else "loading"
            said.append(f"{deployment}: {why}")
        writing = sum(reply.state == "decoding" for reply in replies.values())
        if writing:
            said.append(f"{writing} being written")
        return ", ".join(said) or "starting"

    # --- the file ---------------------------------------------------------------------------------

    def _claim_file(self) -> None:
        self.problem, self.kept = "", False
        if self._file is None:
            return
        claim = FileLock(f"{self._file}.lock", timeout=0, thread_local=False)
        try:
            claim.acquire()
        except Timeout:
            raise Busy(
                f"{self._file.name} is being written by another run.",
                hint="Wait for that run, stop it, or choose another file.",
            ) from None
        except OSError as error:
            self._lost(error)
        else:
            self._claim = claim
            self.kept = True

    def _open(self) -> None:
        """In the plan's order, to be gone on with: what was damaged in it is gone."""
        if self._claim is None or self._file is None:
            return
        try:
            files.write(self.results, self._file)
            self._stream = self._file.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            self._lost(error)

    def _write(self, line: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(line)
            self._stream.flush()
        except OSError as error:
            self._lost(error)

    def _close(self) -> None:
        """Everything at once, in order: where there was no room before there may be some now."""
        claim, self._claim = self._claim, None
        if claim is None or self._file is None:
            return
        try:
            if self._stream is not None:
                self._stream.close()
            files.write(self.results, self._file)
            self.problem = ""
        except OSError as error:
            self._lost(error)
        self._stream = None
        with contextlib.suppress(OSError):  # while it is ours: a moment later it is another's
            Path(claim.lock_file).unlink()
        claim.release()

    def _lost(self, error: OSError) -> None:
        """The run goes on without its file."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
        name = self._file.name if self._file is not None else ""
        self.problem = f"{name} cannot be written: {error.strerror or error}."

    # --- on the background loop -------------------------------------------------------------------

    async def _work(self) -> None:
        lanes = [lane for group in self._groups for lane in group]
        try:
            await asyncio.to_thread(self._open)
            self._task = asyncio.current_task()
            if not self._stopping:
                servers = (self._ask_all(lane) for lane in lanes if not lane.local)
                await _together(self._ask_locals(), *servers)
        except asyncio.CancelledError:
            pass  # stopped: what was under way has ended
        finally:
            self._task = None
            await asyncio.to_thread(self._close)

    async def _ask_locals(self) -> None:
        for group in self._groups:
            await _together(*(self._ask_all(lane) for lane in group if lane.local))

    async def _ask_all(self, lane: _Lane) -> None:
        try:
            backend = selector.backend(lane.id, self._access)
        except SLMError as error:
            self._give_up(lane, error)
            return
        at_once = self.results.plan.at_once or lane.at_once

        async def ask_on() -> None:
            while lane.waiting:
                await self._ask(lane, lane.waiting.popleft(), backend)

        await _together(*(ask_on() for _ in range(min(at_once, lane.left))))

    async def _ask(self, lane: _Lane, question: Question, backend: Backend) -> None:
        key = question.id, lane.id
        begun = time.monotonic()
        for _ in range(BUSY_TIMES):
            reply = await self._reply(key, question, backend)
            if not isinstance(reply.error, Busy) or not lane.local:
                break
            await asyncio.sleep(BUSY_SECONDS)
        lane.left -= 1
        if reply.state == "stopped":  # by somebody else, who unloaded the model
            return
        self._count(lane, reply)
        if self.results.abouts.get(lane.id) != reply.about and reply.about.runtime:
            self.results.abouts[lane.id] = reply.about
            self._write(files.about_line(lane.id, reply.about))
        self._keep(Cell.of(key, reply))
        if not isinstance(reply.error, DEAD):
            lane.dead = 0
        elif begun >= lane.died:  # those beside it ended with it, and are not counted
            lane.dead, lane.died = lane.dead + 1, time.monotonic()
        if isinstance(reply.error, HOPELESS) or lane.dead >= DEAD_TIMES:
            assert reply.error is not None
            self._give_up(lane, reply.error)

    @staticmethod
    def _count(lane: _Lane, reply: Reply) -> None:
        begun = time.monotonic() - reply.total_s + reply.room_s + reply.load_s
        lane.ready = min(lane.ready, begun) if lane.ended else begun
        lane.ended += 1
        lane.characters += len(reply.text)

    async def _reply(self, key: Key, question: Question, backend: Backend) -> Reply:
        running = run.start(backend, question.request(self.results.plan.sampling))
        self._live[key] = running
        try:
            return await running.ended()
        except asyncio.CancelledError:
            running.cancel()
            await running.ended()
            raise
        finally:
            del self._live[key]

    def _give_up(self, lane: _Lane, error: SLMError) -> None:
        """What this deployment was still to be asked fails for the same reason."""
        while lane.waiting:
            question = lane.waiting.popleft()
            lane.left -= 1
            self._keep(Cell(question.id, lane.id, error=error.message, finish_reason="error"))

    def _keep(self, cell: Cell) -> None:
        self.results.cells[cell.key] = cell
        self._write(files.cell_line(cell))


async def _together(*parts: Awaitable[None]) -> None:
    """All at the same time. Where one fails or this is cancelled, none goes on."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _groups(lanes: Sequence[_Lane]) -> list[list[_Lane]]:
    """Local deployments that fit into the memory together; servers are in the first group."""
    budget = fit.memory_budget()
    groups: list[list[_Lane]] = [[lane for lane in lanes if not lane.local]]
    taken = 0
    for lane in lanes:
        if lane.deployment is None or not lane.local:
            continue
        need = fit.fits(lane.deployment).held
        if taken and taken + need > budget:
            groups.append([])
            taken = 0
        groups[-1].append(lane)
        taken += need
    return [group for group in groups if group]
