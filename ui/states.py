"""How the state of a deployment or a server looks."""

from __future__ import annotations

COLOURS = {
    "loaded": "green",
    "ready": "green",
    "needs key": "orange",
    "rate limited": "orange",
    "not reachable": "red",
}


def badge(word: str, label: str = "") -> str:
    """Markdown of a badge; `label` is the word with its day or time, where it has one."""
    return f":{COLOURS.get(word, 'gray')}-badge[{label or word}]"
