"""The turns on the Experts page: who of them runs, and who is asked, stopped and forgotten."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import streamlit as st

from slm_backends.chat import Sampling
from slm_backends.routing import Experts
from ui.moe import asking, twins
from ui.moe.cut import Cut
from ui.moe.desk import Desk, desk, left
from ui.panes import Turn

QUICK = "fake@tokens=3,rate=0,first=0,text=plain"
SLOW = "fake@tokens=2000,rate=20,first=0,text=plain"


class Session(dict[str, object]):
    """Streamlit's is read by key and by attribute."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session of the test's own."""
    made = Session()
    monkeypatch.setattr(st, "session_state", made)
    return made


@pytest.fixture
def ask() -> Iterator[Callable[[str], Turn]]:
    made: list[Turn] = []

    def ask(deployment_id: str) -> Turn:
        made.append(asking.ask(deployment_id, "Hello", "", Sampling(max_tokens=2000)))
        return made[-1]

    yield ask
    for turn in made:
        turn.cancel()


def ended(turn: Turn) -> Turn:
    assert turn.run is not None
    assert turn.run.wait(20).ended
    return turn


def test_an_empty_desk_runs_nothing() -> None:
    assert not list(Desk().turns())
    assert not Desk().running


def test_it_is_one_for_all_of_a_session() -> None:
    assert desk() is desk()


def test_each_place_counts(ask: Callable[[str], Turn]) -> None:
    one, other, untouched, limited = (ended(ask(QUICK)) for _ in range(4))
    full = Desk(one, other, Cut(Experts(k=1), untouched, limited, stopped=True))
    assert list(full.turns()) == [one, other, untouched, limited]
    assert not full.running
    full.other = ask(SLOW)
    assert full.running


def test_stop_ends_all_that_runs(ask: Callable[[str], Turn]) -> None:
    full = Desk(ask(SLOW), ask(SLOW), Cut(Experts(k=1), ask(SLOW), ask(SLOW)))
    full.stop()
    assert {ended(turn).reply.state for turn in full.turns()} == {"stopped"}
    assert not full.running


def test_another_prompt_stops_and_forgets_the_old(ask: Callable[[str], Turn]) -> None:
    main = ask(SLOW)
    full = Desk(main, twins=twins.Twins("Hello", main.sampling))
    full.clear()
    assert full == Desk()
    assert ended(main).reply.state == "stopped"


def test_a_look_asks_the_twin_when_the_mixture_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "IDS", (QUICK, SLOW))
    both = twins.Twins("Hello", Sampling(max_tokens=2000))
    full = Desk(twins=both)
    assert full.running, "nobody was asked yet"
    full.tick()
    assert [turn.deployment for turn in both.turns] == [QUICK]
    ended(both.turns[0])
    full.tick()
    assert [turn.deployment for turn in both.turns] == [QUICK, SLOW]
    full.stop()
    ended(both.turns[1])
    assert not full.running


def test_twins_that_were_stopped_ask_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "IDS", (SLOW, QUICK))
    both = twins.Twins("Hello", Sampling(max_tokens=2000))
    full = Desk(twins=both)
    full.tick()
    full.stop()
    ended(both.turns[0])
    full.tick()
    assert len(both.turns) == 1
    assert not full.running


def test_a_reply_that_is_looked_at_goes_on(
    ask: Callable[[str], Turn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "PATIENCE", 0.6)
    full = Desk(ask(SLOW))
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        full.tick()
        time.sleep(0.1)
    assert full.running
    assert full.main is not None
    assert ended(full.main).reply.state == "stopped", "nobody looks any more"


@pytest.mark.parametrize("page", ["chat", None])
def test_the_knife_goes_when_another_page_was_open(
    session: Session, ask: Callable[[str], Turn], page: str | None
) -> None:
    main = ended(ask(QUICK))
    cut = Cut(Experts(k=1), main, main)
    session["moe_desk"] = Desk(main, cut=cut)
    session["page"] = "moe"
    left()
    assert desk().cut is cut
    session["page"] = page
    left()
    assert desk() == Desk(main)
