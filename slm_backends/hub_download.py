"""Talk to a model hub: `python -m slm_backends.hub_download REPOSITORY REVISION ORDER LEDGER`.

Knows huggingface_hub, its cache folder and the hub's checksums. Does not know which files are
needed nor what for (hub.py, which starts it). A process of its own, because ending it is the one
cancel that always works. Keys, addresses, proxies and folders are those of huggingface_hub: the
HF_* variables and what `hf auth login` stored.

It says what the repository holds, waits until there is a file ORDER, a JSON list of some of that,
and brings those into huggingface_hub's cache, verified; LEDGER notes what was put there. That
library would begin each file anew after an interruption, so the bytes are streamed here, by its
HTTP client and with its key; a partial file is continued. The client sends the key to the hub's
own address only, not on to where a file is redirected.

Standard output carries one JSON object a line: {"file": ...} and {"listing": ...}, {"step": ...},
{"waiting": ...}, {"given": ...}, or one {"error": {"kind", "message", "hint"}}.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
import httpx2
from huggingface_hub import HfApi, constants, errors, get_session, hf_hub_url
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import hf_raise_for_status

from slm_backends import disk
from slm_backends.errors import ChecksumMismatch, FetchFailed, SLMError
from slm_backends.files import CHUNK
from slm_backends.hub import PARTIAL

REPORT_EVERY = 0.1  # seconds
LOOK_EVERY = 0.02  # seconds between looks for the order
PAUSES = (0.3, 1.0, 2.0, 4.0)  # seconds before trying again, where nothing new arrived
PASSING = (403, 408, 429, 500, 502, 503, 504)  # half way through: an address that expired, a hiccup


@dataclass(frozen=True)
class HubFile:
    """`algorithm` is sha256 (LFS) or git (a blob's SHA-1), or empty where no checksum is known.

    here     path in the cache, or empty
    partial  bytes of it that an interrupted download left
    """

    name: str
    size: int
    algorithm: str
    checksum: str
    here: str = ""
    partial: int = 0


# --- what a repository holds ---------------------------------------------------------------------


def listing(repo: str, revision: str) -> tuple[dict[str, Any], list[HubFile]]:
    if constants.is_offline_mode():
        return _cached_listing(repo, revision)
    info = HfApi().model_info(
        repo, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
    )
    if not info.sha or not re.fullmatch(r"[0-9a-f]{40}", info.sha):
        raise FetchFailed(f"{constants.ENDPOINT} names no commit of {repo}.", hint=_not_a_hub())
    cache = _cache(repo)
    files = []
    for sibling in info.siblings or ():
        checksum = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
        if sibling.size is None or not re.fullmatch(r"[0-9a-f]{40,64}", checksum or ""):
            raise FetchFailed(
                f"{constants.ENDPOINT} tells no size or checksum of {sibling.rfilename}.",
                hint=_not_a_hub(),
            )
        assert checksum is not None
        pointer = cache / "snapshots" / info.sha / sibling.rfilename
        blob = cache / "blobs" / checksum
        here = pointer.resolve() if pointer.exists() else blob
        files.append(
            HubFile(
                sibling.rfilename,
                sibling.size,
                "sha256" if sibling.lfs else "git",
                checksum,
                str(here) if here.exists() else "",
                _size(_partial(cache, checksum)),
            )
        )
    about = {
        "commit": info.sha,
        "cache": constants.HF_HUB_CACHE,
        "where": f"{constants.ENDPOINT}/{repo}",
        "architectures": (info.config or {}).get("architectures") or [],
    }
    return about, files


def _cached_listing(repo: str, revision: str) -> tuple[dict[str, Any], list[HubFile]]:
    """What the cache has. Its files are named after their checksums, where it can make links."""
    cache = _cache(repo)
    commit = revision
    with contextlib.suppress(OSError):
        commit = (cache / "refs" / revision).read_text(encoding="utf-8").strip()
    snapshot = cache / "snapshots" / commit
    if not snapshot.is_dir():
        raise FetchFailed(
            f"HF_HUB_OFFLINE is set, and {constants.HF_HUB_CACHE} has nothing of {repo} at "
            f"{revision}.",
            hint="Unset HF_HUB_OFFLINE and fetch again.",
        )
    files = []
    for pointer in sorted(snapshot.rglob("*")):
        if not pointer.is_file():
            continue
        file = pointer.resolve()
        algorithm = {64: "sha256", 40: "git"}.get(
            len(file.name) if re.fullmatch(r"[0-9a-f]+", file.name) else 0, ""
        )
        name = pointer.relative_to(snapshot).as_posix()
        checksum = file.name if algorithm else ""
        files.append(HubFile(name, _size(file), algorithm, checksum, str(file)))
    about = {
        "commit": commit,
        "cache": constants.HF_HUB_CACHE,
        "where": f"the hub's cache of {repo} (HF_HUB_OFFLINE is set)",
        "architectures": [],
    }
    return about, files


# --- bringing files ------------------------------------------------------------------------------


def get(repo: str, commit: str, files: list[HubFile], ledger: Path) -> None:
    """Say where each file lies, verified, after downloading what is missing.

    A file of the cache that is damaged is downloaded anew. `ledger` notes what is put there.
    """
    missing = [file for file in files if not file.here]
    here = [file for file in files if file.here]
    with _counting("checking what is here", here) as count:
        for file in here:
            sha256 = _verified(file, Path(file.here), count)
            if sha256:
                _say(given={"name": file.name, "path": file.here, "sha256": sha256})
            else:
                Path(file.here).unlink()
                missing.append(file)
    if constants.is_offline_mode() and missing:
        raise ChecksumMismatch(
            f"{', '.join(file.name for file in missing)} of {repo} was damaged in the hub's cache.",
            hint="It was deleted. Unset HF_HUB_OFFLINE and fetch again.",
        )
    if not missing:
        return
    cache = _cache(repo)
    (cache / "blobs").mkdir(parents=True, exist_ok=True)
    _note(ledger, cache, {})
    # One content may have several names. Locks are taken in one order by all.
    once = sorted(
        {file.checksum: file for file in missing}.values(), key=lambda file: file.checksum
    )
    with contextlib.ExitStack() as locks:
        for file in once:
            locks.enter_context(_lock(cache, file.checksum))
        with _counting("downloading", once) as count:
            for file in sorted(once, key=lambda file: file.size):
                _download(repo, commit, file, _partial(cache, file.checksum), count)
        with _counting("checking", once) as count:
            for file in once:
                partial = _partial(cache, file.checksum)
                sha256 = _verified(file, partial, count)
                if not sha256:
                    partial.unlink()
                    raise ChecksumMismatch(
                        f"{file.name} of {repo} is not what was published: its checksum is not "
                        f"{file.checksum}.",
                        hint="It was deleted. Fetch it again; if that fails too, look at what lies "
                        f"between this computer and {constants.ENDPOINT}.",
                    )
                names = [each.name for each in missing if each.checksum == file.checksum]
                path = _place(cache, commit, file.checksum, names, ledger)
                for name in names:
                    _say(given={"name": name, "path": str(path), "sha256": sha256})


def _download(
    repo: str, commit: str, file: HubFile, partial: Path, count: Callable[[int], None]
) -> None:
    """Fill `partial`, going on where it ends; tried again while anything new arrives."""
    address = hf_hub_url(repo, file.name, revision=commit, endpoint=constants.ENDPOINT)
    if _size(partial) > file.size:
        partial.unlink()
    count(_size(partial))
    pauses = iter(PAUSES)
    while (before := _size(partial)) < file.size or not partial.exists():
        problem: Exception | None = None
        try:
            _stream(address, partial, before, file.size, count)
        except httpx2.TransportError as error:
            problem = error
        except errors.RepositoryNotFoundError:  # gated is one kind of it
            raise
        except errors.HfHubHTTPError as error:
            if error.response.status_code not in PASSING or not before:
                raise
            problem = error
        if _size(partial) > before:
            pauses = iter(PAUSES)
        elif file.size:
            pause = next(pauses, None)
            if pause is None:
                raise problem or FetchFailed(f"{address} ends before the file does.")
            time.sleep(pause)


def _stream(
    address: str, partial: Path, begin: int, end: int, count: Callable[[int], None]
) -> None:
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    with get_session().stream(
        "GET", address, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    ) as response:
        hf_raise_for_status(response)
        continues = response.status_code == 206
        if begin and not continues:
            count(-begin)
        with partial.open("ab" if continues else "wb") as out:
            for block in response.iter_raw():
                out.write(block)
                count(len(block))
                if out.tell() > end:
                    return  # another file, perhaps without an end


def _verified(file: HubFile, path: Path, count: Callable[[int], None]) -> str:
    """The file's SHA-256 where its content is what the hub published, or nothing."""
    sha256, git = hashlib.sha256(), hashlib.sha1(usedforsecurity=False)
    git.update(b"blob %d\0" % file.size)
    with path.open("rb") as stream:
        while block := stream.read(CHUNK):
            sha256.update(block)
            if file.algorithm == "git":
                git.update(block)
            count(len(block))
    found = {"sha256": sha256.hexdigest(), "git": git.hexdigest(), "": ""}[file.algorithm]
    right = found == file.checksum and path.stat().st_size == file.size
    return sha256.hexdigest() if right else ""


def _place(cache: Path, commit: str, checksum: str, names: list[str], ledger: Path) -> Path:
    """Put a verified file where huggingface_hub looks for it, and note that it was us.

    Its layout: blobs/<checksum>, and links to it as snapshots/<commit>/<name>; on a system that
    makes no links the file itself is there.
    """
    path = cache / "blobs" / checksum
    _partial(cache, checksum).replace(path)
    pointers = [cache / "snapshots" / commit / name for name in names]
    for pointer in pointers:
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)
        try:
            pointer.symlink_to(os.path.relpath(path, pointer.parent))
        except OSError:
            path = path.replace(pointer)
            break
    entry = {"changed": path.stat().st_mtime_ns, "pointers": [str(each) for each in pointers]}
    _note(ledger, cache, {str(path): entry})
    return path


def _note(ledger: Path, cache: Path, entries: dict[str, Any]) -> None:
    noted: dict[str, Any] = {}
    if ledger.exists():
        noted = json.loads(ledger.read_text(encoding="utf-8"))
    noted[str(cache)] = {**noted.get(str(cache), {}), **entries}
    new = ledger.with_suffix(".new")
    new.write_text(json.dumps(noted, indent=1) + "\n", encoding="utf-8")
    new.replace(ledger)


@contextlib.contextmanager
def _lock(cache: Path, checksum: str) -> Iterator[None]:
    """The lock that huggingface_hub itself takes for this file, whoever fetches it."""
    file = cache.parent / ".locks" / cache.name / f"{checksum}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(file)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        _say(waiting=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# --- small parts ---------------------------------------------------------------------------------


def _cache(repo: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")


def _partial(cache: Path, checksum: str) -> Path:
    return cache / "blobs" / f"{checksum}{PARTIAL}"


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


@contextlib.contextmanager
def _counting(step: str, files: list[HubFile]) -> Iterator[Callable[[int], None]]:
    """A function to call with each count of bytes; it reports now and then."""
    total = sum(file.size for file in files)
    done, told = 0, 0.0

    def count(more: int) -> None:
        nonlocal done, told
        done += more
        now = time.monotonic()
        if now - told >= REPORT_EVERY:
            told = now
            _say(step=step, done=min(done, total), total=total)

    if files:
        count(0)
    yield count
    if files:
        _say(step=step, done=min(done, total), total=total)


def _say(**line: Any) -> None:
    print(json.dumps(line), flush=True)


# --- errors in a person's words ------------------------------------------------------------------


def _explained(error: Exception, repo: str, revision: str) -> SLMError:
    hub = constants.ENDPOINT
    log_in = "set HF_TOKEN or run `hf auth login`"
    if isinstance(error, SLMError):
        return error
    if isinstance(error, errors.GatedRepoError):
        return FetchFailed(
            f"{repo} is gated: its publisher wants its licence accepted first.",
            hint=f"Accept it at {hub}/{repo}, then {log_in}, and fetch again.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FetchFailed(
            f"{hub}/{repo} has no revision {revision}.",
            hint="Correct `revision` in the catalog's [sources]: a commit or a branch.",
        )
    if isinstance(error, errors.DisabledRepoError):
        return FetchFailed(f"{hub} has disabled {repo}.", hint=f"{hub}/{repo} may say why.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return FetchFailed(
            f"{hub} has no repository {repo}, or it is private.",
            hint=f"Correct `repo` in the catalog's [sources]; for a private one {log_in}.",
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return FetchFailed(
            f"{hub}/{repo} lists a file that it does not hand out.", hint="Fetch it again later."
        )
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        said = f": {error.server_message.splitlines()[0]}" if error.server_message else ""
        hint = "Fetch it again later: what is already here is kept."
        if status in (401, 403):
            hint = f"The key may be wrong or lack a right: {log_in}."
        return FetchFailed(f"{hub} answered {status} for {repo}{said}.", hint=hint)
    if isinstance(error, httpx2.TransportError):
        reason = str(error) or type(error).__name__
        return FetchFailed(
            f"{hub} cannot be reached: {reason}.",
            hint="Check the network, a proxy (HTTPS_PROXY) and HF_ENDPOINT, then fetch again: what "
            "is already here is kept. HF_HUB_OFFLINE=1 uses what the hub's cache has.",
        )
    if isinstance(error, OSError) and disk.is_full(error):
        folder = Path(constants.HF_HUB_CACHE)
        return disk.filled_up(f"fetching {repo}", folder, disk.HUB_HINT)
    if isinstance(error, OSError):
        return FetchFailed(
            f"Fetching {repo} failed: {error}.",
            hint=f"Make sure that you may write to {constants.HF_HUB_CACHE}, or let HF_HOME name "
            "another folder.",
        )
    raise error


def _not_a_hub() -> str:
    return "Let HF_ENDPOINT name a hub that speaks Hugging Face's whole API, or unset it."


def main() -> None:
    repo, revision, order, ledger = sys.argv[1:]
    try:
        about, found = listing(repo, revision)
        for each in found:
            _say(file=asdict(each))
        _say(listing=about)
        while not Path(order).exists():
            time.sleep(LOOK_EVERY)
        chosen = [HubFile(**each) for each in json.loads(Path(order).read_text(encoding="utf-8"))]
        get(repo, about["commit"], chosen, Path(ledger))
    except Exception as error:
        told = _explained(error, repo, revision)
        _say(error={"kind": type(told).__name__, "message": told.message, "hint": told.hint})
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
