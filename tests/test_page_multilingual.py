"""The Many languages page without a browser: choosing, running, what goes wrong, files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from test_page_chat import labels, press
from test_page_chat import open_page as open_any

from slm_backends.access import Access
from slm_backends.multilingual import results as files
from slm_backends.multilingual import tasks
from slm_backends.multilingual.languages import LANGUAGES
from slm_backends.multilingual.plan import Plan
from slm_backends.multilingual.results import Cell, Results
from slm_backends.multilingual.runner import Campaign
from ui.multilingual import kept
from ui.multilingual.choosing import FEW
from ui.panes import DEFAULT

ENGLISH = "fake@tokens=40,rate=0,first=0,text=plain"
ECHO = "fake@text=echo,rate=0,first=0"
BROKEN = "fake@tokens=9,rate=0,first=0,text=plain,fail=3"
SLOW = "fake@tokens=2000,rate=20,first=0,text=plain"
HOSTILE = "fake@tokens=20,rate=0,first=0,text=hostile"
PHI = "phi-3.5-mini-instruct@onnx"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the test's own: runs are kept in it."""
    monkeypatch.setenv("SLM_HOME", str(tmp_path))
    return tmp_path


def open_page(*deployments: str, **link: str | list[str]) -> AppTest:
    named = {"deployment": list(deployments)} if deployments else {}
    return open_any(script="pages/multilingual.py", **named, **link)  # type: ignore[arg-type]


def run(page: AppTest) -> AppTest:
    page.button(key="ml_start").click().run()
    assert not page.exception
    return finish(page)


def finish(page: AppTest) -> AppTest:
    campaign(page).wait(30)
    page.run()
    assert not page.exception
    return page


def token(page: AppTest) -> str:
    found = page.query_params["run"]
    return found if isinstance(found, str) else found[0]


def campaign(page: AppTest) -> Campaign:
    found = kept.find(token(page), Access(), {})
    assert found is not None
    return found


def grid(page: AppTest) -> dict[str, list[dict[str, Any]]]:
    """Language -> what the grid shows of each deployment."""
    (element,) = (item for item in page.get("bidi_component") if "columns" in item.proto.json)
    return {row["code"]: row["cells"] for row in json.loads(element.proto.json)["rows"]}


def badges(page: AppTest) -> dict[str, list[str]]:
    return {
        code: [", ".join(badge["words"] for badge in cell["badges"]) for cell in cells]
        for code, cells in grid(page).items()
    }


def captions(page: AppTest) -> str:
    return "\n".join(item.value.replace("\\", "") for item in page.caption)


def texts(page: AppTest) -> str:
    return "\n".join(item.value for item in page.text)


def plan(*deployments: str, languages: tuple[str, ...] = ("en", "de")) -> Plan:
    return Plan("ask", deployments, tasks.questions("ask", languages, names=["rain"]))


def as_file(results: Results) -> bytes:
    return "".join(results.lines()).encode()


# --- choosing -------------------------------------------------------------------------------------


def test_it_opens_with_a_choice_that_can_be_started_at_once() -> None:
    page = open_page()
    assert page.multiselect(key="ml_deployments").value == list(DEFAULT)
    assert page.multiselect(key="ml_languages").value == list(FEW)
    assert "5 prompts in 5 languages × 2 deployments = 10 replies" not in captions(page)
    assert "not on this computer" in captions(page)  # of this store, which is empty
    assert page.button(key="ml_start").disabled
    assert not set(page.query_params) - {"run"}
    page = open_page(ENGLISH, ECHO)
    assert "5 prompts in 5 languages × 2 deployments = 10 replies" in captions(page)
    assert not page.button(key="ml_start").disabled


def test_a_link_makes_the_choice_and_the_choice_makes_the_link() -> None:
    link: dict[str, Any] = {
        "language": ["he", "th"],
        "task": "solve",
        "prompt": ["apples", "bus"],
        "max_tokens_multilingual": "30",
        "at_once_multilingual": "1",
    }
    page = open_page(ENGLISH, ECHO, **link)
    assert page.multiselect(key="ml_languages").value == ["he", "th"]
    assert page.multiselect(key="ml_prompts_solve").value == ["apples", "bus"]
    assert page.number_input(key="max_tokens_multilingual").value == 30
    assert "4 prompts in 2 languages" in captions(page)
    page.multiselect(key="ml_languages").set_value(["ja"])
    page.segmented_control(key="ml_task").set_value("translate").run()
    page.selectbox(key="ml_other").set_value("de")
    page.segmented_control(key="ml_into").set_value(False).run()
    assert not page.exception
    again = open_any(script="pages/multilingual.py", **dict(page.query_params))
    assert again.selectbox(key="ml_other").value == "de"
    assert again.segmented_control(key="ml_into").value is False
    assert again.multiselect(key="ml_languages").value == ["ja"]
    run(again)
    (question,) = campaign(again).results.plan.questions
    assert (question.language, question.expected) == ("ja", "de")
    assert campaign(again).results.plan.sampling.max_tokens == 30
    assert campaign(again).results.plan.at_once == 1


def test_all_of_a_task_is_what_no_choice_of_prompts_means() -> None:
    page = open_page(ENGLISH, ECHO, task="solve", language="de")
    page.multiselect(key="ml_prompts_solve").set_value([]).run()
    assert "10 prompts in 1 language × 2 deployments = 20 replies" in captions(page)
    again = open_any(script="pages/multilingual.py", **dict(page.query_params))
    assert again.multiselect(key="ml_prompts_solve").value == []


def test_what_a_link_gets_wrong_is_said_and_left_out() -> None:
    page = open_page("nobody@nowhere", ECHO, language=["xx", "de"], temperature_multilingual="hot")
    assert page.multiselect(key="ml_deployments").value == [ECHO]
    assert page.multiselect(key="ml_languages").value == ["de"]
    said = [toast.value for toast in page.toast]
    assert len(said) == 3
    assert "`nobody@nowhere`" in said[0]
    assert "`xx`" in said[1]
    assert "temperature" in said[2]


def test_presets_choose_languages() -> None:
    page = press(open_page(ENGLISH, ECHO), "Phi-3.5's 23")
    assert len(page.multiselect(key="ml_languages").value) == 23
    press(page, f"All {len(LANGUAGES)}")
    assert page.multiselect(key="ml_languages").value == list(LANGUAGES)
    press(page, "A few")
    assert page.multiselect(key="ml_languages").value == list(FEW)


def test_what_is_missing_is_said() -> None:
    page = open_page(ENGLISH)
    assert page.button(key="ml_start").disabled
    assert "Choose two deployments or more." in captions(page)
    page = open_page(ENGLISH, ECHO)
    page.multiselect(key="ml_languages").set_value([]).run()
    assert page.button(key="ml_start").disabled
    assert "No language is chosen." in captions(page)


def test_a_deployment_that_cannot_answer_says_why() -> None:
    page = open_page(ENGLISH, PHI)
    assert page.button(key="ml_start").disabled
    assert "cannot answer now." in captions(page)
    assert f"fetch {PHI}" in captions(page)


# --- a file of one's own --------------------------------------------------------------------------


def upload(page: AppTest, name: str, content: bytes) -> AppTest:
    page.file_uploader(key="ml_file").upload(name, content).run()
    assert not page.exception
    return page


def test_good_rows_of_a_file_are_kept_and_the_others_explained() -> None:
    page = open_page(ENGLISH, ECHO, task="file")
    assert "Choose a file." in captions(page)
    rows = "language,prompt\nde,Wie geht es dir?\nklingon,nuqneH\nfr,\nArabic,كيف حالك؟\n"
    upload(page, "mine.csv", rows.encode())
    assert "Row 3" in texts(page)
    assert "klingon" in texts(page)
    assert "Row 4" in texts(page)
    assert "2 prompts in 2 languages × 2 deployments = 4 replies" in captions(page)
    run(page)
    assert list(grid(page)) == ["de", "ar"]
    assert grid(page)["ar"][1]["dir"] == "rtl"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"a,b\n1,2\n"),
        ("b.jsonl", b"[1, 2]\n"),
        ("c.xlsx", b"PK\x03\x04 not a workbook"),
        ("d.csv", b"\xff\xfe\x00\x01"),
        ("e.csv", b""),
    ],
)
def test_a_malformed_file_is_refused_with_a_reason(name: str, content: bytes) -> None:
    page = upload(open_page(ENGLISH, ECHO, task="file"), name, content)
    assert page.button(key="ml_start").disabled
    assert page.error or "No row of the file can be asked." in captions(page)
    assert texts(page)


# --- running --------------------------------------------------------------------------------------


def test_the_grid_says_in_which_language_each_reply_is() -> None:
    page = run(open_page(ENGLISH, ECHO, language=["en", "de", "ar"]))
    assert badges(page) == {
        "en": ["right language", "right language"],
        "de": ["English", "right language"],
        "ar": ["English", "right language"],
    }
    echoed = grid(page)["ar"][1]
    assert (echoed["lang"], echoed["dir"]) == ("ar", "rtl")
    assert "tok/s" in echoed["below"]
    assert "**6 of 6 replies**" in [item.value for item in page.markdown]


def test_several_prompts_a_language_are_counted() -> None:
    page = run(open_page(ENGLISH, ECHO, language=["de"], prompt=["rain", "tea", "sea"]))
    assert badges(page) == {"de": ["3 English", "3 right language"]}


def test_a_run_is_kept_under_its_token_and_told_to_nobody(home: Path) -> None:
    page = run(open_page(ENGLISH, ECHO, language=["en", "de"]))
    file = home / "multilingual" / f"{token(page)}.jsonl"
    assert file.parent.stat().st_mode & 0o077 == 0
    assert len(files.read(file.read_bytes()).cells) == 4
    reloaded = open_page(ENGLISH, ECHO, run=token(page))
    assert badges(reloaded) == badges(page)
    assert not open_page(ENGLISH, ECHO).get("bidi_component")  # another visitor


def test_who_resumes_a_run_of_another_uses_keys_of_their_own() -> None:
    shared = kept.keep(Results(plan(ECHO, SLOW)))
    mine: dict[str, Campaign] = {}
    one, two = kept.find(shared, Access(), mine), kept.find(shared, Access(), {})
    assert one is not None and two is not None
    assert one is not two
    assert one is kept.find(shared, Access(), mine)
    kept.start(one)
    assert kept.find(shared, Access(), {}) is one  # as it goes on, for all who look
    kept.start(two)
    assert not two.running  # one at a time
    one.stop()
    assert one.wait(30)
    assert kept.find(shared, Access(), {}) is not one


def test_a_run_of_an_earlier_process_comes_from_its_file() -> None:
    page = run(open_page(ENGLISH, ECHO, language=["en", "de"]))
    kept._kept.clear()
    assert badges(open_page(run=token(page))) == badges(page)


@pytest.mark.parametrize("wrong", ["A" * 22, "../../etc/passwd", "*"])
def test_an_address_without_a_run_says_so(wrong: str) -> None:
    page = open_page(ENGLISH, ECHO, run=wrong)
    assert "The run of this address is gone" in page.toast[0].value
    assert "run" not in page.query_params


def test_a_run_goes_on_over_a_change_of_page_and_is_stopped_and_resumed() -> None:
    page = open_any(script="app.py")
    page.switch_page("pages/multilingual.py")
    page.query_params["deployment"] = [ECHO, SLOW]
    page.query_params["language"] = ["de"]
    page.run()
    page.button(key="ml_start").click().run()
    mine = token(page)
    del page.query_params["run"]  # as a browser does on its way to another page
    page.switch_page("pages/models.py").run()
    page.switch_page("pages/multilingual.py").run()
    assert not page.exception
    assert token(page) == mine
    assert campaign(page).running
    press(page, "Stop")
    finish(page)
    assert not campaign(page).running
    assert badges(page)["de"][0] == "right language"
    assert any(label.startswith(("Resume", "Retry")) for label in labels(page))


def test_what_failed_says_why_and_is_asked_again() -> None:
    page = run(open_page(ECHO, BROKEN, language=["de", "fr"]))
    assert badges(page)["fr"] == ["right language", "no answer"]
    assert grid(page)["fr"][1]["below"]
    page.segmented_control(key="ml_filter").set_value("Failed").run()
    assert list(grid(page)) == ["de", "fr"]
    before = campaign(page).results.cells
    first = before["ask/capital/fr", ECHO], before["ask/capital/fr", BROKEN]
    finish(press(page, "Retry 2 failed"))
    after = campaign(page).results.cells
    assert after["ask/capital/fr", ECHO] is first[0]
    assert after["ask/capital/fr", BROKEN] is not first[1]


def test_rows_are_filtered_and_ordered() -> None:
    page = run(open_page(ENGLISH, ECHO, language=["en", "fr", "ar"]))
    page.segmented_control(key="ml_filter").set_value("Wrong language").run()
    assert list(grid(page)) == ["fr", "ar"]
    page.selectbox(key="ml_order").set_value("By language").run()
    assert list(grid(page)) == ["ar", "fr"]
    page.segmented_control(key="ml_filter").set_value("Failed").run()
    assert not page.get("bidi_component")
    page.segmented_control(key="ml_filter").set_value("Where they part")
    page.selectbox(key="ml_order").set_value("By parting").run()
    assert list(grid(page))[-1] == "en"  # both are English; one is longer
    same = run(open_page(ECHO, f"{ECHO},load=0", language=["en", "fr"]))
    same.segmented_control(key="ml_filter").set_value("Where they part").run()
    assert not same.get("bidi_component")


def test_tables_say_what_was_measured_and_what_is_noise() -> None:
    page = run(open_page(ENGLISH, ECHO, language=["en", "de"], task="solve", prompt=""))
    page.segmented_control(key="ml_view").set_value("Tables").run()
    assert not page.exception
    rows, verdicts, *_ = (item.value for item in page.dataframe)
    assert list(rows["Language"]) == ["English", "English", "German", "German"]
    assert list(rows["English"]) == [0, 0, 10, 0]
    assert list(rows["Right language"]) == [10, 10, 0, 10]
    assert rows["Correct"][0] == "0 of 10"
    said = "\n".join(item.value.replace("\\", "") for item in page.markdown)
    assert "All languages, replies in the right language" in said
    assert "more than noise" in said
    assert set(verdicts["Language"]) == {"English", "German"}


def test_results_are_downloaded_as_they_are_kept() -> None:
    page = run(open_page(ENGLISH, ECHO, language=["de"]))
    page.segmented_control(key="ml_view").set_value("Export").run()
    assert not page.exception
    offered = [button.proto.label for button in page.get("download_button")]
    assert offered == [
        "Results (.jsonl)",
        "Cells (.csv)",
        "Everything (.json)",
        "Report with charts (.zip)",
    ]
    assert f"{kept.KEEP_DAYS} days" in captions(page)


def test_charts_are_drawn() -> None:
    page = run(open_page(ENGLISH, ECHO, language=["en", "de"]))
    page.segmented_control(key="ml_view").set_value("Charts").run()
    assert not page.exception
    assert page.get("vega_lite_chart")


def test_run_again_asks_the_same_under_another_address() -> None:
    page = run(open_page(ENGLISH, ECHO, language=["de"]))
    first = token(page)
    finish(press(page, "Run this again"))
    assert token(page) != first
    assert badges(page) == {"de": ["English", "right language"]}


def test_past_200_replies_texts_are_shown_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.multilingual.replies.MANY", 3)
    page = run(open_page(ENGLISH, ECHO, language=["de", "fr"]))
    assert "text" not in grid(page)["de"][0]
    page.toggle(key="ml_texts_True").set_value(True).run()
    assert grid(page)["de"][0]["text"]


# --- a cell opened --------------------------------------------------------------------------------


def open_cell(page: AppTest, code: str, deployment: str) -> AppTest:
    """As its press in the browser does."""
    page.session_state["ml_opened"] = (code, deployment)
    page.run()
    assert not page.exception
    return page


def html(page: AppTest) -> str:
    """What is drawn as HTML, without the style sheet."""
    drawn = (item.proto.body for item in page.get("html"))
    return "\n".join(body for body in drawn if not body.startswith("<style>"))


def test_an_opened_cell_shows_prompt_replies_and_numbers() -> None:
    page = open_cell(run(open_page(ENGLISH, ECHO, language=["ar"])), "ar", ECHO)
    prompt = campaign(page).results.plan.questions[0].prompt
    assert f'lang="ar" dir="rtl">{prompt}' in html(page)
    assert "Prompt · the reply should be Arabic" in captions(page)
    assert any("English" in line for line in captions(page).splitlines())
    rows = [row for table in page.table for row in table.value.index]
    assert {"Prompt tokens", "Tokens/s", "Characters/s", "Ended by"} <= set(rows)
    before = campaign(page).results.cells["ask/capital/ar", ECHO]
    finish(press(page, "Ask again", 1))
    assert campaign(page).results.cells["ask/capital/ar", ECHO] is not before


def test_what_a_model_wrote_is_text_and_nothing_else() -> None:
    page = open_cell(run(open_page(ENGLISH, HOSTILE, language=["de"])), "de", HOSTILE)
    reply = campaign(page).results.cells["ask/capital/de", HOSTILE].text
    assert "<script>" in reply
    assert "<script>" in grid(page)["de"][1]["text"]  # data, which grid.js makes a text node of
    assert "&lt;script&gt;" in html(page)
    assert "<script" not in html(page)
    assert "<img" not in html(page)


# --- files of results -----------------------------------------------------------------------------


def give(page: AppTest, name: str, content: bytes) -> AppTest:
    page.file_uploader(key="ml_results_file").upload(name, content).run()
    assert not page.exception
    return page


def test_a_file_of_results_is_opened_and_resumed() -> None:
    given = Results(plan(ECHO, ENGLISH))
    given.cells["ask/rain/de", ECHO] = Cell("ask/rain/de", ECHO, "Es regnet heute sehr stark.")
    page = give(open_page(ENGLISH, ECHO), "mine.jsonl", as_file(given))
    assert badges(page) == {"en": ["waiting", "waiting"], "de": ["right language", "waiting"]}
    finish(press(page, "Resume: 3 left"))
    assert badges(page)["de"] == ["right language", "English"]
    assert grid(page)["de"][0]["text"] == "Es regnet heute sehr stark."


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\xff", b'{"kind": "plan", "format": 1}'])
def test_a_file_that_is_none_of_ours_is_refused(content: bytes) -> None:
    page = give(open_page(ENGLISH, ECHO), "mine.jsonl", content)
    assert page.error
    assert texts(page)
    assert not page.get("bidi_component")


def test_lines_that_cannot_be_read_are_told_of() -> None:
    content = as_file(Results(plan(ECHO, ENGLISH))) + b'{"kind": "cell", "question"\n'
    page = give(open_page(ENGLISH, ECHO), "mine.jsonl", content)
    assert "mine.jsonl, line" in texts(page)
    assert grid(page)


def test_a_file_that_names_a_deployment_of_nobody_is_shown_all_the_same() -> None:
    given = Results(plan("gone@nowhere", ECHO, languages=("de",)))
    given.cells["ask/rain/de", "gone@nowhere"] = Cell("ask/rain/de", "gone@nowhere", "It rains.")
    page = give(open_page(ENGLISH, ECHO), "mine.jsonl", as_file(given))
    assert grid(page)["de"][0]["who"] == "gone@nowhere"


# --- the lesson's demo ----------------------------------------------------------------------------


def test_the_demo_says_what_to_do_where_its_models_are_not_here() -> None:
    page = press(open_page(ENGLISH, ECHO), "The lesson's demo")
    said = "\n".join(item.value for item in page.markdown)
    assert "**Phi-3.5 mini Instruct** cannot answer here yet" in said or "cannot answer" in said
    assert any("fetch phi-3.5-mini-instruct" in item.value for item in page.code)
    assert "https://huggingface.co/microsoft/Phi-3.5-mini-instruct" in captions(page)


def test_old_runs_are_deleted(home: Path) -> None:
    old = kept.keep(Results(plan(ECHO, ENGLISH)))
    file = home / "multilingual" / f"{old}.jsonl"
    days = (kept.KEEP_DAYS + 1) * 86_400
    os.utime(file, (file.stat().st_atime, file.stat().st_mtime - days))
    new = kept.keep(Results(plan(ECHO, ENGLISH)))
    assert kept.find(old, Access(), {}) is None
    assert kept.find(new, Access(), {}) is not None
