"""The Many languages page in a real Chromium: a run with real weights, reload, Stop, files, RTL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from browsing import App, serving
from playwright.sync_api import Browser, Locator, Page, expect

from benchmarks import browser
from slm_backends import store
from slm_backends.multilingual import tasks
from slm_backends.multilingual.plan import Plan
from slm_backends.multilingual.results import Cell, Results

ECHO = "fake@text=echo,rate=0,first=0"
SLOW = "fake@tokens=2000,rate=20,first=0,text=plain"
HOSTILE = "fake@tokens=30,rate=0,first=0,text=hostile"
BADGE = re.compile("right language|mixed|English|other language|unclear")


@pytest.fixture(scope="module")
def app(embedded: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A server with the weights that are here, that keeps its runs elsewhere."""
    home = tmp_path_factory.mktemp("home")
    for found in store.home().iterdir():
        if found.name != "multilingual":
            (home / found.name).symlink_to(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLM_HOME", str(home))
        with serving() as app:
            yield app


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.chromium() as chromium:
        yield chromium


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    with chromium.new_context(viewport={"width": 1280, "height": 900}) as context:
        yield context.new_page()


def open_page(
    page: Page, app: App, *deployments: str, languages: str = "de", **more: object
) -> None:
    asked = [("deployment", id) for id in deployments]
    asked += [("language", code) for code in languages.split()]
    page.goto(f"{app.url}/multilingual?{urlencode([*asked, *more.items()])}")
    expect(button(page, "Start")).to_be_enabled()


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def start(page: Page) -> None:
    button(page, "Start").click()
    expect(page.locator(".ml-grid")).to_be_visible()


def cell(page: Page, code: str, place: int) -> Locator:
    row = page.locator(".ml-grid tr").filter(has=page.locator(f".ml-own[lang={code}]"))
    return row.locator("td").nth(place)


def stop(page: Page) -> Locator:
    return page.locator(".st-key-ml_stop button:visible")


def test_an_english_model_is_seen_to_be_one_with_a_press(
    page: Page, app: App, embedded: tuple[str, ...]
) -> None:
    """The first thing that a visitor does: real weights, in real workers."""
    open_page(page, app, *embedded, languages="en de ar", max_tokens_multilingual=24)
    start(page)
    expect(page.get_by_text(re.compile("^[0-6] of 6 replies"))).to_be_visible(timeout=2_000)
    expect(page.get_by_text("6 of 6 replies", exact=True)).to_be_visible()
    for code in ("en", "de", "ar"):
        for place in range(2):
            expect(cell(page, code, place).locator(".ml-badge")).to_have_text(BADGE)
            expect(cell(page, code, place)).to_contain_text("tok/s")
    for place in range(2):
        expect(cell(page, "en", place)).to_contain_text("right language")


def test_a_reload_loses_nothing_and_a_run_is_stopped_and_resumed(page: Page, app: App) -> None:
    open_page(page, app, ECHO, SLOW, max_tokens_multilingual=2_000)
    start(page)
    expect(cell(page, "de", 0)).to_contain_text("right language")
    expect(cell(page, "de", 1)).to_contain_text("The quick brown")  # as it grows
    page.reload()
    expect(cell(page, "de", 0)).to_contain_text("Was ist die Hauptstadt")
    expect(cell(page, "de", 1)).to_contain_text("answering")
    expect(stop(page)).to_be_visible()
    page.keyboard.press("Escape")
    expect(stop(page)).to_have_count(0)
    expect(cell(page, "de", 0)).to_contain_text("right language")
    page.get_by_role("button", name=re.compile("^Resume|^Retry")).click()
    expect(stop(page)).to_be_visible()
    expect(cell(page, "de", 1)).to_contain_text("answering")
    stop(page).click()
    expect(stop(page)).to_have_count(0)


def test_escape_closes_an_opened_cell_and_not_the_run(page: Page, app: App) -> None:
    open_page(page, app, ECHO, SLOW, max_tokens_multilingual=2_000)
    start(page)
    expect(cell(page, "de", 0)).to_contain_text("right language")
    cell(page, "de", 0).get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("the reply should be German")
    expect(dialog.locator(".ml-whole[lang=de]").first).to_contain_text("Was ist die Hauptstadt")
    expect(dialog.get_by_text("Characters/s").first).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(cell(page, "de", 1)).to_contain_text("answering")
    stop(page).click()
    expect(stop(page)).to_have_count(0)


def test_arabic_and_hebrew_are_read_from_the_right_and_each_script_has_its_font(
    page: Page, app: App
) -> None:
    open_page(page, app, ECHO, HOSTILE, languages="ar he ja th")
    start(page)
    for code, direction in (("ar", "rtl"), ("he", "rtl"), ("ja", "ltr"), ("th", "ltr")):
        text = cell(page, code, 0).locator(f".ml-text[lang={code}]")
        expect(text).to_have_attribute("dir", direction)
        expect(text).to_have_css("direction", direction)
    japanese = cell(page, "ja", 0).locator(".ml-text")
    expect(japanese).to_have_css("font-family", re.compile("CJK JP"))
    # What the other deployment wrote is text: no picture, no link, no script of it.
    expect(cell(page, "ar", 1)).to_contain_text("<script>")
    expect(page.locator(".ml-grid :is(img, a, script)")).to_have_count(0)


def test_a_file_of_results_is_opened_and_a_broken_one_is_refused(
    page: Page, app: App, tmp_path: Path
) -> None:
    results = Results(Plan("ask", (ECHO, SLOW), tasks.questions("ask", ["de"], names=["rain"])))
    results.cells["ask/rain/de", SLOW] = Cell("ask/rain/de", SLOW, "Es regnet, weil Wasser fällt.")
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text("".join(results.lines()), encoding="utf-8")
    bad.write_bytes(b"\x00\xffnothing of ours\n")
    open_page(page, app, ECHO, SLOW)
    for file in (bad, good):
        page.get_by_role("button", name="Open results").click()
        page.locator(".st-key-ml_results_file input[type=file]").set_input_files(file)
        if file is bad:
            expect(page.get_by_text("no file of results of this playground")).to_be_visible()
            page.keyboard.press("Escape")
    expect(cell(page, "de", 1)).to_contain_text("Es regnet")
    expect(cell(page, "de", 0)).to_contain_text("waiting")
    button(page, "Resume: 1 left").click()
    expect(cell(page, "de", 0)).to_contain_text("right language")


def test_a_phone_shows_a_list_and_needs_no_sideways_scrolling(page: Page, app: App) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    open_page(page, app, ECHO, HOSTILE, languages="de ar")
    start(page)
    expect(cell(page, "ar", 0)).to_contain_text("right language")
    for place in (".stMain", "html"):
        assert page.locator(place).evaluate("(place) => place.scrollWidth") == 390
    expect(cell(page, "ar", 0).locator(".ml-who")).to_have_text(ECHO)
    first, second = (cell(page, "de", place).bounding_box() for place in range(2))
    assert first and second
    assert first["x"] == second["x"]
    assert second["y"] >= first["y"] + first["height"]
