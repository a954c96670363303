"""The app in a process of its own and a headless Chromium, for browser tests."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlencode

import psutil
from playwright.sync_api import Locator, Page, expect

from benchmarks import browser

PATIENCE = 120_000  # milliseconds

# What a browser shows comes a moment after the script that drew it: look until it is there.
expect.set_options(timeout=PATIENCE)


@dataclass
class App:
    process: subprocess.Popen[bytes]
    url: str

    def link(self, *panes: str, **parameters: object) -> str:
        asked = [*(("pane", pane) for pane in panes), *parameters.items()]
        return f"{self.url}/chat?{urlencode(asked)}" if asked else f"{self.url}/chat"

    def workers(self) -> dict[str, psutil.Process]:
        """The processes that hold models now, by deployment."""
        found = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                command = child.cmdline()
            except psutil.NoSuchProcess:
                continue
            if "slm_backends.worker" in command:
                found[command[command.index("slm_backends.worker") + 1]] = child
        return found


@contextmanager
def serving() -> Iterator[App]:
    """A fresh server: nobody has asked it anything but whether it is up."""
    with browser.serving() as (process, url):
        yield App(process, url)


def composer(page: Page) -> Locator:
    return page.get_by_test_id("stChatInputTextArea")


def ready(page: Page) -> None:
    """Wait until a prompt can be typed."""
    composer(page).and_(page.locator(":enabled")).wait_for(timeout=PATIENCE)


def ask(page: Page, prompt: str) -> None:
    """Type a prompt and press Enter; returns when the panes have begun."""
    composer(page).fill(prompt)
    composer(page).press("Enter")
    stop_button(page).wait_for(timeout=PATIENCE)


def stop_button(page: Page) -> Locator:
    return page.locator(".st-key-stop_all button:visible")


def answered(page: Page) -> None:
    """Wait until no pane runs any more and the page was drawn as a whole."""
    stop_button(page).wait_for(state="detached", timeout=PATIENCE)
    ready(page)


def history(page: Page, place: int) -> Locator:
    """The conversation in the pane of that place, from 0."""
    return page.locator('[class*="st-key-history_"]:visible').nth(place)


def reply(page: Page, place: int) -> Locator:
    """The last reply in a pane, with its numbers and buttons."""
    return history(page, place).get_by_test_id("stChatMessage").last


def caption(page: Page, place: int) -> Locator:
    """The numbers under the last reply in a pane."""
    return reply(page, place).get_by_test_id("stCaptionContainer").last


def line(page: Page, place: int) -> str:
    """What they say now."""
    return caption(page, place).inner_text()


def until_tokens(page: Page, place: int, count: int) -> None:
    """Wait until the last reply in a pane has so many tokens."""
    deadline = time.monotonic() + PATIENCE / 1000
    while True:
        found = re.match(r"([\d,]+) tokens", line(page, place))
        if found and int(found[1].replace(",", "")) >= count:
            return
        assert time.monotonic() < deadline, reply(page, place).inner_text()
        time.sleep(0.05)


def ask_quickly(page: Page, prompt: str) -> None:
    """Ask panes that may have answered before a Stop button could be seen, and wait for them."""
    before = history(page, 0).get_by_test_id("stChatMessage").count()
    composer(page).fill(prompt)
    composer(page).press("Enter")
    history(page, 0).get_by_test_id("stChatMessage").nth(before + 1).wait_for()
    answered(page)


def box(page: Page, label: str) -> Locator:
    """The box of a parameter in the popover that is open."""
    return page.get_by_label(label, exact=True).and_(
        page.locator("input:visible, textarea:visible")
    )


def open_gear(page: Page, place: int = 0) -> None:
    page.locator('[class*="st-key-gear"] button:visible').nth(place).click()
    box(page, "Temperature").wait_for()
