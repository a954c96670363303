"""`python -m slm_backends` as a person starts it: a process, its two streams, its exit code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-m", "slm_backends")
PATIENCE = 120  # seconds


def slm(
    *arguments: str, stdin: str | bytes = b"", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its output as text."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        timeout=PATIENCE,
        cwd=ROOT,
        env=os.environ | {"PYTHONUTF8": "1"} | dict(env or {}),
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


@dataclass
class Serving:
    process: subprocess.Popen[str]
    url: str
    introduction: str
    log: IO[bytes]

    def errors(self) -> str:
        """What it has written to standard error."""
        self.log.seek(0)
        return self.log.read().decode()

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("Ready"):
                return
        raise AssertionError("it ended before it was ready")


@contextmanager
def serve(deployment: str, *arguments: str, key: str = "") -> Iterator[Serving]:
    """A server on a free port, from its first words on; ended with SIGTERM."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*COMMAND, "serve", deployment, "--port", "0", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
            env=os.environ | {"SLM_API_KEY": key, "PYTHONUTF8": "1"},
            encoding="utf-8",
        )
        assert process.stdout is not None
        try:
            words = ""
            for line in process.stdout:
                words += line
                if "openai.OpenAI" in line:
                    break
            found = re.search(r"http://\S+/v1", words)
            assert found, words
            yield Serving(process, found[0], words, log)
        finally:
            process.terminate()
            process.wait(PATIENCE)
            process.stdout.close()
