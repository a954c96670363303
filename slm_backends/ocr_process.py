"""The process that reads text in pictures, seen from its parent: started when the first picture
comes, kept for the next ones, ended when none has come for some minutes.

Knows processes, pipes and time limits. Does not know what is read (ocr_child.py), nor what is made
of it (ocr.py). The libraries that read are native code: when they crash, the parent has an error to
show and starts another process for the next picture.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from slm_backends import child
from slm_backends.errors import NotInstalled, SLMError, WorkerDied

MODULE = "slm_backends.ocr_child"
HEADER = 4  # bytes before each picture, as ocr_child.py reads them
TICK = 0.05  # seconds between looks at `cancelled`
IDLE_SECONDS = 300.0  # after the last picture, until the process ends
READ_SECONDS = 180.0  # for one picture: a full page on a slow computer takes a third of it
REMEMBERED = 128  # replies, so that a picture is read once
LOG_LINES = 5  # of standard error, kept to explain an end

Cancelled = Callable[[], bool]
Reply = dict[str, Any]


class Process:
    """One child at most, one picture at a time; any number of threads may ask."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._running: _Running | None = None
        self._idle: threading.Timer | None = None
        self._known: dict[bytes, Reply] = {}

    @property
    def pid(self) -> int | None:
        """Of the process, None where there is none."""
        running = self._running
        return running.pid if running is not None and running.alive else None

    def read(self, data: bytes, cancelled: Cancelled | None = None) -> Reply:
        """The child's reply for the bytes of a picture, `failed` in it included; from memory where
        it was read before.

        Raises NotInstalled, WorkerDied, SLMError where it takes too long, and child.ChildCancelled
        as soon as `cancelled` says so: the process is then ended, for it cannot be interrupted.
        """
        digest = hashlib.sha256(data).digest()
        if digest in self._known:
            return self._known[digest]
        while not self._turn.acquire(timeout=TICK):
            _look(cancelled)
        try:
            if digest not in self._known:  # or it was read while we waited
                if len(self._known) == REMEMBERED:
                    del self._known[next(iter(self._known))]
                self._known[digest] = self._ask(data, cancelled)
            return self._known[digest]
        finally:
            self._turn.release()

    def end(self) -> None:
        """End the process, after the picture that is being read."""
        with self._turn:
            self._end()

    def _ask(self, data: bytes, cancelled: Cancelled | None) -> Reply:
        _look(cancelled)
        if self._idle is not None:
            self._idle.cancel()
        if self.pid is None:
            self._end()
            self._running = _Running()
        assert self._running is not None
        try:
            reply = self._running.ask(data, cancelled)
        except BaseException:
            self._end()
            raise
        self._idle = threading.Timer(IDLE_SECONDS, self.end)
        self._idle.daemon = True
        self._idle.start()
        return reply

    def _end(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        if self._running is not None:
            self._running.end()
            self._running = None


class _Running:
    """A child process and its pipes."""

    def __init__(self) -> None:
        if importlib.util.find_spec("rapidocr") is None:
            raise NotInstalled(
                "Text in pictures cannot be read: RapidOCR is not installed.", package="rapidocr"
            )
        root = str(Path(__file__).resolve().parents[1])
        paths = [root, os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                "PYTHONUTF8": "1",
                "ORT_DISABLE_TELEMETRY": "1",
            },
            start_new_session=True,  # Ctrl-C in a terminal is for the parent to decide about
        )
        self._replies: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._log: deque[bytes] = deque(maxlen=LOG_LINES)
        assert self._process.stdout is not None and self._process.stderr is not None
        self._logging = _follow(self._process.stderr, self._log.append)
        _follow(self._process.stdout, self._replies.put, lambda: self._replies.put(None))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, data: bytes, cancelled: Cancelled | None) -> Reply:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(len(data).to_bytes(HEADER, "big") + data)
            self._process.stdin.flush()
        except OSError:
            raise self._died() from None
        for _ in range(round(READ_SECONDS / TICK)):
            _look(cancelled)
            try:
                line = self._replies.get(timeout=TICK)
            except queue.Empty:
                continue
            if line is None:
                raise self._died()
            reply: Reply = json.loads(line)
            return reply
        raise SLMError(
            f"Reading the text in this picture was given up after {READ_SECONDS:.0f} seconds.",
            hint="Cut the picture to the part that matters.",
        )

    def _died(self) -> WorkerDied:
        self._process.wait(child.GRACE)
        self._logging.join(child.GRACE)
        code = self._process.returncode
        said = " ".join(line.decode("utf-8", "replace").strip() for line in self._log)
        return WorkerDied(
            f"The process that reads text in pictures has ended (exit code {code}). {said}".strip(),
            hint="Try again; if it ends with other pictures too, install rapidocr anew.",
        )

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # what was written to it last has not been read
            self._process.stdin.close()


def _look(cancelled: Cancelled | None) -> None:
    if cancelled is not None and cancelled():
        raise child.ChildCancelled


def _follow(
    stream: IO[bytes], take: Callable[[bytes], None], ended: Callable[[], None] = lambda: None
) -> threading.Thread:
    def read() -> None:
        with stream:
            for line in stream:
                take(line)
        ended()

    thread = threading.Thread(target=read, name="ocr-output", daemon=True)
    thread.start()
    return thread
