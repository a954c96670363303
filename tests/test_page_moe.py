"""The Experts page without a browser, on the mixture that comes with the playground."""

from __future__ import annotations

import json
import time

import pytest
from streamlit.testing.v1 import AppTest
from test_page_chat import ask as send
from test_page_chat import open_page as open_any
from test_page_chat import press

from slm_backends.moe import agent, export, figures
from ui.moe import asking, files
from ui.moe.desk import Desk
from ui.moe.starters import PAIRS, STARTERS
from ui.moe.twins import IDS

NANO, TWIN = IDS
ECHO = "fake@text=echo,rate=0,first=0"
SLOW = "fake@tokens=2000,rate=20,first=0,text=plain"
SUM = "What is 23 + 45?"
LAYERS, EXPERTS = 6, 16


def open_page(*deployments: str, **link: str) -> AppTest:
    return open_any(*deployments, script="pages/moe.py", temperature_moe="0", **link)


def desk(page: AppTest) -> Desk:
    found: Desk = page.session_state.moe_desk
    return found


def finish(page: AppTest) -> AppTest:
    """Look again and again, as a browser does, until nothing runs."""
    deadline = time.monotonic() + 90
    while desk(page).running:
        assert time.monotonic() < deadline
        time.sleep(0.1)
        page.run()
        assert not page.exception
    return page.run()


def ask(page: AppTest, prompt: str = SUM) -> AppTest:
    return finish(send(page, prompt))


def view(page: AppTest, name: str) -> AppTest:
    page.segmented_control(key="moe_view").set_value(name).run()
    assert not page.exception
    return page


def captions(page: AppTest) -> list[str]:
    return [caption.value for caption in page.caption]


@pytest.fixture(scope="module")
def shown() -> AppTest:
    """A page with a reply, for tests that only look at it."""
    return ask(open_page())


@pytest.fixture
def asked(shown: AppTest) -> AppTest:
    """A page of the test's own, with the same reply."""
    page = open_page()
    desk(page).main = desk(shown).main
    page.run()
    assert not page.exception
    return page


def traced(page: AppTest) -> figures.Trace:
    found = asking.traced(desk(page).main)
    assert found is not None
    return found


# --- asking ---------------------------------------------------------------------------------------


def test_a_fresh_page_asks_nobody() -> None:
    page = open_page()
    assert desk(page) == Desk()
    assert [f"start_{starter.name}" for starter in STARTERS] == [
        button.key for button in page.button if button.key.startswith("start_")
    ]
    assert "prompt" not in page.query_params
    assert "pane" not in page.query_params


def test_a_starter_is_answered_and_each_layer_tells_its_experts() -> None:
    page = finish(press(open_page(), "A sum"))
    main = desk(page).main
    assert main is not None
    assert main.reply.state == "done"
    assert main.reply.text in [markdown.value for markdown in page.markdown]
    found = traced(page)
    assert found.chosen.shape[1:] == (LAYERS, 2)
    assert "".join(found.reply.tokens) == main.reply.text
    assert SUM in "".join(found.prompt.tokens)


def test_the_link_keeps_deployment_and_prompt_and_asks_nobody(shown: AppTest) -> None:
    assert shown.query_params["prompt"] == SUM
    page = open_page(TWIN, prompt="Was ist das?")
    assert desk(page).main is None
    assert page.query_params["pane"] == TWIN


def test_a_link_that_names_several_opens_one() -> None:
    assert len(open_page(ECHO, SLOW).session_state.panes_moe) == 1


def test_another_prompt_takes_the_place_of_the_first(asked: AppTest) -> None:
    view(asked, "Compare")
    finish(press(asked, "A sum and German"))
    ask(asked, "What is 5 + 6?")
    assert desk(asked).other is None
    assert "5 + 6" in "".join(traced(asked).prompt.tokens)


def test_a_refusal_is_told_with_its_hint() -> None:
    page = ask(open_page("fake@refuse=busy"))
    main = desk(page).main
    assert main is not None and main.reply.error is not None
    assert [error.value for error in page.error] == ["That did not work."]
    assert main.reply.error.message in page.text[-1].value


def test_stop_ends_what_runs() -> None:
    page = send(open_page(SLOW), "Hello")
    page.button(key="moe_stop").click().run()
    main = desk(page).main
    assert main is not None
    assert main.reply.state == "stopped"
    assert "moe_stop" not in {button.key for button in page.button}


def test_what_nobody_looks_at_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "PATIENCE", 0.2)
    page = send(open_page(SLOW), "Hello")
    main = desk(page).main
    assert main is not None and main.run is not None
    assert main.run.wait(10).state == "stopped"


# --- who tells ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deployment", "sentence"),
    [
        (ECHO, "This runtime or server does not reveal which experts worked."),
        (TWIN, "This model is no mixture of experts: all of it works on each token."),
    ],
)
def test_who_tells_nothing_answers_all_the_same(deployment: str, sentence: str) -> None:
    page = ask(open_page(deployment), "Hello")
    main = desk(page).main
    assert main is not None
    assert main.reply.text
    assert [info.value for info in page.info] == [sentence]
    assert "moe_view" not in {control.key for control in page.segmented_control}


# --- views ----------------------------------------------------------------------------------------


def test_figures_are_those_of_the_reply(shown: AppTest) -> None:
    view(shown, "Load")
    balances = figures.balance(traced(shown))
    told = {metric.label: metric.value for metric in shown.metric}
    assert told == {
        "Load, max / mean": f"{max(one.max_over_mean for one in balances):.2f}",
        "Normalised entropy": f"{sum(one.entropy for one in balances) / LAYERS:.3f}",
        "Never used": str(sum(len(one.unused) for one in balances)),
    }
    assert all(metric.help for metric in shown.metric)


@pytest.mark.parametrize(
    ("name", "key", "column"),
    [
        ("Load", "load", "expert 15"),
        ("Flow", "flow", "expert 15"),
        ("Pairs", "pairs", "and expert"),
    ],
)
def test_each_chart_has_its_numbers_as_a_table(
    shown: AppTest, name: str, key: str, column: str
) -> None:
    view(shown, name)
    shown.toggle(key=f"moe_rows_{key}").set_value(False).run()
    before = len(shown.table)
    shown.toggle(key=f"moe_rows_{key}").set_value(True).run()
    assert not shown.exception
    assert len(shown.table) == before + 1
    assert column in shown.table[0].value.columns


def test_a_layer_can_be_chosen(shown: AppTest) -> None:
    view(shown, "Pairs")
    shown.toggle(key="moe_rows_pairs").set_value(True).run()
    every = len(shown.table[0].value)
    shown.selectbox(key="moe_layer_pairs").set_value(3).run()
    only = shown.table[0].value
    assert len(only) < every
    found = figures.pairs(traced(shown), 3)
    assert only["share of tokens"].max() == pytest.approx(found.max(), abs=1e-3)


def test_two_prompts_are_compared(asked: AppTest) -> None:
    view(asked, "Compare")
    finish(press(asked, "One sentence in two languages"))
    both = desk(asked).main, desk(asked).other
    assert tuple(turn.prompt for turn in both if turn) == PAIRS["One sentence in two languages"]
    first, second = map(asking.traced, both)
    assert first is not None and second is not None
    asked.toggle(key="moe_rows_divergence").set_value(True).run()
    told = asked.table[0].value["divergence in bits"].tolist()
    assert told == pytest.approx(figures.divergence(first, second).tolist(), abs=1e-3)
    asked.selectbox(key="moe_layer_shares").set_value(2).run()
    asked.toggle(key="moe_rows_shares").set_value(True).run()
    assert not asked.exception
    assert len(asked.table[1].value) == EXPERTS


def test_a_second_prompt_is_asked_the_same_deployment(asked: AppTest) -> None:
    view(asked, "Compare")
    asked.text_input(key="moe_second").set_value("Convert 3 hours to minutes.")
    finish(press(asked, "Ask it too"))
    main, other = desk(asked).main, desk(asked).other
    assert main is not None and other is not None
    assert main.prompt == SUM
    assert (other.prompt, other.deployment) == ("Convert 3 hours to minutes.", NANO)


# --- the knife ------------------------------------------------------------------------------------


def under_the_knife(page: AppTest) -> AppTest:
    view(page, "Knife")
    page.toggle(key="moe_knife").set_value(True).run()
    assert not page.exception
    return page


def test_the_knife_is_off_and_stands_in_no_link(asked: AppTest) -> None:
    view(asked, "Knife")
    assert asked.toggle(key="moe_knife").value is False
    assert "moe_cut" not in {button.key for button in asked.button}
    before = dict(asked.query_params)
    under_the_knife(asked)
    assert asked.warning
    assert asked.button(key="moe_cut").disabled, "two experts are what it was made for"
    asked.segmented_control(key="moe_k").set_value(1).run()
    assert not asked.button(key="moe_cut").disabled
    assert dict(asked.query_params) == before


def test_one_expert_beside_the_untouched_model(asked: AppTest) -> None:
    under_the_knife(asked)
    asked.segmented_control(key="moe_k").set_value(1).run()
    asked.button(key="moe_cut").click().run()
    finish(asked)
    cut, main = desk(asked).cut, desk(asked).main
    assert cut is not None and main is not None
    assert cut.untouched.reply.text == main.reply.text, "both are sure of themselves"
    assert {part.k for part in cut.untouched.reply.routing} == {2}
    assert {part.k for part in cut.limited.reply.routing} == {1}
    assert cut.perplexities is not None
    whole, limited = cut.perplexities
    assert limited >= 1
    assert limited != whole
    own = [one.logprob for one in cut.untouched.reply.logprobs]
    assert whole == pytest.approx(figures.perplexity(own), rel=0.05), "it would write that itself"
    assert [f"{value:.3f}" for value in (whole, limited)] == [one.value for one in asked.metric]
    written = [turn.reply.text for turn in cut.written]
    assert written == [main.reply.text] * 2


def test_experts_that_are_off_do_not_work(asked: AppTest) -> None:
    under_the_knife(asked)
    asked.multiselect(key="moe_off").set_value([3, 7]).run()
    asked.multiselect(key="moe_off_layers").set_value([1]).run()
    asked.button(key="moe_cut").click().run()
    finish(asked)
    cut = desk(asked).cut
    assert cut is not None
    found = asking.traced(cut.limited)
    assert found is not None
    assert not set(found.chosen[:, 1].ravel().tolist()) & {3, 7}
    assert any("without 3, 7 in layer 1" in said for said in captions(asked))


def test_too_few_experts_are_refused_in_words(asked: AppTest) -> None:
    under_the_knife(asked)
    asked.multiselect(key="moe_off").set_value(list(range(15))).run()
    asked.button(key="moe_cut").click().run()
    finish(asked)
    assert any("must be left" in text.value for text in asked.text)
    assert not asked.metric


def test_the_knife_is_gone_when_the_page_was_left(asked: AppTest) -> None:
    under_the_knife(asked)
    asked.segmented_control(key="moe_k").set_value(1).run()
    asked.button(key="moe_cut").click().run()
    finish(asked)
    asked.session_state.page = "chat"  # as that page does
    asked.run()
    assert desk(asked).cut is None
    assert desk(asked).main is not None


# --- twins, agent, files --------------------------------------------------------------------------


def test_the_twins_are_asked_one_after_the_other(asked: AppTest) -> None:
    asked.button(key="moe_twins").click().run()
    finish(asked)
    twins = desk(asked).twins
    assert twins is not None
    assert [turn.deployment for turn in twins.turns] == [NANO, TWIN]
    assert all(turn.reply.state == "done" and turn.prompt == SUM for turn in twins.turns)
    assert set(twins.memory) == {NANO, TWIN}
    assert sum("Its process takes" in said for said in captions(asked)) == 2


def test_an_agents_reply_is_shown_as_a_tree() -> None:
    page = open_page(ECHO)
    page.text_area(key="system_moe").set_value(agent.PROMPT).run()
    step = {"agentid": "step1", "tool_name": "Blog", "input": "AI", "output": "A text"}
    ask(page, json.dumps([step]))
    assert json.loads(page.json[0].value) == [step]
    assert "There is no final Result" in page.warning[0].value.replace("\\", "")
    ask(page, json.dumps([step, {"Result": "Ein Text"}]))
    assert not page.warning
    assert any("Valid JSON" in said for said in captions(page))


def test_json_that_nobody_asked_for_is_a_tree_without_a_verdict() -> None:
    page = ask(open_page(ECHO), 'Here it is: {"colour": "blue"}')
    assert json.loads(page.json[0].value) == {"colour": "blue"}
    assert not page.warning
    assert not ask(page, "[1, 2, 3]").json


def test_the_agent_starter_brings_its_system_prompt() -> None:
    page = finish(press(open_page(ECHO), "The same as an agent"))
    main = desk(page).main
    assert main is not None
    assert (main.prompt, main.system) == (agent.QUESTION, agent.PROMPT)
    finish(press(page, "A sum"))
    assert desk(page).main.system == ""  # type: ignore[union-attr]


@pytest.mark.parametrize("write", [export.as_json, export.as_parquet])
def test_the_export_says_what_was_asked_of_what(shown: AppTest, write: object) -> None:
    main = desk(shown).main
    assert main is not None
    assert {"JSON", "Parquet"} <= {button.label for button in shown.get("download_button")}
    content = write(traced(shown), files.facts(main))  # type: ignore[operator]
    read, facts = export.read(content)
    assert read.chosen.tolist() == traced(shown).chosen.tolist()
    assert (facts["model"], facts["deployment"]) == ("phi-moe-nano", NANO)
    assert (facts["prompt"], facts["reply"]) == (SUM, main.reply.text)
    assert facts["temperature"] == 0
