"""Servers in real browsers: added, set up, chatted with; and nobody's key is another's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import scripted_server
from browsing import PATIENCE, App, ask_quickly, box, history, open_gear, ready, serving
from playwright.sync_api import Browser, Locator, Page, expect

from benchmarks.browser import chromium

ECHO = "fake@text=echo,rate=0,first=0"
SERVED = "m@team"
KEYS = {"Ada": "sk-ada-0123456789", "Bob": "sk-bob-9876543210"}

NewPage = Callable[[], Page]


@pytest.fixture(scope="module")
def server() -> Iterator[scripted_server.Server]:
    with scripted_server.scripted() as server:
        server.models = ["m", "phi-4", "other"]
        yield server


@pytest.fixture(scope="module")
def app(server: scripted_server.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app, with a provider that has no key of the owner's."""
    file = tmp_path_factory.mktemp("own") / "catalog.toml"
    file.write_text(
        f'[providers.team]\nname = "Team"\nbase_url = "{server.address}"\nkey = "SLM_TEAM_KEY"\n'
        f'[models.m]\nname = "M"\n[deployments."{SERVED}"]\nprice_in = 1.0\nprice_out = 2.0\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLM_CATALOG", str(file))
        with serving() as app:
            yield app


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def new_page(app: App, server: scripted_server.Server, browser: Browser) -> Iterator[NewPage]:
    """Makes browsers that know nothing of each other, each on the Chat page."""
    server.asked.clear()
    with ExitStack() as stack:

        def make() -> Page:
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(PATIENCE)
            page.goto(app.link(ECHO))
            ready(page)
            return page

        yield make


def go(page: Page, title: str) -> None:
    """To that page within the session; an address typed anew would begin another one."""
    # A run that was asked for before the click would end on the page it began on. That it was asked
    # for shows only when the server has begun it.
    drawn(page)
    page.wait_for_timeout(500)
    drawn(page)
    page.get_by_test_id("stTopNavLink").filter(has_text=title).click()
    expect(page).to_have_title(f"{title} · SLM playground")


def drawn(page: Page) -> None:
    """Wait until the page was drawn to its end: boxes may be made anew until then."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def row(page: Page, provider: str = "team") -> Locator:
    return page.locator(f'[class*="st-key-server_{provider}-"]:visible')


def type_key(page: Page, key: str) -> None:
    row(page).get_by_role("button", name="Set up").click()
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_label("Key", exact=True).press("Enter")
    expect(page.get_by_text("A key of yours is in use")).to_be_visible()
    expect(page.get_by_label("Key", exact=True)).to_have_value("")
    page.keyboard.press("Escape")
    expect(page.get_by_label("Key", exact=True)).to_be_hidden()


def chat_with(page: Page, provider: str, deployment: str) -> None:
    """Through the Chat link of a deployment in the fold of its server."""
    fold = row(page, provider)
    link = fold.get_by_role("link", name="Chat").first
    if not link.is_visible():
        fold.get_by_text("In the catalog").click()
    link.click()
    expect(history(page, 1)).to_be_visible()
    ready(page)
    expect(page).to_have_url(re.compile(re.escape(deployment.replace("@", "%40"))))


def test_a_key_is_its_visitors_alone(server: scripted_server.Server, new_page: NewPage) -> None:
    pages = {name: new_page() for name in KEYS}
    for name, page in pages.items():
        go(page, "Models")
        expect(row(page)).to_contain_text("needs key")
        type_key(page, KEYS[name])
    for page in pages.values():
        expect(row(page)).to_contain_text("ready")  # it was set up, so it was asked
        chat_with(page, "team", SERVED)
    for turn in ("first", "second"):
        for name, page in pages.items():
            ask_quickly(page, f"{turn} of {name}")
            expect(history(page, 1)).to_contain_text("Hello")
    sent = {
        asked.body["messages"][-1]["content"]: asked.headers["authorization"]
        for asked in server.prompts
    }
    assert sent == {
        f"{turn} of {name}": f"Bearer {key}"
        for name, key in KEYS.items()
        for turn in ("first", "second")
    }
    assert {asked.headers["authorization"] for asked in server.asked} == set(sent.values())

    third = new_page()
    server.asked.clear()
    go(third, "Models")
    expect(row(third)).to_contain_text("needs key")
    expect(row(third).get_by_role("button", name="Test")).to_be_disabled()
    third.goto(re.sub(r"/models.*", f"/chat?pane={SERVED}&pane={ECHO}", third.url))
    ready(third)
    ask_quickly(third, "of nobody")
    expect(history(third, 0)).to_contain_text("it needs SLM_TEAM_KEY")
    expect(history(third, 1)).to_contain_text("of nobody")
    history(third, 0).get_by_role("link", name="Set it up on the Models page").click()
    expect(row(third)).to_contain_text("needs key")
    assert server.asked == []

    ada, bob = pages.values()
    go(ada, "Models")
    row(ada).get_by_role("button", name="Set up").click()
    ada.get_by_role("button", name="Forget").click()
    expect(row(ada)).to_contain_text("needs key")
    go(bob, "Models")
    expect(row(bob)).to_contain_text("ready")
    bob.reload()
    expect(row(bob)).to_contain_text("needs key")
    for page in pages.values():
        assert not any(key in page.content() or key in page.url for key in KEYS.values())


def test_a_server_is_added_tested_picked_and_asked(
    app: App, server: scripted_server.Server, new_page: NewPage
) -> None:
    page = new_page()
    go(page, "Models")
    address = server.address.removesuffix("/v1")  # without what the list stands behind
    box(page, "Address").fill(address)
    box(page, "Key, where it wants one").fill(KEYS["Ada"])
    page.get_by_role("button", name="Test and add").click()
    own = re.sub(r"\W", "-", address.partition("//")[2].replace(".", "-"))
    added = row(page, own)
    expect(added).to_contain_text("lists 3 models")
    expect(added).to_contain_text("there and back")
    expect(box(page, "Address")).to_have_value("")
    drawn(page)
    added.get_by_role("combobox").click()
    page.keyboard.type("other")
    page.get_by_role("option", name="other").click()
    page.keyboard.press("Escape")
    added.get_by_role("button", name="Add").click()
    expect(added.get_by_test_id("stCode")).to_contain_text('served_as = "other"')
    expect(added.get_by_test_id("stCode")).not_to_contain_text(KEYS["Ada"])
    chat_with(page, own, "other@")
    ask_quickly(page, "Are you there?")
    expect(history(page, 1)).to_contain_text("Hello")
    asked = server.prompts[-1]
    assert asked.body["model"] == "other"
    assert asked.headers["authorization"] == f"Bearer {KEYS['Ada']}"

    other = new_page()
    go(other, "Models")
    expect(row(other)).to_be_visible()
    expect(row(other, own)).to_have_count(0)


def test_what_has_ended_is_greyed_out(new_page: NewPage) -> None:
    page = new_page()
    page.locator('[class*="st-key-picker_"] button:visible').click()
    page.get_by_label("Model", exact=True).fill("Phi-4 mini")  # the list draws what is in sight
    page.get_by_role("option", name="Phi-4 mini", exact=False).first.click()
    ended = page.get_by_role("button", name="GitHub Models")
    expect(ended).to_be_disabled()
    expect(page.get_by_text("retired on 2026-07-30")).to_be_visible()
    expect(page.get_by_role("button", name="Ollama")).to_be_enabled()  # nobody asked it yet


PROMPT = """
name: Poet
model: m
modelParameters:
  temperature: 0.75
  stop: ["END", "\\n\\n"]
messages:
  - role: system
    content: You write about {{topic}}.
  - role: user
    content: Who are you?
  - role: assistant
    content: A poet.
  - role: user
    content: A line on {{topic}}, please.
testData:
  - topic: rain
evaluators:
  - name: short
    string: {contains: rain}
"""


def test_an_old_prompt_file_is_looked_over_and_sent(
    server: scripted_server.Server, new_page: NewPage, tmp_path: Path
) -> None:
    page = new_page()
    go(page, "Models")
    type_key(page, KEYS["Bob"])
    go(page, "Chat")
    file = tmp_path / "poet.prompt.yml"
    file.write_text(PROMPT)
    page.get_by_role("button", name="Import").click()
    dialog = page.get_by_role("dialog")
    dialog.locator('input[type="file"]').set_input_files(file)
    expect(dialog.get_by_text("An evaluator was left out")).to_be_visible()
    expect(dialog.get_by_text("here, each is a line")).to_be_visible()
    expect(dialog.get_by_label("Prompt", exact=True)).to_have_value("A line on rain, please.")
    dialog.get_by_label("topic").fill("snow")
    dialog.get_by_label("topic").press("Enter")
    expect(dialog.get_by_label("Prompt", exact=True)).to_have_value("A line on snow, please.")
    dialog.get_by_role("button", name="Send").click()
    expect(history(page, 0)).to_contain_text("Hello")
    expect(history(page, 0)).to_contain_text("2 earlier messages")
    sent = server.prompts[-1].body
    assert [message["content"] for message in sent["messages"]] == [
        "You write about snow.",
        "Who are you?",
        "A poet.",
        "A line on snow, please.",
    ]
    assert (sent["temperature"], sent["stop"]) == (0.75, ["END"])
    open_gear(page)
    expect(box(page, "Temperature")).to_have_value("0.75")
    expect(box(page, "System prompt")).to_have_value("You write about snow.")
    expect(page).to_have_url(re.compile("temperature=0.75"))
    assert json.dumps(sent).count("rain") == 0
