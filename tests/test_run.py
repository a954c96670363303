"""A Run's states, numbers and cancellation, on backends whose every event is chosen here."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace

import pytest
from asking import PATIENCE, request, start, until, until_decoding

from slm_backends import background, run
from slm_backends.chat import (
    SAMPLING_FIELDS,
    About,
    Capabilities,
    ChatRequest,
    Delta,
    Event,
    Finished,
    Loading,
    Logprob,
    Prefill,
    Queued,
    Timings,
)
from slm_backends.endpoints.fake import FakeBackend
from slm_backends.errors import Busy, SLMError

Step = Event | float | Exception  # a float is a pause in seconds


class Steps:
    """A backend that plays a list."""

    id = "steps"
    capabilities = Capabilities(SAMPLING_FIELDS)
    about = About("Steps")

    def __init__(self, *steps: Step, closing: Callable[[], None] = lambda: None) -> None:
        self.steps = steps
        self.closing = closing
        self.asked = 0
        self.closed = 0

    async def stream(self, _: ChatRequest) -> AsyncGenerator[Event, None]:
        self.asked += 1
        try:
            for step in self.steps:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, (int, float)):
                    await asyncio.sleep(step)
                else:
                    yield step
        finally:
            self.closing()
            self.closed += 1


FOREVER = 1_000.0
TIMINGS = Timings(20, 250.0, 5, 400.0, queue_ms=30.0, cache_n=12)


def counted(tokens: int, decode_ms: float) -> Timings:
    return Timings(20, 250.0, tokens, decode_ms)


def play(*steps: Step) -> run.Reply:
    return start(Steps(*steps)).wait(PATIENCE)


def test_log_probabilities_gather_in_order() -> None:
    one, two, three = (Logprob(token, -1.0) for token in "abc")
    played = Steps(
        Delta("ab", None, (one, two)), Delta("", None, (three,)), Finished("length"), FOREVER
    )
    running = start(played)
    until(lambda: running.reply.logprobs == (one, two, three))
    running.cancel()
    assert running.wait(PATIENCE).logprobs == (one, two, three)
    assert play(Delta("a"), Finished("stop")).logprobs == ()


def test_states_come_in_order() -> None:
    loaded, placed, first, more = (threading.Event() for _ in range(4))

    class Gates(Steps):
        async def stream(self, _: ChatRequest) -> AsyncGenerator[Event, None]:
            for event, gate in (
                (Loading(0.5, "half"), loaded),
                (Queued(), placed),
                (Prefill(), first),
                (Delta("Hi", counted(1, 0.0)), more),
            ):
                yield event
                await asyncio.to_thread(gate.wait, PATIENCE)
            yield Finished("stop")

    going = start(Gates())
    for state, gate in (
        ("loading", loaded),
        ("queued", placed),
        ("prefill", first),
        ("decoding", more),
    ):
        until(lambda state=state: going.reply.state == state, state)
        if state == "loading":
            assert (going.reply.load_fraction, going.reply.load_step) == (0.5, "half")
        gate.set()
    assert going.wait(PATIENCE).state == "done"


def test_a_reply_grows_and_a_snapshot_does_not() -> None:
    going = start(FakeBackend("fake@tokens=200,rate=500,first=0"))
    until_decoding(going)
    early = going.reply
    text = early.text
    until(lambda: len(going.reply.text) > len(text))
    assert early.text == text
    assert going.reply.total_s > early.total_s
    with pytest.raises(dataclasses.FrozenInstanceError):
        early.text = ""  # type: ignore[misc]
    final = going.wait(PATIENCE)
    assert final.text.startswith(text)
    assert going.reply is final


def test_the_servers_own_numbers_win() -> None:
    reply = play(
        Queued(), Prefill(), Delta("a", counted(1, 0.0)), Delta("bc", counted(3, 200.0)),
        Finished("length", 20, 5, None, TIMINGS),
    )  # fmt: skip
    assert (reply.text, reply.finish_reason, reply.counted) == ("abc", "length", True)
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens) == (20, 5, 12)
    assert (reply.queue_s, reply.first_token_s, reply.decode_s) == (0.03, 0.25, 0.4)
    assert reply.tokens_per_second == pytest.approx(4 / 0.4)
    assert reply.characters_per_second == pytest.approx(3 / 0.4)
    assert reply.about == About("Steps")


def test_waiting_for_memory_is_told_and_counted_apart_from_the_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0

    class Timed(Steps):
        """Its pauses take no time, but the run's clock goes on."""

        async def stream(self, _: ChatRequest) -> AsyncGenerator[Event, None]:
            nonlocal now
            for step in self.steps:
                if isinstance(step, float):
                    now += step
                else:
                    assert not isinstance(step, Exception)
                    yield step

    waiting = Queued(2, "waiting for memory, behind another")
    going = start(Steps(waiting, FOREVER))
    until(lambda: going.reply.queue_place == 2)
    assert (going.reply.state, going.reply.queue_reason) == ("queued", waiting.reason)
    going.cancel()
    going.wait(PATIENCE)
    monkeypatch.setattr(run, "time", SimpleNamespace(perf_counter=lambda: now))
    reply = start(
        Timed(
            waiting,
            0.1,
            waiting,
            Loading(0.5, "half"),
            0.05,
            Queued(),
            0.03,
            Prefill(),
            Delta("a", counted(1, 0.0)),
            Finished("stop", timings=TIMINGS),
        )
    ).wait(PATIENCE)
    assert (reply.room_s, reply.load_s) == pytest.approx((0.1, 0.05))
    assert (reply.queue_s, reply.queue_reason) == (0.03, "")  # the server's own line
    reply = start(
        Timed(waiting, 0.1, waiting, Queued(), Prefill(), Delta("a"), Finished("stop"))
    ).wait(PATIENCE)
    assert reply.room_s == pytest.approx(0.1)  # loaded all the time, but another was before it
    assert reply.load_s == 0


def test_numbers_are_live_while_it_runs() -> None:
    going = start(
        Steps(
            Queued(),
            Prefill(),
            Delta("a", counted(1, 0.0)),
            Delta("b", counted(11, 500.0)),
            FOREVER,
        )
    )
    until(lambda: going.reply.completion_tokens == 11)
    assert going.reply.tokens_per_second == pytest.approx(20.0)
    going.cancel()
    reply = going.wait(PATIENCE)  # and they are kept by one that was stopped
    assert (reply.counted, reply.prompt_tokens, reply.completion_tokens) == (True, 20, 11)
    assert (reply.queue_s, reply.first_token_s, reply.decode_s) == (0.0, 0.25, 0.5)


def test_without_the_servers_numbers_time_is_taken_here() -> None:
    reply = play(
        Loading(0.0, ""), 0.05, Queued(), 0.03, Prefill(), 0.04, Delta("a"), 0.06, Delta("b"),
        Finished("stop", 3, 2),
    )  # fmt: skip
    assert not reply.counted
    assert reply.load_s >= 0.05
    assert reply.queue_s >= 0.03
    assert reply.first_token_s is not None
    assert reply.decode_s is not None
    assert reply.first_token_s >= 0.04
    assert reply.decode_s >= 0.06
    parts = reply.load_s + reply.queue_s + reply.first_token_s + reply.decode_s
    assert parts <= reply.total_s
    assert reply.tokens_per_second == pytest.approx(1 / reply.decode_s)


def test_nothing_to_load_takes_no_time() -> None:
    assert play(0.02, Queued(), Prefill(), Delta("a"), Finished("stop")).load_s == 0.0


def test_speeds_are_unknown_for_a_reply_of_one_token() -> None:
    reply = play(Queued(), Prefill(), Delta("a", counted(1, 0.0)), Finished("length", 3, 1))
    assert reply.tokens_per_second is None
    assert reply.characters_per_second is None


def test_an_error_fails_the_run_and_keeps_its_text() -> None:
    error = Busy("Too many.", hint="Wait.")
    reply = play(Queued(), Prefill(), Delta("partial"), error)
    assert (reply.state, reply.text, reply.error) == ("failed", "partial", error)


def test_a_defect_fails_the_run_with_its_name() -> None:
    reply = play(Queued(), KeyError("oops"))
    assert reply.state == "failed"
    assert type(reply.error) is SLMError
    assert "KeyError" in reply.error.message
    assert isinstance(reply.error.__cause__, KeyError)


@pytest.mark.parametrize(
    ("steps", "state", "text"),
    [
        ((FOREVER,), "queued", ""),
        ((Loading(0.5, "half"), FOREVER), "loading", ""),
        ((Queued(), FOREVER), "queued", ""),
        ((Queued(), Prefill(), FOREVER), "prefill", ""),
        ((Queued(), Prefill(), Delta("part"), FOREVER), "decoding", "part"),
    ],
    ids=["asked", "loading", "queued", "prefill", "decoding"],
)
def test_it_can_be_cancelled_in_every_state(steps: tuple[Step, ...], state: str, text: str) -> None:
    backend = Steps(*steps)
    going = start(backend)
    until(lambda: backend.asked and going.reply.state == state and going.reply.text == text)
    going.cancel()
    reply = going.wait(PATIENCE)
    assert (reply.state, reply.text, reply.finish_reason) == ("stopped", text, "stopped")
    assert reply.error is None
    assert backend.closed == 1


def test_a_run_cancelled_before_the_loop_came_to_it_never_asks() -> None:
    released = threading.Event()
    background.call(lambda: released.wait(PATIENCE))  # the loop is busy
    backend = Steps(FOREVER)
    going = start(backend)
    going.cancel()
    assert not going.reply.ended
    released.set()
    assert going.wait(PATIENCE).state == "stopped"
    assert backend.asked == 0


def test_cancelling_twice_lets_the_stream_be_closed_in_peace() -> None:
    closing, closed = threading.Event(), []

    class Slow(Steps):
        async def stream(self, _: ChatRequest) -> AsyncGenerator[Event, None]:
            try:
                yield Prefill()
                await asyncio.sleep(FOREVER)
            finally:
                closing.set()
                await asyncio.sleep(0.05)
                closed.append(True)

    going = start(Slow())
    until(lambda: going.reply.state == "prefill")
    going.cancel()
    assert closing.wait(PATIENCE)
    going.cancel()
    assert going.wait(PATIENCE).state == "stopped"
    assert closed


def test_cancelling_what_has_ended_changes_nothing() -> None:
    going = start(Steps(Queued(), Prefill(), Delta("all"), Finished("stop")))
    reply = going.wait(PATIENCE)
    going.cancel()
    background.submit(asyncio.sleep(0)).result(PATIENCE)  # the loop has come past it
    assert going.reply is reply
    assert reply.state == "done"


def test_an_end_is_an_end() -> None:
    """Text that arrives while a run is cancelled must not bring it back to life."""
    for _ in range(30):
        going = start(FakeBackend("fake@tokens=100000,rate=0,first=0"), max_tokens=100_000)
        until_decoding(going)
        going.cancel()
        ended = going.wait(PATIENCE)
        assert ended.state == "stopped"
        background.submit(asyncio.sleep(0)).result(PATIENCE)
        assert going.reply is ended


def test_waiting_gives_up_in_time() -> None:
    going = start(Steps(FOREVER))
    assert not going.wait(0.01).ended
    going.cancel()
    assert going.wait(PATIENCE).ended


def test_many_runs_share_the_loop() -> None:
    going = [
        run.start(FakeBackend("fake@tokens=20,rate=200,first=0"), request()) for _ in range(20)
    ]
    assert {one.wait(PATIENCE).state for one in going} == {"done"}
