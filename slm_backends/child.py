"""Run a Python module in a child process that can be watched and stopped, and ends with us.

    child.run("slm_backends.convert", ["tokenizer", "model.gguf", "out"], on_line=print)

Knows processes, pipes and the last lines of output. Does not know what the module does, nor what
the lines mean.

The child's standard input is a pipe that the parent never writes to: when the parent ends, however
it ends, the pipe closes and the child exits. That needs no signal, works on every system, and holds
for kill -9, where no handler of the parent runs.
"""

from __future__ import annotations

import contextlib
import os
import queue
import runpy
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

TICK = 0.1  # seconds between looks at `cancelled` and calls of `on_tick`
TAIL_LINES = 40  # of output kept to explain a failure
LINE_CHARACTERS = 4_000  # longer lines are cut, so that no child can fill our memory
GRACE = 3.0  # seconds between asking a child to end and ending it
ORPHANED = 70  # exit code of a child whose parent is gone


class ChildFailed(Exception):
    """The child ended with `code` (negative: of that signal); `tail` is the last that it said."""

    def __init__(self, code: int, tail: Sequence[str]) -> None:
        super().__init__(f"exit code {code}")
        self.code = code
        self.tail = list(tail)


class ChildCancelled(Exception):
    """`cancelled` said so; the child has ended."""


def run(
    module: str,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    on_tick: Callable[[], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> None:
    """Run `python -m module arguments` and wait for it.

    on_line   gets each line of its standard output, in the calling thread; without it they join
              standard error in the tail
    on_tick   is called at least ten times a second, in the calling thread

    Whatever leaves this function early (a cancel, Ctrl-C, an error of a callback) ends the child.
    """
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    take = on_line or tail.append
    process = _start(module, arguments, environment or {})
    assert process.stdout is not None and process.stderr is not None
    readers = [_reader(process.stdout, lines.put), _reader(process.stderr, tail.append)]
    try:
        while process.poll() is None:
            with contextlib.suppress(queue.Empty):
                take(lines.get(timeout=TICK))
            if cancelled is not None and cancelled():
                raise ChildCancelled
            if on_tick is not None:
                on_tick()
        for reader in readers:
            reader.join(GRACE)
        while not lines.empty():
            take(lines.get())
    finally:
        _end(process)
    if process.returncode != 0:
        raise ChildFailed(process.returncode, tail)


def _start(
    module: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> subprocess.Popen[str]:
    package_root = str(Path(__file__).resolve().parents[1])
    paths = [package_root, os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-m", __name__, module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            **environment,
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "PYTHONUNBUFFERED": "1",
            "PYTHONUTF8": "1",
        },
        text=True,
        encoding="utf-8",
        errors="replace",
    )


def _reader(stream: IO[str], keep: Callable[[str], None]) -> threading.Thread:
    def read() -> None:
        with stream:
            while line := stream.readline(LINE_CHARACTERS):
                if line.strip():
                    keep(line.rstrip())

    thread = threading.Thread(target=read, name="child-output", daemon=True)
    thread.start()
    return thread


def _end(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _exit_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(ORPHANED)


def main() -> None:
    """In the child: keep watch on the parent, then become the module."""
    module = sys.argv[1]
    # os.read, not sys.stdin: a thread that waits in a buffered reader breaks interpreter shutdown.
    threading.Thread(target=_exit_with_parent, name="parent-watch", daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
