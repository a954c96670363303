"""A worker process seen from its parent: start, progress, health, stop.

Knows processes and pipes. Does not know what a worker computes, nor who else uses it.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import IO, Any

from slm_backends.chat import About
from slm_backends.errors import NotInstalled, SLMError, WorkerDied
from slm_backends.worker import TOKEN_VARIABLE
from slm_backends.worker.engines import placement

ROOT = Path(__file__).resolve().parents[2]
LOG_LINES = 40  # of standard error, kept for the message of a worker that dies
STOP_SECONDS = 3.0  # for a polite end, before the process is killed


class WorkerProcess:
    """One child process. Made started; `settled` is the event that a caller waits for.

    `context` is what it shall hold at most, in tokens; None: all that the model can. `memory` are
    the bytes of weights that it may hold, the rest stays on the disk; None: all of them.
    """

    def __init__(
        self,
        deployment_id: str,
        folder: Path,
        context: int | None = None,
        memory: int | None = None,
    ) -> None:
        self.deployment_id = deployment_id
        self.token = secrets.token_urlsafe(32)
        self.port: int | None = None
        self.fraction, self.step = 0.0, "starting a process"
        self.about = About()
        self.context: int | None = None
        self.failed: SLMError | None = None
        self.settled = threading.Event()  # ready, failed or dead
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._stopping = False
        environment = os.environ | {
            TOKEN_VARIABLE: self.token,
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(ROOT), os.environ.get("PYTHONPATH", "")))
            ),
            "ORT_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "1",  # a worker reads what the store has and calls nobody
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "slm_backends.worker",
                deployment_id,
                str(folder),
                str(context or ""),
                "" if memory is None else str(memory),
            ],
            stdin=subprocess.PIPE,  # never written to: its end is how the child learns of ours
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C in a terminal is for us to decide about
        )
        self._log_reader = threading.Thread(target=self._read_log, daemon=True)
        self._log_reader.start()
        threading.Thread(target=self._read_messages, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def ready(self) -> bool:
        return self.settled.is_set() and self.failed is None and self.alive

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def death(self) -> WorkerDied:
        """The error for a process that has ended, with the last lines that it wrote."""
        code = self._process.poll()
        if self._stopping:
            how = "was stopped"
        elif code is None:
            how = "ended unexpectedly"
        else:
            how = "ended unexpectedly " + (
                f"(signal {-code})" if code < 0 else f"(exit code {code})"
            )
        log = "" if self._stopping else "\n".join(self._log)
        return WorkerDied(
            f"The process that held {self.deployment_id} {how}.",
            hint="Send the prompt again: a new process is started for it."
            + (f" It said last:\n{log}" if log else ""),
        )

    def stop(self) -> None:
        """End the process and wait for that, blocking for STOP_SECONDS at most."""
        self._stopping = True
        assert self._process.stdin is not None
        self._process.stdin.close()  # it ends at once; a signal would let its replies finish first
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        placement.sweep()  # it had no time to

    def _read_log(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        with stream:
            for line in stream:
                self._log.append(line.rstrip())

    def _read_messages(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        with stream:
            self._follow(stream)
        self._process.wait()
        self._log_reader.join(timeout=1)
        if not self.settled.is_set():
            self.failed = self.death()
            self.settled.set()

    def _follow(self, stream: IO[str]) -> None:
        for line in stream:
            try:
                message: dict[str, Any] = json.loads(line)
            except ValueError:  # half a line: it died while it wrote it
                continue
            if "port" in message:
                self.port = message["port"]
            elif "step" in message:
                self.fraction, self.step = message["fraction"], message["step"]
            elif "ready" in message:
                self.context = message["ready"].pop("context")
                self.about = About(**message["ready"])
                self.settled.set()
            elif "failed" in message:
                self.failed = _failure(message["failed"])
                self.settled.set()


def _failure(detail: dict[str, Any]) -> SLMError:
    if detail["code"] == NotInstalled.code:
        return NotInstalled(detail["message"], package=detail["hint"].rpartition(" ")[2])
    return SLMError(detail["message"], hint=detail.get("hint", ""))
