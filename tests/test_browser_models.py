"""The Models page in a real browser: a load that is followed, a worker that is seen and ended."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from browsing import PATIENCE, App, ask, history, ready, serving, stop_button
from playwright.sync_api import Browser, Locator, Page, expect

from benchmarks.browser import chromium

ONNX = "smollm2-135m-instruct@onnx"

pytestmark = pytest.mark.usefixtures("embedded")


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    with serving() as app:
        yield app


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        yield page


def row(page: Page, deployment_id: str) -> Locator:
    return page.locator(f'[class*="st-key-row_{re.sub("[^a-z0-9-]", "-", deployment_id)}"]:visible')


def open_list(page: Page, app: App) -> None:
    page.goto(f"{app.url}/models?here=true")
    row(page, ONNX).wait_for()
    # Whole, as it is for a person who has found the button.
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def test_load_follow_and_unload(app: App, page: Page) -> None:
    open_list(page, app)
    row(page, ONNX).get_by_role("button", name="Load").click()
    progress, refused = (
        page.get_by_test_id("stProgress"),
        page.get_by_test_id("stAlertContentError"),
    )
    expect(progress.or_(refused).first).to_be_visible()
    expect(refused, "the load failed").to_have_count(0)
    expect(row(page, ONNX)).to_contain_text("loaded")
    process = app.workers()[ONNX]
    expect(page.get_by_text(f"pid {process.pid}")).to_be_visible()
    page.get_by_role("button", name="Unload").click()
    expect(page.get_by_text("No model is loaded")).to_be_visible(timeout=PATIENCE)
    expect(row(page, ONNX).get_by_role("button", name="Load")).to_be_visible()
    assert not process.is_running()


def test_what_happens_elsewhere_is_seen_without_a_reload(
    app: App, page: Page, browser: Browser
) -> None:
    open_list(page, app)
    with browser.new_context() as context:
        other = context.new_page()
        other.goto(app.link(ONNX))
        ready(other)
        ask(other, "Write a long story.")
        expect(page.get_by_text(re.compile("1 running"))).to_be_visible(timeout=PATIENCE)
        expect(page.get_by_role("button", name="Unload")).to_be_disabled()
        stop_button(other).click()
    expect(page.get_by_role("button", name="Unload")).to_be_enabled(timeout=PATIENCE)
    expect(row(page, ONNX)).to_contain_text("loaded")


def test_the_chat_link_brings_the_deployment_and_keeps_the_panes(app: App, page: Page) -> None:
    page.goto(app.link("fake@rate=0,first=0,tokens=5"))
    ready(page)
    ask_button = page.get_by_role("link", name="Models")
    ask_button.first.click()
    row(page, ONNX).wait_for()
    row(page, ONNX).get_by_role("link", name="Chat").click()
    ready(page)
    expect(history(page, 1)).to_be_visible()
    link = "pane=fake%40rate%3D0%2Cfirst%3D0%2Ctokens%3D5&pane=" + ONNX.replace("@", "%40")
    expect(page).to_have_url(re.compile(re.escape(link) + "$"))
