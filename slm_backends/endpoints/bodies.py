"""What servers put into the body of an error: their words, a code, the field that is wrong.

Knows where OpenAI, Azure, NVIDIA, vLLM, Ollama and whatever is made with pydantic put them. Does
not know what follows from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MAX_ERROR = 500  # characters of a server's own words: some send a page
MAX_NAME = 100  # characters of a name that a server gives
MAX_LAYERS = 4  # of objects in one another that are looked into

#: What web servers say to those who forget the s of https, mostly on a page.
PLAIN_ON_TLS = r"HTTP request (was sent )?to (an )?HTTPS (port|server)"


def _layers(sent: Any) -> tuple[list[Mapping[str, Any]], Any]:
    """(the objects in one another that describe the error, the outermost first; the list or text in
    the innermost)"""
    layers: list[Mapping[str, Any]] = []
    while isinstance(sent, dict) and len(layers) < MAX_LAYERS:
        layers.append(sent)
        inner = [sent.get(name) for name in ("error", "detail", "message")]
        nested = [value for value in inner if value and isinstance(value, (dict, list))]
        told = [value for value in reversed(inner) if value and isinstance(value, str)]
        sent = (nested + told + [None])[0]
    return layers, sent


def detail(sent: Any) -> Mapping[str, Any]:
    """The object with `message`, `code` and the like, where different servers put it."""
    layers, innermost = _layers(sent)
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= {name: value for name, value in layer.items() if value is not None}
    if isinstance(innermost, str):
        # Neither a web page nor half of an object says anything to a person.
        readable = layers or not re.match(r"\s*[<{[]", innermost)
        found = re.search(PLAIN_ON_TLS, innermost)
        merged["message"] = innermost if readable else f"A plain {found.group()}." if found else ""
    return merged


def problem(sent: Any) -> tuple[str, str]:
    """(the field that is wrong, what is wrong with it) where a server lists that as pydantic does,
    which names where each mistake is in `loc`; empty where it does not."""
    layers, innermost = _layers(sent)
    for entry in [*layers, *(innermost if isinstance(innermost, list) else ())]:
        place = entry.get("loc") if isinstance(entry, dict) else None
        for name in place if isinstance(place, list) else ():
            if isinstance(name, str) and name not in ("body", "query"):
                return plain(name)[:MAX_NAME], plain(entry.get("msg"))
    # vLLM puts the list into its sentence, as Python shows it.
    text = innermost if isinstance(innermost, str) else ""
    field = re.search(r"'loc': \('body', '(\w+)'", text)
    words = re.search(r"'msg': '([^']*)'", text)
    return (field.group(1), words.group(1)) if field and words else ("", "")


def plain(words: Any) -> str:
    """The words on one line, without control characters, not longer than MAX_ERROR."""
    text = words[: 4 * MAX_ERROR] if isinstance(words, str) else ""
    text = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(text.split())[:MAX_ERROR]


def count(value: Any) -> int | None:
    return value if isinstance(value, int) else None
