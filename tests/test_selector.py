"""Finding backends, their states, and loading one on purpose: real weights, real processes."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from asking import LONG, PATIENCE, ask, start, until, until_decoding
from twins import ONE, gone, local, pid_of

from slm_backends import catalog, selector, store
from slm_backends.errors import BadRequest, NotFetched, NotFound, Unauthorized
from slm_backends.remote import RemoteBackend
from slm_backends.selector import Selector, State


def test_unknown_deployments_are_not_found(own: Selector) -> None:
    with pytest.raises(NotFound) as caught:
        own.backend("smollm2-135m-instruct@nowhere")
    assert ONE in caught.value.hint


def test_a_server_needs_its_key(own: Selector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWIN_KEY", raising=False)
    with pytest.raises(Unauthorized) as caught:
        own.backend("twin@openai")
    assert "TWIN_KEY" in caught.value.hint
    monkeypatch.setenv("TWIN_KEY", "a-key-that-must-not-show")
    backend = own.backend("twin@openai")
    assert isinstance(backend, RemoteBackend)
    assert "a-key-that-must-not-show" not in repr(backend)
    assert own.backend("twin@openai") is backend


@pytest.mark.usefixtures("own")
def test_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployments = catalog.load().deployments
    assert selector.state(deployments[ONE]) == State("ready")
    monkeypatch.delenv("TWIN_KEY", raising=False)
    typed = "set TWIN_KEY, or type it on the Models page"
    assert selector.state(deployments["twin@openai"]) == State("needs key", typed)
    monkeypatch.setenv("TWIN_KEY", "x")
    state = selector.state(deployments["twin@openai"])
    assert (state.word, state.reason, state.usable) == ("unknown", "Start it.", True)
    monkeypatch.setenv("SLM_MEMORY_GB", "0.3")
    state = selector.state(deployments[ONE])
    assert (state.word, state.usable) == ("ready", True)
    assert "needs 0.7 GB" in state.reason
    monkeypatch.setenv("SLM_HOME", str(tmp_path / "empty"))
    assert "needs 0.7 GB" in selector.state(deployments[ONE]).reason
    monkeypatch.delenv("SLM_MEMORY_GB")
    state = selector.state(deployments[ONE])
    assert (state.word, state.usable) == ("fetchable", False)
    assert f"fetch {ONE}" in state.reason


def without_cache(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the selector look again in this test, and once more after it."""
    monkeypatch.setattr(selector, name, getattr(selector, name).__wrapped__)


def test_a_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    without_cache(monkeypatch, "_has_module")
    deployment = catalog.load().deployments[ONE]
    monkeypatch.setattr(selector.importlib.util, "find_spec", lambda name: None)
    state = selector.state(deployment)
    assert state == State("not installed", "pip install onnxruntime-genai")
    assert not state.usable
    built_for_cuda = replace(deployment, package="onnxruntime-genai-cuda")
    assert selector.not_installed(built_for_cuda) == "onnxruntime-genai-cuda"


def test_another_build_of_a_runtime_is_told_from_the_one_that_is_installed() -> None:
    deployment = catalog.load().deployments[ONE]
    assert selector.not_installed(replace(deployment, package="onnxruntime-genai")) == ""
    other = "onnxruntime-genai-cuda 'mlx[cuda]'"
    assert selector.not_installed(replace(deployment, package=other)) == other


def test_hardware_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = catalog.load().deployments[ONE]
    monkeypatch.setattr(selector, "_has_nvidia", lambda: False)
    state = selector.state(replace(deployment, device="cuda"))
    assert (state.word, state.usable) == ("not here", False)
    assert "NVIDIA" in state.reason
    monkeypatch.setattr(selector, "_has_nvidia", lambda: True)
    assert selector.state(replace(deployment, device="cuda")).word == "ready"
    monkeypatch.setattr(selector.sys, "platform", "linux")
    monkeypatch.setattr(selector, "LINUX_DRIVERS", {"NPU": Path("/dev/null/nothing")})
    on_npu = replace(deployment, device="NPU", needs="an Intel NPU")
    assert selector.state(on_npu) == State("not here", "needs an Intel NPU")
    monkeypatch.setattr(selector, "LINUX_DRIVERS", {"NPU": Path("/dev/null")})
    assert selector.state(on_npu).word == "ready"
    assert selector.state(replace(deployment, device="dml")).reason == "needs Windows"
    monkeypatch.setattr(selector.sys, "platform", "win32")
    assert selector.state(replace(deployment, device="dml")).word == "ready"
    on_mlx = replace(deployment, runtime="mlx")
    assert selector.state(on_mlx) == State("not here", "needs macOS or Linux")


@pytest.mark.usefixtures("own")
def test_asking_for_a_state_is_quick() -> None:
    """The page asks for that of every deployment each time it is drawn."""
    deployments = [item for item in catalog.load().deployments.values() if item.local]
    for item in deployments:
        selector.state(item)
    begun = time.process_time()  # other processes do not count
    for _ in range(20):
        for item in deployments:
            selector.state(item)
    assert (time.process_time() - begun) / 20 / len(deployments) < 0.002


def test_loading_without_a_request_and_what_the_worker_is_like(own: Selector) -> None:
    assert own.workers() == []
    assert own.loading(ONE) is None
    future = own.load(ONE)
    first = own.loading(ONE)
    assert first is not None
    seen = {first}
    until(lambda: seen.add(own.loading(ONE)) or future.done())
    assert future.result() is None
    assert len(seen) > 3
    assert own.loading(ONE) is None
    worker = own.workers()[0]
    assert worker.deployment_id == ONE
    assert worker.pid == pid_of(local(own, ONE))
    assert 100e6 < worker.memory_bytes < 1.5e9
    assert worker.held_bytes == 700_000_000
    assert (worker.in_use, worker.waiting, worker.loads) == (0, 0, 1)
    assert 0 <= worker.idle_s < 30
    assert worker.about.version.startswith("onnxruntime-genai")
    going = start(own.backend(ONE), LONG, max_tokens=500)
    until_decoding(going)
    worker = own.workers()[0]
    assert (worker.in_use, worker.idle_s) == (1, 0.0)
    going.cancel()
    going.wait(10)
    own.unload(ONE)
    assert own.workers() == []


def test_a_load_that_fails_says_why_until_the_next(own: Selector) -> None:
    assert own.load_failure(ONE) is None
    folder = store.folder(catalog.load().deployment(ONE))
    aside = folder.rename(folder.with_name("aside"))
    assert type(own.load(ONE).exception(PATIENCE)) is NotFetched
    assert type(own.load_failure(ONE)) is NotFetched
    aside.rename(folder)
    own.load(ONE).result(PATIENCE)
    assert own.load_failure(ONE) is None


def test_what_runs_on_a_server_cannot_be_loaded(own: Selector) -> None:
    with pytest.raises(BadRequest, match="server"):
        own.load("fake@tokens=3")


def test_a_fake_backend_is_cached_too(own: Selector) -> None:
    assert own.backend("fake@tokens=3") is own.backend("fake@tokens=3")
    own.unload("fake@tokens=3")  # nothing to end, and no error


def test_closing_twice_is_safe(own: Selector) -> None:
    ask(local(own, ONE), max_tokens=1)
    pid = pid_of(local(own, ONE))
    own.close()
    assert gone(pid)
    own.close()
