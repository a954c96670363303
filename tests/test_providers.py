"""Providers: what is shipped says what is known, and each mistake in one's own has its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from slm_backends import catalog
from slm_backends.catalog import Catalog
from slm_backends.errors import CatalogError
from slm_backends.providers import Provider, completed

OWN = """\
[providers.cellar]
name = "The cellar"
base_url = "http://192.168.1.20:8000/v1"
key = "CELLAR_KEY"
sampling = ["max_tokens", "stop"]

[models.tiny]
name = "Tiny"

[deployments."tiny@cellar"]
served_as = "tiny-q4"

[deployments."tiny@nim"]
base_url = "http://192.168.1.20:9000/v1"
"""
#: provider -> (its name for each model of the family that it has had, the day that those of Phi-3
#: and Phi-3.5 ended)
AZURE = {
    "phi-3.5-mini-instruct": "Phi-3.5-mini-instruct",
    "phi-3-mini-4k-instruct": "Phi-3-mini-4k-instruct",
    "phi-3-mini-128k-instruct": "Phi-3-mini-128k-instruct",
    "phi-3-small-8k-instruct": "Phi-3-small-8k-instruct",
    "phi-3-small-128k-instruct": "Phi-3-small-128k-instruct",
    "phi-3-medium-4k-instruct": "Phi-3-medium-4k-instruct",
    "phi-3-medium-128k-instruct": "Phi-3-medium-128k-instruct",
    "phi-3.5-moe-instruct": "Phi-3.5-MoE-instruct",
    "phi-4-mini-instruct": "Phi-4-mini-instruct",
    "phi-4": "Phi-4",
    "phi-3.5-vision-instruct": "Phi-3.5-vision-instruct",
    "phi-3-vision-128k-instruct": "Phi-3-vision-128k-instruct",
    "phi-4-multimodal-instruct": "Phi-4-multimodal-instruct",
}
GITHUB = {model: f"microsoft/{model}" for model in AZURE if model != "phi-3-vision-128k-instruct"}
NIM = {model: f"microsoft/{model}" for model in AZURE if model != "phi-4"}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "own.toml"
    file.write_text(OWN)
    monkeypatch.setenv("SLM_CATALOG", str(file))
    return file


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> Catalog:
    monkeypatch.delenv("SLM_CATALOG", raising=False)
    return catalog.load()


def served(known: Catalog, provider_id: str) -> dict[str, str]:
    items = known.deployments.values()
    return {item.model.id: item.served_as for item in items if item.runtime == provider_id}


# --- what is shipped ------------------------------------------------------------------------------


def test_every_model_of_the_family_has_its_name_on_every_server(shipped: Catalog) -> None:
    assert served(shipped, "foundry") == served(shipped, "azure-inference") == AZURE
    assert served(shipped, "github") == GITHUB
    assert served(shipped, "nim") == NIM
    assert set(served(shipped, "ollama")) >= {"smollm2-135m-instruct", "phi-3.5-mini-instruct"}


def test_what_has_ended_says_when_and_who_says_so(shipped: Catalog) -> None:
    for item in shipped.deployments.values():
        ended = item.runtime in ("foundry", "azure-inference") and item.model.family != "Phi-4"
        assert item.retired == ("2025-08-30" if ended else ""), item.id
        assert item.retired_source.startswith("https://") == ended, item.id
    github = shipped.providers["github"]
    assert github.retired == "2026-07-30"
    assert "203602" in github.source


def test_every_provider_is_described(shipped: Catalog) -> None:
    for item in shipped.providers.values():
        assert item.names.endswith("."), item.id
        assert item.source.startswith("https://"), item.id
        assert re.fullmatch(r"2026-1[12]-\d\d", item.checked), item.id
        assert not item.notice or item.notice.endswith(".")
        assert set(item.instead) <= set(shipped.providers) - {item.id}
        assert item.form, item.id
        assert {"max_tokens", "temperature", "stop"} <= set(item.sampling)
    assert all(shipped.providers[name].retired == "" for name in ("foundry", "ollama"))


def test_only_ollama_is_presumed_and_only_on_this_computer(shipped: Catalog) -> None:
    assert [item.id for item in shipped.providers.values() if item.presumed] == ["ollama"]
    assert shipped.providers["ollama"].base_url == "http://127.0.0.1:11434"
    for item in shipped.providers.values():
        assert item.presumed or item.key or not item.base_url  # nobody is asked without a word


def test_servers_of_ollama_s_deployments_are_ollama_itself(shipped: Catalog) -> None:
    """What a probe of it finds is then known of each of them."""
    for item in shipped.deployments.values():
        if item.runtime == "ollama":
            assert item.provider == shipped.providers["ollama"]
            assert f"`ollama pull {item.served_as}`" in item.start


# --- one's own ------------------------------------------------------------------------------------


def test_a_deployment_takes_after_its_provider(own: Path) -> None:
    known = catalog.load()
    tiny = known.deployment("tiny@cellar")
    assert (tiny.base_url, tiny.key) == ("http://192.168.1.20:8000/v1", "CELLAR_KEY")
    assert tiny.sampling == ("max_tokens", "stop")
    assert tiny.place == "The cellar"


def test_a_server_of_a_single_deployment_is_another_place(own: Path) -> None:
    known = catalog.load()
    elsewhere = known.deployment("tiny@nim").provider
    nim = known.providers["nim"]
    assert elsewhere is not None
    assert (elsewhere.key, elsewhere.address) == ("", "")
    assert elsewhere.place != nim.place
    assert elsewhere in known.servers
    assert nim in known.servers
    assert len(known.servers) == len(known.providers) + 1


def test_an_entry_under_a_shipped_id_changes_what_it_names(own: Path) -> None:
    own.write_text(
        '[providers.ollama]\nbase_url = "http://gpu-box:11434"\nstart = "Wake the box."\n'
        'sampling = ["max_tokens"]\n'
    )
    known = catalog.load()
    ollama = known.providers["ollama"]
    assert (ollama.name, ollama.dialect, ollama.address) == ("Ollama", "ollama", "OLLAMA_HOST")
    assert not ollama.presumed  # somebody has said that it is there
    shipped = known.deployment("phi-4@ollama")
    assert shipped.provider is ollama
    assert shipped.sampling == ("max_tokens",)
    assert "ollama pull phi4" in shipped.start  # its own words stay


def test_a_gateway_lives_on_where_a_provider_has_ended(own: Path) -> None:
    own.write_text(
        '[models.tiny]\nname = "Tiny"\n'
        '[deployments."tiny@github"]\nbase_url = "https://gateway.example/inference"\n'
    )
    provider = catalog.load().deployment("tiny@github").provider
    assert provider is not None
    assert provider.retired == ""
    own.write_text('[providers.github]\nbase_url = "https://gateway.example/inference"\n')
    assert catalog.load().deployment("phi-4@github").provider == catalog.load().providers["github"]
    assert catalog.load().providers["github"].retired == ""


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("providers.cellar", "providers.Cellar", 1, "id must be small letters"),
        ("providers.cellar", "providers.onnx", 1, "and no runtime's"),
        ('name = "The cellar"', 'nome = "The cellar"', 2, "no field called 'nome'"),
        ('name = "The cellar"\n', "", 1, "name is missing"),
        ("http://192.168.1.20:8000", "192.168.1.20:8000", 3, "must start with http://"),
        ("http://192.168.1.20:8000", "http://me:secret@x", 3, "no user, password or query"),
        (":8000/v1", ":8000/v1?key=secret", 3, "no user, password or query"),
        ('key = "CELLAR_KEY"', 'dialect = "latin"', 4, "dialect must be one of openai, azure, ol"),
        ('key = "CELLAR_KEY"', 'auth = "basic"', 4, "auth must be one of bearer, api-key"),
        ('key = "CELLAR_KEY"', 'retired = "yesterday"', 4, "must be a day, as in 2026-07-30"),
        ('key = "CELLAR_KEY"', 'retired = "2026-13-01"', 4, "must be a day, as in 2026-07-30"),
        ('key = "CELLAR_KEY"', 'checked = "2026"', 4, "must be a day"),
        ('key = "CELLAR_KEY"', 'path = "v1"', 4, "path must look like /openai/v1"),
        ('key = "CELLAR_KEY"', "port = -1", 4, "port must be a whole number"),
        ('key = "CELLAR_KEY"', "lists = 1", 4, "lists must be true or false"),
        ('["max_tokens", "stop"]', '["warmth"]', 5, "no sampling field called 'warmth'"),
        ('served_as = "tiny-q4"', 'auth = "basic"', 11, "auth must be one of bearer, api-key"),
        ('served_as = "tiny-q4"', "key = 7", 11, "key must be a string"),
        ('served_as = "tiny-q4"', "price_in = -1", 11, "price_in must be a number, 0 or more"),
        ('served_as = "tiny-q4"', "price_in = nan", 11, "price_in must be a number, 0 or more"),
        ('served_as = "tiny-q4"', 'retired = "soon"', 11, "must be a day"),
        ('base_url = "http://192.168.1.20:9000/v1"', 'base_url = "x"', 14, "must start with http"),
        ("tiny@nim", "tiny@openai", 13, ""),
    ],
)
def test_mistake(own: Path, old: str, new: str, line: int, reason: str) -> None:
    assert old in OWN
    own.write_text(OWN.replace(old, new))
    if not reason:
        catalog.load()  # an address of its own is all that it needs
        return
    with pytest.raises(CatalogError) as caught:
        catalog.load()
    message = str(caught.value)
    assert message.startswith(f"{own}, line {line}: ")
    assert reason in message
    assert "secret" not in message


def test_a_server_needs_an_address(own: Path) -> None:
    for entry in ("", 'key = "KEY"\n'):  # a key alone is none
        own.write_text(f'[models.tiny]\nname = "Tiny"\n[deployments."tiny@openai"]\n{entry}')
        with pytest.raises(CatalogError, match=r"line 3: .*needs a base_url"):
            catalog.load()


def test_an_address_is_completed_only_where_its_provider_says_how() -> None:
    plain = Provider("p", "P")
    assert completed(plain, "host") == "host"
    assert completed(plain, " http://host/ ") == "http://host"
    assert completed(plain, "http://0.0.0.0") == "http://127.0.0.1"
    assert completed(plain, "http://10.0.0.0.example/v1") == "http://10.0.0.0.example/v1"
    with_path = Provider("p", "P", path="/openai/v1")
    assert completed(with_path, "https://host:1/") == "https://host:1/openai/v1"
    assert completed(with_path, "https://host/own") == "https://host/own"
    assert completed(with_path, "host") == "host"
