"""Tables that a model wrote in Markdown: found in a finished reply, each to be had as a CSV file.

The reply's own Markdown draws them already; one that stands in a fence, as code, is drawn here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from slm_backends import spreadsheet
from ui.markdown import safe

MOST = 10  # tables of a reply that are offered

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})\s*([\w-]*)\s*$")
_AS_TEXT = ("", "markdown", "md", "table", "text")  # fences in which a table is meant as one
_RULE = re.compile(r"\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*")
_CELL = re.compile(r"((?:\\.|[^\\|])*)(?:\||$)")
_MARKS = re.compile(r"(\*\*|__|\*|`)(\S(?:.*?\S)?)\1")

Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Cells as text without Markdown's marks; every row is as long as the first, the heading.

    source  its lines, as Markdown
    fenced  whether it stands in a fence, so that it is shown as code
    """

    rows: tuple[Row, ...]
    source: str
    fenced: bool = False

    @property
    def csv(self) -> bytes:
        """As spreadsheets want it, with nothing in it that one would run."""
        return spreadsheet.csv_file(self.rows)


def find(text: str) -> list[Table]:
    """The tables of a reply, in order, MOST of them; as GitHub's Markdown knows them, with a rule
    of dashes below the heading."""
    lines = text.splitlines()
    found: list[Table] = []
    opened, info = "", ""
    place = 0
    while place < len(lines) and len(found) < MOST:
        fence = _FENCE.fullmatch(lines[place])
        if fence and not opened:
            opened, info = fence[1], fence[2].lower()
        elif fence and fence[1].startswith(opened) and not fence[2]:
            opened = ""
        elif not opened or info in _AS_TEXT:
            height = _height(lines[place:])
            if height:
                found.append(_table(lines[place : place + height], bool(opened)))
                place += height
                continue
        place += 1
    return found


def draw(text: str, key: str) -> None:
    """A button for each table of a finished reply; `key` is the reply's own."""
    tables = find(text)
    for number, table in enumerate(tables, 1):
        if table.fenced:
            st.markdown(safe(table.source))
        many = len(tables) > 1
        st.download_button(
            f"Table {number} as CSV" if many else "Table as CSV",
            table.csv,
            file_name=f"table-{number}.csv" if many else "table.csv",
            mime="text/csv",
            key=f"table_{key}_{number}",
            icon=":material/download:",
            type="tertiary",
            on_click="ignore",
        )


def _height(lines: Sequence[str]) -> int:
    """Lines of the table that begins with the first of them; 0 where none does."""
    if len(lines) < 2 or "|" not in lines[0] or "|" not in lines[1]:
        return 0
    if not _RULE.fullmatch(lines[1].strip()) or len(_cells(lines[0])) != len(_cells(lines[1])):
        return 0
    height = 2
    while height < len(lines) and "|" in lines[height] and not _FENCE.fullmatch(lines[height]):
        height += 1
    return height


def _table(lines: Sequence[str], fenced: bool) -> Table:
    heading, rows = _cells(lines[0]), [_cells(line) for line in lines[2:]]
    width = len(heading)
    padded = [(*row, *[""] * width)[:width] for row in rows]
    source = "\n".join(line.strip() for line in lines)
    return Table((heading, *padded), source, fenced)


def _cells(line: str) -> Row:
    line = line.strip().removeprefix("|")
    cells = [match[1].strip() for match in _CELL.finditer(line)]
    if not cells[-1]:  # the last match is the empty end of the line, or what follows its last bar
        cells.pop()
    return tuple(_plain(cell) for cell in cells)


def _plain(cell: str) -> str:
    while (bare := _MARKS.sub(r"\2", cell)) != cell:
        cell = bare
    return re.sub(r"<br ?/?>", " ", re.sub(r"\\([\\|*_`])", r"\1", cell))
