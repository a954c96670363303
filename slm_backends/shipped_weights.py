"""Weights that come with the playground: a folder of its own package, used where it lies.

Knows where that is and which files must be in it. Never writes there, and checks no sums: the files
came together with this one, by the same way.
"""

from __future__ import annotations

from pathlib import Path

from slm_backends import files, weights
from slm_backends.catalog import Deployment
from slm_backends.errors import BadRequest, FetchFailed

ROOT = Path(__file__).with_name("shipped")


def folder(name: str) -> Path:
    """Where the weights of that name are, or would be."""
    return ROOT / name


def check(deployment: Deployment) -> Path:
    """The deployment's folder, where all that its runtime needs is in it; else FetchFailed."""
    source = deployment.source
    assert source is not None
    here = folder(source.shipped)
    try:
        names = [file.relative_to(here).as_posix() for file in files.tree(here)]
        weights.choose(deployment, names, str(here))
        weights.check_shards(here)
    except FetchFailed as error:
        raise FetchFailed(
            f"{deployment.id} comes with the playground, and is not whole: {error.message}",
            hint="Install the playground again, or check its files out anew.",
        ) from None
    return here


def is_whole(deployment: Deployment) -> bool:
    try:
        check(deployment)
    except FetchFailed:
        return False
    return True


def refuse_removal(deployment: Deployment) -> None:
    """BadRequest where the deployment's weights are the playground's own."""
    if deployment.shipped:
        raise BadRequest(
            f"{deployment.id} belongs to the playground and stays here.",
            hint="Its weights are part of the program, as its code is.",
        )
