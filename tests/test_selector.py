"""Loading once, counting users, making room, ending: on real weights in real worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from asking import LONG, PATIENCE, ask, request, start, until, until_decoding

from slm_backends import background, catalog, run, selector, store
from slm_backends.endpoints.openai import OpenAIBackend
from slm_backends.errors import (
    MemoryExceeded,
    NotFetched,
    NotFound,
    SLMError,
    Unauthorized,
    Unsupported,
    WorkerDied,
)
from slm_backends.selector import LocalBackend, Selector

ROOT = Path(__file__).parents[1]
ONE, TWO = "smollm2-135m-instruct@onnx", "twin@onnx"
CATALOG = """
[models.twin]
name = "Twin"
context = 8_192

[deployments."twin@onnx"]
source = "smollm2-135m-instruct-gguf"
convert = "onnx-int4"
memory = 700_000_000

[deployments."twin@openai"]
base_url = "http://127.0.0.1:9/v1"
key = "TWIN_KEY"
start = "Start it."
"""


@pytest.fixture(autouse=True)
def twins(embedded: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store with the fastest deployment twice, under two ids, and a catalog that knows both."""
    real = store.folder(catalog.load().deployment(ONE))
    own = tmp_path / "catalog.toml"
    own.write_text(CATALOG, encoding="utf-8")
    monkeypatch.setenv("SLM_CATALOG", str(own))
    monkeypatch.setenv("SLM_HOME", str(tmp_path / "home"))
    for deployment_id in (ONE, TWO):
        folder = store.folder(catalog.load().deployment(deployment_id))
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(real)


@pytest.fixture
def own() -> Iterator[Selector]:
    """A selector of the test's own, whose workers end with the test."""
    made = Selector()
    yield made
    for item in list(made._backends):
        made.unload(item)
    made.close()


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


def test_ten_callers_at_once_cause_one_load(own: Selector) -> None:
    ready = threading.Barrier(10)

    def caller(number: int) -> tuple[object, run.Reply]:
        ready.wait()
        backend = own.backend(ONE)
        return backend, start(backend, f"Say {number}.", max_tokens=3).wait(PATIENCE)

    with ThreadPoolExecutor(10) as threads:
        results = list(threads.map(caller, range(10)))
    backend = local(own, ONE)
    assert {id(found) for found, _ in results} == {id(backend)}
    assert [reply.state for _, reply in results] == ["done"] * 10
    assert all(reply.load_s > 0 for _, reply in results)
    assert backend.loads == 1
    assert backend.leases == 0
    assert ask(backend, max_tokens=1).load_s == 0
    assert backend.loads == 1


def test_loading_reports_progress(own: Selector) -> None:
    seen: list[tuple[float, str]] = []

    async def watch() -> None:
        async for event in local(own, ONE).load():
            seen.append((event.fraction, event.step))

    background.submit(watch()).result(PATIENCE)
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert len(set(seen)) >= 3
    assert all(0 <= fraction <= 1 and step for fraction, step in seen)
    assert local(own, ONE).loaded


def test_a_run_shows_that_it_loads(own: Selector) -> None:
    going = start(own.backend(ONE), max_tokens=2)
    until(lambda: going.reply.state == "loading")
    until(lambda: going.reply.load_fraction > 0 or going.reply.ended)
    assert going.reply.state == "loading"
    assert going.reply.load_step
    reply = going.wait(PATIENCE)
    assert reply.state == "done"
    assert 0 < reply.load_s < reply.total_s


def test_cancelling_one_who_waits_for_a_load_leaves_it_to_the_others(own: Selector) -> None:
    backend = local(own, ONE)
    first, second = start(backend, max_tokens=2), start(backend, max_tokens=2)
    until(lambda: first.reply.state == second.reply.state == "loading")
    first.cancel()
    assert first.wait(5).state == "stopped"
    assert first.reply.load_s > 0
    assert second.wait(PATIENCE).state == "done"
    assert backend.loads == 1


def test_a_load_that_nobody_waits_for_any_more_still_ends_well(own: Selector) -> None:
    backend = local(own, ONE)
    only = start(backend, max_tokens=2)
    until(lambda: only.reply.state == "loading")
    only.cancel()
    assert only.wait(5).state == "stopped"
    until(lambda: backend.loaded)
    assert ask(backend, max_tokens=2).load_s == 0
    assert backend.loads == 1


def test_unloading_ends_the_process_and_the_next_request_starts_another(own: Selector) -> None:
    backend = local(own, ONE)
    ask(backend, max_tokens=1)
    pid = pid_of(backend)
    assert psutil.Process(pid).memory_info().rss > 100e6
    own.unload(ONE)
    assert gone(pid)
    assert not backend.loaded
    assert own.loaded() == []
    own.unload(ONE)  # a second time does nothing
    assert ask(backend, max_tokens=1).load_s > 0
    assert backend.loads == 2
    assert pid_of(backend) != pid


def test_unloading_what_is_in_use_fails_its_runs(own: Selector) -> None:
    backend = local(own, ONE)
    going = start(backend, LONG, max_tokens=2_000)
    until_decoding(going)
    pid = pid_of(backend)
    own.unload(ONE)
    assert gone(pid)
    reply = going.wait(10)
    assert reply.state == "failed"
    assert type(reply.error) is WorkerDied
    assert reply.text
    assert backend.leases == 0


def test_unloading_what_is_being_loaded(own: Selector) -> None:
    backend = local(own, ONE)
    going = start(backend, max_tokens=2)
    until(lambda: backend.worker is not None)
    pid = pid_of(backend)
    own.unload(ONE)
    assert gone(pid)
    assert type(going.wait(10).error) is WorkerDied
    assert ask(backend, max_tokens=2).state == "done"


def test_a_killed_worker_fails_its_own_runs_only(own: Selector) -> None:
    backend, other = local(own, ONE), local(own, TWO)
    doomed = [start(backend, LONG, max_tokens=2_000, seed=seed) for seed in range(2)]
    safe = start(other, LONG, max_tokens=40)
    for going in (*doomed, safe):
        until(lambda going=going: going.reply.text or going.reply.ended)
    pid = pid_of(backend)
    os.kill(pid, signal.SIGKILL)
    for going in doomed:
        reply = going.wait(10)
        assert reply.state == "failed"
        assert type(reply.error) is WorkerDied
        assert "signal 9" in reply.error.message
        assert ONE in reply.error.message
        assert "again" in reply.error.hint
        assert reply.text  # what there was is kept
    assert safe.wait(PATIENCE).state == "done"
    assert ask(backend, max_tokens=2).state == "done"
    assert (backend.loads, other.loads) == (2, 1)
    assert pid_of(backend) != pid


def test_a_worker_killed_while_idle_is_replaced(own: Selector) -> None:
    backend = local(own, ONE)
    ask(backend, max_tokens=1)
    os.kill(pid_of(backend), signal.SIGKILL)
    until(lambda: not backend.loaded)
    seen = start(backend, max_tokens=1)
    reply = seen.wait(PATIENCE)
    assert reply.state == "done"
    assert backend.loads == 2


def test_a_worker_killed_while_it_loads_fails_those_who_wait(own: Selector) -> None:
    backend = local(own, ONE)
    waiting = [start(backend, max_tokens=2) for _ in range(3)]
    until(lambda: backend.worker is not None)
    os.kill(pid_of(backend), signal.SIGKILL)
    for going in waiting:
        assert type(going.wait(10).error) is WorkerDied
    assert ask(backend, max_tokens=2).state == "done"


def test_idle_backends_make_room_and_those_in_use_do_not(
    own: Selector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLM_MEMORY_GB", "1")
    one, two = local(own, ONE), local(own, TWO)
    busy = start(one, LONG, max_tokens=2_000)
    until_decoding(busy)
    pid = pid_of(one)

    refused = start(two, max_tokens=2).wait(PATIENCE)
    assert type(refused.error) is MemoryExceeded
    for word in (TWO, ONE, "0.7 GB", "1.0 GB"):
        assert word in refused.error.message
    assert "SLM_MEMORY_GB" in refused.error.hint
    assert busy.reply.state == "decoding"
    assert not gone(pid)

    busy.cancel()
    assert busy.wait(10).state == "stopped"
    until(lambda: not one.in_use)
    assert ask(two, max_tokens=2).state == "done"
    assert gone(pid)
    assert [item.id for item in own.loaded()] == [TWO]

    monkeypatch.setenv("SLM_MEMORY_GB", "2")
    assert ask(one, max_tokens=2).state == "done"
    assert [item.id for item in own.loaded()] == [TWO, ONE]


def test_what_never_fits_evicts_nobody(own: Selector, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = local(own, ONE), local(own, TWO)
    ask(one, max_tokens=1)
    monkeypatch.setenv("SLM_MEMORY_GB", "0.5")
    assert type(start(two, max_tokens=1).wait(PATIENCE).error) is MemoryExceeded
    assert one.loaded


def test_workers_end_with_a_parent_that_is_killed() -> None:
    script = (
        "from slm_backends import run, selector\n"
        "from slm_backends.chat import ChatRequest, Message, Sampling\n"
        f"backend = selector.backend({ONE!r})\n"
        "asked = ChatRequest((Message('user', 'A long story'),), Sampling(max_tokens=4000))\n"
        "going = run.start(backend, asked)\n"
        "while not going.reply.text: going.wait(0.01)\n"
        "print(backend.worker.pid, flush=True)\n"
        "going.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
        parent.wait()
        assert until(lambda: gone(pid)) < 10


def test_workers_end_with_a_parent_that_ends() -> None:
    script = (
        "from slm_backends import run, selector\n"
        "from slm_backends.chat import ChatRequest, Message, Sampling\n"
        f"backend = selector.backend({ONE!r})\n"
        "asked = ChatRequest((Message('user', 'A long story'),), Sampling(max_tokens=4000))\n"
        "going = run.start(backend, asked)\n"
        "while not going.reply.text: going.wait(0.01)\n"
        "print(backend.worker.pid, flush=True)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert said.returncode == 0, said.stderr
    assert said.stderr == ""
    assert gone(int(said.stdout))


# --- without weights ---------------------------------------------------------------------------


def test_weights_that_are_not_here(
    own: Selector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLM_HOME", str(tmp_path / "empty"))
    with pytest.raises(NotFetched) as caught:
        ask(own.backend(ONE))
    assert f"python -m slm_backends fetch {ONE}" in caught.value.hint


def test_what_is_refused_is_refused_before_anything_is_loaded(own: Selector) -> None:
    backend = local(own, ONE)
    with pytest.raises(Unsupported):
        ask(backend, presence_penalty=1.0)
    assert backend.loads == 0


def test_unknown_deployments_are_not_found(own: Selector) -> None:
    with pytest.raises(NotFound) as caught:
        own.backend("nothing@nowhere")
    assert ONE in caught.value.hint


def test_a_server_needs_its_key(own: Selector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWIN_KEY", raising=False)
    with pytest.raises(Unauthorized) as caught:
        own.backend("twin@openai")
    assert "TWIN_KEY" in caught.value.hint
    monkeypatch.setenv("TWIN_KEY", "a-key-that-must-not-show")
    backend = own.backend("twin@openai")
    assert isinstance(backend, OpenAIBackend)
    assert "a-key-that-must-not-show" not in repr(backend)
    assert own.backend("twin@openai") is backend


@pytest.mark.parametrize("wrong", ["much", "nan", "inf", "1,5"])
def test_a_budget_must_be_a_number(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_MEMORY_GB", wrong)
    with pytest.raises(SLMError, match="SLM_MEMORY_GB"):
        selector.memory_budget()


def test_the_budget_is_a_share_of_this_computers_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLM_MEMORY_GB", raising=False)
    assert selector.memory_budget() == int(0.8 * psutil.virtual_memory().total)
    monkeypatch.setenv("SLM_MEMORY_GB", "1.5")
    assert selector.memory_budget() == 1_500_000_000


def test_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployments = catalog.load().deployments
    assert selector.state(deployments[ONE]).word in ("ready", "loaded")
    monkeypatch.delenv("TWIN_KEY", raising=False)
    assert selector.state(deployments["twin@openai"]).word == "needs key"
    monkeypatch.setenv("TWIN_KEY", "x")
    state = selector.state(deployments["twin@openai"])
    assert (state.word, state.reason, state.usable) == ("unknown", "Start it.", True)
    monkeypatch.setenv("SLM_HOME", str(tmp_path / "empty"))
    state = selector.state(deployments[ONE])
    assert (state.word, state.usable) == ("fetchable", False)
    assert f"fetch {ONE}" in state.reason
    monkeypatch.setattr(selector.importlib.util, "find_spec", lambda name: None)
    state = selector.state(deployments[ONE])
    assert (state.word, state.reason) == ("not installed", "pip install onnxruntime-genai")


def test_a_fake_backend_is_cached_too(own: Selector) -> None:
    assert own.backend("fake@tokens=3") is own.backend("fake@tokens=3")
    own.unload("fake@tokens=3")  # nothing to end, and no error


def test_closing_twice_is_safe(own: Selector) -> None:
    ask(local(own, ONE), max_tokens=1)
    pid = pid_of(local(own, ONE))
    own.close()
    assert gone(pid)
    own.close()


def test_the_caller_of_a_stream_may_leave_it(own: Selector) -> None:
    """Closing the iterator ends the lease, whoever iterates."""
    backend = local(own, ONE)

    async def leave() -> int:
        stream = backend.stream(request(LONG, max_tokens=500))
        async for _ in stream:
            held = backend.leases
            break
        await stream.aclose()
        return held

    assert background.submit(leave()).result(PATIENCE) == 1
    assert backend.leases == 0
