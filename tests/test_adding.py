"""A server added by its address: where its models are, which ones they are, and how to keep it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import scripted_server

from slm_backends import adding, catalog, selector
from slm_backends.access import Access
from slm_backends.errors import BadRequest

KEY = "sk-of-this-test"
SEEING = "microsoft/Phi-3.5-vision-instruct"  # as vLLM names it


@pytest.fixture
def server() -> Iterator[scripted_server.Server]:
    with scripted_server.scripted() as server:
        server.models = ["phi-3.5-mini-instruct", "microsoft/Phi-4", "made-up:7b"]
        yield server


@pytest.mark.parametrize("tail", ["/v1", "/v1/", ""])
def test_the_list_is_found_at_the_address_or_behind_it(
    server: scripted_server.Server, tail: str
) -> None:
    access = Access()
    provider, health = adding.find(access, server.address.removesuffix("/v1") + tail)
    assert provider.base_url == server.address
    assert health.models == tuple(server.models)
    assert access.added == [provider]
    assert selector.health(provider, access).word == "ready"


def test_the_key_goes_along_to_that_server(server: scripted_server.Server) -> None:
    access = Access()
    adding.find(access, server.address.removesuffix("/v1"), KEY)
    assert {asked.headers["authorization"] for asked in server.asked} == {f"Bearer {KEY}"}


def test_a_server_that_wants_a_key_is_added_to_be_given_one(
    server: scripted_server.Server,
) -> None:
    server.listing = scripted_server.refusal(401, "No key.")
    access = Access()
    provider, health = adding.find(access, server.address)
    assert (health.word, access.added) == ("needs key", [provider])


def test_nobody_there_adds_nothing() -> None:
    access = Access()
    _, health = adding.find(access, "http://127.0.0.1:9")
    assert health.word == "not reachable"
    assert health.hint
    assert access.added == []


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(BadRequest):
        adding.find(Access(), "file:///etc/passwd")


def test_adding_it_again_keeps_what_was_picked(server: scripted_server.Server) -> None:
    access = Access()
    provider, _ = adding.find(access, server.address)
    picked = access.add_deployment(provider, "made-up:7b")
    again, _ = adding.find(access, server.address.removesuffix("/v1"))
    assert again == provider
    assert picked.id in access.catalog().deployments


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("phi-3.5-mini-instruct", "phi-3.5-mini-instruct"),
        ("microsoft/Phi-4", "phi-4"),
        ("made-up:7b", None),
    ],
)
def test_a_name_means_the_catalogs_model_or_none(name: str, model: str | None) -> None:
    found = adding.model_for(name, Access())
    assert (found and found.id) == model


def test_a_server_of_one_s_own_takes_as_many_pictures_as_its_model(
    server: scripted_server.Server,
) -> None:
    access = Access()
    provider, _ = adding.find(access, server.address)
    seeing = access.add_deployment(provider, SEEING, adding.model_for(SEEING, access))
    assert seeing.model.id == "phi-3.5-vision-instruct"
    local = access.catalog().deployment("phi-3.5-vision-instruct@transformers")
    assert seeing.images == local.images > 1
    reading = access.add_deployment(provider, "phi-4", adding.model_for("phi-4", access))
    assert reading.images == access.add_deployment(provider, "nobody-knows-it").images == 0


def test_two_names_of_one_model_are_two_deployments(server: scripted_server.Server) -> None:
    access = Access()
    provider, _ = adding.find(access, server.address)
    phi = adding.model_for("phi-4", access)
    ids = {access.add_deployment(provider, name, phi).id for name in ("phi-4", "phi-4:q8")}
    assert ids == {f"phi-4@{provider.id}", f"phi-4@{provider.id}:phi-4-q8"}
    known = access.catalog().deployments
    assert {known[id].served_as for id in ids} == {"phi-4", "phi-4:q8"}


def test_the_lines_for_everyone_make_the_same_deployments(
    server: scripted_server.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = Access()
    provider, _ = adding.find(access, server.address, KEY)
    picked = [
        access.add_deployment(provider, name, adding.model_for(name, access))
        for name in (*server.models, SEEING, 'odd "name"\\\n\x7f')
    ]
    written = adding.toml(provider, picked, with_key=True)
    assert KEY not in written
    file = tmp_path / "own.toml"
    file.write_text(written, encoding="utf-8")
    monkeypatch.setenv("SLM_CATALOG", str(file))
    kept = catalog.load()
    for item in picked:
        assert kept.deployments[item.id].served_as == item.served_as
        assert kept.deployments[item.id].model == item.model
        assert kept.deployments[item.id].images == item.images
        assert kept.deployments[item.id].base_url == server.address
    variable = kept.providers[provider.id].key
    monkeypatch.setenv(variable, KEY)
    assert Access().connection(kept.providers[provider.id]).key.reveal() == KEY


def test_a_model_of_a_shipped_provider_needs_no_server_in_the_lines() -> None:
    access = Access()
    ollama = catalog.load().providers["ollama"]
    picked = access.add_deployment(ollama, "qwen3:4b")
    assert adding.toml(ollama, [picked]) == (
        '[models."qwen3-4b"]\nname = "qwen3:4b"\n\n'
        '[deployments."qwen3-4b@ollama"]\nserved_as = "qwen3:4b"\n'
    )
