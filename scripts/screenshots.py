"""Make the pictures of the documentation from the app as it is, with the embedded model.

    python -m scripts.screenshots              docs/chat.png, and one of each other page
    python -m scripts.screenshots --all DIR    also phone and dark variants, into DIR

Needs what the browser tests need: requirements-dev.txt and a Chromium ($CHROMIUM).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from playwright.sync_api import Browser, Page

from benchmarks.browser import app, ask, chromium, wait_until_answered

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "What is photosynthesis? Answer in two sentences."
PARAMETERS = "temperature=0&max_tokens=150"
DESKTOP = (1440, 900)
PHONE = (390, 844)


def picture(browser: Browser, address: str, file: Path, size: tuple[int, int], scheme: str) -> None:
    """The Chat page, and beside it, as vision-*, multilingual-*, moe-* and models-*, the other
    pages; the last with what these have loaded."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    page = context.new_page()
    chat(page, address)
    save(page, file)
    page.goto(f"{address}/vision?temperature_vision=0")
    page.get_by_role("button", name="Chart to table").click()
    wait_until_answered(page)
    page.wait_for_timeout(1_000)
    save(page, file.with_name(file.name.replace("chat", "vision")))
    multilingual(page, address)
    save(page, file.with_name(file.name.replace("chat", "multilingual")))
    experts(page, address)
    save(page, file.with_name(file.name.replace("chat", "moe")))
    page.goto(f"{address}/models")
    page.get_by_role("button", name="Unload").first.wait_for()
    page.wait_for_timeout(1_500)
    save(page, file.with_name(file.name.replace("chat", "models")))
    context.close()


def chat(page: Page, address: str) -> None:
    """Ask once to load the models, then again, so that the numbers are those of every day."""
    page.goto(f"{address}/chat?{PARAMETERS}")
    page.get_by_test_id("stChatInputTextArea").wait_for()
    for again in (False, True):
        if again:
            page.locator(".st-key-clear button:visible").click()
            page.locator(".stChatMessage").first.wait_for(state="detached")
        ask(page, PROMPT)
        wait_until_answered(page)
        page.wait_for_timeout(500)


def multilingual(page: Page, address: str) -> None:
    """The embedded model on two runtimes, asked in a few languages."""
    page.goto(f"{address}/multilingual?max_tokens_multilingual=60")
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_role("button", name="Run this again").wait_for(timeout=120_000)
    page.wait_for_timeout(1_000)


def experts(page: Page, address: str) -> None:
    """A sum by the mixture that comes with the playground, one of its tokens opened."""
    page.goto(f"{address}/moe?temperature_moe=0")
    page.get_by_role("button", name="A sum", exact=True).click()
    stop = page.locator(".st-key-moe_stop")
    stop.wait_for(state="attached")
    stop.wait_for(state="detached", timeout=120_000)
    page.locator(".moe-token").nth(12).click()
    page.locator(".moe-bars").evaluate("bars => bars.scrollIntoView({block: 'end'})")


def save(page: Page, file: Path) -> None:
    page.mouse.move(0, 0)
    page.evaluate("() => document.activeElement.blur()")
    page.wait_for_timeout(500)
    file.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=file)
    print(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", type=Path, metavar="DIR", help="phone and dark variants too")
    folder = parser.parse_args().all
    with app() as address, chromium() as browser:
        picture(browser, address, ROOT / "docs" / "chat.png", DESKTOP, "light")
        if folder is not None:
            for scheme in ("light", "dark"):
                for name, size in (("desktop", DESKTOP), ("phone", PHONE)):
                    picture(browser, address, folder / f"chat-{name}-{scheme}.png", size, scheme)


if __name__ == "__main__":
    main()
