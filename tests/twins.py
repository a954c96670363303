"""The fastest deployment under several ids, on the same real weights: what tests of loading share.

TWO and THREE are said to take 0.7 GB and 0.5 GB of memory, as ONE is said to take 0.7 GB.
"""

from __future__ import annotations

from pathlib import Path

import psutil

from slm_backends import catalog, store
from slm_backends.local import LocalBackend
from slm_backends.selector import Selector

ONE, TWO, THREE = "smollm2-135m-instruct@onnx", "twin@onnx", "triplet@onnx"
CATALOG = """
[models.twin]
name = "Twin"
context = 8_192

[models.triplet]
name = "Triplet"
context = 8_192

[deployments."twin@onnx"]
source = "smollm2-135m-instruct-gguf"
convert = "onnx-int4"
memory = 700_000_000

[deployments."triplet@onnx"]
source = "smollm2-135m-instruct-gguf"
convert = "onnx-int4"
memory = 500_000_000

[deployments."twin@openai"]
base_url = "http://127.0.0.1:9/v1"
key = "TWIN_KEY"
start = "Start it."
"""


def make(folder: Path) -> dict[str, str]:
    """A store and a catalog in `folder`; the environment that leads to them.

    The files are links to those of the store that is in use.
    """
    real = store.folder(catalog.load().deployment(ONE))
    own = folder / "catalog.toml"
    own.write_text(CATALOG, encoding="utf-8")
    for deployment_id in (ONE, TWO, THREE):
        twin = folder / "home" / "models" / deployment_id
        twin.mkdir(parents=True)
        for file in real.iterdir():
            (twin / file.name).symlink_to(file)
    return {"SLM_CATALOG": str(own), "SLM_HOME": str(folder / "home")}


def local(own: Selector, deployment_id: str) -> LocalBackend:
    found = own.backend(deployment_id)
    assert isinstance(found, LocalBackend)
    return found


def pid_of(backend: LocalBackend) -> int:
    assert backend.worker is not None
    return backend.worker.pid


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
