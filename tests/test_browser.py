"""The playground in a real browser: the main path on real weights, the rest on scripted panes."""

from __future__ import annotations

import http.server
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from browsing import (
    PATIENCE,
    App,
    answered,
    ask,
    ask_quickly,
    box,
    caption,
    composer,
    history,
    line,
    open_gear,
    ready,
    reply,
    serving,
    stop_button,
    until_tokens,
)
from playwright.sync_api import Browser, BrowserContext, Page, expect

from benchmarks.browser import chromium
from ui.server import HEADERS

ONNX, OPENVINO = "smollm2-135m-instruct@onnx", "smollm2-135m-instruct@openvino"
ENDLESS = "fake@tokens=5000,rate=50"
ECHO = "fake@text=echo,rate=0"
FRANCE = "What is the capital of France?"
BUSY = 0.05  # of a core, also where others want it: a worker that waits takes next to nothing

pytestmark = pytest.mark.usefixtures("embedded")

NewPage = Callable[..., Page]


@pytest.fixture(scope="module")
def app(embedded: object) -> Iterator[App]:
    with serving() as app:
        yield app


@pytest.fixture(scope="module")
def expendable(embedded: object) -> Iterator[App]:
    """A second server, on which nobody has opened a page, and which may be killed."""
    with serving() as app:
        yield app


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def new_page(app: App, expendable: App, browser: Browser) -> Iterator[NewPage]:
    """Makes pages. Whatever a test does, they ask nobody but their own server, nothing is left for
    the security policy to block, and no script of theirs fails."""
    wrong: list[str] = []
    requests: list[str] = []
    asked_of = (f"{app.url}/", f"{expendable.url}/")
    with ExitStack() as stack:

        def watch(context: BrowserContext) -> None:
            stack.callback(context.close)
            context.set_default_timeout(PATIENCE)
            context.on("request", lambda request: requests.append(request.url))
            context.on("console", lambda said: wrong.append(said.text) if _bad(said.text) else None)
            context.on("weberror", lambda error: wrong.append(str(error.error)))
            context.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))

        def make(address: str = "", **options: object) -> Page:
            options = {"viewport": {"width": 1440, "height": 900}} | options
            context = browser.new_context(**options)  # type: ignore[arg-type]
            watch(context)
            page = context.new_page()
            if address:
                page.goto(address)
                ready(page)
            return page

        yield make
    assert not wrong
    assert requests
    others = [url for url in requests if not url.startswith((*asked_of, "data:", "blob:"))]
    assert not others


def _bad(said: str) -> bool:
    return "Content Security Policy" in said or "Content-Security-Policy" in said


# --- opening --------------------------------------------------------------------------------------


def whole(page: Page) -> None:
    ready(page)
    assert page.title() == "Chat · SLM playground"
    assert page.get_by_text("Page not found").count() == 0
    assert page.locator('[class*="st-key-history_"]:visible').count() == 2
    assert page.locator('[class*="st-key-start_"]:visible').count() == 4
    assert page.locator('[class*="st-key-picker_"] button:visible').count() == 2
    icon = page.evaluate("() => document.querySelector('link[rel*=icon]').href")
    assert icon.startswith(("data:image/svg", page.url.split("/chat")[0]))


def test_a_fresh_server_opens_at_its_root(app: App, new_page: NewPage) -> None:
    page = new_page()
    page.goto(app.url + "/")
    whole(page)
    assert page.url == f"{app.url}/chat"


def test_a_fresh_server_opens_at_a_pages_own_address(expendable: App, new_page: NewPage) -> None:
    page = new_page()
    page.goto(expendable.url + "/chat?temperature=0.9")
    whole(page)
    assert "temperature=0.9" in page.url
    page.goto(expendable.url + "/?temperature=0.8")  # the root passes a link on
    whole(page)
    assert page.url == f"{expendable.url}/chat?temperature=0.8"


def test_every_answer_has_the_security_headers(app: App) -> None:
    for path in ("/", "/chat", "/_stcore/health", "/no-such-thing"):
        with urllib.request.urlopen(app.url + path) as answer:
            for name, value in HEADERS.items():
                assert answer.headers[name.decode()] == value.decode(), path


# --- the main path, on real weights ---------------------------------------------------------------


def test_two_runtimes_answer_and_a_reload_keeps_the_link(app: App, new_page: NewPage) -> None:
    page = new_page(app.link(temperature=0, max_tokens=40))
    ask(page, FRANCE)
    answered(page)
    for place in (0, 1):
        assert "Paris" in reply(page, place).inner_text()
        numbers = line(page, place)
        assert re.search(r"\d+ tokens · .*[\d.]+ tok/s.* · .*first token [\d.]+ m?s", numbers)
        assert numbers.endswith("stop")
    lines = line(page, 0) + line(page, 1)
    assert lines.count("★") == 2  # speed and first token, each best somewhere
    page.reload()
    ready(page)
    assert "temperature=0" in page.url
    assert history(page, 0).get_by_test_id("stChatMessage").count() == 0
    open_gear(page)
    expect(box(page, "Max tokens")).to_have_value("40")
    expect(box(page, "Temperature")).to_have_value(re.compile(r"^0(\.0+)?$"))


def test_a_killed_worker_fails_its_pane_alone_and_comes_back(app: App, new_page: NewPage) -> None:
    page = new_page(app.link(ONNX, ENDLESS, temperature=0, max_tokens=4000))
    ask(page, "Write a poem about the sea.")
    until_tokens(page, 0, 5)
    app.workers()[ONNX].send_signal(signal.SIGKILL)
    error = page.locator('[class*="st-key-error_"]:visible')
    error.wait_for()
    assert f"The process that held {ONNX} ended unexpectedly (signal 9)." in error.inner_text()
    assert "Broke off" in error.inner_text()
    open_gear(page)
    box(page, "Max tokens").fill("20")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Retry").click()
    error.wait_for(state="detached")
    until_tokens(page, 0, 20)
    assert stop_button(page).count() == 1  # the other went on all the time
    stop_button(page).click()
    answered(page)
    assert line(page, 0).startswith("20 tokens")
    assert line(page, 0).endswith("length")
    assert line(page, 1).endswith("stopped")
    assert history(page, 1).get_by_test_id("stChatMessage").count() == 2


def busy_for(app: App, deployment: str, seconds: float = 0.5) -> float:
    """Share of one core that the worker used in the last `seconds`."""
    worker = app.workers()[deployment]
    worker.cpu_percent()
    time.sleep(seconds)
    return float(worker.cpu_percent()) / 100


def test_a_closed_tab_frees_the_model(app: App, new_page: NewPage) -> None:
    page = new_page(app.link(ONNX, temperature=0, max_tokens=4000))
    ask(page, "Write a poem about the sea.")
    until_tokens(page, 0, 50)
    assert busy_for(app, ONNX) > BUSY
    assert "tokens" in line(page, 0)
    page.close()
    closed = time.monotonic()
    while busy_for(app, ONNX) > BUSY:
        assert time.monotonic() < closed + 10, "it still computes"  # all tokens take longer


def test_an_app_that_is_killed_takes_its_workers_along(expendable: App, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(expendable.link(ONNX, temperature=0, max_tokens=4000))
    ready(page)
    ask(page, "Write a poem about the sea.")
    until_tokens(page, 0, 5)
    workers = list(expendable.workers().values())
    assert len(workers) == 1
    expendable.process.kill()
    expendable.process.wait()
    for worker in workers:
        worker.wait(20)  # raises when it is still there
    page.close()


# --- stop, go on ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stop_keeps_what_has_come(way: str, app: App, new_page: NewPage) -> None:
    page = new_page(app.link(ENDLESS, "fake@tokens=5000,rate=30"))
    ask(page, "Hello")
    for place in (0, 1):
        until_tokens(page, place, 25)
    if way == "button":
        stop_button(page).click()
    else:
        page.keyboard.press("Escape")
    answered(page)
    texts = [reply(page, place).inner_text() for place in (0, 1)]
    for place in (0, 1):
        assert line(page, place).endswith("stopped")
        assert "long enough to fill more than one line" in texts[place]
    page.wait_for_timeout(500)
    assert [reply(page, place).inner_text() for place in (0, 1)] == texts
    ask(page, "And now?")
    stop_button(page).click()
    answered(page)
    assert history(page, 0).get_by_test_id("stChatMessage").count() == 4


def test_a_parameter_changed_while_streaming_stops_nothing(app: App, new_page: NewPage) -> None:
    page = new_page(app.link("fake@tokens=100,rate=40", ENDLESS))
    ask(page, "Hello")
    until_tokens(page, 0, 5)
    open_gear(page)
    box(page, "Temperature").fill("0.9")
    page.keyboard.press("Enter")
    box(page, "System prompt").fill("Be brief.")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**temperature=0.9**")
    expect(caption(page, 0)).to_have_text(re.compile(r"^100 tokens.*stop$", re.DOTALL))
    expect(caption(page, 1)).not_to_have_text(line(page, 1))  # it grows
    page.keyboard.press("Escape")
    stop_button(page).click()
    answered(page)
    page.get_by_text("Code", exact=True).click()  # a rerun: the values are still there
    page.get_by_role("radio", name="Chat").click()
    open_gear(page)
    expect(box(page, "Temperature")).to_have_value("0.90")
    expect(box(page, "System prompt")).to_have_value("Be brief.")


def test_retry_in_one_pane_leaves_the_other_running(app: App, new_page: NewPage) -> None:
    page = new_page(app.link("fake@tokens=9,rate=50,fail=3", "fake@tokens=160,rate=40"))
    ask(page, "Hello")
    for _ in range(2):
        retry = page.get_by_role("button", name="Retry")
        retry.wait_for()
        assert "as it was told to" in reply(page, 0).inner_text()
        assert stop_button(page).count() == 1  # the other still streams
        retry.click()
        page.wait_for_timeout(300)
    answered(page)
    assert line(page, 1).startswith("160 tokens")
    assert line(page, 1).endswith("stop")
    assert line(page, 0).endswith("error")


# --- what else is on the page ---------------------------------------------------------------------


def test_a_starter_prompt_is_asked(app: App, new_page: NewPage) -> None:
    page = new_page(app.link(ECHO, ECHO))
    page.locator('[class*="st-key-start_"] button:visible').nth(2).click()
    reply(page, 1).get_by_text("tok/s").wait_for()
    answered(page)
    prompt = history(page, 0).get_by_test_id("stChatMessage").first.locator("p").inner_text()
    assert len(prompt) > 20
    assert prompt in reply(page, 0).inner_text()
    assert page.locator('[class*="st-key-start_"]:visible').count() == 0


def test_panes_are_added_and_closed_and_stay_in_the_link(app: App, new_page: NewPage) -> None:
    page = new_page(app.link(ECHO))
    page.locator(".st-key-add button:visible").click()
    page.locator('[class*="st-key-history_"]:visible').nth(1).wait_for()
    page.wait_for_url(f"**pane={ONNX.replace('@', '%40')}**")
    open_gear(page)
    box(page, "Top K").fill("40")
    page.keyboard.press("Enter")
    page.wait_for_url("**top_k=40**")
    page.reload()
    ready(page)
    assert page.locator('[class*="st-key-history_"]:visible').count() == 2
    open_gear(page)
    expect(box(page, "Top K")).to_have_value("40")
    page.keyboard.press("Escape")
    page.locator('[class*="st-key-close_"] button:visible').first.click()
    page.locator('[class*="st-key-history_"]:visible').nth(1).wait_for(state="detached")
    assert "fake" not in page.url
    assert "top_k=40" in page.url


def test_a_link_without_sync_opens_the_same_comparison(app: App, new_page: NewPage) -> None:
    page = new_page(app.link(ECHO, ECHO, temperature=1.5))
    page.locator(".st-key-sync label:visible").click()
    open_gear(page, 1)
    box(page, "Temperature").fill("0.7")
    page.keyboard.press("Enter")
    page.wait_for_url("**temperature_2=0.7**")
    other = new_page(page.url)
    for place, temperature in enumerate(("1.50", "0.70")):
        open_gear(other, place)
        expect(box(other, "Temperature")).to_have_value(temperature)
        other.keyboard.press("Escape")
        box(other, "Temperature").wait_for(state="hidden")


def test_edit_sends_the_changed_prompt_to_all(app: App, new_page: NewPage) -> None:
    page = new_page(app.link(ECHO, ECHO))
    ask_quickly(page, "First words")
    ask_quickly(page, "Second words")
    history(page, 0).get_by_role("button", name="Edit").first.click()
    prompt = page.get_by_role("dialog").get_by_label("Prompt")
    expect(prompt).to_have_value("First words")
    prompt.fill("Other words")
    prompt.press("Control+Enter")
    page.get_by_role("dialog").get_by_role("button", name="Resend").click()
    page.get_by_role("dialog").wait_for(state="detached")
    for place in (0, 1):
        reply(page, place).get_by_text("Other words").wait_for()
        assert history(page, place).get_by_test_id("stChatMessage").count() == 2
    answered(page)


def test_copy_puts_the_reply_on_the_clipboard(app: App, new_page: NewPage) -> None:
    page = new_page(app.link(ECHO), permissions=["clipboard-read", "clipboard-write"])
    prompt = "**Bold** and `code`, <b>not HTML</b>, ![x](y), 中文 👩‍🚀"
    ask_quickly(page, prompt)
    reply(page, 0).get_by_role("button", name="Copy").click()
    reply(page, 0).get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("() => navigator.clipboard.readText()") == prompt


def test_two_tabs_at_once(app: App, new_page: NewPage) -> None:
    first = new_page(app.link("fake@tokens=120,rate=60"))
    second = new_page(app.link(ECHO, "fake@tokens=60,rate=40"))
    ask(first, "Hello")
    ask(second, "My own words")
    answered(second)
    answered(first)
    assert line(first, 0).startswith("120 tokens")
    assert line(second, 1).startswith("60 tokens")
    assert "My own words" in reply(second, 0).inner_text()
    assert "My own words" not in first.content()


def test_by_keyboard_alone(app: App, new_page: NewPage) -> None:
    page = new_page(app.link(ENDLESS, ENDLESS))
    for _ in range(40):
        page.keyboard.press("Tab")
        if composer(page).evaluate("box => box === document.activeElement"):
            break
    page.keyboard.type("Hello by keyboard")
    page.keyboard.press("Enter")
    stop_button(page).wait_for()
    until_tokens(page, 0, 5)
    page.keyboard.press("Escape")
    answered(page)
    assert line(page, 0).endswith("stopped")
    assert "Hello by keyboard" in history(page, 1).inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_fits_and_is_readable(width: int, scheme: str, app: App, new_page: NewPage) -> None:
    page = new_page(
        app.link("fake@tokens=90,rate=0", ECHO),
        viewport={"width": width, "height": 844},
        color_scheme=scheme,
        has_touch=width < 500,
    )
    ask_quickly(page, "A_word_that_is_longer_than_any_phone_is_wide_" * 3)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    sideways = page.evaluate(
        """() => [...document.querySelectorAll('.stMain, .stMain *')].filter(
            (box) => box.scrollWidth > box.clientWidth + 1 && box.clientWidth > 0
              && ['auto', 'scroll'].includes(getComputedStyle(box).overflowX)
              && !box.closest('pre, .stCode, table')).map((box) => box.className)"""
    )
    assert not sideways
    place = composer(page).bounding_box()
    assert place is not None
    assert place["x"] >= 0 and place["x"] + place["width"] <= width
    assert place["y"] + place["height"] <= 844
    assert place["width"] > width / 2
    background, text = page.evaluate(
        """() => [getComputedStyle(document.querySelector('.stApp')).backgroundColor,
                  getComputedStyle(document.querySelector('.stChatMessage p')).color]"""
    )
    lightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) / 3 for colour in (background, text)]
    if scheme == "light":
        assert lightness[0] > 200 and lightness[1] < 100
    else:
        assert lightness[0] < 60 and lightness[1] > 170


# --- what a model may not do ----------------------------------------------------------------------

ATTACKS = (
    "![leak]({url}/inline)",
    "![r][r] [![l]({url}/linked)]({url}/click)",
    "[r]: {url}/reference",
    "# Title ![h]({url}/heading)",
    "| a |\n|---|\n| ![t]({url}/table) |",
    "- ```\n  code\n  ```\n\n![f]({url}/list)",
    "a ` b\nc ` ![s]({url}/span) ` d",
    ":red[`] a ` b ` ![d]({url}/directive) `",
    "```mermaid\nflowchart TD\n  A@{{ img: '{url}/mermaid', w: 60, h: 60 }}\n```",
    "> ~~~mer&#109;aid\n> flowchart TD\n>   A@{{ img: '{url}/quoted', w: 60, h: 60 }}\n> ~~~",
    "<img src='{url}/html'><script>alert(1)</script><iframe src='{url}/frame'></iframe>",
    "[click](javascript:alert(1)) $\\includegraphics{{{url}/maths}}$",
)


@pytest.fixture(scope="module")
def attacker() -> Iterator[tuple[str, list[str]]]:
    """A web server of somebody else, and the paths that it was asked for."""
    asked: list[str] = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_what_a_model_writes_calls_nobody(
    app: App, new_page: NewPage, attacker: tuple[str, list[str]]
) -> None:
    """`new_page` fails the test for a request to another server, also one that was blocked."""
    url, asked = attacker
    page = new_page(app.link(ECHO, "fake@text=hostile,tokens=80,rate=0"))
    for attack in ("\n\n".join(ATTACKS), *ATTACKS):
        ask_quickly(page, attack.format(url=url))
    count = history(page, 0).get_by_test_id("stChatMessage").count()
    assert count == 2 * (1 + len(ATTACKS))
    page.wait_for_timeout(500)
    assert page.locator(".stChatMessage img:not([src^='data:'])").count() == 0
    assert page.locator(".stChatMessage svg[id*=mermaid]").count() == 0
    assert page.locator("a[href^='javascript']").count() == 0
    assert asked == []


def test_the_browser_blocks_what_the_renderer_would_miss(
    app: App, browser: Browser, attacker: tuple[str, list[str]]
) -> None:
    url, asked = attacker
    page = browser.new_page()
    blocked: list[str] = []
    page.on("console", lambda said: blocked.append(said.text) if _bad(said.text) else None)
    page.goto(app.link(ECHO))
    ready(page)
    page.evaluate("url => { document.body.append(Object.assign(new Image(), {src: url})) }", url)
    page.wait_for_timeout(300)
    page.close()
    assert blocked
    assert asked == []
    with pytest.raises(urllib.error.HTTPError):  # the listener does hear what comes
        urllib.request.urlopen(f"{url}/heard").close()
    assert asked == ["/heard"]
    asked.clear()
