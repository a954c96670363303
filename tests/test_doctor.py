"""What doctor finds out about servers, keys and variables, against real servers on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import planted
import pytest
from planted import KEY
from scripted_server import Server, own_selector, refusal, scripted

from slm_backends import doctor
from slm_backends.doctor import Finding


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The owner's NIM: an address and a key in the environment."""
    monkeypatch.delenv("SLM_CATALOG", raising=False)
    with scripted() as made, own_selector(monkeypatch):
        monkeypatch.setenv("NVIDIA_BASE_URL", made.address)
        monkeypatch.setenv("NVIDIA_API_KEY", KEY)
        yield made


def endpoints() -> dict[str, Finding]:
    return {found.subject: found for found in doctor.CHECKS["Endpoints"]()}


def variables() -> dict[str, Finding]:
    return {found.subject: found for found in doctor.CHECKS["Variables"]()}


def test_a_server_that_answers(server: Server) -> None:
    server.models = ["microsoft/phi-4-mini-instruct", "meta/llama-3.1-8b-instruct"]
    found = endpoints()["NVIDIA NIM"]
    assert (found.level, found.todo) == ("ok", "")
    assert re.fullmatch(
        rf"{server.address} answered in \d+ ms, with NVIDIA_API_KEY from the environment; "
        r"it lists 2 models, 1 of them in the catalog: phi-4-mini-instruct@nim",
        found.detail,
    )
    assert server.asked[-1].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("status", "said", "todo"),
    [
        (401, "needs key. Wrong key.", "Check NVIDIA_API_KEY."),
        (503, "not reachable. Wrong key.", "Check NVIDIA_BASE_URL, and that the server runs."),
        (429, "rate limited. Wrong key.", ""),
        (500, "unknown. Wrong key.", ""),
    ],
)
def test_a_server_that_does_not(server: Server, status: int, said: str, todo: str) -> None:
    server.listing = refusal(status, "Wrong key.")
    found = endpoints()["NVIDIA NIM"]
    assert found.level == "warning"
    assert found.detail.endswith(f": {said}")
    assert found.todo == todo


def test_what_nobody_has_set_up_is_asked_nothing_and_is_no_fault(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NVIDIA_BASE_URL")
    monkeypatch.delenv("NVIDIA_API_KEY")
    monkeypatch.setenv("GITHUB_TOKEN", KEY)
    found = endpoints()
    assert {item.level for item in found.values()} == {"ok"}
    assert found["NVIDIA NIM"].detail == "not set up: it needs NVIDIA_API_KEY"
    assert "which is asked when a model on it is" in found["Ollama"].detail
    assert found["GitHub Models"].detail.startswith("retired on 2026-07-30. GitHub ended it")
    assert server.asked == []


def test_what_is_set_up_in_part_says_what_is_missing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
    found = endpoints()["Microsoft Foundry"]
    assert found.level == "warning"
    assert found.detail == "not set up: it needs AZURE_OPENAI_ENDPOINT"
    assert found.todo == (
        "Set AZURE_OPENAI_ENDPOINT. It looks like https://<resource>.openai.azure.com/openai/v1."
    )


def test_what_is_set_wrongly_is_a_problem(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_API_KEY", f"{KEY}\n{KEY}")
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "my-resource")
    found = endpoints()
    assert found["NVIDIA NIM"].level == "problem"
    assert found["NVIDIA NIM"].todo == "Copy it again, alone and whole."
    assert found["Microsoft Foundry"].detail == "AZURE_OPENAI_ENDPOINT is no address of a server."
    assert server.asked == []


def test_a_server_of_one_s_own_has_a_line_too(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        f"[models.m]\nname = 'M'\n"
        f"[deployments.'m@openai']\nbase_url = '{server.address}'\nkey = 'MY_KEY'\n"
        f"[deployments.'m@ollama:elsewhere']\nbase_url = 'http://127.0.0.1:9'\n"
    )
    monkeypatch.setenv("SLM_CATALOG", str(own))
    found = endpoints()
    mine = found[f"OpenAI-compatible server at {server.address}"]
    assert (mine.level, mine.todo) == ("warning", "Set MY_KEY.")
    silent = found["Ollama at http://127.0.0.1:9"]
    assert silent.detail.endswith("nothing listens there.")
    assert silent.todo == "Start it with `ollama serve`."
    monkeypatch.setenv("MY_KEY", KEY)
    mine = endpoints()[f"OpenAI-compatible server at {server.address}"]
    assert (mine.level, mine.todo) == ("ok", "")
    assert mine.detail.endswith("it lists 1 model, 1 of them in the catalog: m@openai")


def test_variables_are_named_with_their_place_and_without_their_value(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "secrets.toml"
    file.write_text(f'AZURE_OPENAI_API_KEY = "{KEY}"\nNVIDIA_API_KEY = "{KEY}"\n')
    monkeypatch.setenv("SLM_SECRETS", str(file))
    found = variables()
    assert found[str(file)].detail == "2 names"
    assert found["NVIDIA_API_KEY"].detail == "set in the environment, value not shown"
    assert found["AZURE_OPENAI_API_KEY"].detail == "set in secrets.toml, value not shown"
    assert found["SLM_SECRETS"].detail == str(file)
    assert not planted.found(str(found))
    assert endpoints()["Microsoft Foundry"].level == "warning"  # a key, and no address


def test_a_broken_file_of_secrets_is_a_finding(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "secrets.toml"
    file.write_text(f"AZURE_OPENAI_API_KEY = {KEY}\n")
    monkeypatch.setenv("SLM_SECRETS", str(file))
    broken = variables()[str(file)]
    assert broken.level == "problem"
    assert "look at line 1" in broken.detail
    assert broken.todo
    assert variables()["NVIDIA_API_KEY"].level == "ok"
    found = endpoints()
    assert found["NVIDIA NIM"].level == "ok"  # what it needs is in the environment
    assert found["Microsoft Foundry"].level == "problem"
    assert not planted.found(str(found) + str(variables()))
