"""From Enter to the first character on screen, against the model's own first token.

Headless Chromium, the embedded model loaded, one pane. The page's clock runs from the key press to
the first change of the reply's text; the model's time is the one that the page shows.
Wanted: at most 250 ms more than the first token.
"""

from __future__ import annotations

import re
import statistics

from playwright.sync_api import Page

from benchmarks.browser import app, ask, chromium, wait_until_answered

ROUNDS = 9
DEPLOYMENTS = ("smollm2-135m-instruct@onnx", "smollm2-135m-instruct@openvino")

_WATCH = """() => {
  window.pressed = null; window.appeared = null;
  const before = document.querySelectorAll('[class*="st-key-reply_"]').length;
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && window.pressed === null) window.pressed = performance.now();
  }, true);
  new MutationObserver((_, observer) => {
    const replies = document.querySelectorAll('[class*="st-key-reply_"]');
    const last = replies[replies.length - 1];
    if (last && window.pressed !== null && last.textContent.trim()) {
      window.appeared = performance.now();
      observer.disconnect();
    }
  }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


def measure(page: Page) -> tuple[float, float]:
    """(milliseconds from Enter to the first character, the model's own to its first token)."""
    page.locator(".st-key-clear button:visible").click()
    page.locator('[class*="st-key-reply_"], .stChatMessage').first.wait_for(state="detached")
    page.evaluate(_WATCH)
    ask(page, "Name three colours.")
    wait_until_answered(page)
    page.get_by_text("first token").wait_for()
    shown = page.get_by_text("first token").inner_text()
    found = re.search(r"first token ([\d.]+) (ms|s)", shown)
    assert found is not None, shown
    own = float(found[1]) * (1 if found[2] == "ms" else 1_000)
    return page.evaluate("() => window.appeared - window.pressed"), own


def main() -> None:
    with app() as address, chromium() as browser:
        for deployment in DEPLOYMENTS:
            page = browser.new_page()
            page.goto(f"{address}/chat?pane={deployment}&max_tokens=40&temperature=0")
            page.get_by_test_id("stChatInputTextArea").wait_for()
            page.wait_for_timeout(500)
            ask(page, "Hello")  # loads the model
            wait_until_answered(page)
            pairs = [measure(page) for _ in range(ROUNDS)]
            page.close()
            screen, own = (statistics.median(pair[index] for pair in pairs) for index in (0, 1))
            more = statistics.median(pair[0] - pair[1] for pair in pairs)
            print(
                f"{deployment:34} on screen after {screen:.0f} ms, the model's first token "
                f"{own:.0f} ms: {more:+.0f} ms (medians of {ROUNDS})",
                flush=True,
            )


if __name__ == "__main__":
    main()
