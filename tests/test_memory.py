"""Making room and waiting for it: real workers, of which the budget lets one run at a time."""

from __future__ import annotations

import threading
import time

import pytest
from asking import LONG, PATIENCE, ask, start, until, until_decoding
from twins import ONE, THREE, TWO, gone, local, pid_of

from slm_backends import store
from slm_backends.errors import MemoryExceeded, SLMError, WorkerDied
from slm_backends.run import Run
from slm_backends.selector import Selector


@pytest.fixture(autouse=True)
def budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_MEMORY_GB", "1")


def busy_with(own: Selector, deployment_id: str) -> Run:
    going = start(local(own, deployment_id), LONG, max_tokens=4_000)
    until_decoding(going)
    return going


def until_waiting(run: Run, place: int = 1) -> str:
    """The reason that is shown while it waits at that place."""
    until(lambda: (run.reply.queue_place == place and run.reply.queue_reason) or run.reply.ended)
    assert run.reply.state == "queued", run.reply
    return run.reply.queue_reason


def test_the_idle_one_makes_room(own: Selector, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = local(own, ONE), local(own, TWO)
    ask(one, max_tokens=1)
    pid = pid_of(one)
    assert ask(two, max_tokens=1).room_s < 1
    assert gone(pid)
    assert [item.id for item in own.loaded()] == [TWO]
    monkeypatch.setenv("SLM_MEMORY_GB", "1.5")
    assert ask(one, max_tokens=1).state == "done"
    assert [item.id for item in own.loaded()] == [TWO, ONE]
    assert ask(local(own, THREE), max_tokens=1).state == "done"
    assert [item.id for item in own.loaded()] == [ONE, THREE]  # the longest idle has gone


def test_a_busy_one_is_waited_for_and_the_wait_is_told(own: Selector) -> None:
    busy = busy_with(own, ONE)
    pid = pid_of(local(own, ONE))
    waiting = start(local(own, TWO), max_tokens=2)
    assert until_waiting(waiting) == f"waiting for memory: {ONE} is in use"
    time.sleep(0.3)
    assert busy.reply.state == "decoding"
    assert not gone(pid)
    busy.cancel()
    reply = waiting.wait(PATIENCE)
    assert reply.state == "done"
    assert gone(pid)
    assert reply.room_s > 0.3
    assert 0 < reply.load_s <= reply.total_s - reply.room_s
    assert reply.queue_s < 0.3  # the server's own line: it was empty


def test_a_comparison_that_does_not_fit_runs_one_after_the_other(own: Selector) -> None:
    panes = [start(local(own, item), LONG, max_tokens=20) for item in (ONE, TWO, THREE)]
    replies = [pane.wait(PATIENCE) for pane in panes]
    assert [reply.state for reply in replies] == ["done"] * 3
    first, second, third = (reply.room_s for reply in replies)
    assert first < second < third
    assert [item.loads for item in own._local()] == [1, 1, 1]


def test_an_endless_stream_of_requests_starves_nobody(own: Selector) -> None:
    asked: list[Run] = []
    enough = threading.Event()

    def ask_and_ask() -> None:
        while not enough.is_set():
            if sum(not run.reply.ended for run in asked) < 3:
                asked.append(start(local(own, ONE), LONG, max_tokens=30))
            time.sleep(0.02)

    busy = busy_with(own, ONE)
    asking = threading.Thread(target=ask_and_ask)
    asking.start()
    try:
        other = start(local(own, TWO), max_tokens=2)
        until_waiting(other)
        later = start(local(own, ONE), max_tokens=1)
        assert until_waiting(later, 2) == f"waiting for memory, behind {TWO}"
        busy.cancel()
        assert other.wait(PATIENCE).state == "done"
    finally:
        enough.set()
        asking.join()
    assert later.wait(PATIENCE).state == "done"  # nor are those who asked first
    assert {run.wait(PATIENCE).state for run in asked} == {"done"}
    assert (local(own, ONE).loads, local(own, TWO).loads) == (2, 1)


def test_two_who_wait_for_the_same_model_load_it_once(own: Selector) -> None:
    busy = busy_with(own, ONE)
    waiting = [start(local(own, TWO), max_tokens=2) for _ in range(2)]
    for run in waiting:
        until_waiting(run, 1)
    busy.cancel()
    assert [run.wait(PATIENCE).state for run in waiting] == ["done", "done"]
    assert local(own, TWO).loads == 1


def test_who_is_cancelled_leaves_the_line(own: Selector) -> None:
    busy = busy_with(own, ONE)
    two, three = start(local(own, TWO), max_tokens=2), start(local(own, THREE), max_tokens=2)
    until_waiting(two, 1)
    assert until_waiting(three, 2) == f"waiting for memory, behind {TWO}"
    two.cancel()
    assert two.wait(5).state == "stopped"
    assert until_waiting(three, 1) == f"waiting for memory: {ONE} is in use"
    three.cancel()
    assert three.wait(5).state == "stopped"
    until(lambda: not local(own, ONE).leaving)
    assert ask(local(own, ONE), max_tokens=1).room_s == 0  # nobody is before it any more
    assert busy.reply.state == "decoding"
    assert local(own, TWO).loads == local(own, THREE).loads == 0


def test_who_fails_to_load_lets_the_next_one_in(own: Selector) -> None:
    model = store.folder(local(own, TWO).deployment) / "model.onnx"
    size = model.stat().st_size
    model.unlink()
    model.write_bytes(b"x" * size)
    busy = busy_with(own, ONE)
    broken, next_one = start(local(own, TWO)), start(local(own, THREE), max_tokens=2)
    until_waiting(next_one, 2)
    busy.cancel()
    assert "model.onnx" in str(broken.wait(PATIENCE).error)
    assert next_one.wait(PATIENCE).state == "done"


def test_unloading_one_that_waits(own: Selector) -> None:
    busy = busy_with(own, ONE)
    waiting = start(local(own, TWO), max_tokens=2)
    until_waiting(waiting)
    own.unload(TWO, force=True)
    assert type(waiting.wait(5).error) is WorkerDied
    assert busy.reply.state == "decoding"
    assert local(own, TWO).loads == 0


def test_unloading_the_one_that_is_waited_for(own: Selector) -> None:
    busy = busy_with(own, ONE)
    waiting = start(local(own, TWO), max_tokens=2)
    until_waiting(waiting)
    own.unload(ONE, force=True)
    assert waiting.wait(PATIENCE).state == "done"
    assert type(busy.wait(5).error) is WorkerDied


def test_a_load_without_a_request_waits_too(own: Selector) -> None:
    busy = busy_with(own, ONE)
    future = own.load(TWO)
    until(lambda: ONE in (own.loading(TWO) or pytest.fail("it does not load")).step)
    own.unload(TWO)
    assert own.loading(TWO) is None
    assert type(future.exception(5)) is WorkerDied
    assert busy.reply.state == "decoding"


def test_what_can_never_fit_is_refused_at_once(
    own: Selector, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = busy_with(own, ONE)
    monkeypatch.setenv("SLM_MEMORY_GB", "0.6")
    error = start(local(own, TWO), max_tokens=2).wait(PATIENCE).error
    assert type(error) is MemoryExceeded
    for words in (TWO, "needs 0.7 GB, measured", "0.6 GB of memory together"):
        assert words in error.message
    assert "SLM_MEMORY_GB" in error.hint
    assert busy.reply.state == "decoding"
    assert local(own, ONE).loaded


@pytest.mark.parametrize("wrong", ["much", "nan", "inf", "1,5", "-1"])
def test_a_budget_that_is_no_number_fails_the_run(
    own: Selector, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setenv("SLM_MEMORY_GB", wrong)
    with pytest.raises(SLMError, match="SLM_MEMORY_GB"):
        ask(local(own, ONE), max_tokens=1)
