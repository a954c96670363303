"""The chat page with panes on servers: what they lack or refuse, wait for, cost, and say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import scripted_server
from shelves import own_shelf
from streamlit.testing.v1 import AppTest
from test_page_chat import FOX, PLAIN, ask, labels, open_page, press, texts

from slm_backends import selector
from slm_backends.access import EVERYONE

SERVED, PRICED = "m@team", "m@team:priced"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[scripted_server.Server]:
    """A server behind the deployment SERVED, which honours neither top_k nor a penalty."""
    with scripted_server.scripted() as server:
        file = tmp_path / "catalog.toml"
        file.write_text(
            f'[providers.team]\nname = "Team"\nbase_url = "{server.address}"\n'
            f'sampling = ["max_tokens", "temperature", "top_p", "seed", "stop"]\n'
            f'[models.m]\nname = "M"\n[deployments."{SERVED}"]\n'
            f'[deployments."{PRICED}"]\nserved_as = "m"\nprice_in = 0.15\nprice_out = 0.6\n'
        )
        monkeypatch.setenv("SLM_CATALOG", str(file))
        with own_shelf():
            yield server


def captions(page: AppTest) -> list[str]:
    return [caption.value for caption in page.caption]


def test_a_parameter_that_one_pane_lacks_stops_that_pane_alone(
    server: scripted_server.Server,
) -> None:
    page = ask(open_page(SERVED, PLAIN, top_k="5"))
    assert "top_k" in page.text[0].value
    assert len(page.text) == 2
    assert texts(page) == [[""], [FOX + " dog"]]
    assert not server.prompts
    assert not page.number_input(key="top_k").disabled  # the other pane honours it
    assert captions(page).count("Not honoured by Team.") == 4
    press(page, "Send without top_k")
    assert texts(page) == [["Hello"], [FOX + " dog"]]
    assert "Sent without top_k." in captions(page)
    ask(page, "And now?")  # what was said once holds for this deployment
    assert texts(page) == [["Hello", "Hello"], [FOX + " dog"] * 2]
    assert ["top_k" in asked.body for asked in server.prompts] == [False, False]
    assert captions(page).count("Sent without top_k.") == 2


def test_what_no_pane_honours_is_greyed_out_and_not_sent(server: scripted_server.Server) -> None:
    page = ask(open_page(SERVED, SERVED, top_k="5", presence_penalty="0.5"))
    greyed = {box.key for box in page.number_input if box.disabled}
    assert greyed == {"top_k", "presence_penalty", "frequency_penalty", "repetition_penalty"}
    assert captions(page).count("Not honoured by Team. It is not sent.") == 4
    assert texts(page) == [["Hello"], ["Hello"]]
    assert captions(page).count("Sent without presence_penalty, top_k.") == 2
    for asked in server.prompts:
        assert {"temperature", "max_tokens", "top_p"} <= asked.body.keys()
        assert not greyed & asked.body.keys()


@pytest.mark.parametrize(("name", "value"), [("seed", "7"), ("temperature", "0.7")])
def test_what_a_server_refuses_is_learnt_and_greyed_out(
    server: scripted_server.Server, name: str, value: str
) -> None:
    server.answers = [scripted_server.refusal(400, f"Unsupported parameter: {name}.", param=name)]
    page = open_page(SERVED, **{name: value})
    assert not page.number_input(key=name).disabled
    ask(page)
    assert f"Send without {name}" in labels(page)
    assert page.number_input(key=name).disabled
    press(page, f"Send without {name}")
    assert texts(page) == [["Hello"]]
    assert [name in asked.body for asked in server.prompts] == [True, False]
    assert f"Sent without {name}." in captions(page)


def test_a_rate_limit_is_waited_for_and_told(server: scripted_server.Server) -> None:
    server.answers = [scripted_server.refusal(429, "Slow down.", retry_after="0.2")]
    page = ask(open_page(SERVED))
    assert texts(page) == [["Hello"]]
    assert any("waited 200 ms as the server asked" in line for line in captions(page))
    assert page.table[1].value.loc["Held by the server"].iloc[0] == "200 ms"


def test_a_server_without_prices_costs_what_nobody_knows(server: scripted_server.Server) -> None:
    page = ask(open_page(SERVED))
    assert page.table[1].value.loc["Cost"].iloc[0] == "not known"
    assert not any("$" in line for line in captions(page))


def test_a_reply_is_priced_and_both_clocks_are_shown(server: scripted_server.Server) -> None:
    server.timings = {
        "prompt_n": 1_000, "prompt_ms": 40.0, "predicted_n": 500, "predicted_ms": 100.0,
    }  # fmt: skip
    page = ask(open_page(PRICED))
    assert any(r"\$0.00045" in line for line in captions(page))
    assert page.table[1].value.loc["Cost"].iloc[0] == "$0.00045"
    both = page.table[0].value.set_index("")
    assert both.loc["First token", "by the server"] == "40 ms"
    assert both.loc["First token", "measured here"].endswith((" ms", " s"))


def test_what_a_server_says_in_an_error_is_text(server: scripted_server.Server) -> None:
    hostile = "![x](http://127.0.0.1:9/x.png) :red[no] `code` $a$"
    server.listing = scripted_server.refusal(400, hostile)
    known = EVERYONE.catalog()
    provider = known.deployments[SERVED].provider
    assert provider is not None
    selector.probe(provider).result(10)
    page = open_page(SERVED)
    said = [line for line in captions(page) if "no" in line and "127" in line]
    assert said and all("![x](" not in line and ":red[" not in line for line in said)
