"""A deployment's files out of a Hugging Face repository: chosen, downloaded, checked.

Knows what to ask of hub_download.py, a child process that speaks with the hub, and which files of
the hub's cache are ours. Does not import huggingface_hub, and does not know how files become a
deployment (store.py).

Files go through the user's own hub cache (HF_HOME, HF_HUB_CACHE), so that what is there already is
not downloaded again, and what we bring serves other programs too. A deployment's folder then holds
hard links to them: it stays whole when the cache is cleared. On another disk they are symbolic
links, so that nothing lies on two disks; after the cache is cleared such a deployment is fetched
again. A ledger under home() notes what we put into the cache, and sweep() takes out only that.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from slm_backends import child, convert, errors, manifest, weights
from slm_backends.catalog import Deployment
from slm_backends.errors import FetchFailed, SLMError
from slm_backends.watch import Watch
from slm_backends.weights import Given

CHILD = "slm_backends.hub_download"
PARTIAL = ".slm.incomplete"  # the end of the name of a download in progress
ENVIRONMENT = {
    "HF_HUB_DISABLE_XET": "1",  # plain HTTP
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
}


def get(
    deployment: Deployment,
    revision: str,
    work: Path,
    ledger: Path,
    watch: Watch,
    may_begin: Callable[[int, int, Path], None],
) -> tuple[list[Given], dict[str, Any]]:
    """The files, verified, in the hub's cache, and what the manifest is to say of them.

    `may_begin` is called before the first byte with those to get, those in all and the cache's
    folder; it may raise. FetchFailed and its kinds, CatalogError, or child.ChildCancelled.
    """
    source = deployment.source
    assert source is not None
    found: dict[str, dict[str, Any]] = {}
    given: dict[str, dict[str, Any]] = {}
    about: dict[str, Any] = {}
    chosen: dict[str, str] = {}
    order = work / "chosen.json"

    def take(line: dict[str, Any]) -> None:
        if "file" in line:
            found[line["file"]["name"]] = line["file"]
        elif "listing" in line:
            about.update(line["listing"])
            chosen.update(_choose(deployment, about, found))
            files = [found[name] for name in chosen.values()]
            # One content may have several names, and comes once.
            missing = {
                file["checksum"]: file["size"] - file["partial"]
                for file in files
                if not file["here"]
            }
            total = sum(file["size"] for file in files)
            may_begin(sum(missing.values()), total, Path(about["cache"]))
            order.with_suffix(".new").write_text(json.dumps(files), encoding="utf-8")
            order.with_suffix(".new").replace(order)
        elif "step" in line:
            watch.bytes(line["step"], line["done"], line["total"])
        elif "waiting" in line:
            watch.waiting()
        elif "given" in line:
            given[line["given"]["name"]] = line["given"]

    watch.waiting("asking the hub")
    ledger.parent.mkdir(parents=True, exist_ok=True)
    _run(source.repo, revision, order, ledger, watch, take)
    files = [
        Given(own, Path(given[name]["path"]), found[name]["size"], given[name]["sha256"])
        for own, name in chosen.items()
    ]
    return files, {"commit": about["commit"], "cache": [str(file.path) for file in files]}


def _choose(
    deployment: Deployment, about: Mapping[str, Any], found: Collection[str]
) -> dict[str, str]:
    """What to take of a listing: from the name in the deployment's folder to the repository's."""
    source = deployment.source
    assert source is not None
    if manifest.is_pinned(source) and about["commit"] != source.revision:
        raise FetchFailed(
            f"{about['where']} answers with commit {about['commit']}, not {source.revision} that "
            "the catalog names.",
            hint="Look at what HF_ENDPOINT names: this is not the repository that was chosen.",
        )
    if reason := convert.unfit(deployment.convert, about["architectures"]):
        raise FetchFailed(f"{deployment.id} cannot be converted. {reason}")
    return weights.choose(deployment, found, str(about["where"]))


def sweep(ledger: Path, used: Collection[str]) -> None:
    """Delete what we put into the hub's cache and no deployment uses, and partial downloads.

    Stays: what was there before us, what came anew since, and what another link of the cache
    points to as well.
    """
    try:
        noted = json.loads(ledger.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    kept: dict[str, dict[str, Any]] = {}
    for name, entries in noted.items():
        cache = Path(name)
        for partial in (cache / "blobs").glob(f"*{PARTIAL}"):
            partial.unlink(missing_ok=True)
        for path, entry in entries.items():
            if path in used:
                kept.setdefault(name, {})[path] = entry
            else:
                _take_out(cache, Path(path), set(map(Path, entry["pointers"])), entry["changed"])
        _drop_empty(cache)
    if kept:
        ledger.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    else:
        ledger.unlink()


def _take_out(cache: Path, file: Path, pointers: set[Path], changed: int) -> None:
    if not file.exists() or file.stat().st_mtime_ns != changed:
        return
    for link in (cache / "snapshots").rglob("*"):
        if link.is_symlink() and link not in pointers and link.resolve() == file.resolve():
            return
    for name in (*pointers, file):
        name.unlink(missing_ok=True)


def _drop_empty(cache: Path) -> None:
    """Delete the empty folders of a repository's cache, and itself where nothing is left."""
    folders = [folder for folder in cache.rglob("*") if folder.is_dir()]
    for folder in (*sorted(folders, reverse=True), cache):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _run(
    repo: str,
    revision: str,
    order: Path,
    ledger: Path,
    watch: Watch,
    take: Callable[[dict[str, Any]], None],
) -> None:
    told: list[SLMError] = []

    def line(text: str) -> None:
        try:
            said = json.loads(text)
        except ValueError:
            return  # a library that talks on standard output after all
        if "error" in said:
            error = said["error"]
            told.append(getattr(errors, error["kind"])(error["message"], hint=error["hint"]))
        else:
            take(said)

    try:
        child.run(
            CHILD,
            [repo, revision, str(order), str(ledger)],
            environment=ENVIRONMENT,
            on_line=line,
            cancelled=watch.cancelled,
        )
    except child.ChildFailed as failed:
        if told:
            raise told[0] from None
        raise FetchFailed(
            f"Fetching {repo} failed ({failed}).\n" + "\n".join(failed.tail),
            hint="python -m slm_backends doctor shows whether huggingface_hub is whole.",
        ) from None
