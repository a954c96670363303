"""The lesson's agent: a model is told of two tools and answers with the steps it takes, in JSON.

Knows the prompt, how to find JSON in a reply, and what is wrong with it. Nothing is ever executed:
the tools exist in the prompt alone.
"""

from __future__ import annotations

import contextlib
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

_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL | re.IGNORECASE)
#: Where a reply opens JSON: a bracket in a sentence, as in "[1]" or "{so}", opens none.
_OPENS = re.compile(r"\[\s*(?=[\[{\"])|\{\s*(?=\")")
_LAST = 6  # characters of the longest that cannot be read in part: an escape such as \u4e13
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
    """The JSON of a reply, an object or a list, in a fence or bare: the first that opens as one of
    objects, lists or texts does, where the reply holds other words too.

    JSON that is cut short or broken is not shown in parts: they would pass for the whole.
    """
    problem = "There is no JSON in this reply."
    for part in (*_FENCE.findall(text), text):
        try:
            content = _parsed(part.strip())
        except json.JSONDecodeError as error:
            problem = _broken(error)
        except (ValueError, RecursionError):
            problem = (
                "The JSON cannot be read: it is nested too deep, or holds a number that is none, "
                "such as NaN."
            )
        else:
            if content is not None:
                return Answer(True, content, tuple(_problems(content)[:MOST]))
    return Answer(False, None, (problem,))


def _parsed(text: str) -> Any:
    """None where no JSON begins. Raises ValueError or RecursionError where one does, but fails."""
    with contextlib.suppress(ValueError, RecursionError):
        whole = _DECODER.decode(text)
        if isinstance(whole, (dict, list)):
            return whole
    opened = _OPENS.search(text)
    return _DECODER.raw_decode(text, opened.start())[0] if opened else None


def _broken(error: json.JSONDecodeError) -> str:
    """What is wrong in words. JSON that is cut short fails at its end, or in its last word."""
    left = error.doc[error.pos :]
    if error.msg.startswith("Unterminated") or (len(left) <= _LAST and left[-1:] not in ("]", "}")):
        return "The JSON ends in the middle: raise Max tokens and ask again."
    said = error.msg.removesuffix(" at")
    return f"The JSON is broken: line {error.lineno}, column {error.colno}: {said}."


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


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
