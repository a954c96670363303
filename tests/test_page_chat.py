"""The chat page without a browser: panes, parameters, replies and errors, on scripted backends."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlencode

import pytest
from streamlit.testing.v1 import AppTest

from slm_backends import catalog, export
from slm_backends.catalog import Deployment
from ui.panes import DEFAULT, Pane

ROOT = Path(__file__).resolve().parents[1]
PLAIN = "fake@tokens=9,rate=0,first=0,text=plain"
ECHO = "fake@text=echo,rate=0,first=0"
BROKEN = "fake@tokens=9,rate=0,first=0,text=plain,fail=3"
FOX = "The quick brown fox jumps over the lazy"


def open_page(*panes: str, script: str = "pages/chat.py", **link: str) -> AppTest:
    page = AppTest.from_file(str(ROOT / script), default_timeout=60)
    if panes:
        page.query_params["pane"] = list(panes)
    for name, value in link.items():
        page.query_params[name] = value
    page.run()
    assert not page.exception
    return page


def ask(page: AppTest, prompt: str = "Hello") -> AppTest:
    page.chat_input(key="composer").set_value(prompt).run()
    assert not page.exception
    return page


def press(page: AppTest, label: str, number: int = 0) -> AppTest:
    """Press the `number`th button of that name on the page."""
    found = [button for button in page.button if button.label == label]
    found[number].click().run()
    assert not page.exception
    return page


def panes(page: AppTest) -> list[Pane]:
    found: list[Pane] = page.session_state["panes"]
    return found


def known() -> list[Deployment]:
    return list(catalog.load().deployments.values())


def deployments(page: AppTest) -> list[str]:
    return [pane.deployment for pane in panes(page)]


def texts(page: AppTest) -> list[list[str]]:
    """The replies of each pane."""
    return [[turn.reply.text.strip() for turn in pane.turns] for pane in panes(page)]


def shown(page: AppTest) -> list[str]:
    return [element.value for element in page.markdown]


def labels(page: AppTest) -> list[str]:
    return [button.label for button in page.button]


def close(page: AppTest, place: int) -> AppTest:
    page.button(key=f"close_{panes(page)[place].number}").click().run()
    assert not page.exception
    return page


# --- opening --------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["app.py", "pages/chat.py"])
def test_it_opens_with_two_panes_and_four_starters(script: str) -> None:
    page = open_page(script=script)
    assert deployments(page) == list(DEFAULT)
    assert sum(button.key.startswith("start_") for button in page.button) == 4
    assert page.chat_input(key="composer").placeholder == "Ask all panes at once"
    assert page.toggle(key="sync").value is True
    assert page.number_input(key="temperature").value == 0.3
    assert "pane" not in page.query_params
    page.run()
    assert not page.exception
    assert deployments(page) == list(DEFAULT)


def test_panes_and_parameters_come_from_the_link() -> None:
    page = open_page(PLAIN, ECHO, BROKEN, temperature="1.5", max_tokens="4", seed="7")
    assert deployments(page) == [PLAIN, ECHO, BROKEN]
    assert page.number_input(key="temperature").value == 1.5
    assert page.number_input(key="max_tokens").value == 4
    assert page.number_input(key="seed").value == 7
    sampling = panes(ask(page))[0].turns[0].sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.seed) == (1.5, 4, 7)
    assert texts(page)[0] == ["The quick brown fox"]


def test_what_a_link_gets_wrong_is_said_and_left_out() -> None:
    page = open_page("nobody@nowhere", PLAIN, "fake@speed=![x](http://127.0.0.1:9/)`", "@", "")
    assert deployments(page) == [PLAIN]
    assert page.query_params["pane"] == [PLAIN] or page.query_params["pane"] == PLAIN
    said = [toast.value for toast in page.toast]
    assert len(said) == 3  # more than four panes are not looked at
    assert "`nobody@nowhere`" in said[0]
    assert "`fake@speed=![x](http://127.0.0.1:9/)`" in said[1]  # in code, where it is inert
    assert texts(ask(page)) == [[FOX + " dog"]]


def test_a_link_that_names_nothing_known_opens_the_default() -> None:
    assert deployments(open_page("nobody@nowhere")) == list(DEFAULT)


def test_a_link_opens_four_panes_at_most() -> None:
    assert deployments(open_page(*[PLAIN] * 6)) == [PLAIN] * 4


@pytest.mark.parametrize(
    ("open_panes", "added", "then"),
    [
        ([PLAIN], ECHO, [PLAIN, ECHO]),
        ([PLAIN, ECHO], ECHO, [PLAIN, ECHO]),
        ([PLAIN] * 4, ECHO, [PLAIN, PLAIN, PLAIN, ECHO]),
        ([PLAIN], "nobody@nowhere", [PLAIN]),
    ],
)
def test_a_link_can_add_a_pane(open_panes: list[str], added: str, then: list[str]) -> None:
    page = open_page(*open_panes, add=added)
    assert deployments(page) == then
    assert "add" not in page.query_params


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("max_tokens", "99999999", "between 1 and 131,072"),
        ("temperature", "-1", "between 0.0 and 2.0"),
        ("temperature", "nan", "between 0.0 and 2.0"),
        ("top_k", "1.5", "a whole number between 0 and 1,000"),
        ("top_p", "much", "must be a number"),
    ],
)
def test_a_number_out_of_range_in_a_link_is_told(name: str, value: str, part: str) -> None:
    page = open_page(PLAIN, **{name: value})
    said = [toast.value for toast in page.toast]
    assert len(said) == 1
    assert name in said[0]
    assert part in said[0]
    assert texts(ask(page)) == [[FOX + " dog"]]


# --- asking ---------------------------------------------------------------------------------------


def test_all_panes_answer() -> None:
    page = ask(open_page(PLAIN, ECHO), "One *two* three")
    assert texts(page) == [[FOX + " dog"], ["One *two* three"]]
    assert shown(page).count("One *two* three") == 3  # the prompt twice, and its echo
    lines = [caption.value for caption in page.caption if "tok/s" in caption.value]
    assert len(lines) == 2
    assert "9 tokens" in lines[0]
    assert lines[0].endswith("stop") or lines[0].endswith("stop**]")
    assert "Stop" not in labels(page)
    assert not any(button.key.startswith("start_") for button in page.button)


def test_the_best_of_a_row_is_marked() -> None:
    page = ask(open_page("fake@tokens=9,rate=0,first=0", "fake@tokens=9,rate=0,first=0.4"))
    lines = [caption.value for caption in page.caption if "tok/s" in caption.value]
    assert "★ first token" in lines[0]
    assert "★ first token" not in lines[1]


def test_a_starter_asks_all_panes() -> None:
    page = open_page(PLAIN, ECHO)
    starter = next(button for button in page.button if button.key.startswith("start_"))
    starter.click().run()
    assert texts(page)[0] == [FOX + " dog"]
    assert texts(page)[1][0] == panes(page)[1].turns[0].prompt


def test_a_pane_keeps_its_own_history() -> None:
    page = ask(ask(open_page(PLAIN), "First"), "Second")
    request = panes(page)[0].turns[1].request
    assert request is not None
    assert [(message.role, message.content.strip()) for message in request.messages] == [
        ("user", "First"),
        ("assistant", FOX + " dog"),
        ("user", "Second"),
    ]


def test_system_prompt_and_stop_strings_are_sent() -> None:
    page = open_page(PLAIN)
    page.text_area(key="system").set_value("Be brief.").run()
    page.text_area(key="stop").set_value("one\n\ntwo").run()
    turn = panes(ask(page))[0].turns[0]
    assert turn.request is not None
    assert turn.request.messages[0].role == "system"
    assert turn.request.messages[0].content == "Be brief."
    assert turn.sampling.stop == ("one", "two")


def test_a_prompt_of_blanks_is_not_sent() -> None:
    assert texts(ask(open_page(PLAIN), "  \n ")) == [[]]


def test_what_cannot_be_sent_is_told_and_kept() -> None:
    page = open_page(PLAIN)
    page.text_area(key="stop").set_value("a\nb\nc\nd\ne").run()
    ask(page, "My long prompt")
    assert texts(page) == [[]]
    assert [error.value for error in page.error] == ["That was not sent."]
    assert page.text[0].value == "stop may hold at most 4 strings, got 5."
    assert page.code[0].value == "My long prompt"
    page.text_area(key="stop").set_value("").run()
    assert not page.error
    assert texts(ask(page)) == [[FOX + " dog"]]


def test_a_regeneration_that_cannot_be_sent_keeps_the_reply() -> None:
    page = ask(open_page(PLAIN))
    page.text_area(key="stop").set_value("a\nb\nc\nd\ne").run()
    press(page, "Regenerate")
    assert [error.value for error in page.error] == ["That was not sent."]
    assert texts(page) == [[FOX + " dog"]]


# --- errors ---------------------------------------------------------------------------------------


def test_a_pane_that_fails_shows_why_and_the_other_answers() -> None:
    page = ask(open_page(BROKEN, PLAIN))
    assert texts(page) == [["The quick brown"], [FOX + " dog"]]
    assert "The quick brown" in [text.strip() for text in shown(page)]  # what came is kept
    assert [text.value for text in page.text] == [
        "The script failed here, as it was told to.",
        "Try again.",
    ]
    assert labels(page).count("Retry") == 1
    before = panes(page)[1].turns[0]
    press(page, "Retry")
    assert texts(page) == [["The quick brown"], [FOX + " dog"]]
    assert labels(page).count("Retry") == 1
    assert panes(page)[1].turns == [before]


@pytest.mark.parametrize("code", ["busy", "key", "unreachable"])
def test_a_refusal_is_shown_in_its_pane(code: str) -> None:
    page = ask(open_page(f"fake@refuse={code}", PLAIN))
    assert texts(page) == [[""], [FOX + " dog"]]
    error = panes(page)[0].turns[0].reply.error
    assert error is not None
    assert [text.value for text in page.text] == [error.message, error.hint]
    assert labels(page).count("Retry") == 1


def test_a_reply_that_failed_is_not_sent_again_as_history() -> None:
    page = ask(ask(open_page("fake@refuse=busy"), "First"), "Second")
    request = panes(page)[0].turns[1].request
    assert request is not None
    assert [message.content for message in request.messages] == ["Second"]


def test_context_overflow_offers_to_drop_the_oldest_turns() -> None:
    page = ask(open_page("fake@refuse=overflow,tokens=9,rate=0,text=plain"), "First")
    assert texts(page) == [[FOX + " dog"]]
    ask(page, "Second")
    assert "8,192" in page.text[0].value
    press(page, "Drop the oldest turns and retry")
    assert texts(page) == [[FOX + " dog", FOX + " dog"]]
    assert [turn.prompt for turn in panes(page)[0].turns] == ["First", "Second"]
    request = panes(page)[0].turns[1].request
    assert request is not None
    assert [message.content for message in request.messages] == ["Second"]
    assert any("not sent any more" in caption.value for caption in page.caption)
    assert "Retry" not in labels(page)


def test_overflow_by_the_first_prompt_offers_nothing_to_drop() -> None:
    page = open_page("fake@refuse=overflow")
    page.text_area(key="system").set_value("A system prompt is a message too.").run()
    ask(page)
    assert "Retry" in labels(page)
    assert "Drop the oldest turns and retry" not in labels(page)


# --- again, edit, clear ---------------------------------------------------------------------------


def test_regenerate_replaces_the_reply_in_its_pane_alone() -> None:
    page = ask(open_page(ECHO, ECHO), "Hello")
    before = [pane.turns[0] for pane in panes(page)]
    press(page, "Regenerate", 1)
    after = [pane.turns[0] for pane in panes(page)]
    assert after[0] is before[0]
    assert after[1] is not before[1]
    assert after[1].id == before[1].id  # still the same row
    assert texts(page) == [["Hello"], ["Hello"]]


def test_regenerate_of_an_older_turn_removes_what_came_after() -> None:
    page = ask(ask(open_page(ECHO, ECHO), "One"), "Two")
    press(page, "Regenerate", 0)
    assert texts(page) == [["One"], ["One", "Two"]]


def test_edit_offers_the_prompt() -> None:
    """What Resend does is in test_browser.py: here, pressing it would close the dialog first."""
    page = ask(ask(open_page(ECHO, ECHO), "One"), "Two")
    press(page, "Edit", 0)
    box = next(area for area in page.text_area if area.label == "Prompt")
    assert box.value == "One"
    assert "Resend" in labels(page)
    assert texts(page) == [["One", "Two"], ["One", "Two"]]


def test_clear_empties_all_panes_and_keeps_them() -> None:
    page = ask(open_page(ECHO, PLAIN))
    press(page, "Clear")
    assert deployments(page) == [ECHO, PLAIN]
    assert texts(page) == [[], []]
    assert sum(button.key.startswith("start_") for button in page.button) == 4
    assert page.button(key="clear").disabled


# --- panes ----------------------------------------------------------------------------------------


def test_one_to_four_panes() -> None:
    page = open_page(PLAIN)
    assert page.button(key=f"close_{panes(page)[0].number}").disabled
    for count in (2, 3, 4):
        press(page, "Pane")
        assert len(panes(page)) == count
        assert page.query_params["pane"] == deployments(page)
    assert page.button(key="add").disabled
    assert deployments(page)[1:3] == list(DEFAULT)  # first what is not on screen yet
    close(page, 1)
    close(page, 1)
    close(page, 1)
    assert deployments(page) == [PLAIN]
    assert page.button(key=f"close_{panes(page)[0].number}").disabled


def test_a_new_pane_joins_at_the_next_prompt() -> None:
    page = ask(open_page(ECHO), "One")
    press(page, "Pane")
    panes(page)[1].deployment = ECHO
    page.run()
    assert texts(ask(page, "Two")) == [["One", "Two"], ["Two"]]


def test_a_pane_says_when_another_deployment_answered() -> None:
    page = ask(open_page(ECHO))
    panes(page)[0].deployment = PLAIN
    page.run()
    assert f"answered by {ECHO}" in [caption.value for caption in page.caption]
    ask(page)
    assert [caption.value for caption in page.caption].count(f"answered by {ECHO}") == 1


def test_the_picker_changes_a_pane_and_the_link() -> None:
    page = open_page(PLAIN, ECHO)
    number = panes(page)[1].number
    buttons = [b for b in page.button if b.key.startswith(f"pick_{number}_")]
    places = [item.place for item in known() if item.model.id == "smollm2-135m-instruct"]
    assert [button.label for button in buttons] == places
    page.selectbox(key=f"model_{number}").set_value("phi-3-mini-4k-instruct").run()
    press(page, "Ollama", 1)
    assert deployments(page) == [PLAIN, "phi-3-mini-4k-instruct@ollama"]
    assert page.query_params["pane"] == deployments(page)


def test_what_cannot_run_is_greyed_out_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLM_HOME", str(tmp_path))
    page = open_page(PLAIN)
    local = {item.id for item in known() if item.local}
    buttons = {
        button.key.split("_", 2)[2]: button
        for button in page.button
        if button.key.startswith("pick_")
    }
    assert local & buttons.keys()
    assert all(buttons[found].disabled for found in local & buttons.keys())
    reasons = [caption.value for caption in page.caption if "not on this computer" in caption.value]
    assert f"slm_backends fetch {DEFAULT[0]}" in reasons[0]
    press(page, "Pane")
    # None that could not answer: this one's weights are part of the playground.
    assert deployments(page) == [PLAIN, "phi-moe-nano@transformers"]


# --- parameters of each pane ----------------------------------------------------------------------


def test_without_sync_every_pane_has_its_own_parameters() -> None:
    page = open_page(PLAIN, PLAIN, temperature="1.5")
    page.text_area(key="system").set_value("Be brief.").run()
    page.toggle(key="sync").set_value(False).run()
    assert page.number_input(key="temperature_1").value == 1.5  # begins with the common value
    assert page.number_input(key="temperature_2").value == 1.5
    assert page.text_area(key="system_2").value == "Be brief."
    page.number_input(key="temperature_2").set_value(0.7).run()
    page.number_input(key="max_tokens_2").set_value(2).run()
    page.text_area(key="system_2").set_value("").run()
    ask(page)
    first, second = (pane.turns[0] for pane in panes(page))
    assert (first.sampling.temperature, first.system) == (1.5, "Be brief.")
    assert (second.sampling.temperature, second.system) == (0.7, "")
    assert texts(page) == [[FOX + " dog"], ["The quick"]]
    page.toggle(key="sync").set_value(True).run()
    ask(page)
    assert [pane.turns[1].sampling.temperature for pane in panes(page)] == [1.5, 1.5]


def test_a_link_carries_each_panes_own_parameters() -> None:
    page = open_page(PLAIN, PLAIN, sync="false", temperature_2="1.5", max_tokens_1="3")
    assert page.toggle(key="sync").value is False
    first, second = (pane.turns[0].sampling for pane in panes(ask(page)))
    assert (first.temperature, first.max_tokens) == (0.3, 3)
    assert (second.temperature, second.max_tokens) == (1.5, 512)


def test_closing_a_pane_leaves_the_others_their_parameters() -> None:
    page = open_page(
        PLAIN, ECHO, BROKEN, sync="false", temperature_1="0.1", temperature_2="0.2", top_k_3="30"
    )
    close(page, 0)
    assert deployments(page) == [ECHO, BROKEN]
    assert page.number_input(key="temperature_1").value == 0.2
    assert page.number_input(key="temperature_2").value == 0.3
    assert page.number_input(key="top_k_1").value == 0
    assert page.number_input(key="top_k_2").value == 30
    assert page.query_params.get("top_k_2") == ["30"] or page.query_params["top_k_2"] == "30"
    assert "top_k_3" not in page.query_params


# --- code, export, link ---------------------------------------------------------------------------


def test_the_code_view_shows_the_request_as_programs() -> None:
    page = open_page(DEFAULT[0], PLAIN, temperature="1.5", presence_penalty="0.5")
    ask(page, "Why is the sky blue?")
    page.segmented_control(key="view").set_value("Code").run()
    assert not page.exception
    assert [code.language for code in page.code] == ["python", "bash"]
    for code in page.code:
        assert "Why is the sky blue?" in code.value
        assert "temperature" in code.value and "1.5" in code.value
        assert "presence_penalty" in code.value
    assert any("no program for it" in caption.value for caption in page.caption)
    page.segmented_control(key="view").set_value("Chat").run()
    assert texts(page)[1] == [FOX + " dog"]  # looking at code loses nothing


def test_the_code_view_of_an_empty_pane_has_an_example() -> None:
    page = open_page(DEFAULT[0], max_tokens="77")
    page.segmented_control(key="view").set_value("Code").run()
    assert not page.exception
    assert "max_tokens=77" in page.code[0].value


def test_an_export_holds_what_is_on_screen() -> None:
    page = ask(open_page(ECHO, "fake@refuse=busy"), "Hello")
    made = json.loads(export.to_json([pane.exchanges() for pane in panes(page)]))["panes"]
    assert made[0][0]["reply"] == "Hello"
    assert made[1][0]["error"]["code"] == "busy"


def test_a_deployment_without_its_key_is_exported_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(
        '[models.m]\nname = "M"\n\n[deployments."m@nim"]\n'
        'base_url = "http://127.0.0.1:9/v1"\nkey = "KEY_THAT_NOBODY_SET"\n'
    )
    monkeypatch.setenv("SLM_CATALOG", str(catalog))
    page = ask(open_page("m@nim", ECHO), "Hello")
    assert "needs KEY_THAT_NOBODY_SET" in page.text[0].value
    assert "Models page" in page.text[1].value
    assert texts(page) == [[""], ["Hello"]]
    assert len(panes(page)[0].exchanges()) == 1
    page.segmented_control(key="view").set_value("Code").run()
    assert 'os.environ["KEY_THAT_NOBODY_SET"]' in page.code[0].value


def test_prompts_never_travel_in_the_link() -> None:
    page = open_page(ECHO)
    page.text_area(key="system").set_value("SYSTEM-SECRET").run()
    page.text_area(key="stop").set_value("STOP-SECRET").run()
    ask(page, "PROMPT-SECRET")
    assert "SECRET" not in urlencode(dict(page.query_params), doseq=True)
