"""Files and folders while others may be changing them. Knows nothing of what is in them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

CHUNK = 1 << 20  # bytes read at a time


def sha256(file: Path, check: Callable[[], None] | None = None) -> str:
    """The checksum; `check` is called now and then, and may raise to stop."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(CHUNK):
            digest.update(block)
            if check is not None:
                check()
    return digest.hexdigest()


def link(existing: Path, new: Path) -> None:
    """A second name for the file, or a copy on a disk that has no such thing."""
    try:
        os.link(existing, new)
    except OSError:
        shutil.copyfile(existing, new)


def link_or_point(existing: Path, new: Path) -> None:
    """A second name for the file, a symbolic link from another disk, or a copy."""
    try:
        os.link(existing, new)
    except OSError:
        point(existing, new)


def point(existing: Path, new: Path) -> None:
    """A symbolic link to the file; where a system makes none, a second name, or a copy."""
    try:
        new.symlink_to(existing.resolve())
    except OSError:
        link(existing, new)


def size(file: Path) -> int:
    """Bytes, 0 where the file is gone."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def tree(top: Path) -> Iterator[Path]:
    """The files below. os.walk, unlike rglob, gets over a folder that disappears."""
    for base, _, names in os.walk(top):
        yield from (Path(base, name) for name in names)


def total(top: Path) -> int:
    """Bytes of the files below, each counted once, however many names it has."""
    found = {}
    for file in tree(top):
        with contextlib.suppress(OSError):
            about = file.stat()
            found[about.st_dev, about.st_ino] = about.st_size
    return sum(found.values())
