"""Cells of the grid as plain data: which language a reply is in, its text, its numbers.

Pure functions, that know questions, cells and replies. A text goes with its language and direction,
so that a browser takes the right font, breaks lines where they may be broken and sets it from the
right. `passage` is the one place where a text of a model becomes HTML: all of it is escaped.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from slm_backends.export import seconds
from slm_backends.multilingual import scores
from slm_backends.multilingual.fidelity import Fidelity, fidelity
from slm_backends.multilingual.languages import LANGUAGES
from slm_backends.multilingual.plan import Question
from slm_backends.multilingual.results import Cell
from slm_backends.run import Reply

#: badge -> (a sign, a word): never colour alone
BADGES = {
    "right": ("✓", "right language"),
    "mixed": ("◐", "mixed"),
    "english": ("✗", "English"),
    "other": ("✗", "other language"),
    "unclear": ("?", "unclear"),
    "failed": ("!", "no answer"),
    "running": ("…", "answering"),
    "waiting": ("·", "waiting"),
}
WRONG = frozenset({"mixed", "english", "other"})
SHOWN = 300  # characters of a reply in the grid
_STATES = {"queued": "waiting for its turn", "loading": "loading", "prefill": "reading the prompt"}


@dataclass(frozen=True)
class Asked:
    """A question and what there is of its reply: a cell that has ended, or one that grows."""

    question: Question
    cell: Cell | None = None
    live: Reply | None = None

    @property
    def found(self) -> Fidelity | None:
        """In what language its reply is; None without a whole reply."""
        if self.live is not None or self.cell is None or not self.cell.done:
            return None
        return fidelity(self.cell.text, self.question.expected)

    @property
    def badge(self) -> str:
        """A key of BADGES."""
        if self.live is not None:
            return "running"
        if self.cell is None:
            return "waiting"
        found = self.found
        return found.badge if found is not None else "failed"


def cell(asked: Sequence[Asked], name: str, who: str, texts: bool) -> dict[str, Any]:
    """What the grid draws of a language and a deployment: the badge of its reply, or how many there
    are of each, and the latest reply.

    name   of the cell, for who cannot see where it stands
    who    the deployment, shown where a narrow screen has no columns
    texts  whether the reply is shown too
    """
    kinds = Counter(item.badge for item in asked)
    badges = [
        {"kind": kind, "sign": sign, "words": f"{kinds[kind]} {word}" if len(asked) > 1 else word}
        for kind, (sign, word) in BADGES.items()
        if kinds[kind]
    ]
    drawn: dict[str, Any] = {"name": name, "who": who, "badges": badges}
    latest = _latest(asked)
    if texts and latest is not None:
        drawn |= _shown(latest)
    return drawn


def told(code: str) -> dict[str, str]:
    """`lang` and `dir` of a text in that language; where it is not known, a browser shall look."""
    known = LANGUAGES.get(code)
    if known is None:
        return {"lang": "", "dir": "auto"}
    return {"lang": known.code, "dir": "rtl" if known.right_to_left else "ltr"}


def passage(text: str, code: str) -> str:
    """A whole text as HTML; `code` is its language, empty where that is not known."""
    return _block(html.escape(text), code)


def marked(parts: Iterable[tuple[str, str]], code: str, tag: str) -> str:
    """One of two texts as HTML; of its parts, (kind, text) as of `wording.diff`, those that the
    other does not have stand in elements of that tag."""
    drawn = (
        html.escape(text) if kind == "same" or not text else f"<{tag}>{html.escape(text)}</{tag}>"
        for kind, text in parts
    )
    return _block("".join(drawn), code)


def _block(content: str, code: str) -> str:
    said = " ".join(f'{name}="{value}"' for name, value in told(code).items())
    return f'<div class="ml-whole" {said}>{content}</div>'


def badge(kind: str) -> str:
    """As HTML."""
    sign, word = BADGES[kind]
    mark = f'<span aria-hidden="true">{sign}</span>'
    return f'<span class="ml-badge ml-{kind}">{mark} {word}</span>'


def numbers(question: Question, found: Cell) -> str:
    """In a line: those that are known, and what should be looked at."""
    tokens, speed = found.completion_tokens, found.tokens_per_second
    score = scores.score(question, found)
    parts = [
        "" if tokens is None else f"{tokens:,} tokens",
        "" if speed is None else f"{speed:.1f} tok/s",
        "" if found.wait_s is None else f"first token {seconds(found.wait_s)}",
        {True: "right number", False: "wrong number", None: ""}[score.correct],
        *score.flags,
    ]
    return " · ".join(filter(None, parts))


def _latest(asked: Sequence[Asked]) -> Asked | None:
    """Of several, one that grows, or else the last that ended."""
    growing = [item for item in asked if item.live is not None]
    ended = [item for item in asked if item.cell is not None]
    return next(iter(growing or ended[-1:]), None)


def _shown(latest: Asked) -> dict[str, str]:
    found = latest.found
    if (reply := latest.live) is not None:
        state = reply.queue_reason or reply.load_step or _STATES.get(reply.state, "")
        below = "" if reply.text else f"{state} · {reply.total_s:.0f} s"
        likely = told(latest.question.expected) | {"dir": "auto"}
        return {"text": _short(reply.text), "below": below, **likely}
    assert latest.cell is not None
    return {
        "text": _short(latest.cell.text),
        "below": latest.cell.error or numbers(latest.question, latest.cell),
        **told(found.language if found is not None else ""),
    }


def _short(text: str) -> str:
    """Its beginning, without empty lines."""
    text = re.sub(r"\n\s*\n", "\n", text.strip())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
