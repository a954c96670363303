"""Room on disks: folders of one disk count together."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from slm_backends import disk
from slm_backends.errors import DiskFull


def test_folders_of_one_disk_count_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000_000))
    one, other = tmp_path / "one" / "not yet", tmp_path / "other"
    disk.check("It", {one: 6_000_000, other: 4_000_000})
    with pytest.raises(
        DiskFull, match=r"It takes 11 MB of disk space, and 10 MB are free in .*one"
    ):
        disk.check("It", {one: 6_000_000, other: 5_000_000})


def test_full_is_told_from_other_errors() -> None:
    assert disk.is_full(OSError(errno.ENOSPC, "full"))
    assert not disk.is_full(OSError(errno.EACCES, "forbidden"))


def test_free_space_is_told_for_folders_that_are_not_there_yet(tmp_path: Path) -> None:
    assert abs(disk.free(tmp_path / "not" / "yet") - shutil.disk_usage(tmp_path).free) < 1e9
