"""The first sheet of an Excel workbook as rows of text, from a file that may be anything.

A workbook is a ZIP of XML files, so that a small one can unpack to more than memory holds: how much
there is in it is looked at before it is parsed. Formulas count as the value that was stored with
them, and nothing is computed; macros are refused. Knows nothing of what the cells mean.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from slm_backends.errors import BadRequest

MAX_UNPACKED = 30_000_000  # bytes of all its files together
MAX_TAGS = 500_000  # an XML tag of four bytes becomes some hundred in memory
MAX_ROWS = 20_000
MAX_COLUMNS = 50
ZIP = b"PK\x03\x04"
OLD = b"\xd0\xcf\x11\xe0"  # what Excel wrote until 2003, and what it puts around a locked workbook
LOCKED = "EncryptedPackage".encode("utf-16-le")
SAVE = "Open it in a spreadsheet program and save it as .xlsx."


def is_one(content: bytes) -> bool:
    return content.startswith((ZIP, OLD))


def rows(content: bytes, name: str) -> Iterator[tuple[int, Sequence[str], str]]:
    """(number from 1, cells as text, "") of each row, or (number, (), what is wrong).

    Raises BadRequest for what is no workbook, is damaged, locked or too large, or has macros.
    """
    _check(content, name)
    # Not for those who never give such a file.
    import openpyxl

    try:
        book = openpyxl.load_workbook(
            io.BytesIO(content), read_only=True, data_only=True, keep_links=False
        )
        # With limits of our own, as a sheet's word for its size may be wrong.
        found = book.worksheets[0].iter_rows(
            max_row=MAX_ROWS + 1, max_col=MAX_COLUMNS + 1, values_only=True
        )
        for number, values in enumerate(found, 1):
            if number > MAX_ROWS:
                yield number, (), f"only the first {MAX_ROWS:,} rows are read."
                return
            cells = [_text(value) for value in values]
            if len(cells) > MAX_COLUMNS and cells[MAX_COLUMNS]:
                yield number, (), f"it has more than {MAX_COLUMNS} cells."
            else:
                yield number, cells, ""
    except Exception:  # a part that is malformed makes openpyxl raise whatever it stumbles over
        raise _damaged(name) from None


def made(table: Iterable[Sequence[str]]) -> bytes:
    """A workbook with one sheet of these rows."""
    import openpyxl

    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("Prompts")
    for cells in table:
        sheet.append(cells)
    packed = io.BytesIO()
    book.save(packed)
    return packed.getvalue()


def _check(content: bytes, name: str) -> None:
    """Look through the ZIP before anything is made of it."""
    if content.startswith(OLD):
        if LOCKED in content:
            raise _wrong(f"{name} is locked with a password.", "Save it without one.")
        raise _wrong(f"{name} is in Excel's old format.", SAVE)
    if not content.startswith(ZIP):
        raise _wrong(f"{name} is no Excel workbook.", SAVE)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            members = packed.infolist()
            names = {member.filename.lower() for member in members}
            if "xl/workbook.xml" not in names:
                raise _wrong(f"{name} is a ZIP file, but no Excel workbook.", SAVE)
            if any(item.endswith("vbaproject.bin") for item in names):
                raise _wrong(f"{name} holds macros.", "Save it as .xlsx, which has none.")
            # More than what a member says of itself is never unpacked from it.
            if sum(member.file_size for member in members) > MAX_UNPACKED:
                raise _too_much(name)
            _check_xml(packed, members, name)
    except BadRequest:
        raise
    except Exception:  # truncated, encrypted, an unknown compression: each raises its own
        raise _damaged(name) from None


def _check_xml(packed: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo], name: str) -> None:
    tags = 0
    for member in members:
        # Without NULs, so that UTF-16 hides nothing.
        text = packed.read(member).replace(b"\0", b"")
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise _damaged(name)
        if member.filename.lower().endswith((".xml", ".rels")):
            tags += text.count(b"<")
    if tags > MAX_TAGS:
        raise _too_much(name)


def _text(value: Any) -> str:
    """What a spreadsheet shows for it, where no format is set."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _wrong(what: str, hint: str) -> BadRequest:
    return BadRequest(what, field="file", hint=hint)


def _damaged(name: str) -> BadRequest:
    return _wrong(f"{name} is damaged, or not what its name says.", SAVE)


def _too_much(name: str) -> BadRequest:
    return _wrong(
        f"{name} unpacks to more than a table of prompts needs.",
        "Keep one sheet with the rows that you want to ask.",
    )
