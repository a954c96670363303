"""Servers on the Models page without a browser: states, keys, addresses, models; and Ollama's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import scripted_server
from asking import until
from ollama_server import Ollama, serving_ollama
from shelves import own_shelf
from streamlit.testing.v1 import AppTest
from test_page_models import models, open_page, press, run, said

from slm_backends import catalog, selector
from slm_backends.access import Access
from slm_backends.health import Health
from slm_backends.providers import Provider
from ui.markdown import literal

KEY = "sk-of-this-test"


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[scripted_server.Server]:
    """A provider that wants a key, "team", at a server of the test's own."""
    with scripted_server.scripted() as server:
        server.models = ["m", "phi-4", "other"]
        file = tmp_path / "catalog.toml"
        file.write_text(
            f'[providers.team]\nname = "Team"\nbase_url = "{server.address}"\n'
            'key = "SLM_TEAM_KEY"\naddress = "SLM_TEAM_URL"\n'
            '[models.m]\nname = "M"\n[deployments."m@team"]\n'
        )
        monkeypatch.setenv("SLM_CATALOG", str(file))
        with own_shelf():
            yield server


def place(provider_id: str) -> str:
    return catalog.load().providers[provider_id].place


def press_test(page: AppTest, provider_id: str) -> AppTest:
    """Press it when the server is not being asked already, since it was set up."""
    provider = catalog.load().providers[provider_id]
    until(lambda: not selector.probing(provider, page.session_state.access))
    return press(run(page), f"test_{provider.place}")


def type_key(page: AppTest, key: str = KEY, provider_id: str = "team") -> AppTest:
    page.text_input(key=f"key_{place(provider_id)}").set_value(key)
    return run(page)


def everything(page: AppTest) -> str:
    """All that goes to the browser."""
    return "".join(str(element.proto) for element in page.main)


def test_every_server_has_a_row_and_only_what_is_set_up_was_asked() -> None:
    page = open_page()
    text = said(page)
    for provider in catalog.load().providers.values():
        if provider.base_url or provider.address:
            assert f"**{literal(provider.name)}**" in text
            assert page.button(key=f"test_{provider.place}")
    assert "retired on 2026-07-30" in text
    assert "Instead: Microsoft Foundry, Ollama." in text
    assert "26 August 2026" in text
    assert page.button(key=f"test_{place('github')}").disabled
    assert page.button(key=f"test_{place('nim')}").disabled
    assert "asked just now" not in text  # conftest.py lets no test leave this computer anyway


def test_a_key_is_asked_for_taken_used_and_forgotten(team: scripted_server.Server) -> None:
    page = open_page()
    assert "needs SLM\\_TEAM\\_KEY" in said(page)
    assert page.button(key=f"test_{place('team')}").disabled
    page = type_key(page)
    assert page.text_input(key=f"key_{place('team')}").value == ""  # never shown again
    assert "A key of yours is in use" in said(page)
    page = press_test(page, "team")
    assert ":green-badge[ready]" in said(page)
    assert {asked.headers["authorization"] for asked in team.asked} == {f"Bearer {KEY}"}
    assert KEY not in everything(page)
    assert KEY not in json.dumps(dict(page.query_params))
    page = press(page, f"forget_{place('team')}")
    assert ":orange-badge[needs key]" in said(page)
    assert page.button(key=f"test_{place('team')}").disabled


def test_what_a_probe_learns_before_its_row_is_drawn_is_in_it(
    team: scripted_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = selector.look

    def ask_and_wait(provider: Provider, access: Access) -> Health:
        before = ask(provider, access)
        until(lambda: not selector.probing(provider, access))
        return before

    page = open_page()
    monkeypatch.setattr(selector, "look", ask_and_wait)
    assert ":green-badge[ready]" in said(type_key(page))


def test_another_session_has_another_key(team: scripted_server.Server) -> None:
    mine, other = type_key(open_page()), open_page()
    assert "A key of yours is in use" in said(mine)
    assert "A key of yours is in use" not in said(other)
    assert other.button(key=f"test_{place('team')}").disabled


def test_what_can_be_no_key_is_said(team: scripted_server.Server) -> None:
    page = type_key(open_page(), "two words")
    assert "The key for Team holds spaces" in said(page)
    assert "two words" not in said(page)
    assert page.button(key=f"test_{place('team')}").disabled


def test_the_owners_key_is_said_to_be_set_and_not_shown(
    team: scripted_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLM_TEAM_KEY", KEY)
    page = open_page()
    assert "Set by the owner: SLM_TEAM_KEY in the environment." in said(page)
    assert KEY not in everything(page)


def test_a_visitors_address_is_asked_without_the_owners_key(
    team: scripted_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLM_TEAM_KEY", KEY)
    with scripted_server.scripted() as mine:
        page = open_page()
        page.text_input(key=f"address_{place('team')}").set_value(mine.address)
        page = type_key(run(page), "sk-another")
        press_test(page, "team")
        sent = {asked.headers["authorization"] for asked in mine.asked}
        assert sent == {"Bearer sk-another"}


def test_a_key_that_others_could_read_is_warned_of(team: scripted_server.Server) -> None:
    page = open_page()
    page.text_input(key=f"address_{place('team')}").set_value("http://10.255.255.1:9/v1")
    assert not run(page).warning  # there is no key yet
    page.text_input(key="new_address").set_value("http://gpu-box:8000/v1")
    page.text_input(key="new_key").set_value(KEY)
    page = run(page)
    assert "Anybody on the way can read the key" in page.warning[0].value
    page.text_input(key="new_address").set_value("http://127.0.0.1:8000/v1")
    assert not run(page).warning


def test_the_owner_may_keep_visitors_from_typing_addresses(
    team: scripted_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLM_VISITORS_ADD_SERVERS", "0")
    boxes = {box.key for box in open_page().text_input}
    assert f"key_{place('team')}" in boxes
    assert not boxes & {"new_address", f"address_{place('team')}"}


def test_models_that_a_server_lists_become_deployments(
    team: scripted_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLM_TEAM_KEY", KEY)
    page = press_test(open_page(), "team")
    more = page.multiselect(key=f"more_{place('team')}")
    assert more.options == ["phi-4", "other"]  # m is there already
    more.set_value(["phi-4", "other"])
    page = press(page, f"add_{place('team')}")
    assert {"phi-4@team", "other@team"} <= set(page.session_state.access.catalog().deployments)
    page.session_state[f"models_{place('team')}"] = True  # which a browser would remember
    page = run(page)
    assert literal("phi-4@team") in said(page)
    lines = next(code.value for code in page.code if code.language == "toml")
    assert '[deployments."phi-4@team"]' in lines
    assert KEY not in everything(page)
    assert "other@team" not in catalog.load().deployments


def test_a_server_that_answers_is_not_on_this_computer(
    team: scripted_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLM_TEAM_KEY", KEY)
    page = press_test(open_page(), "team")
    assert ":green-badge[ready]" in said(page)
    assert "m" in models(page)
    page.toggle(key="here").set_value(True)
    assert "m" not in models(run(page))


def test_a_server_that_is_not_there_says_what_to_do() -> None:
    page = open_page()
    page.text_input(key="new_address").set_value("http://127.0.0.1:9/v1")
    page = press(page, "new_server")
    assert "No answer from http://127.0.0.1:9/v1: nothing listens there." in said(page)
    assert not page.session_state.access.added


# --- Ollama ---------------------------------------------------------------------------------------


@pytest.fixture
def ollama(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ollama]:
    with serving_ollama() as server:
        server.add("phi3.5:latest")
        server.add("qwen3:4b", family="qwen3")
        server.loaded["phi3.5:latest"] = 4096
        monkeypatch.setenv("OLLAMA_HOST", server.address)
        with own_shelf():
            yield server


def test_ollamas_models_are_listed_shown_and_unloaded(ollama: Ollama) -> None:
    page = press_test(open_page(), "ollama")
    text = said(page)
    assert f"{literal('phi3.5:latest')} :green-badge[loaded]" in text
    assert literal("4.4 GB in memory, 50% of it on a GPU") in text
    assert f"{literal('qwen3:4b')}\n" in text
    page = press(page, f"show_{place('ollama')}_phi3.5:latest")
    assert "<|assistant|>" in said(page)  # the template
    assert "131,072 tokens" in page.table[0].value.astype(str).to_string().replace("\\", "")
    page = press(page, f"ollama_unload_{place('ollama')}_phi3.5:latest")
    assert not ollama.loaded
    assert "green-badge[loaded]" not in said(page)
    take = f"take_{place('ollama')}_qwen3:4b"
    page = press(page, take)
    assert "qwen3-4b@ollama" in page.session_state.access.catalog().deployments
    assert take not in {button.key for button in page.button}


def test_a_pull_is_followed_cancelled_and_brings_a_model(ollama: Ollama) -> None:
    ollama.library.add("phi3:latest")
    ollama.pause = 0.3
    page = press_test(open_page(), "ollama")
    page.text_input(key=f"pull_{place('ollama')}").set_value("phi3")
    page = press(page, f"pull_now_{place('ollama')}")
    pull = page.session_state.pulls[place("ollama")]
    until(lambda: pull.now.progress and pull.now.progress.done)
    page = run(page)
    assert page.button(key=f"pull_now_{place('ollama')}").disabled
    page = press(page, f"cancel_{place('ollama')}")
    assert ollama.left.wait(5)
    ollama.pause = 0
    page = press(run(page), f"pull_now_{place('ollama')}")
    until(lambda: page.session_state.pulls[place("ollama")].now.state == "done")
    assert literal("phi3:latest") in said(run(page))


def test_a_pull_that_fails_says_why(ollama: Ollama) -> None:
    page = press_test(open_page(), "ollama")
    page.text_input(key=f"pull_{place('ollama')}").set_value("no-such-model")
    page = press(page, f"pull_now_{place('ollama')}")
    until(lambda: page.session_state.pulls[place("ollama")].now.state == "failed")
    assert "no-such-model" in said(run(page))
