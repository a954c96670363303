"""What a finished deployment's folder says about itself: manifest.json.

Knows its fields and what in them must agree with the catalog. Does not know how the files came to
be there (store.py).

    deployment, artefact, convert    as in the catalog; "tokenizer" where only that was taken out
    made, made_with                  when, and by which versions of which packages
    files                            name -> {size, sha256}
    wheel, file, sha256              of a wheel
    repo, folder, wanted, commit     of a hub; `commit` is the one that was resolved
    cache                            of a hub: files of its cache that were used
    path, wanted                     of a folder of the user's
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slm_backends import weights
from slm_backends.catalog import Deployment, Source

NAME = "manifest.json"

Manifest = dict[str, Any]


def read(folder: Path) -> Manifest | None:
    """The manifest in the folder; None where there is none that can be understood."""
    try:
        found = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return found if {"convert", "files"} <= found.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def write(folder: Path, manifest: Manifest) -> None:
    (folder / NAME).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def every(models: Path) -> Iterator[Manifest]:
    """Those of all finished deployments."""
    for file in models.glob(f"*/{NAME}"):
        with contextlib.suppress(OSError):
            if (found := read(file.parent)) is not None:
                yield found


def agrees(manifest: Manifest, deployment: Deployment) -> bool:
    """Whether the folder was made from what the catalog names today, in that way."""
    return all(manifest.get(key) == value for key, value in identity(deployment).items())


def identity(deployment: Deployment) -> Manifest:
    """The fields that say what a deployment is made from."""
    source = deployment.source
    assert source is not None
    named: Manifest = {"convert": kind(deployment)}
    if source.wheel:
        return {**named, "sha256": source.sha256}
    named["wanted"] = list(weights.wanted(deployment))
    if source.path:
        return {**named, "path": source.path}
    named |= {"repo": source.repo, "folder": source.folder}
    if is_pinned(source):
        named["commit"] = source.revision
    return named


def kind(deployment: Deployment) -> str:
    """The conversion: without one of its own, a GGUF only needs its tokenizer beside it."""
    if deployment.convert:
        return deployment.convert
    assert deployment.source is not None
    return "tokenizer" if weights.is_one_file(deployment.source) else ""


def is_pinned(source: Source) -> bool:
    """Whether the catalog names the very commit."""
    return re.fullmatch(r"[0-9a-f]{40}", source.revision) is not None
