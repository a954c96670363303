"""The Vision page in a real Chromium, with real workers and the weights of the playground."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from browsing import (
    App,
    answered,
    ask,
    ask_quickly,
    composer,
    history,
    ready,
    reply,
    serving,
    stop_button,
)
from drawn import picture
from playwright.sync_api import Browser, FilePayload, Page, expect

from benchmarks import browser

NANO = "phi-vision-nano@transformers"
SEES = "fake@tokens=3,rate=0,text=plain,images=32"
LOOKS = "fake@tokens=3,rate=0,text=plain,images=32,look=60"

PASTE = """([name, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([bytes], name, { type: "image/png" }));
  const box = document.querySelector("[data-testid='stChatInputTextArea']");
  box.focus();
  const options = { clipboardData, bubbles: true, cancelable: true };
  box.dispatchEvent(new ClipboardEvent("paste", options));
}"""


@pytest.fixture(scope="module")
def app(embedded: tuple[str, ...]) -> Iterator[App]:
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


def open_page(page: Page, app: App, *panes: str, **parameters: int) -> None:
    asked = urlencode([*(("pane", pane) for pane in panes), *parameters.items()])
    page.goto(f"{app.url}/vision?{asked}")
    ready(page)


def file(name: str, width: int = 60, height: int = 40) -> FilePayload:
    data = picture(width=width, height=height).data
    return {"name": name, "mimeType": "image/png", "buffer": data}


def choose(page: Page, *files: FilePayload) -> None:
    page.locator(".st-key-composer input[type=file]").set_input_files(list(files))


def expect_tray(page: Page, *names: str) -> None:
    captions = page.locator('[class*="st-key-item_"] [data-testid="stCaptionContainer"]')
    expect(captions).to_have_text([f"{number} {name}" for number, name in enumerate(names, 1)])


def button(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def pictures(page: Page, place: int) -> object:
    return history(page, place).get_by_role("img", name=re.compile("^Picture"))


def test_chosen_pictures_are_shown_moved_and_removed(page: Page, app: App) -> None:
    open_page(page, app, SEES)
    choose(page, file("a.png"), file("b.png"))
    expect_tray(page, "a.png", "b.png")  # without Enter
    button(page, "Move right: 1")
    expect_tray(page, "b.png", "a.png")
    button(page, "Full view: 2")
    expect(page.get_by_role("dialog")).to_contain_text("60 × 40 pixels")
    page.keyboard.press("Escape")
    button(page, "Remove: 1")
    expect_tray(page, "a.png")


def test_a_pasted_picture_joins_them_and_the_question_stays(page: Page, app: App) -> None:
    open_page(page, app, SEES)
    choose(page, file("a.png"))
    expect_tray(page, "a.png")
    composer(page).fill("What is it?")
    data = base64.b64encode(picture().data).decode()
    page.evaluate(PASTE, ["pasted.png", data])
    expect_tray(page, "a.png", "pasted.png")
    expect(composer(page)).to_have_value("What is it?")
    composer(page).press("Enter")
    expect(pictures(page, 0)).to_have_count(2)
    expect(page.locator(".st-key-tray")).to_have_count(0)


def test_a_starter_is_answered_and_a_follow_up_keeps_the_pictures(page: Page, app: App) -> None:
    """The first thing that a visitor does: real weights, in a real worker."""
    open_page(page, app, NANO)
    button(page, "Describe")
    expect(reply(page, 0)).to_contain_text(re.compile("circle|square|star|triangle|cross"))
    expect(page.get_by_role("button", name="Details")).to_have_count(1)
    answered(page)
    expect(pictures(page, 0)).to_have_count(1)
    ask_quickly(page, "What colour is the circle?")
    colours = "red|green|blue|yellow|orange|purple|black|gr[ae]y"
    expect(reply(page, 0)).to_contain_text(re.compile(colours, re.IGNORECASE))
    details = page.get_by_role("button", name="Details")
    expect(details).to_have_count(2)  # the second reply has ended, and is the last
    details.last.click()
    expect(page.get_by_role("row", name="Cached tokens")).to_have_text(re.compile("[1-9]"))


def test_the_total_of_a_receipt_is_read_by_a_model_that_sees_nothing(
    page: Page, app: App, embedded: tuple[str, ...]
) -> None:
    open_page(page, app, embedded[0], temperature_vision=0)
    expect(page.get_by_text("reads text only, sees nothing else")).to_be_visible()
    button(page, "Samples")
    button(page, "Receipt")
    expect_tray(page, "receipt.png")
    page.keyboard.press("Escape")
    ask_quickly(page, "What is the total?")
    expect(reply(page, 0)).to_contain_text("12.40")
    page.get_by_text("What was read").click()
    expect(history(page, 0).get_by_text("Read in")).to_be_visible()
    expect(history(page, 0).get_by_role("img", name=re.compile("numbered box"))).to_be_visible()


def test_stop_works_while_pictures_are_looked_at(page: Page, app: App) -> None:
    open_page(page, app, LOOKS)
    choose(page, file("a.png"))
    expect_tray(page, "a.png")
    ask(page, "What is it?")
    expect(reply(page, 0)).to_contain_text("reading the prompt")
    stop_button(page).click()
    expect(reply(page, 0)).to_contain_text("Stopped before the first word.")


def test_what_a_pane_cannot_hold_is_refused_there_alone(page: Page, app: App) -> None:
    open_page(page, app, NANO, SEES, max_tokens_vision=4_000)
    choose(page, *[file(f"{number}.png", 300) for number in range(4)])
    expect(page.get_by_text("4,096 are held")).to_be_visible()  # before anything is asked
    ask_quickly(page, "What are they?")
    expect(reply(page, 0)).to_contain_text("No answer")
    expect(reply(page, 1)).to_contain_text("The quick brown")


def test_a_phone_needs_no_sideways_scrolling(page: Page, app: App) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    open_page(page, app, SEES, SEES)
    choose(page, *[file(f"{number}.png", 300) for number in range(6)])
    expect_tray(page, *[f"{number}.png" for number in range(6)])
    for place in (".stMain", "html"):
        assert page.locator(place).evaluate("(place) => place.scrollWidth") == 390


def test_a_reload_begins_anew_with_the_same_panes(page: Page, app: App) -> None:
    open_page(page, app, SEES, LOOKS)
    choose(page, file("a.png"))
    expect_tray(page, "a.png")
    page.reload()
    ready(page)
    expect(page.locator('[class*="st-key-history_"]')).to_have_count(2)
    choose(page, file("b.png"))
    expect_tray(page, "b.png")


def test_edit_sends_the_pictures_of_the_turn_again(page: Page, app: App) -> None:
    open_page(page, app, SEES)
    choose(page, file("a.png"), file("b.png"))
    expect_tray(page, "a.png", "b.png")
    ask_quickly(page, "What is it?")
    button(page, "Edit")
    page.get_by_role("dialog").get_by_label("Prompt").fill("What else is it?")
    button(page, "Resend")
    expect(history(page, 0)).to_contain_text("What else is it?")
    expect(pictures(page, 0)).to_have_count(2)
