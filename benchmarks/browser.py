"""The app in a process of its own, and a headless Chromium to drive it.

For benchmarks, screenshots and browser tests.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 60
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def serving() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """(the process, its address) of a fresh server, while it runs."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", "ui/server.py"]
        + [f"--server.port={port}", "--server.address=127.0.0.1"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{address}/_stcore/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, "the app has ended"
                assert time.monotonic() < deadline, "the app does not answer"
                time.sleep(0.05)
        yield process, address
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def app() -> Iterator[str]:
    """The app's address, while it runs."""
    with serving() as (_, address):
        yield address


@contextmanager
def chromium() -> Iterator[Browser]:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser
        browser.close()


def ask(page: Page, prompt: str) -> None:
    """Type a prompt and press Enter."""
    page.get_by_test_id("stChatInputTextArea").fill(prompt)
    page.keyboard.press("Enter")


def wait_until_answered(page: Page, seconds: float = 120) -> None:
    page.locator(".st-key-stop_all").wait_for(state="attached", timeout=15_000)
    page.locator(".st-key-stop_all").wait_for(state="detached", timeout=1_000 * seconds)
