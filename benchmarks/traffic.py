"""Bytes over the websocket for a reply of 1,000 and of 4,000 tokens.

Counted in Chromium, uncompressed, from Enter to the last drawing, for a scripted Markdown reply.
Wanted: a ratio of at most 4.5, that is, linear; a page that sends the whole text with each token
has about 16.
"""

from __future__ import annotations

from playwright.sync_api import Browser, WebSocket

from benchmarks.browser import app, ask, chromium, wait_until_answered

TOKENS = (1_000, 4_000)
RATE = 200


def measure(browser: Browser, address: str, tokens: int) -> tuple[int, int]:
    """(bytes, frames) of one reply."""
    sizes: list[int] = []

    def count(socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: sizes.append(len(frame)))

    page = browser.new_page()
    page.on("websocket", count)
    page.goto(f"{address}/chat?pane=fake@tokens={tokens},rate={RATE}&max_tokens={tokens}")
    page.get_by_test_id("stChatInputTextArea").wait_for()
    page.wait_for_timeout(1_000)
    sizes.clear()
    ask(page, "Go on")
    wait_until_answered(page)
    page.wait_for_timeout(1_000)
    page.close()
    return sum(sizes), len(sizes)


def main() -> None:
    with app() as address, chromium() as browser:
        measure(browser, address, 10)
        results = [measure(browser, address, tokens) for tokens in TOKENS]
    for tokens, (size, frames) in zip(TOKENS, results, strict=True):
        print(f"{tokens:5,} tokens: {size / 1e6:.3f} MB in {frames:,} frames", flush=True)
    print(f"ratio {results[1][0] / results[0][0]:.2f}", flush=True)


if __name__ == "__main__":
    main()
