"""What every command writes the same way: errors, passing status lines, sizes and times.

Knows streams and terminals. Knows nothing of models. Text from a model or a server is untrusted: it
may hold control sequences that would move the cursor or rename the window.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from typing import TextIO

from slm_backends.errors import SLMError

WIDTH = 100  # columns that a table may take
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def tolerate_any_text() -> None:
    """A terminal or file that cannot take a character gets a question mark, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def printable(text: str, stream: TextIO) -> str:
    """`text` without control characters where `stream` is a terminal; unchanged for a file."""
    return _CONTROL.sub("", text) if stream.isatty() else text


def say(text: str) -> None:
    """A line that is not the answer: on standard error, dim on a terminal."""
    text = printable(text, sys.stderr)
    print(f"\x1b[2m{text}\x1b[0m" if _capable(sys.stderr) else text, file=sys.stderr, flush=True)


def say_error(error: SLMError) -> None:
    lines = [error.message, *([error.hint] if error.hint else [])]
    print(printable("\n".join(lines), sys.stderr), file=sys.stderr, flush=True)


class Status:
    """One line that is written over again on a terminal; elsewhere, a line for each new step."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = _capable(stream)
        self._shown = ""

    def show(self, step: str, detail: str = "") -> None:
        """`detail` changes often and is shown only on a terminal."""
        if self._live:
            line = printable(f"{step}  {detail}", self._stream)
            line = line[: shutil.get_terminal_size().columns - 1]
            self._write(f"\r\x1b[K{line}")
        elif step != self._shown:
            self._write(f"{step}\n")
        self._shown = step

    def clear(self) -> None:
        if self._live and self._shown:
            self._write("\r\x1b[K")
        self._shown = ""

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _capable(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def megabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"


def count(number: int) -> str:
    """A number of parameters, as in 3.8B."""
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.0f}M"


def duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
