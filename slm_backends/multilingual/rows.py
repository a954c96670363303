"""Rows of cells with named columns, out of a CSV, a JSONL or an Excel file.

    found = rows.read(content, "prompts.csv", needed=("language", "prompt"))
    for row in found:
        row.number, row.cells, row.problem

Knows how such files are written, and what can be wrong with one: with the whole file, which raises,
or with a row, which says so. Does not know what the columns mean. Excel's format is workbook.py's.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, NoReturn

from slm_backends.errors import BadRequest
from slm_backends.multilingual import workbook

MAX_BYTES = 5_000_000
KINDS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".xlsx": "xlsx"}
DELIMITERS = (",", ";", "\t")
PICK = "Give a .csv, .jsonl or .xlsx file; there is a template of each."


@dataclass(frozen=True)
class Row:
    """`number` counts from 1, as a spreadsheet does; `cells` is the column's name, in small
    letters, -> its text. With a `problem`, which begins with a small letter, there are none."""

    number: int
    cells: dict[str, str] = field(default_factory=dict)
    problem: str = ""


#: a row before its columns have names: number, cells, problem
_Bare = tuple[int, Sequence[str], str]


def read(content: bytes, name: str, *, needed: Sequence[str]) -> Iterator[Row]:
    """The rows of a file whose kind is what its name ends with, without the blank ones.

    needed  columns that a table's first row has to name; objects of a JSONL file may differ

    Raises BadRequest, also from the iterator, where the file cannot be read as a whole.
    """
    if len(content) > MAX_BYTES:
        _refuse(f"{name} is larger than {MAX_BYTES / 1e6:.0f} MB.", "Split it into several files.")
    if not content.strip():
        _refuse(f"{name} is empty.")
    kind = KINDS.get(PurePath(name).suffix.lower())
    if kind is None:
        _refuse(f"{name} is none of the kinds of files that are read here.")
    if kind == "xlsx":
        return _named(workbook.rows(content, name), name, needed)
    if workbook.is_one(content):
        _refuse(f"{name} is an Excel workbook by its content.", "Let its name end with .xlsx.")
    text = _decoded(content, name)
    if kind == "jsonl":
        return _objects(text)
    if text.lstrip().startswith("{"):
        _refuse(f"{name} holds JSON by its content.", "Let its name end with .jsonl.")
    return _named(_separated(text, needed), name, needed)


def _refuse(what: str, hint: str = PICK) -> NoReturn:
    raise BadRequest(what, field="file", hint=hint)


def _decoded(content: bytes, name: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a mark."""
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        fault = "it is cut off" if marked else f"line {line} has a byte that is none"
    else:
        if not text.strip():
            _refuse(f"{name} is empty.")
        # Other encodings of two or four bytes show as NULs.
        if "\0" not in text.partition("\n")[0]:
            return text
        fault = "its first line holds NULs"
    _refuse(
        f"{name} is not text in UTF-8: {fault}.",
        "Save it as UTF-8; Excel calls that 'CSV UTF-8'.",
    )


# --- tables ---------------------------------------------------------------------------------------


def _separated(text: str, needed: Sequence[str]) -> Iterator[_Bare]:
    first = next(line for line in text.splitlines() if line.strip())
    delimiter = max(
        DELIMITERS, key=lambda mark: len({*needed} & {*map(_column, first.split(mark))})
    )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 0
    while True:
        number += 1
        try:
            yield number, next(reader), ""
        except StopIteration:
            return
        except csv.Error as error:
            yield number, (), _fault(str(error))


def _fault(error: str) -> str:
    """What the csv module finds, in words that help."""
    if "field limit" in error:
        return f"a cell has more than {csv.field_size_limit():,} characters."
    if "NUL" in error:  # Python 3.10; later ones leave it in the cell
        return "it holds the character U+0000."
    return "its quotation marks do not match; one in a quoted cell is written twice."


def _column(text: str) -> str:
    return text.strip().strip('"').strip().lower()


def _named(found: Iterable[_Bare], name: str, needed: Sequence[str]) -> Iterator[Row]:
    """Rows with the names in the first one that is not blank."""
    columns: list[str] = []
    for number, cells, problem in found:
        if not problem and not any(map(str.strip, cells)):
            continue
        if not columns:
            columns = _header(cells, problem, name, needed)
        elif problem:
            yield Row(number, problem=problem)
        elif any(_beyond(cells, columns)):
            yield Row(number, problem="it has more cells than the first row has names.")
        else:
            named = zip(columns, cells, strict=False)
            yield Row(number, {key: text.replace("\r\n", "\n") for key, text in named if key})
    if not columns:
        _refuse(f"{name} is empty.")


def _beyond(cells: Sequence[str], columns: Sequence[str]) -> Iterator[bool]:
    """For each cell without a name, whether there is something in it."""
    for place, cell in enumerate(cells):
        if place >= len(columns) or not columns[place]:
            yield bool(cell.strip())


def _header(cells: Sequence[str], problem: str, name: str, needed: Sequence[str]) -> list[str]:
    if problem:
        _refuse(f"The first row of {name} cannot be read: {problem}")
    columns = [_column(cell) for cell in cells]
    wanted = f"The first row names the columns, {' and '.join(needed)} among them."
    for column in needed:
        if column not in columns:
            _refuse(f"{name} has no column called {column!r}.", wanted)
    twice = next((item for item in columns if item and columns.count(item) > 1), "")
    if twice:
        _refuse(f"{name} has two columns called {twice[:40]!r}.", wanted)
    return columns


# --- objects --------------------------------------------------------------------------------------


def _objects(text: str) -> Iterator[Row]:
    # By line feeds alone: a JSON string may hold the other characters that end a line.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            # Numbers as they are written: no rounding, and no time for one of a million digits.
            found = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
        except (ValueError, RecursionError):
            found = None
        yield _row(number, found)


def _row(number: int, found: Any) -> Row:
    if not isinstance(found, dict):
        return Row(number, problem='it is no JSON object, as {"language": "de", ...} is one.')
    cells = {}
    for key, value in found.items():
        if value is not None and not isinstance(value, str):
            return Row(number, problem=f"{key[:40]!r} is neither text nor a number.")
        cells[_column(key)] = (value or "").replace("\r\n", "\n")
    return Row(number, cells)
