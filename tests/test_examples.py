"""The examples run as a reader would run them, on the files that come with them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mixtures import same

from examples import record
from slm_backends.moe import export

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples"


def test_routing_tells_and_draws(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.routing"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr
    assert "Tell me a very short story about a fox." in ran.stdout
    for layer in range(6):
        assert f"layer {layer}: max / mean " in ran.stdout
        (bits,) = re.findall(rf"layer {layer}: (\d\.\d{{3}}) bits", ran.stdout)
        assert 0 < float(bits) < 1
    assert re.search(r"Expert \d+ of layer 5 worked on \d+ of \d+ tokens:\n  '", ran.stdout)
    pictures = {file.name for file in tmp_path.glob("routing-*/*.svg") if file.stat().st_size}
    assert pictures == {"load.svg", "flow.svg", "pairs.svg", "divergence.svg"}


@pytest.mark.parametrize("name", record.QUESTIONS)
def test_a_file_that_comes_with_them_is_of_the_weights_that_do(name: str) -> None:
    trace, facts = export.read((FOLDER / name).read_bytes())
    assert facts["revision"] == record.revision(), "run: python -m examples.record"
    assert facts["prompt"] == record.QUESTIONS[name]
    # All of it but the last token, where its length ended it.
    assert facts["reply"].startswith("".join(trace.reply.tokens))
    assert (trace.layers, trace.experts, trace.k) == (6, 16, 2)


def test_what_is_recorded_is_what_comes_with_them(tmp_path: Path) -> None:
    record.record(tmp_path)
    for name in record.QUESTIONS:
        shipped, made = (
            export.read((folder / name).read_bytes())[0] for folder in (FOLDER, tmp_path)
        )
        # Sums in another order, as on another processor, may let a reply end otherwise.
        assert made.prompt.ids == shipped.prompt.ids
        assert made.weights is not None
        agreed = (made.prompt.chosen == shipped.prompt.chosen).mean()
        assert agreed > 0.9
        assert same(
            *(export.read(write(made, {}))[0] for write in (export.as_json, export.as_parquet))
        )
