"""A key that is easily recognised, and where to look for it: planted by tests."""

from __future__ import annotations

import base64
import traceback
import urllib.parse

KEY = "sk-planted+7f3a9c/very=secret"  # with characters that other notations change


def found(text: str) -> list[str]:
    """The notations in which the text has the key."""
    notations = {
        "as it is": KEY,
        "in a URL": urllib.parse.quote(KEY, safe=""),
        "in a form": urllib.parse.quote_plus(KEY),
        "in hexadecimal": KEY.encode().hex(),
    } | {
        # In Base64 the neighbours of a text decide on its first and last characters.
        f"in Base64, from {offset}": base64.b64encode(b" " * offset + KEY.encode())[4:-4].decode()
        for offset in range(3)
    }
    return [name for name, written in notations.items() if written in text]


def told(error: BaseException) -> str:
    """Its traceback with the variables of each frame, without those of the test that caught it."""
    frames = error.__traceback__ and error.__traceback__.tb_next
    lines = traceback.TracebackException(type(error), error, frames, capture_locals=True).format()
    return "".join(lines)
