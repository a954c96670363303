"""The Experts page in a real Chromium: the tokens by keyboard, growing views, files, long texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
import tiny_models
from browsing import App, composer, serving
from playwright.sync_api import Browser, Locator, Page, WebSocket, expect

from benchmarks import browser
from slm_backends import catalog, store
from slm_backends.moe import export
from ui.moe.tokens import MOST
from ui.moe.twins import IDS

NANO = IDS[0]
TINY = "phi-3.5-moe-instruct@transformers:tiny"
SLOW = "fake@tokens=2000,rate=20,first=0,text=plain"
SUM = "What is 23 + 45?"
STORY = "Tell me a story about a cat."
HOSTILE = "<img src=x onerror=document.title='owned'> ![x](http://127.0.0.1:1/x.png) <b>5 + 5</b> ð"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A server with the shipped mixture, and with a tiny one that has a long context."""
    here = tmp_path_factory.mktemp("tiny")
    file = here / "catalog.toml"
    file.write_text(
        f'[sources.tiny]\npath = "{tiny_models.hugging_face("phi-3.5-moe-instruct")}"\n'
        f'[deployments."{TINY}"]\nsource = "tiny"\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLM_HOME", str(here / "home"))
        patch.setenv("SLM_CATALOG", str(file))
        store.fetch(catalog.load().deployment(TINY))
        with serving() as app:
            yield app


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.chromium() as chromium:
        yield chromium


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    with chromium.new_context(viewport={"width": 1280, "height": 1000}) as context:
        yield context.new_page()


@pytest.fixture(scope="module")
def shown(chromium: Browser, app: App) -> Iterator[Page]:
    """A page with a reply, for tests that only look at it."""
    with chromium.new_context(viewport={"width": 1280, "height": 1000}) as context:
        page = context.new_page()
        open_page(page, app)
        ask(page, SUM)
        yield page


def open_page(page: Page, app: App, **link: object) -> None:
    page.goto(f"{app.url}/moe?{urlencode({'temperature_moe': 0, **link})}")
    expect(composer(page)).to_be_enabled()


def ask(page: Page, prompt: str) -> None:
    """Ask, and wait for the end."""
    composer(page).fill(prompt)
    composer(page).press("Enter")
    expect(page.locator(".st-key-moe_answer")).to_contain_text(re.compile("· (stop|length|error)"))
    idle(page)


def idle(page: Page) -> None:
    """Wait until nothing runs and the page was drawn as a whole."""
    expect(stop(page)).to_have_count(0)
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def stop(page: Page) -> Locator:
    return page.locator(".st-key-moe_stop button:visible")


def tokens(page: Page, part: str) -> Locator:
    return page.get_by_role("group", name=f"Tokens of the {part}").get_by_role("button")


def view(page: Page, name: str) -> None:
    """By keyboard: a reply that grows above it moves what a mouse would press."""
    page.locator(".st-key-moe_view").get_by_role("radio", name=name, exact=True).press("Enter")


def test_a_sum_is_answered_and_its_tokens_are_walked_by_keyboard(page: Page, app: App) -> None:
    """The first thing that a visitor does."""
    open_page(page, app)
    page.get_by_role("button", name="A sum", exact=True).click()
    expect(page.locator(".st-key-moe_answer")).to_contain_text("· stop")
    expect(stop(page)).to_have_count(0)
    expect(tokens(page, "reply").first).to_be_visible()
    written = page.locator(".moe-part").nth(1).locator(".moe-text").all_inner_texts()
    said = "".join(written).replace("\xa0", " ")
    expect(page.locator(".st-key-moe_answer")).to_contain_text(said)
    first, second = tokens(page, "reply").nth(0), tokens(page, "reply").nth(1)
    first.click()
    expect(first).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".moe-opened")).to_contain_text("Token ")
    rows = page.locator(".moe-tables table").first.locator("tbody tr")
    expect(rows).to_have_count(6)
    expect(page.locator(".moe-bars tbody tr")).to_have_count(16)
    expect(page.locator(".moe-bars .moe-worked")).to_have_count(2)
    expect(page.get_by_text("it is not the weight")).to_be_visible()
    # The token's own numbers are those of the chosen layer in the table.
    numbers = first.locator(".moe-number").inner_text().split("·")
    expect(rows.nth(0).locator(".moe-chip")).to_have_text(numbers)
    before = page.locator(".moe-opened").inner_text()
    page.keyboard.press("ArrowRight")
    expect(second).to_be_focused()
    expect(second).to_have_attribute("aria-pressed", "true")
    expect(first).to_have_attribute("aria-pressed", "false")
    expect(page.locator(".moe-opened")).not_to_have_text(before)
    page.keyboard.press("Home")
    expect(tokens(page, "prompt").first).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(tokens(page, "prompt").first).not_to_be_focused()
    page.keyboard.press("End")
    expect(tokens(page, "reply").last).to_be_focused()
    expect(page.locator(".moe-token[tabindex='0']")).to_have_count(1)


def test_another_layer_shows_other_experts(shown: Page) -> None:
    expect(tokens(shown, "prompt").first).to_have_attribute("title", re.compile("in layer 0$"))
    shown.locator(".st-key-moe_layer").get_by_role("combobox").click()
    shown.get_by_role("option", name="Layer 5").click()
    expect(tokens(shown, "prompt").first).to_have_attribute("title", re.compile("in layer 5$"))


def test_views_grow_while_it_answers_and_changing_them_stops_nothing(page: Page, app: App) -> None:
    open_page(page, app, pane=TINY, max_tokens_moe=4000)
    composer(page).fill(STORY)
    composer(page).press("Enter")
    expect(tokens(page, "reply").nth(5)).to_be_visible()
    expect(tokens(page, "reply").nth(40)).to_be_attached()  # and more with time
    view(page, "Flow")
    expect(
        page.get_by_test_id("stVegaLiteChart").and_(page.get_by_label("from token to token"))
    ).to_be_visible()
    view(page, "Load")
    expect(page.get_by_text("Normalised entropy")).to_be_visible()
    expect(page.locator(".st-key-moe_answer")).to_contain_text(
        re.compile(r"\d{3} tokens .* · stop$")
    )
    idle(page)
    expect(page.get_by_role("radio", name="Load")).to_be_checked()


def test_escape_stops_a_reply(page: Page, app: App) -> None:
    open_page(page, app, pane=SLOW, max_tokens_moe=2000)
    composer(page).fill(STORY)
    composer(page).press("Enter")
    expect(page.locator(".st-key-moe_answer")).to_contain_text("The quick brown fox")
    page.keyboard.press("Escape")
    idle(page)
    expect(page.locator(".st-key-moe_answer")).to_contain_text("· stopped")
    expect(page.get_by_text("does not reveal which experts worked")).to_be_visible()


def test_a_reload_keeps_deployment_and_prompt_but_not_the_knife(page: Page, app: App) -> None:
    open_page(page, app, pane=TINY, max_tokens_moe=8)
    ask(page, SUM)
    view(page, "Knife")
    page.get_by_text("Limit experts").click()
    page.locator(".st-key-moe_k").get_by_text("1", exact=True).click()
    page.get_by_role("button", name="Run both ways").click()
    expect(page.get_by_text("Perplexity of the untouched reply, limited model")).to_be_visible()
    idle(page)
    page.reload()
    expect(composer(page)).to_have_value(SUM)
    expect(page.locator(".st-key-picker_1, [class*=st-key-picker_]")).to_contain_text("tiny")
    expect(page.get_by_text("Limit experts")).to_have_count(0)
    ask(page, SUM)
    view(page, "Knife")
    expect(page.get_by_role("switch", name="Limit experts")).not_to_be_checked()


def test_two_languages_are_compared_with_a_press(page: Page, app: App) -> None:
    open_page(page, app)
    ask(page, SUM)
    view(page, "Compare")
    page.get_by_role("button", name="One sentence in two languages").click()
    expect(page.get_by_text("How far their loads lie apart")).to_be_visible()
    expect(stop(page)).to_have_count(0)
    page.locator(".st-key-moe_rows_divergence").get_by_text("As a table").click()
    expect(page.get_by_role("columnheader", name="divergence in bits")).to_be_visible()


def test_what_a_person_or_a_model_wrote_is_only_text(page: Page, app: App) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    open_page(page, app)
    ask(page, HOSTILE)
    expect(tokens(page, "prompt").first).to_be_visible()
    written = page.locator(".moe-part").first.locator(".moe-text").all_inner_texts()
    assert "<img" in "".join(written).replace("\xa0", " ")
    expect(page.locator(".moe-half").first).to_have_attribute("title", re.compile("^part of a"))
    expect(page.locator(".moe-tokens :is(img, a, script, b)")).to_have_count(0)
    view(page, "Flow")
    page.locator(".st-key-moe_rows_flow").get_by_text("As a table").click()
    expect(page.get_by_role("columnheader", name="tokens")).to_be_visible()
    expect(page.locator(".st-key-moe_rows_flow ~ * img")).to_have_count(0)
    assert not [url for url in asked if not url.startswith((app.url, "data:", "blob:"))]
    expect(page).to_have_title(re.compile("Experts"))


def test_the_routing_is_a_file(shown: Page, tmp_path: Path) -> None:
    for name, ending in (("JSON", "json"), ("Parquet", "parquet")):
        with shown.expect_download() as got:
            shown.locator(".st-key-moe_export").get_by_role("button", name=name).click()
        file = tmp_path / got.value.suggested_filename
        got.value.save_as(file)
        assert file.name == f"routing.{ending}"
        trace, facts = export.read(file.read_bytes())
        assert facts["prompt"] == SUM
        assert trace.layers == 6
        expect(shown.locator(".moe-token")).to_have_count(len(trace))


def test_a_long_text_is_shown_in_parts(page: Page, app: App) -> None:
    received: list[int] = []

    def watch(socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: received.append(len(frame)))

    page.on("websocket", watch)
    open_page(page, app, pane=TINY, max_tokens_moe=4)
    ask(page, "one two three four five six seven eight nine ten " * 120)
    expect(page.get_by_text("tokens are not shown")).to_be_visible()
    expect(page.locator(".moe-token").first).to_be_visible()
    shown = page.locator(".moe-token").count()
    assert 0 < shown <= MOST
    window = page.locator(".st-key-moe_strip_row").get_by_role("combobox").last
    window.scroll_into_view_if_needed()
    page.wait_for_timeout(500)  # a list that opens while the page still scrolls is closed again
    window.click()
    page.get_by_role("option", name=f"0 to {MOST - 1:,}").click()
    expect(page.locator(".moe-token")).to_have_count(MOST)
    received.clear()
    page.locator(".moe-token").nth(1_000).click()
    expect(page.locator(".moe-opened")).to_contain_text("Token 1000:")
    page.keyboard.press("ArrowDown")
    expect(page.locator(".moe-token").nth(1_000)).to_have_attribute("aria-pressed", "false")
    assert sum(received) < 100_000, "a chosen token brings its own numbers, and the strip once more"


def test_a_phone_scrolls_in_one_direction(chromium: Browser, app: App) -> None:
    with chromium.new_context(viewport={"width": 390, "height": 844}) as context:
        page = context.new_page()
        open_page(page, app)
        ask(page, SUM)
        tokens(page, "reply").first.click()
        expect(page.locator(".moe-bars")).to_be_visible()
        for name in ("Tokens", "Load", "Flow", "Pairs", "Compare", "Knife"):
            view(page, name)
            expect(page.get_by_text("Export this routing")).to_be_visible()
            wide = page.evaluate(
                "() => { const m = document.querySelector('.stMain');"
                " return m.scrollWidth - m.clientWidth; }"
            )
            assert wide == 0, name
