"""What is known of a server: from probes and from real prompts, until when, and for whom."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from slm_backends import health
from slm_backends.access import Connection, Secret
from slm_backends.errors import (
    BadRequest,
    Busy,
    ContextOverflow,
    Filtered,
    NotFound,
    Retired,
    SLMError,
    StreamBroken,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from slm_backends.health import UNKNOWN, Board, Health, health_of
from slm_backends.providers import Provider

SERVER = Connection(Provider("p", "P"), "http://127.0.0.1:1/v1", Secret("one"))


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (Unauthorized("The server does not accept the key."), "needs key"),
        (Unavailable("No answer."), "not reachable"),
        (Busy("Slow down."), "rate limited"),
        (Retired("It has ended.", on="2026-07-27"), "retired"),
        (NotFound("There is no such model."), "unknown"),
        (SLMError("The server failed."), "unknown"),
        (StreamBroken("The reply broke off."), "unknown"),
        (BadRequest("Too warm.", field="temperature"), None),
        (Unsupported("There is no top_k.", field="top_k"), None),
        (ContextOverflow("Too long."), None),
        (Filtered("Not that."), None),
    ],
)
def test_a_failure_says_something_of_the_server_or_nothing(
    error: SLMError, word: str | None
) -> None:
    found = health_of(error)
    assert (found.word if found else None) == word
    board = Board()
    board.failed(SERVER, error, "m")
    assert board.model(SERVER, "m").word == (word or "unknown")
    probed = Board().failed(SERVER, error)
    assert probed.word == (word or "unknown")
    assert probed.reason == error.message
    assert probed.fresh  # else it would be asked again each time that somebody looks


def test_labels_have_the_time_or_the_day() -> None:
    at = time.mktime((2026, 11, 22, 14, 5, 0, 0, 0, -1))
    assert Health("rate limited", until=at).label == "rate limited until 14:05"
    assert Health("rate limited").label == "rate limited"
    assert Health("retired", on="2026-07-27").label == "retired on 2026-07-27"
    assert Health("retired").label == "retired"
    assert Health("ready").label == "ready"


def test_what_was_learnt_grows_old(monkeypatch: pytest.MonkeyPatch) -> None:
    now = Health("ready", at=time.time())
    assert now.fresh
    assert not replace(now, at=now.at - health.FRESH_SECONDS - 1).fresh
    assert not UNKNOWN.fresh
    limited = replace(now, word="rate limited", until=time.time() + 60)
    assert limited.fresh
    assert not replace(limited, until=time.time() - 1).fresh


def test_a_probe_tells_of_all_models() -> None:
    board = Board()
    assert board.server(SERVER) is UNKNOWN
    board.listed(SERVER, ["a", "b"], 0.25)
    for name in ("a", "b", "c"):
        known = board.model(SERVER, name)
        assert (known.word, known.models, known.round_trip_s) == ("ready", ("a", "b"), 0.25)
        assert not known.of_model


def test_a_prompt_tells_of_its_model_and_keeps_what_the_probe_said() -> None:
    board = Board()
    board.listed(SERVER, ["a", "b"], 0.25)
    board.failed(SERVER, Busy("Slow down.", retry_after=30), "a")
    known = board.model(SERVER, "a")
    assert (known.word, known.models, known.round_trip_s) == ("rate limited", ("a", "b"), 0.25)
    assert known.of_model
    assert 25 < known.until - time.time() < 31
    assert board.model(SERVER, "b").word == board.server(SERVER).word == "ready"
    board.answered(SERVER, "a")
    assert board.model(SERVER, "a").word == "ready"


@pytest.mark.parametrize("error", [Unauthorized("No."), Unavailable("Silent.")])
def test_some_failures_are_the_whole_server_s_until_it_answers(error: SLMError) -> None:
    board = Board()
    board.listed(SERVER, ["a", "b"], 0.25)
    board.failed(SERVER, error, "a")
    assert board.model(SERVER, "b").word == board.server(SERVER).word != "ready"
    assert board.server(SERVER).models == ("a", "b")  # as it was
    board.answered(SERVER, "b")
    for name in ("a", "b"):
        assert board.model(SERVER, name).word == "ready"
        assert board.model(SERVER, name).models == ("a", "b")


def test_a_model_that_has_ended_stays_so_though_the_server_lists_it() -> None:
    board = Board()
    board.failed(SERVER, Retired("It has ended.", on="2026-07-27"), "a")
    board.listed(SERVER, ["a", "b"], 0.25)
    assert board.model(SERVER, "a").label == "retired on 2026-07-27"
    assert board.model(SERVER, "b").word == "ready"
    board.answered(SERVER, "a")
    assert board.model(SERVER, "a").word == "ready"


def test_a_later_probe_goes_before_an_earlier_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board()
    board.failed(SERVER, Busy("Slow down."), "a")
    assert board.model(SERVER, "a").word == "rate limited"
    later = time.time() + 1
    monkeypatch.setattr(health.time, "time", lambda: later)
    board.listed(SERVER, ["a"], 0.25)
    assert board.model(SERVER, "a").word == "ready"


def test_what_was_learnt_with_another_key_or_address_says_nothing() -> None:
    board = Board()
    board.failed(SERVER, Unauthorized("No."))
    board.failed(SERVER, Retired("Ended."), "a")
    for other in (
        replace(SERVER, key=Secret("two")),
        replace(SERVER, base_url="http://127.0.0.1:2/v1"),
    ):
        assert board.server(other) is UNKNOWN
        assert board.model(other, "a") is UNKNOWN
    assert board.server(SERVER).word == "needs key"


def test_a_server_is_asked_once_at_a_time() -> None:
    board = Board()
    other = replace(SERVER, provider=Provider("q", "Q"))
    assert board.begin(SERVER)
    assert board.asking(SERVER)
    assert not board.begin(SERVER)
    assert board.begin(other)
    board.end(SERVER)
    assert not board.asking(SERVER)
    assert board.begin(SERVER)


def test_a_server_that_says_at_once_is_not_asked_in_a_loop() -> None:
    limited = Board().failed(SERVER, Busy("Slow down.", retry_after=0.0))
    assert limited.word == "rate limited"
    assert limited.fresh
