"""Whether a disk has room, and what to say when it has not. Knows nothing of what is stored."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Mapping
from pathlib import Path

from slm_backends.errors import DiskFull

HINT = "Make room, or let SLM_HOME name a folder on another disk."
HUB_HINT = "Make room, or let HF_HOME and SLM_HOME name folders on another disk."


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def check(what: str, needed: Mapping[Path, int], hint: str = HINT) -> None:
    """DiskFull where a disk has less free than the bytes that its folders need together."""
    disks: dict[int, tuple[Path, int]] = {}
    for folder, count in needed.items():
        disk = _existing(folder).stat().st_dev
        first, before = disks.get(disk, (folder, 0))
        disks[disk] = (first, before + count)
    for folder, count in disks.values():
        if (left := free(folder)) < count:
            raise DiskFull(
                f"{what} takes {megabytes(count)} of disk space, and {megabytes(left)} are free "
                f"in {folder}.",
                hint=hint,
            )


def is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def filled_up(what: str, folder: Path, hint: str = HINT) -> DiskFull:
    """The error for a disk that filled up half way."""
    return DiskFull(
        f"The disk filled up while {what}; {megabytes(free(folder))} are free in {folder}.",
        hint=hint,
    )


def free(folder: Path) -> int:
    """Bytes that are free on the disk that holds the folder, or would hold it."""
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    return next(each for each in (folder, *folder.parents) if each.exists())
