"""Who reaches a server how: keys and addresses of the owner and of visitors, kept apart."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import planted
import pytest
from planted import KEY

from slm_backends import access, catalog
from slm_backends.access import EVERYONE, MAX_KEY, Access, Secret
from slm_backends.catalog import Catalog
from slm_backends.errors import BadRequest, Unauthorized
from slm_backends.providers import Provider

HOSTED = "https://integrate.api.nvidia.com/v1"


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Catalog:
    monkeypatch.delenv("SLM_CATALOG", raising=False)
    return catalog.load()


@pytest.fixture
def nim(known: Catalog) -> Provider:
    return known.providers["nim"]


@pytest.fixture
def foundry(known: Catalog) -> Provider:
    return known.providers["foundry"]


# --- a key as an object ---------------------------------------------------------------------------


@pytest.mark.parametrize("show", [repr, str, format, "{!r:>40}".format, "%s".__mod__, ascii])
def test_a_secret_does_not_show(show: Callable[[object], str]) -> None:
    assert "[key]" in show(Secret(KEY))
    assert not planted.found(show(Secret(KEY)))


def test_a_secret_cannot_be_written_down_copied_or_a_cache_key() -> None:
    secret = Secret(KEY)
    for take in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps, hash, vars):
        with pytest.raises(TypeError) as caught:
            take(secret)  # type: ignore[operator]
        assert not planted.found(str(caught.value))


def test_a_connection_cannot_either(nim: Provider) -> None:
    mine = Access()
    mine.set_key(nim, KEY)
    connection = mine.connection(nim)
    assert not planted.found(repr(connection))
    for take in (hash, asdict, pickle.dumps):
        with pytest.raises(TypeError):
            take(connection)


def test_secrets_are_compared_by_their_text() -> None:
    assert Secret(KEY) == Secret(KEY)
    assert Secret(KEY) != Secret(KEY[:-1])
    assert Secret("ä") != Secret("a")  # what was typed may be any text
    assert Secret(KEY) != KEY
    assert Secret(KEY)
    assert not Secret("")


# --- keys and addresses ---------------------------------------------------------------------------


def test_the_owner_sets_keys_for_everyone(nim: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = EVERYONE.connection(nim)
    assert (connection.base_url, connection.missing) == (HOSTED, "NVIDIA_API_KEY")
    assert not connection.configured
    monkeypatch.setenv("NVIDIA_API_KEY", KEY)
    connection = Access().connection(nim)
    assert connection == EVERYONE.connection(nim)
    assert connection.key.reveal() == KEY
    assert connection.missing == ""
    assert (connection.configured, connection.own) == (True, False)


def test_a_visitor_s_key_is_theirs_alone(nim: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_API_KEY", "the-owner-s")
    mine, yours = Access(), Access()
    mine.set_key(nim, f"  {KEY}\n")  # as it comes out of a clipboard
    assert mine.connection(nim).key.reveal() == KEY
    assert mine.connection(nim).own
    assert mine.has_key(nim)
    for other in (yours, EVERYONE):
        assert other.connection(nim).key.reveal() == "the-owner-s"
        assert not other.has_key(nim)
    mine.set_key(nim, " ")
    assert mine.connection(nim) == yours.connection(nim)


def test_the_owner_s_key_goes_to_no_address_that_was_typed(
    nim: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVIDIA_API_KEY", KEY)
    monkeypatch.setenv("NVIDIA_BASE_URL", "http://nim.internal:8000/v1")
    mine = Access()
    mine.set_address(nim, "http://192.168.1.20:8000/v1/")
    connection = mine.connection(nim)
    assert connection.base_url == "http://192.168.1.20:8000/v1"
    assert not connection.key
    assert connection.own
    assert EVERYONE.connection(nim).base_url == "http://nim.internal:8000/v1"
    assert EVERYONE.connection(nim).key.reveal() == KEY


def test_a_typed_key_goes_to_no_other_address(nim: Provider) -> None:
    mine = Access()
    mine.set_key(nim, KEY)
    mine.set_address(nim, "http://192.168.1.20:8000/v1")
    assert not mine.connection(nim).key
    mine.set_key(nim, KEY)
    mine.set_address(nim, "http://192.168.1.20:8000/v1/")  # the same address
    assert mine.connection(nim).key.reveal() == KEY
    mine.set_address(nim, "http://192.168.1.21:8000/v1")
    assert not mine.connection(nim).key
    assert mine.address(nim) == "http://192.168.1.21:8000/v1"
    mine.set_key(nim, KEY)
    mine.set_address(nim, "")
    assert (mine.connection(nim).base_url, bool(mine.connection(nim).key)) == (HOSTED, False)


def test_a_deployment_with_an_address_of_its_own_is_given_no_key_of_its_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        "[models.m]\nname = 'M'\n[deployments.'m@nim']\nbase_url = 'http://127.0.0.1:9/v1'\n"
        "[deployments.'m@foundry']\nbase_url = 'http://127.0.0.1:9/openai/v1'\nkey = 'MY_KEY'\n"
    )
    monkeypatch.setenv("SLM_CATALOG", str(own))
    monkeypatch.setenv("NVIDIA_API_KEY", KEY)
    monkeypatch.setenv("NVIDIA_BASE_URL", "http://nim.internal:8000/v1")
    monkeypatch.setenv("MY_KEY", "mine")
    deployments = catalog.load().deployments
    mine = Access()
    mine.set_key(catalog.load().providers["nim"], KEY)
    for reached in (EVERYONE, mine):
        nim = deployments["m@nim"].provider
        assert nim is not None
        connection = reached.connection(nim)
        assert connection.base_url == "http://127.0.0.1:9/v1"
        assert not connection.key
        assert connection.configured  # the owner wrote it down
    foundry = deployments["m@foundry"].provider
    assert foundry is not None
    assert EVERYONE.connection(foundry).key.reveal() == "mine"


def test_a_server_of_one_s_own_may_do_without_the_key(
    nim: Provider, foundry: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Access()
    mine.set_address(nim, "http://127.0.0.1:8000/v1")
    assert mine.connection(nim).missing == ""
    mine.set_address(foundry, "https://mine.openai.azure.com")
    assert mine.connection(foundry).missing == "AZURE_OPENAI_API_KEY"
    assert EVERYONE.connection(foundry).missing == "AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_API_KEY"


def test_a_presumed_address_is_set_up_when_somebody_says_so(
    known: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    ollama = known.providers["ollama"]
    connection = EVERYONE.connection(ollama)
    assert (connection.missing, connection.configured) == ("", False)
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1")
    connection = EVERYONE.connection(ollama)
    assert (connection.base_url, connection.configured) == ("http://127.0.0.1:11434", True)


def test_a_provider_that_has_ended_is_not_set_up_by_its_key(
    known: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GITHUB_TOKEN is set on many computers, for something else."""
    github = known.providers["github"]
    monkeypatch.setenv("GITHUB_TOKEN", KEY)
    connection = EVERYONE.connection(github)
    assert (connection.ended, connection.configured) == ("2026-07-30", False)
    monkeypatch.setenv("GITHUB_MODELS_ENDPOINT", "https://gateway.example/inference")
    connection = EVERYONE.connection(github)
    assert (connection.ended, connection.configured) == ("", True)


def test_entra_takes_the_place_of_the_owner_s_key_only(
    foundry: Provider, nim: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://mine.openai.azure.com")
    monkeypatch.setenv("SLM_ENTRA", "foundry")
    connection = EVERYONE.connection(foundry)
    assert (connection.entra, connection.missing, connection.configured) == (True, "", True)
    assert not EVERYONE.connection(nim).entra
    mine = Access()
    mine.set_address(foundry, "https://evil.example")
    assert not mine.connection(foundry).entra
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
    assert not EVERYONE.connection(foundry).entra


@pytest.mark.parametrize(
    "wrong", [f"{KEY}\n{KEY}", f"{KEY}\r\nX: y", f"a {KEY}", f"{KEY}é", "\x00"]
)
def test_what_can_be_no_key_is_refused_and_not_shown(
    nim: Provider, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    mine = Access()
    with pytest.raises(Unauthorized, match="holds spaces, line breaks") as caught:
        mine.set_key(nim, wrong)
    assert not planted.found(planted.told(caught.value))
    assert not mine.has_key(nim)
    with pytest.raises(Unauthorized) as caught:
        mine.add_server("http://127.0.0.1:8000/v1", wrong)
    assert not planted.found(planted.told(caught.value))
    assert mine.added == []
    if "\x00" not in wrong:  # no variable can hold that
        monkeypatch.setenv("NVIDIA_API_KEY", wrong)
        with pytest.raises(Unauthorized) as caught:
            EVERYONE.connection(nim)
        assert not planted.found(planted.told(caught.value))


def test_a_key_has_a_longest_length(nim: Provider) -> None:
    Access().set_key(nim, "k" * MAX_KEY)
    with pytest.raises(Unauthorized, match="more than 4,096 characters"):
        Access().set_key(nim, "k" * (MAX_KEY + 1))


def test_an_access_shows_no_key(nim: Provider, caplog: pytest.LogCaptureFixture) -> None:
    mine = Access()
    mine.set_key(nim, KEY)
    mine.add_server("http://127.0.0.1:8000/v1", KEY)
    logging.getLogger("test").warning("%s %s", mine, vars(mine))
    assert "[key]" in caplog.text
    assert not planted.found(caplog.text)


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
        ("  https://models.example/v1\n", "https://models.example/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("http://gpu-box:8000", "http://gpu-box:8000"),
        ("http://10.0.0.7", "http://10.0.0.7"),
        ("http://0.0.0.0:8000/v1", "http://127.0.0.1:8000/v1"),
    ],
)
def test_addresses_that_visitors_may_type(nim: Provider, text: str, address: str) -> None:
    mine = Access()
    mine.set_address(nim, text)
    assert mine.connection(nim).base_url == address
    assert mine.add_server(text).base_url == address


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("models.example/v1", "no address"),
        ("ftp://models.example", "no address"),
        ("file:///etc/passwd", "no address"),
        ("javascript:alert(1)", "no address"),
        ("http://", "no address"),
        ("http://host:port", "no address"),
        ("http://host:99999", "no address"),
        ("http://[::1", "no address"),
        ("http://a b/v1", "no address"),
        ('http://host/"><script>', "no address"),
        ("http://host\\@other/v1", "no address"),
        ("http://user:pass@host/v1", "user, a password or a query"),
        ("http://@host/v1", "user, a password or a query"),
        ("http://host/v1?api-version=1", "user, a password or a query"),
        ("http://host/v1?", "user, a password or a query"),
        ("http://host/v1#top", "user, a password or a query"),
        ("http://host/" + "v" * 600, "more than 500 characters"),
        ("http://169.254.169.254/v1", "the network itself"),
        ("http://169.254.169.254.:80/v1", "the network itself"),
        ("http://2852039166/v1", "the network itself"),
        ("http://0xa9fea9fe/v1", "the network itself"),
        ("http://169.254.43518/v1", "the network itself"),
        ("http://0251.0376.0251.0376/v1", "the network itself"),
        ("http://[fe80::1]/v1", "the network itself"),
        ("http://[fe80::1%25eth0]/v1", "the network itself"),
        ("http://[::ffff:169.254.169.254]/v1", "the network itself"),
        ("http://[fd00:ec2::254]/v1", "the network itself"),
        ("http://METADATA.google.internal./v1", "the network itself"),
        ("http://168.63.129.16/v1", "the network itself"),
    ],
)
def test_addresses_that_they_may_not(nim: Provider, text: str, reason: str) -> None:
    mine = Access()
    for take in (lambda: mine.set_address(nim, text), lambda: mine.add_server(text)):
        with pytest.raises(BadRequest, match=reason) as caught:
            take()
        assert caught.value.hint
        assert not planted.found(caught.value.message + caught.value.hint)
    assert mine.address(nim) == ""
    assert mine.added == []


def test_the_owner_s_address_is_completed(known: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    for provider_id, variable, written, used in (
        ("ollama", "OLLAMA_HOST", "gpu-box", "http://gpu-box:11434"),
        ("ollama", "OLLAMA_HOST", "gpu-box:5000", "http://gpu-box:5000"),
        ("ollama", "OLLAMA_HOST", ":5000", "http://127.0.0.1:5000"),
        ("ollama", "OLLAMA_HOST", "0.0.0.0", "http://127.0.0.1:11434"),
        ("ollama", "OLLAMA_HOST", "0.0.0.0:5000", "http://127.0.0.1:5000"),
        ("ollama", "OLLAMA_HOST", "[::1]", "http://[::1]:11434"),
        ("ollama", "OLLAMA_HOST", "[::]:5000", "http://127.0.0.1:5000"),
        ("ollama", "OLLAMA_HOST", "https://ollama.example/", "https://ollama.example"),
        ("ollama", "OLLAMA_HOST", "gpu-box/ollama", "http://gpu-box:11434/ollama"),
        ("foundry", "AZURE_OPENAI_ENDPOINT", "https://r.openai.azure.com/", "https://r.openai.azure.com/openai/v1"),
        ("foundry", "AZURE_OPENAI_ENDPOINT", "https://r.openai.azure.com/openai/v1/", "https://r.openai.azure.com/openai/v1"),
        ("foundry", "AZURE_OPENAI_ENDPOINT", "https://gateway.example/team/v1", "https://gateway.example/team/v1"),
        ("nim", "NVIDIA_BASE_URL", "http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
    ):  # fmt: skip
        monkeypatch.setenv(variable, written)
        assert EVERYONE.connection(known.providers[provider_id]).base_url == used, written


def test_an_address_of_the_owner_s_that_is_none_is_named(
    known: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, provider_id, wrong in (
        ("NVIDIA_BASE_URL", "nim", "127.0.0.1:8000/v1"),
        ("OLLAMA_HOST", "ollama", "gpu box"),
        ("AZURE_OPENAI_ENDPOINT", "foundry", f"https://user:{KEY}@r.openai.azure.com"),
    ):
        monkeypatch.setenv(variable, wrong)
        with pytest.raises(BadRequest, match=f"^{variable} is ") as caught:
            EVERYONE.connection(known.providers[provider_id])
        assert not planted.found(caught.value.message + caught.value.hint)


# --- servers that a visitor adds ------------------------------------------------------------------


def test_an_added_server_is_the_visitor_s_alone(known: Catalog) -> None:
    mine, yours = Access(), Access()
    provider = mine.add_server("http://gpu-box:8000/v1", KEY)
    assert (provider.id, provider.name, provider.dialect) == (
        "gpu-box-8000",
        "gpu-box:8000",
        "openai",
    )
    deployment = mine.add_deployment(provider, "Some/Model-1", known.models["phi-4"])
    assert deployment.id == "phi-4@gpu-box-8000"
    assert mine.catalog().deployment(deployment.id).served_as == "Some/Model-1"
    assert mine.connection(provider).key.reveal() == KEY
    assert mine.connection(provider).own
    for other in (yours, EVERYONE):
        assert deployment.id not in other.catalog().deployments
        assert provider.id not in other.catalog().providers
    mine.remove_server(provider)
    assert mine.catalog() is catalog.load() or deployment.id not in mine.catalog().deployments
    assert not mine.connection(provider).key


def test_an_added_server_without_a_key_is_the_visitor_s_own_too() -> None:
    mine = Access()
    assert mine.connection(mine.add_server("http://gpu-box:8000/v1")).own


def test_an_added_server_speaks_as_it_is_told_to(known: Catalog) -> None:
    mine = Access()
    ollama = mine.add_server("http://gpu-box:11434", dialect="ollama")
    assert ollama.dialect == "ollama"
    assert ollama.sampling == known.providers["ollama"].sampling
    assert (ollama.address, ollama.key, ollama.presumed) == ("", "", False)
    azure = mine.add_server("https://r.services.ai.azure.com/models", KEY, dialect="azure")
    assert (azure.dialect, azure.retired) == ("azure", "")


def test_another_address_under_the_same_name_takes_the_place_of_the_first() -> None:
    mine = Access()
    first = mine.add_server("http://gpu-box:8000/v1", KEY)
    mine.add_deployment(first, "m")
    second = mine.add_server("http://gpu-box:8000/v2")
    assert mine.added == [second]
    assert "m@gpu-box-8000" not in mine.catalog().deployments
    assert not mine.connection(second).key


def test_an_added_server_takes_no_id_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Access()
    assert mine.add_server("http://ollama/v1").id == "my-ollama"
    assert mine.add_server("http://onnx/v1").id == "my-onnx"


def test_a_visitor_adds_a_limited_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MAX_SERVERS", 2)
    monkeypatch.setattr(access, "MAX_MODELS", 2)
    mine = Access()
    for host in ("a", "b", "b"):
        provider = mine.add_server(f"http://{host}/v1")
    with pytest.raises(BadRequest, match="2 servers"):
        mine.add_server("http://c/v1")
    for name in ("one", "two"):
        mine.add_deployment(provider, name)
    with pytest.raises(BadRequest, match="2 models"):
        mine.add_deployment(provider, "three")


def test_the_owner_may_keep_visitors_from_adding(monkeypatch: pytest.MonkeyPatch) -> None:
    assert access.may_add_servers()
    for said in ("0", "no", "False", "OFF"):
        monkeypatch.setenv("SLM_VISITORS_ADD_SERVERS", said)
        assert not access.may_add_servers()
    monkeypatch.setenv("SLM_VISITORS_ADD_SERVERS", "yes")
    assert access.may_add_servers()


def test_connections_tell_what_differs(nim: Provider) -> None:
    one = EVERYONE.connection(nim)
    assert one == EVERYONE.connection(nim)
    for other in (
        replace(one, key=Secret(KEY)),
        replace(one, base_url="http://127.0.0.1:1/v1"),
        replace(one, entra=True),
    ):
        assert other != one
