"""Servers as the selector gives them out: whose backend is whose, and which state each has."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from asking import PATIENCE, ask, start, until, until_decoding
from scripted_server import Server, own_selector, refusal, reply, scripted

from slm_backends import catalog, selector
from slm_backends.access import EVERYONE, Access
from slm_backends.catalog import Deployment
from slm_backends.endpoints.openai import OpenAIBackend
from slm_backends.errors import BadRequest, NotFound, Retired, SLMError, Unauthorized
from slm_backends.providers import Provider
from slm_backends.remote import RemoteBackend
from slm_backends.selector import Selector, State, state

CATALOG = """
[providers.here]
name = "Here"
base_url = "{address}"
key = "HERE_KEY"
sampling = ["max_tokens", "temperature", "top_p", "top_k", "seed"]

[providers.there]
name = "There"
address = "THERE_ADDRESS"
key = "THERE_KEY"
key_optional = true
lists = false
start = "Start it."

[models.m]
name = "M"
[models.gone]
name = "Gone"

[deployments."m@here"]
served_as = "m"
[deployments."gone@here"]
served_as = "gone"
retired = "2025-08-30"
retired_source = "https://example.com"
[deployments."m@there"]
served_as = "m"
[deployments."m@github"]
served_as = "m"
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server, in the owner's catalog as `here`; no key of it is set."""
    with scripted() as made:
        own = tmp_path / "catalog.toml"
        own.write_text(CATALOG.format(address=made.address))
        monkeypatch.setenv("SLM_CATALOG", str(own))
        yield made


@pytest.fixture
def own(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Selector]:
    """A selector of the test's own, in the place of the process's; its clients end with it."""
    with own_selector(monkeypatch) as made:
        yield made


def item(deployment_id: str) -> Deployment:
    return catalog.load().deployment(deployment_id)


def provider(provider_id: str) -> Provider:
    return catalog.load().providers[provider_id]


def keys(server: Server) -> list[str]:
    return [asked.headers.get("authorization", "") for asked in server.asked]


def remote(own: Selector, access: Access = EVERYONE) -> RemoteBackend:
    found = own.backend("m@here", access)
    assert isinstance(found, RemoteBackend)
    return found


# --- who is given what ----------------------------------------------------------------------------


def test_visitors_with_keys_of_their_own_share_nothing(own: Selector, server: Server) -> None:
    one, two, third = Access(), Access(), Access()
    one.set_key(provider("here"), "key-of-one")
    two.set_key(provider("here"), "key-of-two")
    ones, twos = remote(own, one), remote(own, two)
    assert ones is not twos
    assert remote(own, one) is ones
    for access in (third, EVERYONE):
        with pytest.raises(Unauthorized) as caught:
            own.backend("m@here", access)
        assert "HERE_KEY" in caught.value.hint
    both = [start(ones), start(twos)]
    for running in both:
        assert running.wait(PATIENCE).text == "Hello"
    assert sorted(keys(server)) == ["Bearer key-of-one", "Bearer key-of-two"]
    clients = [backend._endpoint for backend in (ones, twos)]
    assert all(isinstance(client, OpenAIBackend) for client in clients)
    assert clients[0]._client is not clients[1]._client  # type: ignore[union-attr]
    assert state(item("m@here"), one).word == state(item("m@here"), two).word == "ready"
    assert state(item("m@here"), third).word == "needs key"


def test_what_a_server_says_of_one_key_is_not_said_of_another(
    own: Selector, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE_KEY", "the-owner-s")
    mine = Access()
    mine.set_key(provider("here"), "mine")
    server.answers = [
        refusal(401, "No."),
        refusal(400, "Unknown parameter: 'top_k'.", param="top_k"),
    ]
    with pytest.raises(Unauthorized):
        ask(remote(own, mine))
    assert state(item("m@here"), mine).word == "needs key"
    assert state(item("m@here")).word == "unknown"
    ask(remote(own))
    assert state(item("m@here")).word == "ready"
    assert state(item("m@here"), Access()).word == "ready"
    assert remote(own, Access()) is remote(own)  # who typed nothing uses the owner's
    assert "top_k" not in selector.honoured("m@here")[1]
    assert "top_k" in selector.honoured("m@here", mine)[1]


def test_an_added_server_is_found_by_its_visitor_only(own: Selector, server: Server) -> None:
    one, two = Access(), Access()
    for access, key in ((one, "key-of-one"), (two, "")):
        added = access.add_server(server.address, key)
        deployment = access.add_deployment(added, "m")
    with pytest.raises(NotFound):
        own.backend(deployment.id)
    assert own.backend(deployment.id, one) is not own.backend(deployment.id, two)
    ask(own.backend(deployment.id, one))
    ask(own.backend(deployment.id, two))
    assert keys(server) == ["Bearer key-of-one", ""]
    assert own._everyones.backends == {}


def test_a_visitor_s_clients_end_with_their_access(own: Selector, server: Server) -> None:
    mine = Access()
    mine.set_key(provider("here"), "mine")
    idle = remote(own, mine)
    ask(idle)
    ends = threading.Event()
    server.answers = [reply("Last words", until=ends)]
    running = start(idle)
    until_decoding(running)
    assert len(own._visitors) == 1
    del mine
    gc.collect()
    assert len(own._visitors) == 0
    until(lambda: idle._leaving, "the end to be known")
    assert idle._endpoint is not None  # one still answers
    ends.set()
    assert running.wait(PATIENCE).text == "Last words"
    until(lambda: idle._endpoint is None, "the client to be closed")


def test_another_key_is_used_from_the_next_prompt_on(
    own: Selector, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE_KEY", "first")
    before = remote(own)
    ask(before)
    monkeypatch.setenv("HERE_KEY", "second")
    after = remote(own)
    assert after is not before
    ask(after)
    assert keys(server) == ["Bearer first", "Bearer second"]
    until(lambda: before._endpoint is None, "the first client to be closed")


def test_a_provider_that_has_ended_is_sent_nothing(
    own: Selector, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "for-something-else")
    for call in (
        lambda: own.backend("m@github"),
        lambda: own.probe(provider("github")),
    ):
        with pytest.raises(Retired) as caught:
            call()
        assert caught.value.on == "2026-07-30"
        assert "GITHUB_MODELS_ENDPOINT" in caught.value.hint
    assert own.look(provider("github")).label == "retired on 2026-07-30"
    assert state(item("m@github")).label == "retired on 2026-07-30"
    assert "Microsoft Foundry" in state(item("m@github")).reason
    assert selector.honoured("m@github")[0] == "GitHub Models"
    monkeypatch.setenv("GITHUB_MODELS_ENDPOINT", server.address)
    assert state(item("m@github")).word == "unknown"
    ask(own.backend("m@github"))
    assert state(item("m@github")).word == "ready"
    assert keys(server) == ["Bearer for-something-else"]


# --- states ---------------------------------------------------------------------------------------


def test_states_of_a_server_from_first_to_last(
    own: Selector, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = item("m@here")
    typed = "set HERE_KEY, or type it on the Models page"
    assert state(deployment) == State("needs key", typed)
    monkeypatch.setenv("HERE_KEY", "key")
    assert state(deployment) == State("unknown")
    assert own.probe(provider("here")).result(PATIENCE).word == "ready"
    assert state(deployment) == State("ready")
    server.answers = [refusal(429, "Slow down.", retry_after="7200")]
    with pytest.raises(SLMError):
        ask(remote(own))
    limited = state(deployment)
    assert (limited.word, limited.usable) == ("rate limited", True)
    assert limited.label.startswith("rate limited until ")
    server.answers = [refusal(410, "It has reached its end of life on 2026-07-27T00:00:00Z.")]
    with pytest.raises(Retired):
        ask(remote(own))
    ended = state(deployment)
    assert (ended.label, ended.usable) == ("retired on 2026-07-27", False)
    own.probe(provider("here")).result(PATIENCE)  # which lists it still
    assert state(deployment).label == "retired on 2026-07-27"


def test_a_model_that_the_server_does_not_list(
    own: Selector, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE_KEY", "key")
    server.models = ["other"]
    own.probe(provider("here")).result(PATIENCE)
    assert state(item("m@here")) == State("unknown", "the server does not list m")
    server.models = ["m:latest"]
    own.probe(provider("here")).result(PATIENCE)
    assert state(item("m@here")).word == "ready"
    server.models = []
    own.probe(provider("here")).result(PATIENCE)
    ask(remote(own))  # and yet it answers
    assert state(item("m@here")).word == "ready"


def test_a_list_that_is_of_other_things_says_nothing(
    own: Selector, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert state(item("m@there")).reason.startswith("set THERE_ADDRESS and THERE_KEY")
    monkeypatch.setenv("THERE_ADDRESS", server.address)
    assert state(item("m@there")) == State("unknown", "Start it.")
    server.models = ["some-base-model"]
    own.probe(provider("there")).result(PATIENCE)
    assert state(item("m@there")) == State("ready")
    monkeypatch.setenv("THERE_ADDRESS", "http://127.0.0.1:9/v1")
    own.probe(provider("there")).result(PATIENCE)
    silent = state(item("m@there"))
    assert (silent.word, silent.usable) == ("not reachable", True)
    assert silent.reason.endswith("nothing listens there. Start it.")


def test_a_deployment_that_has_ended_is_alive_where_its_server_says_so(
    own: Selector, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = State("retired", "Here does not run it any more", "retired on 2025-08-30")
    assert state(item("gone@here")) == ended
    monkeypatch.setenv("HERE_KEY", "key")
    own.probe(provider("here")).result(PATIENCE)
    assert state(item("gone@here")) == ended  # that the server is there does not make it alive
    server.models = ["m", "gone"]
    own.probe(provider("here")).result(PATIENCE)
    assert state(item("gone@here")) == State("ready")


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("HERE_KEY", "two\nlines", "The key for Here holds spaces, line breaks"),
        ("SLM_SECRETS", "broken", "is not TOML"),
    ],
)
def test_what_is_set_wrongly_is_the_state_of_its_deployments(
    own: Selector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    reason: str,
) -> None:
    if value == "broken":
        file = tmp_path / "secrets.toml"
        file.write_text("HERE_KEY = broken\n")
        value = str(file)
    monkeypatch.setenv(variable, value)
    found = state(item("m@here"))
    assert found.word == "needs key"
    assert reason in found.reason
    assert selector.honoured("m@here")[1] >= {"max_tokens", "top_k"}
    with pytest.raises(SLMError, match=reason):
        own.backend("m@here")


# --- asking ---------------------------------------------------------------------------------------


def test_looking_asks_what_is_set_up_and_not_what_was_just_asked(
    own: Selector, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert own.look(provider("here")).word == "needs key"
    assert not own.probing(provider("here"))
    monkeypatch.setenv("HERE_KEY", "key")
    assert own.look(provider("here")).word == "unknown"  # as yet
    until(lambda: own.health(provider("here")).word == "ready", "the probe")
    until(lambda: not own.probing(provider("here")), "its end")
    asked = len(server.asked)
    for _ in range(3):
        assert own.look(provider("here")).word == "ready"
        assert not own.probing(provider("here"))
    assert len(server.asked) == asked


def test_a_failed_probe_is_not_repeated_at_each_look(
    own: Selector, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE_KEY", "key")
    server.listing = refusal(400, "Not like this.")
    own.look(provider("here"))
    until(lambda: server.asked and not own.probing(provider("here")), "the probe")
    assert own.look(provider("here")).reason == "Not like this."
    assert not own.probing(provider("here"))
    assert len(server.asked) == 1


def test_servers_can_be_probed_at_the_same_time(
    own: Selector, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE_KEY", "key")
    monkeypatch.setenv("THERE_ADDRESS", server.address)
    futures = [own.probe(provider(name)) for name in ("here", "there") * 3]
    assert {future.result(PATIENCE).word for future in futures} <= {"ready", "unknown"}
    for name in ("here", "there"):
        assert own.health(provider(name)).word == "ready"


def test_a_token_is_asked_for_only_where_the_owner_allows_it(
    own: Selector, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE_KEY", "key")
    own.probe(provider("here"), deployment=item("m@here")).result(PATIENCE)
    assert server.prompts == []
    monkeypatch.setenv("SLM_PROBE_TOKENS", "1")
    own.probe(provider("here")).result(PATIENCE)
    assert server.prompts == []  # which model?
    own.probe(provider("here"), deployment=item("m@here")).result(PATIENCE)
    assert [asked.body["max_tokens"] for asked in server.prompts] == [1]


def test_asking_all_servers_asks_those_that_are_set_up(
    own: Selector, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    selector.ask_servers(PATIENCE)
    assert server.asked == []
    monkeypatch.setenv("HERE_KEY", "key")
    monkeypatch.setenv("THERE_ADDRESS", "no address")
    monkeypatch.setenv("GITHUB_TOKEN", "for-something-else")
    selector.ask_servers(PATIENCE)
    assert {asked.path for asked in server.asked} == {"/v1/models"}
    assert set(keys(server)) == {"Bearer key"}
    assert state(item("m@here")).word == "ready"
    assert own.health(provider("here")).word == "ready"
    monkeypatch.setenv("SLM_PROBE_TOKENS", "1")
    server.asked.clear()
    selector.ask_servers(PATIENCE)
    assert [asked.body["model"] for asked in server.prompts] == ["m"]


def test_a_broken_address_is_told_when_it_is_used(
    own: Selector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THERE_ADDRESS", "no address")
    with pytest.raises(BadRequest, match="THERE_ADDRESS is no address"):
        own.backend("m@there")
