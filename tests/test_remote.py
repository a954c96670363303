"""A deployment on a server: waiting when it says so, learning what it refuses, probing, leaving.

Against a real server on this machine whose answers are written down.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from asking import PATIENCE, ask, request, start, until, until_decoding
from scripted_server import Server, refusal, reply, scripted

from slm_backends import background, remote, run
from slm_backends.access import Connection, Secret
from slm_backends.catalog import Deployment, Model
from slm_backends.chat import SAMPLING_FIELDS, Sampling
from slm_backends.endpoints import Endpoint
from slm_backends.errors import (
    BadRequest,
    Busy,
    Retired,
    SLMError,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from slm_backends.health import Board, Health
from slm_backends.providers import Provider
from slm_backends.remote import RemoteBackend
from slm_backends.run import Reply

BUSY = "Too many requests in this minute. Ask for more."


@pytest.fixture
def server() -> Iterator[Server]:
    with scripted() as made:
        yield made


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.05)


Make = Callable[..., RemoteBackend]


@pytest.fixture
def make(server: Server) -> Iterator[Make]:
    """Backends for that server, closed in the end."""
    all_made: list[RemoteBackend] = []

    def made(address: str = "") -> RemoteBackend:
        provider = Provider("p", "P", base_url=address or server.address, key="P_KEY")
        deployment = Deployment(
            "m@p",
            Model("m", "M"),
            "p",
            provider=provider,
            served_as="m",
            sampling=tuple(sorted(SAMPLING_FIELDS)),
        )
        connection = Connection(provider, provider.base_url, Secret("a-key"))
        all_made.append(RemoteBackend(deployment, connection, Board()))
        return all_made[-1]

    yield made
    for backend in all_made:
        background.submit(backend.close()).result(PATIENCE)


def health(backend: RemoteBackend) -> Health:
    return backend._board.model(backend.connection, "m")


def probe(backend: RemoteBackend, **options: bool) -> Health:
    return background.submit(backend.probe(**options)).result(PATIENCE)


def failure(backend: RemoteBackend, **sampling: Any) -> SLMError:
    with pytest.raises(SLMError) as caught:
        ask(backend, **sampling)
    return caught.value


def states(backend: RemoteBackend) -> tuple[list[str], Reply]:
    """What a watcher reads while it waits, and the reply."""
    running = start(backend)
    seen: list[str] = []
    while not running.reply.ended:
        reason = running.reply.queue_reason
        if reason and reason not in seen:
            seen.append(reason)
        time.sleep(0.002)
    return seen, running.reply


# --- asked and answered ---------------------------------------------------------------------------


def test_a_reply_and_what_is_known_then(server: Server, make: Make) -> None:
    backend = make()
    assert ask(backend).text == "Hello"
    asked = server.prompts[0]
    assert asked.headers["authorization"] == "Bearer a-key"
    assert asked.body["model"] == "m"
    assert health(backend).word == "ready"


def test_nobody_is_called_before_the_first_request(server: Server, make: Make) -> None:
    backend = make()
    assert backend.capabilities.sampling == SAMPLING_FIELDS
    assert backend.about.runtime == "P"
    assert repr(backend).startswith("RemoteBackend('m@p'") and "a-key" not in repr(backend)
    assert server.asked == []


# --- waiting --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (429, {"retry_after": "0.2"}),
        (429, {"retry_after_ms": "200"}),
        (503, {"retry_after": "0.2"}),
    ],
)
def test_a_server_that_says_when_is_asked_again_then(
    server: Server, make: Make, status: int, headers: dict[str, str]
) -> None:
    backend = make()
    server.answers = [refusal(status, BUSY, **headers)]
    seen, done = states(backend)
    assert (done.state, done.text) == ("done", "Hello")
    assert seen == ["Too many requests in this minute. Asking again in 0 s"]
    assert done.held_s == 0.2
    assert done.total_s >= 0.2
    assert done.here_first_s is not None and done.here_first_s < done.total_s - 0.2
    assert len(server.prompts) == 2
    assert server.prompts[0].body == server.prompts[1].body
    assert health(backend).word == "ready"


def test_a_server_that_does_not_say_when_is_asked_later_and_later(
    server: Server, make: Make
) -> None:
    backend = make()
    server.answers = [refusal(429, BUSY)] * 2
    begun = time.perf_counter()
    assert ask(backend).held_s == pytest.approx(0.05 + 0.10)
    assert time.perf_counter() - begun >= 0.15
    assert len(server.prompts) == 3


def test_it_gives_up_after_some_tries(server: Server, make: Make) -> None:
    backend = make()
    server.answers = [refusal(429, BUSY)] * remote.TRIES
    error = failure(backend)
    assert isinstance(error, Busy)
    assert (error.message, error.hint) == (BUSY, "Wait a little, then try again.")
    assert len(server.prompts) == remote.TRIES
    assert health(backend).word == "rate limited"


def test_a_wait_that_is_too_long_is_told_instead(server: Server, make: Make) -> None:
    backend = make()
    server.answers = [refusal(429, BUSY, retry_after="7200")]
    begun = time.perf_counter()
    error = failure(backend)
    assert time.perf_counter() - begun < 5
    assert isinstance(error, Busy)
    then = time.strftime("%H:%M", time.localtime(time.time() + 7200))
    assert error.hint == f"The server asks to come back at {then}."
    assert len(server.prompts) == 1
    assert health(backend).label == f"rate limited until {then}"


def test_all_waits_together_are_limited(
    server: Server, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "HELD_SECONDS", 0.25)
    backend = make()
    server.answers = [refusal(429, BUSY, retry_after="0.1")] * 4
    assert isinstance(failure(backend), Busy)
    assert len(server.prompts) == 3


def test_a_server_that_is_down_and_does_not_say_for_how_long_is_not_asked_again(
    server: Server,
    make: Make,
) -> None:
    backend = make()
    server.answers = [refusal(503, "Down.")]
    assert isinstance(failure(backend), Unavailable)
    assert len(server.prompts) == 1
    assert health(backend).word == "not reachable"


def test_a_prompt_is_never_sent_again_after_a_token(server: Server, make: Make) -> None:
    backend = make()
    server.answers = [reply("Half a", fails="Slow down.")]
    done = start(backend).wait(PATIENCE)
    assert (done.state, done.text) == ("failed", "Half a")
    assert isinstance(done.error, Busy)
    assert len(server.prompts) == 1


def test_a_wait_can_be_cancelled(server: Server, make: Make) -> None:
    backend = make()
    server.answers = [refusal(429, BUSY, retry_after="30")]
    running = start(backend)
    until(lambda: running.reply.held_s, "the wait")
    assert running.reply.state == "queued"
    begun = time.perf_counter()
    running.cancel()
    assert running.wait(PATIENCE).state == "stopped"
    assert time.perf_counter() - begun < 10  # of the 30 that the server named
    assert len(server.prompts) == 1


@pytest.mark.parametrize(
    ("status", "kind", "word"),
    [(401, Unauthorized, "needs key"), (410, Retired, "retired"), (500, SLMError, "unknown")],
)
def test_other_failures_are_told_at_once(
    server: Server, make: Make, status: int, kind: type[SLMError], word: str
) -> None:
    backend = make()
    server.answers = [refusal(status, "No.")]
    assert type(failure(backend)) is kind
    assert len(server.prompts) == 1
    assert health(backend).word == word


def test_a_mistake_in_the_request_says_nothing_of_the_server(server: Server, make: Make) -> None:
    backend = make()
    ask(backend)
    server.answers = [refusal(400, "The temperature is too high for this model.")]
    assert isinstance(failure(backend), BadRequest)
    assert health(backend).word == "ready"


# --- learning what it refuses ---------------------------------------------------------------------


def test_a_refused_field_that_asks_for_nothing_is_left_out_from_then_on(
    server: Server, make: Make
) -> None:
    backend = make()
    server.answers = [refusal(400, "Unknown parameter: 'top_k'.", param="top_k")]
    assert ask(backend).text == "Hello"
    first, second = server.prompts
    assert first.body["top_k"] == 0
    assert "top_k" not in second.body
    assert {**second.body, "top_k": 0} == first.body
    assert backend.refused == {"top_k"}
    assert "top_k" not in backend.capabilities.sampling
    ask(backend)
    assert "top_k" not in server.prompts[2].body
    assert len(server.prompts) == 3  # it is not tried again


def test_several_refused_fields_are_learnt_one_by_one(server: Server, make: Make) -> None:
    backend = make()
    server.answers = [
        refusal(400, f"Unknown parameter: '{name}'.", param=name)
        for name in ("top_k", "repetition_penalty")
    ]
    assert ask(backend).text == "Hello"
    assert backend.refused == {"top_k", "repetition_penalty"}
    assert len(server.prompts) == 3


def test_a_refused_field_that_was_asked_for_is_an_error_and_not_dropped(
    server: Server, make: Make
) -> None:
    backend = make()
    server.answers = [refusal(400, "Unknown parameter: 'seed'.", param="seed")]
    error = failure(backend, seed=7)
    assert isinstance(error, Unsupported)
    assert error.field == "seed"
    assert "send the prompt again without seed" in error.hint
    assert len(server.prompts) == 1
    with pytest.raises(Unsupported, match="does not honour seed"):  # from now on without asking
        ask(backend, seed=7)
    assert len(server.prompts) == 1
    assert ask(backend).text == "Hello"


def test_a_field_that_always_asks_can_be_left_out_when_it_was_refused(
    server: Server, make: Make
) -> None:
    backend = make()
    server.answers = [
        refusal(400, "Unsupported parameter: 'max_tokens' is not supported.", param="max_tokens")
    ]
    assert isinstance(failure(backend), Unsupported)
    sampling = Sampling(left_out=("max_tokens",))
    without = replace(request("Hello"), sampling=sampling)
    assert run.start(backend, without).wait(PATIENCE).text == "Hello"
    assert "max_tokens" not in server.prompts[-1].body


def test_a_server_that_refuses_what_it_was_not_sent_is_believed_once(
    server: Server, make: Make
) -> None:
    backend = make()
    server.answers = [refusal(400, "Unknown parameter: 'top_k'.", param="top_k")] * 3
    assert isinstance(failure(backend), Unsupported)
    assert len(server.prompts) == 2


# --- probing --------------------------------------------------------------------------------------


def test_a_probe_lists_models_and_measures_the_way_there(server: Server, make: Make) -> None:
    backend = make()
    server.models = ["m", "other"]
    known = probe(backend)
    assert (known.word, known.models) == ("ready", ("m", "other"))
    assert known.round_trip_s is not None and 0 < known.round_trip_s < 10
    assert server.prompts == []  # no token was asked for
    assert server.asked[0].headers["authorization"] == "Bearer a-key"
    assert health(backend) == known


def test_a_probe_may_ask_for_one_token(server: Server, make: Make) -> None:
    backend = make()
    known = probe(backend, one_token=True)
    assert (known.word, known.of_model) == ("ready", True)
    assert [item.body["max_tokens"] for item in server.prompts] == [1]
    server.answers = [refusal(410, "It has reached its end of life on 2026-07-27T00:00:00Z.")]
    known = probe(backend, one_token=True)
    assert known.label == "retired on 2026-07-27"
    assert known.models == ("m",)


@pytest.mark.parametrize(
    ("status", "word"),
    [(401, "needs key"), (429, "rate limited"), (503, "not reachable"), (404, "unknown"),
     (400, "unknown"), (500, "unknown")],
)  # fmt: skip
def test_a_probe_that_fails_says_so_and_is_not_repeated(
    server: Server, make: Make, status: int, word: str
) -> None:
    backend = make()
    server.listing = refusal(status, "Not now.")
    known = probe(backend)
    assert known.word == word
    assert known.reason
    assert known.fresh
    assert len(server.asked) == 1


def test_a_probe_of_nobody(make: Make) -> None:
    backend = make("http://127.0.0.1:9/v1")
    assert probe(backend).word == "not reachable"


# --- leaving --------------------------------------------------------------------------------------


class Closing:
    """Counts how often the client of a backend is closed."""

    def __init__(self, backend: RemoteBackend) -> None:
        self.count = 0
        asked = backend._asked

        def counting() -> Endpoint:
            endpoint = asked()
            if not hasattr(endpoint, "really_close"):
                endpoint.really_close = endpoint.close  # type: ignore[attr-defined]
                endpoint.close = self.close(endpoint)  # type: ignore[method-assign]
            return endpoint

        backend._asked = counting  # type: ignore[method-assign]

    def close(self, endpoint: Any) -> Any:
        async def closing() -> None:
            self.count += 1
            await endpoint.really_close()

        return closing


def test_a_client_is_closed_after_its_last_reply_and_not_before(server: Server, make: Make) -> None:
    backend = make()
    closing = Closing(backend)
    ends = threading.Event()
    server.answers = [reply("One", until=ends), reply("Two", until=ends)]
    both = [start(backend), start(backend)]
    for running in both:
        until_decoding(running)
    background.submit(backend.leave()).result(PATIENCE)
    assert closing.count == 0
    assert all(running.reply.state == "decoding" for running in both)
    ends.set()
    assert {running.wait(PATIENCE).text for running in both} == {"One", "Two"}
    until(lambda: closing.count == 1, "the client to be closed")


def test_an_idle_client_is_closed_at_once(server: Server, make: Make) -> None:
    backend = make()
    closing = Closing(backend)
    ask(backend)
    background.submit(backend.leave()).result(PATIENCE)
    assert closing.count == 1
    assert ask(backend).text == "Hello"  # a page may still hold it
    until(lambda: closing.count == 2, "the client to be closed again")


def test_a_probe_is_not_cut_short(server: Server, make: Make) -> None:
    backend = make()
    seen = threading.Event()
    go = threading.Event()

    def slow(_: Any) -> Any:
        seen.set()
        go.wait(PATIENCE)
        return refusal(401, "No.")({})

    server.listing = slow
    asked = background.submit(backend.probe())
    assert seen.wait(PATIENCE)
    background.submit(backend.leave()).result(PATIENCE)
    go.set()
    assert asked.result(PATIENCE).word == "needs key"
