"""`--image FILE`: pictures for a prompt, read from disk for the commands that take them.

Knows files. What a picture may be is images.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slm_backends import images
from slm_backends.chat import Image
from slm_backends.errors import BadRequest
from slm_backends.terminal import say


def read(names: Sequence[str]) -> tuple[Image, ...]:
    """The pictures in these files, in order; what was done to make them sound is said. BadRequest
    names the first that is none, and those past the number that a conversation may have."""
    found = images.several((name, _content(Path(name))) for name in names)
    if found.refused:
        raise found.refused[0]
    for picture in found.opened:
        for note in picture.notes:
            say(f"{picture.name}: {note}")
    return tuple(picture.image for picture in found.opened)


def _content(file: Path) -> bytes:
    """All of it, or as much as shows that it is too large."""
    try:
        with file.open("rb") as stream:
            return stream.read(images.MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadRequest(f"Cannot read {file}: {error.strerror}.", field="messages") from None
