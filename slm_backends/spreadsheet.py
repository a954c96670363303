"""Rows of texts as a CSV file that a spreadsheet reads as it is meant, and runs nothing of.

What a model or a person wrote may begin like a formula. Knows no model, no page and no results.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

_NUMBER = re.compile(r"[-+]?[\d.,\s]*\d\s*[%€$£]?")
#: What makes a spreadsheet take a cell for a formula, also as wide characters of East Asia.
_FORMULA = tuple("=+-@\t\r＝＋－＠")


def csv_file(rows: Iterable[Iterable[str]]) -> bytes:
    """UTF-8 with the mark that spreadsheets want. A cell that one would run as a formula begins
    with an apostrophe; numbers stay numbers."""
    written = io.StringIO(newline="")
    csv.writer(written).writerows(map(_harmless, row) for row in rows)
    return written.getvalue().encode("utf-8-sig")


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) and not _NUMBER.fullmatch(cell) else cell
