"""What can be told of a reply's wording without a reference: repetition; and two side by side.

Knows texts. Knows no question, no deployment and no measure of quality.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from slm_backends.multilingual import identify

Part = tuple[str, str, str]  # "same", "changed", "left out" or "added"; of the first, of the second

#: Scripts that are written without spaces between words.
_UNSPACED = ("Hani", "Hira", "Kana", "Thai", "Laoo", "Khmr", "Mymr")
_WORDS = 4  # in a row that a text may repeat
_CHARACTERS = 8  # in a row, where words have no spaces between them
_FEWEST = 12  # n-grams from which a share says anything
_REPEATS = 0.3  # share of n-grams seen before, from which a text repeats itself
_LETTER = re.compile(r"[^\W_]")  # or digit: lines of a table are no words
_STUTTER = re.compile(r"([^\W\d_]{1,8}?)\1{9,}")  # ten times the same letters without a gap

_MARKS = (
    "!-/:-@\\[-`{-~\u00a1\u00ab\u00bb\u00bf\u060c\u061b\u061f\u0964"
    "\u2010-\u2027\u3000-\u301f\uff00-\uff0f"
)
#: Words are what is left between spaces and marks: vowel signs are no letters to \\w.
_PIECES = re.compile(rf"\s+|[^\s{_MARKS}]+|.", re.DOTALL)
MAX_PIECES = 2_000  # of a text; past it lines are compared, as time grows with the square
_KINDS = {"equal": "same", "replace": "changed", "delete": "left out", "insert": "added"}


def spaced(text: str) -> bool:
    """Whether most of a text is in a script with spaces between words."""
    return identify.script_of(text) not in _UNSPACED


def repetition(text: str) -> float:
    """The share of its n-grams that the text had before: 1 - different / all, 0 to 1.

    seq-rep-4 of Welleck et al. 2020 (arXiv 1908.04319, section 6) over words where these have
    spaces between them, else over 8 characters. 0 for a text of a few words.
    """
    grams = _grams(text)
    return 1 - len(set(grams)) / len(grams) if len(grams) >= _FEWEST else 0.0


def echoes(text: str, prompt: str) -> bool:
    """Whether half of a text's n-grams, those of `repetition`, or more stand in its prompt. One
    sentence of a long prompt is a summary, and no echo: a text has to be half as long."""
    if 2 * len(text) < len(prompt):
        return False
    grams, given = _grams(text), set(_grams(prompt))
    return bool(grams) and 2 * sum(gram in given for gram in grams) >= len(grams)


def _grams(text: str) -> list[tuple[str, ...]]:
    if spaced(text):
        units: Sequence[str] = [word for word in text.casefold().split() if _LETTER.search(word)]
        size = _WORDS
    else:
        units, size = "".join(text.split()), _CHARACTERS
    return [tuple(units[at : at + size]) for at in range(len(units) - size + 1)]


def repeats(text: str) -> bool:
    """Whether a text goes round in circles: much of it was there before, or a word stutters."""
    return repetition(text) >= _REPEATS or _STUTTER.search(text) is not None


@lru_cache(maxsize=256)
def diff(first: str, second: str) -> tuple[Part, ...]:
    """Two texts as parts in order: what both have, and what only one of them has. All first parts
    together are the first text. By words, or by characters where words have no spaces between
    them; long texts by lines. In texts of 200 pieces or more, what is every hundredth of them or
    more only counts beside others: without that, a reply that stutters takes minutes."""
    if first == second:
        return (("same", first, second),) if first else ()
    whole = spaced(first) and spaced(second)
    one, two = (_pieces(text, by_words=whole) for text in (first, second))
    if max(len(one), len(two)) > MAX_PIECES:
        one, two = first.splitlines(keepends=True), second.splitlines(keepends=True)
    if max(len(one), len(two)) > MAX_PIECES:
        one, two = [first], [second]
    found = difflib.SequenceMatcher(None, one, two).get_opcodes()
    return tuple((_KINDS[kind], "".join(one[a:b]), "".join(two[c:d])) for kind, a, b, c, d in found)


def _pieces(text: str, *, by_words: bool) -> list[str]:
    """Words, spaces and marks; or characters, each with the vowel signs and accents on it."""
    found: list[str] = []
    for piece in _PIECES.findall(text) if by_words else text:
        if found and unicodedata.category(piece[0]).startswith("M"):
            found[-1] += piece
        else:
            found.append(piece)
    return found
