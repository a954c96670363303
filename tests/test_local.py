"""A worker's life: loaded once, used, unloaded, killed, idle. Real weights, real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from asking import LONG, PATIENCE, ask, request, start, until, until_decoding
from twins import ONE, TWO, gone, local, pid_of

from slm_backends import background, run
from slm_backends.chat import ChatRequest, Image, Message, Queued
from slm_backends.errors import Busy, NotFetched, SLMError, Unsupported, WorkerDied
from slm_backends.selector import Selector

ROOT = Path(__file__).parents[1]


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
            assert not isinstance(event, Queued)
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
    own.unload(ONE, force=True)
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
    own.unload(ONE, force=True)
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


@pytest.mark.usefixtures("own")
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


@pytest.mark.usefixtures("own")
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


def test_weights_that_are_not_here(
    own: Selector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLM_HOME", str(tmp_path / "empty"))
    with pytest.raises(NotFetched) as caught:
        ask(own.backend(ONE))
    assert f"python -m slm_backends fetch {ONE}" in caught.value.hint


def test_what_is_refused_is_refused_before_anything_is_loaded(own: Selector) -> None:
    backend = local(own, ONE)
    picture = ChatRequest((Message("user", "What is this?", (Image(b"data"),)),))
    assert type(run.start(backend, picture).wait(PATIENCE).error) is Unsupported
    assert backend.loads == 0


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


def test_what_is_in_use_is_unloaded_only_by_force(own: Selector) -> None:
    backend = local(own, ONE)
    going = start(backend, LONG, max_tokens=400)
    until_decoding(going)
    with pytest.raises(Busy, match="1 reply"):
        own.unload(ONE)
    assert backend.loaded
    assert going.reply.state == "decoding"
    going.cancel()
    going.wait(10)
    own.unload(ONE)
    assert not backend.loaded


def test_the_worker_holds_no_more_than_it_is_told(
    own: Selector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLM_CONTEXT", "100")
    backend = local(own, ONE)
    assert backend.capabilities.context == 100
    arguments = []

    def watch() -> bool:
        if backend.worker is not None:
            arguments[:] = psutil.Process(backend.worker.pid).cmdline()
        return bool(arguments)

    going = start(backend, max_tokens=1)
    until(watch)
    assert arguments[-2:] == ["100", ""], "tokens, and as many bytes of weights as there are"
    assert going.wait(PATIENCE).state == "done"


def test_an_idle_worker_ends_and_one_in_use_does_not(
    own: Selector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLM_IDLE_MINUTES", str(0.4 / 60))
    backend = local(own, ONE)
    going = start(backend, LONG, max_tokens=120, seed=1)
    until_decoding(going)
    begun = time.monotonic()
    reply = going.wait(PATIENCE)
    assert reply.state == "done"
    assert time.monotonic() - begun > 0.5, "too short to tell anything"
    ended = time.monotonic()
    pid = pid_of(backend)
    until(lambda: gone(pid))
    assert 0.3 < time.monotonic() - ended < 5
    until(lambda: own.loaded() == [])
    assert ask(backend, max_tokens=1).load_s > 0


def test_a_worker_with_no_limit_of_idleness_stays(
    own: Selector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLM_IDLE_MINUTES", "0")
    backend = local(own, ONE)
    ask(backend, max_tokens=1)
    assert backend._idle_watch is None


@pytest.mark.parametrize("wrong", ["long", "-1", "nan", "inf"])
def test_the_limit_of_idleness_must_be_a_number(
    own: Selector, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setenv("SLM_IDLE_MINUTES", wrong)
    with pytest.raises(SLMError, match="SLM_IDLE_MINUTES"):
        ask(own.backend(ONE))
