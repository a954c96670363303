"""Excel workbooks: what is read of them, and files that only look like one."""

from __future__ import annotations

import datetime
import io
import random
import time
import tracemalloc
import zipfile
from collections.abc import Sequence
from typing import Any

import openpyxl
import pytest

from slm_backends.errors import BadRequest
from slm_backends.multilingual import workbook
from slm_backends.multilingual.workbook import MAX_COLUMNS, MAX_ROWS

HEADER = ("language", "prompt")
SHEET = "xl/worksheets/sheet1.xml"


def book(*rows: Sequence[Any], second: bool = False) -> bytes:
    made = openpyxl.Workbook()
    for row in rows:
        made.active.append(row)
    if second:
        made.create_sheet("Other").append(["not read"])
    packed = io.BytesIO()
    made.save(packed)
    return packed.getvalue()


def repacked(content: bytes, part: str, data: bytes | None) -> bytes:
    """The same workbook with other bytes in a part of it, or without that part."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        parts = {name: old.read(name) for name in old.namelist()} | {part: data}
        for name, inside in parts.items():
            if inside is not None:
                new.writestr(name, inside)
    return packed.getvalue()


def sheet(inside: str) -> bytes:
    return (
        '<?xml version="1.0"?><worksheet xmlns="http://schemas.openxmlformats.org/'
        f'spreadsheetml/2006/main"><sheetData>{inside}</sheetData></worksheet>'
    ).encode()


def read(content: bytes) -> list[list[str]]:
    return [list(cells) for _, cells, problem in workbook.rows(content, "a.xlsx") if not problem]


def refusal(content: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        read(content)
    assert caught.value.field == "file"
    assert caught.value.hint
    return caught.value


def test_the_first_sheet_as_text() -> None:
    day = datetime.date(2026, 11, 23)
    found = read(
        book(HEADER, ("zh", "你好？"), (), ("de", 42), ("de", 4.5), ("de", True), ("de", day),
             second=True)
    )  # fmt: skip
    assert [row[:2] for row in found] == [
        ["language", "prompt"],
        ["zh", "你好？"],
        ["", ""],
        ["de", "42"],
        ["de", "4.5"],
        ["de", "TRUE"],
        ["de", "2026-11-23 00:00:00"],
    ]


def test_a_formula_counts_as_its_stored_value() -> None:
    stored = '<c r="B2" t="str"><f>CONCAT("a","b")</f><v>as stored</v></c>'
    bare = '<c r="B3"><f>1+1</f></c>'
    content = repacked(
        book(HEADER),
        SHEET,
        sheet(f'<row r="2">{stored}</row><row r="3">{bare}</row>'),
    )
    assert [row[1] for row in read(content)] == ["", "as stored", ""]


def test_it_writes_what_it_reads() -> None:
    table = [HEADER, ("ar", "كم الساعة؟"), ("th", "=1+1 คืออะไร")]
    assert [tuple(row[:2]) for row in read(workbook.made(table))][:2] == table[:2]


def test_rows_and_columns_beyond_the_limits() -> None:
    far = repacked(
        book(HEADER),
        SHEET,
        sheet(
            '<row r="1"><c r="A1"><v>1</v></c><c r="XFD1"><v>2</v></c></row>'
            '<row r="1048576"><c r="A1048576"><v>3</v></c></row>'
        ),
    )
    first, *_, last = workbook.rows(far, "a.xlsx")
    assert first == (1, ["1", *[""] * MAX_COLUMNS], "")
    assert last == (MAX_ROWS + 1, (), f"only the first {MAX_ROWS:,} rows are read.")
    wide = list(workbook.rows(book(["x"] * (MAX_COLUMNS + 1)), "a.xlsx"))
    assert wide == [(1, (), f"it has more than {MAX_COLUMNS} cells.")]
    long = repacked(
        book(HEADER),
        SHEET,
        sheet("".join(f'<row r="{n}"><c r="A{n}"><v>1</v></c></row>' for n in range(1, 20_100))),
    )
    *_, last = workbook.rows(long, "a.xlsx")
    assert last == (MAX_ROWS + 1, (), f"only the first {MAX_ROWS:,} rows are read.")


def test_a_zip_bomb_is_not_unpacked() -> None:
    bomb = repacked(book(HEADER), SHEET, b"0" * 60_000_000)
    assert len(bomb) < 100_000
    tracemalloc.start()
    assert "unpacks to more" in refusal(bomb).message
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


def test_a_row_of_a_million_cells_is_not_built() -> None:
    begun = time.process_time()
    content = repacked(book(HEADER), SHEET, sheet(f"<row>{'<c/>' * 1_000_000}</row>"))
    assert "unpacks to more" in refusal(content).message
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_not_expanded(encoding: str) -> None:
    laughs = (
        '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]>'
        + sheet('<row r="1"><c r="A1" t="str"><v>&c;</v></c></row>').decode()[21:]
    )
    content = repacked(book(HEADER), SHEET, laughs.encode(encoding))
    assert "damaged" in refusal(content).message


def test_macros() -> None:
    content = repacked(book(HEADER), "xl/vbaProject.bin", b"Sub AutoOpen()")
    assert refusal(content).message == "a.xlsx holds macros."


def test_locked_old_and_renamed_files() -> None:
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 500
    locked = ole + "EncryptedPackage".encode("utf-16-le")
    assert refusal(locked).message == "a.xlsx is locked with a password."
    assert refusal(ole).message == "a.xlsx is in Excel's old format."
    assert refusal(b"%PDF-1.7").message == "a.xlsx is no Excel workbook."
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as packed:
        packed.writestr("word/document.xml", "<a/>")
    assert refusal(other.getvalue()).message == "a.xlsx is a ZIP file, but no Excel workbook."


def test_no_part_of_a_workbook_is_trusted() -> None:
    """Cut off, with a part missing, or with bytes changed: read, or refused as damaged."""
    whole = book(HEADER, *(("de", f"Frage {number}") for number in range(20)))
    for share in (0.1, 0.5, 0.9, 0.999):
        assert "damaged" in refusal(whole[: int(len(whole) * share)]).message
    for part in (SHEET, "[Content_Types].xml", "xl/_rels/workbook.xml.rels"):
        assert "damaged" in refusal(repacked(whole, part, None)).message
        assert "damaged" in refusal(repacked(whole, part, b"<not xml")).message
    chance = random.Random(7)
    for _ in range(60):
        hurt = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            hurt[chance.randrange(4, len(hurt))] = chance.randrange(256)
        try:
            read(bytes(hurt))
        except BadRequest as error:
            assert error.hint
