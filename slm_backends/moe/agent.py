"""The lesson's agent: a model is told of two tools and answers with the steps it takes, in JSON.

Knows the prompt, how to find JSON in a reply, and what is wrong with it. Nothing is ever executed:
the tools exist in the prompt alone.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

TOOLS = ("Blog", "Translate")

PROMPT = """\
You are an assistant that solves a task in steps, with two tools:

- Blog: writes an article about a subject. Its input is the subject.
- Translate: translates a text. Its input is the text and the language to translate it into.

First decide which tools the task needs and in which order. Then carry out every step yourself, as \
the tool would: the output of a step may be the input of the next one.

Reply with a JSON array and nothing else. Each step is an object of it:

{"agentid": "step1", "tool_name": "Blog", "input": "...", "output": "..."}

Number the steps step1, step2 and so on. The last object holds the final result:

{"Result": "..."}
"""

QUESTION = "Write something about Generative AI with MOE, translate it to Chinese"

_FENCE = re.compile(r"```[\w-]*[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_FIELDS = ("agentid", "tool_name", "input", "output")
MOST = 50  # steps that are looked at, and problems that are listed


@dataclass(frozen=True)
class Answer:
    """What a reply holds.

    found     whether there is JSON in it at all
    content   the JSON, whatever it is
    problems  what keeps it from being an agent's answer, a sentence each
    """

    found: bool
    content: Any = None
    problems: tuple[str, ...] = ()


def read(text: str) -> Answer:
    """The first JSON in a reply that is an object or a list: in a fence or bare, with words around
    it or not."""
    content, cut = _json(text)
    if content is None:
        if cut:
            said = "The JSON ends in the middle: raise Max tokens and ask again."
        else:
            said = "There is no JSON in this reply."
        return Answer(False, None, (said,))
    return Answer(True, content, tuple(_problems(content)[:MOST]))


def _json(text: str) -> tuple[Any, bool]:
    """The JSON, or None, and whether one began that never ended."""
    cut = False
    decoder = json.JSONDecoder()
    for part in (*_FENCE.findall(text), text):
        # A bracket that opens no JSON may stand in a sentence before it; one that does comes early.
        for begin in re.finditer(r"[\[{]", part[:10_000]):
            try:
                content, _ = decoder.raw_decode(part, begin.start())
            except RecursionError:
                return None, False
            except ValueError as error:
                end = len(part.rstrip())
                cut = cut or getattr(error, "pos", 0) >= end or "Unterminated" in str(error)
                if cut:  # what is inside of it is a part of an answer only
                    break
                continue
            if content:
                return content, False
    return None, cut


def _problems(content: Any) -> list[str]:
    if not isinstance(content, list):
        return [f"The reply is {_kind(content)}, not a list of steps."]
    found: list[str] = []
    steps = content[:MOST]
    results = [step for step in steps if isinstance(step, dict) and "Result" in step]
    number = 0
    for place, step in enumerate(steps, 1):
        if not isinstance(step, dict):
            found.append(f"Entry {place} is {_kind(step)}, not a step.")
            continue
        if "Result" in step and "tool_name" not in step:
            continue
        number += 1
        found += _of_step(number, step)
    if not number:
        found.append("There is no step.")
    if not results:
        found.append("There is no final Result.")
    elif "Result" not in (steps[-1] if isinstance(steps[-1], dict) else {}):
        found.append("The Result is not the last entry.")
    elif not isinstance(results[-1]["Result"], str) or not results[-1]["Result"].strip():
        found.append("The Result is empty, or no text.")
    return found


def _of_step(number: int, step: dict[str, Any]) -> list[str]:
    found = [f"Step {number} has no {name}." for name in _FIELDS if name not in step]
    if (given := step.get("agentid", f"step{number}")) != f"step{number}":
        found.append(f"Step {number} is called {_short(given)}, not step{number}.")
    tool = step.get("tool_name", TOOLS[0])
    if tool not in TOOLS:
        found.append(f"Step {number} uses {_short(tool)}, which is none of {' and '.join(TOOLS)}.")
    for name in ("input", "output"):
        if name in step and (not isinstance(step[name], (str, dict)) or not step[name]):
            found.append(f"The {name} of step {number} is empty, or no text.")
    return found


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return "a text" if isinstance(value, str) else "a single value"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"
