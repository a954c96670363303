"""A worker seen from its parent: it starts, speaks, fails in words, keeps its secret, and ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest
from asking import PATIENCE, ask, until

from slm_backends import catalog, store
from slm_backends.errors import NotInstalled, SLMError, WorkerDied
from slm_backends.local import LocalBackend
from slm_backends.worker import TOKEN_VARIABLE
from slm_backends.worker.process import WorkerProcess, _failure

ONNX = "smollm2-135m-instruct@onnx"
EMBEDDED = (ONNX, "smollm2-135m-instruct@openvino")


@pytest.fixture(scope="module")
def folder(embedded: tuple[str, ...]) -> Path:
    return store.folder(catalog.load().deployment(ONNX))


@pytest.fixture(scope="module")
def worker(folder: Path) -> Iterator[WorkerProcess]:
    made = WorkerProcess(ONNX, folder)
    assert made.settled.wait(PATIENCE)
    assert made.failed is None
    yield made
    made.stop()


@pytest.fixture
def client(worker: WorkerProcess) -> Iterator[httpx2.Client]:
    headers = {"Authorization": f"Bearer {worker.token}"}
    with httpx2.Client(base_url=worker.base_url, headers=headers, trust_env=False) as made:
        yield made


def test_it_is_ready_and_says_what_it_is(worker: WorkerProcess) -> None:
    assert worker.ready
    assert (worker.fraction, worker.step) == (1.0, "ready")
    assert worker.context == 8_192
    assert worker.about.runtime == "ONNX Runtime GenAI"


@pytest.mark.parametrize("deployment_id", EMBEDDED)
def test_it_holds_no_more_than_it_is_told(deployment_id: str, embedded: tuple[str, ...]) -> None:
    folder = store.folder(catalog.load().deployment(deployment_id))
    made = WorkerProcess(deployment_id, folder, 300)
    try:
        assert made.settled.wait(PATIENCE)
        assert (made.failed, made.context) == (None, 300)
    finally:
        made.stop()


def test_it_listens_on_this_machine_only(worker: WorkerProcess) -> None:
    found = [
        one.laddr.ip
        for one in psutil.Process(worker.pid).net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    ]
    assert found == ["127.0.0.1"]


def test_it_answers_only_to_its_token(worker: WorkerProcess, client: httpx2.Client) -> None:
    assert client.get("models").status_code == 200
    assert client.get("models", headers={"Authorization": "Bearer x"}).status_code == 401


def test_small_answers_are_not_held_back(client: httpx2.Client) -> None:
    """Two small writes with Nagle's algorithm and a delayed acknowledgement: 40 ms, every time."""

    def seconds() -> float:
        begun = time.perf_counter()
        client.get("models")
        return time.perf_counter() - begun

    assert min(seconds() for _ in range(21)) < 0.03


def test_the_token_is_nowhere_to_be_read(worker: WorkerProcess, client: httpx2.Client) -> None:
    client.post("chat/completions", content=b"{")
    client.post("chat/completions", json={"messages": []})
    client.post("chat/completions", json={}, headers={"Authorization": f"Bearer {worker.token}x"})
    for text in (
        repr(worker),
        " ".join(psutil.Process(worker.pid).cmdline()),
        "\n".join(worker._log),
        worker.death().message + worker.death().hint,
    ):
        assert worker.token not in text
    assert len(worker.token) >= 32
    assert TOKEN_VARIABLE not in os.environ


def test_backends_do_not_show_the_token(backend: LocalBackend) -> None:
    ask(backend, max_tokens=1)
    assert backend.worker is not None
    assert backend.worker.token not in repr(backend) + repr(backend._client) + repr(vars(backend))


def test_ctrl_c_in_a_terminal_is_not_for_it(worker: WorkerProcess) -> None:
    """A terminal signals its whole foreground group: the parent decides what to do then."""
    assert os.getpgid(worker.pid) != os.getpgid(0)


def test_what_does_not_load_fails_in_words(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.suffix != ".onnx":
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / "model.onnx").write_bytes(b"this is no model")
    broken = WorkerProcess(ONNX, tmp_path)
    assert broken.settled.wait(PATIENCE)
    assert not broken.ready
    assert type(broken.failed) is SLMError
    assert "model.onnx" in broken.failed.message
    broken.stop()


def test_an_empty_folder_fails_in_words(tmp_path: Path) -> None:
    empty = WorkerProcess(ONNX, tmp_path)
    assert empty.settled.wait(PATIENCE)
    assert empty.failed is not None
    assert "tokenizer.json" in empty.failed.message
    empty.stop()


def test_one_that_cannot_even_start_leaves_its_last_words(tmp_path: Path) -> None:
    unknown = WorkerProcess("nothing@onnx", tmp_path)
    assert unknown.settled.wait(PATIENCE)
    assert type(unknown.failed) is WorkerDied
    assert "exit code 1" in unknown.failed.message
    assert "nothing@onnx" in unknown.failed.hint  # its traceback
    unknown.stop()


def test_a_killed_one_says_by_which_signal(folder: Path) -> None:
    doomed = WorkerProcess(ONNX, folder)
    os.kill(doomed.pid, signal.SIGKILL)
    assert doomed.settled.wait(PATIENCE)
    assert type(doomed.failed) is WorkerDied
    assert "signal 9" in doomed.failed.message
    doomed.stop()


def test_stopping_ends_it_whatever_it_does(folder: Path) -> None:
    loading = WorkerProcess(ONNX, folder)
    until(lambda: loading.port is not None)
    loading.stop()
    assert not loading.alive
    assert not psutil.pid_exists(loading.pid)
    assert "was stopped" in loading.death().message
    loading.stop()  # twice is safe


def test_one_that_does_not_listen_is_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm_backends.worker.process.STOP_SECONDS", 0.2)
    stuck = WorkerProcess(ONNX, folder)
    os.kill(stuck.pid, signal.SIGSTOP)
    stuck.stop()
    assert not psutil.pid_exists(stuck.pid)


def test_a_missing_runtime_keeps_the_line_that_brings_it() -> None:
    detail = {
        "code": "not_installed",
        "message": "None here.",
        "hint": "pip install openvino-genai",
    }
    error = _failure(detail)
    assert isinstance(error, NotInstalled)
    assert (error.package, error.hint) == ("openvino-genai", "pip install openvino-genai")
