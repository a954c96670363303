"""A deployment's files out of a folder of the user's own, or a single GGUF: looked at, checksummed.

Knows which of them are needed. Does not change, move or copy any: they are used where they lie, and
store.py only links to them.
"""

from __future__ import annotations

from pathlib import Path

from slm_backends import files, weights
from slm_backends.catalog import Deployment
from slm_backends.errors import FetchFailed
from slm_backends.watch import Watch
from slm_backends.weights import Given


def get(deployment: Deployment, watch: Watch) -> list[Given]:
    """The files that the deployment needs. FetchFailed where there is nothing of use."""
    source = deployment.source
    assert source is not None
    path = Path(source.path).expanduser()
    if not path.exists():
        raise FetchFailed(
            f"{deployment.id}: there is no {path}.",
            hint=f"Correct `path` in the catalog's [sources.{source.id}].",
        )
    if path.is_file():
        if path.suffix != ".gguf":
            raise FetchFailed(
                f"{deployment.id}: {path} is a file, and no GGUF.",
                hint="Let `path` name a .gguf file or the folder that holds the model.",
            )
        chosen = {path.name: path}
    else:
        below = (file.relative_to(path).as_posix() for file in files.tree(path))
        names = weights.choose(deployment, list(below), str(path))
        chosen = {own: path / name for own, name in names.items()}
    total = sum(files.size(file) for file in chosen.values())
    done = 0
    given = []
    for name, file in chosen.items():
        watch.bytes("checking", done, total)
        size = file.stat().st_size
        given.append(Given(name, file.absolute(), size, files.sha256(file, watch.check)))
        done += size
    watch.bytes("checking", done, total)
    return given
