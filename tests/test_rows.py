"""Files of rows as people and programs write them, and files that are something else."""

from __future__ import annotations

import codecs
import json

import pytest

from slm_backends.errors import BadRequest
from slm_backends.multilingual import rows
from slm_backends.multilingual.rows import MAX_BYTES, Row

NEEDED = ("language", "prompt")
TEXT = "language,prompt\nzh,你好？\nde,Grüß dich!\n"
CELLS = [{"language": "zh", "prompt": "你好？"}, {"language": "de", "prompt": "Grüß dich!"}]


def read(content: bytes | str, name: str = "a.csv") -> list[Row]:
    given = content.encode() if isinstance(content, str) else content
    return list(rows.read(given, name, needed=NEEDED))


def refusal(content: bytes | str, name: str = "a.csv") -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        read(content, name)
    assert caught.value.field == "file"
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["a.csv", "A.CSV", "a.tsv"])
def test_the_delimiter_is_found_out(delimiter: str, name: str) -> None:
    found = read(TEXT.replace(",", delimiter), name)
    assert [row.cells for row in found] == CELLS
    assert [row.number for row in found] == [2, 3]


def test_a_delimiter_is_not_taken_from_the_texts() -> None:
    found = read('prompt;"Language";x, y\n"a, b, c; d";en;\n')
    assert found[0].cells == {"prompt": "a, b, c; d", "language": "en", "x, y": ""}


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode("utf-8"),
        TEXT.encode("utf-8-sig"),
        TEXT.replace("\n", "\r\n").encode("utf-8-sig"),
        TEXT.replace("\n", "\r").encode(),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    ],
)
def test_encodings_and_line_ends(content: bytes) -> None:
    assert [row.cells for row in read(content)] == CELLS


def test_cells_of_several_lines_count_as_one_row() -> None:
    found = read('language,prompt\nde,"Eins\r\nzwei ""drei"""\nfr,Oui ?\n')
    assert found[0].cells["prompt"] == 'Eins\nzwei "drei"'
    assert found[1].number == 3


def test_a_quote_that_is_never_closed_is_told_of_where_it_begins() -> None:
    found = read('language,prompt\nfr,Oui ?\nde,"Ja?\nit,Sì?\n')
    assert [(row.number, bool(row.problem)) for row in found] == [(2, False), (3, True)]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (TEXT.encode("gb18030"), "line 2 has a byte that is none"),
        ("language,prompt\nde,Grüß dich!\n".encode("cp1252"), "line 2 has a byte that is none"),
        (TEXT.encode("utf-16-le"), "line 2 has a byte that is none"),
        ("language,prompt\n".encode("utf-16-be"), "its first line holds NULs"),
        (TEXT.encode("utf-32"), "its first line holds NULs"),
        (TEXT.encode("utf-16")[:-1], "it is cut off"),
        (b"\x00\x01\x02\x03", "its first line holds NULs"),
    ],
)
def test_other_encodings_are_named(content: bytes, fault: str) -> None:
    error = refusal(content)
    assert error.message == f"a.csv is not text in UTF-8: {fault}."
    assert "UTF-8" in error.hint


@pytest.mark.parametrize("content", [b"", b" \n\r\n\t", codecs.BOM_UTF8, "\u2028\n".encode()])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.xlsx"])
def test_nothing_in_it(content: bytes, name: str) -> None:
    message = refusal(content, name).message
    assert message in (f"{name} is empty.", f"{name} is no Excel workbook.")


def test_too_much_in_it() -> None:
    assert refusal(b"a" * (MAX_BYTES + 1)).message == "a.csv is larger than 5 MB."


@pytest.mark.parametrize("name", ["a.pdf", "a", "a.xls", "a.csv.zip", ""])
def test_no_kind_that_is_known(name: str) -> None:
    assert "none of the kinds" in refusal(TEXT, name).message


def test_a_name_that_does_not_fit_the_content() -> None:
    line = json.dumps(CELLS[0]) + "\n"
    assert refusal(line).hint == "Let its name end with .jsonl."
    assert refusal(b"PK\x03\x04").hint == "Let its name end with .xlsx."
    assert refusal(b"PK\x03\x04", "a.jsonl").hint == "Let its name end with .xlsx."
    assert refusal(TEXT, "a.xlsx").message == "a.xlsx is no Excel workbook."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("zh,你好？\n", "a.csv has no column called 'language'."),
        ("language,text\nzh,你好？\n", "a.csv has no column called 'prompt'."),
        ("language,prompt,Prompt\n", "a.csv has two columns called 'prompt'."),
    ],
)
def test_a_first_row_without_the_names(content: str, message: str) -> None:
    error = refusal(content)
    assert error.message == message
    assert error.hint == "The first row names the columns, language and prompt among them."


def test_a_first_row_that_cannot_be_read() -> None:
    assert "quotation marks" in refusal('language,"prompt\nzh,x\n').message


def test_a_cell_below_no_name() -> None:
    found = read("language,prompt,,\nde,Ja?,,\nde,Ja?,,x\n")
    assert [bool(row.problem) for row in found] == [False, True]


def test_objects() -> None:
    lines = [*map(json.dumps, CELLS), "", '{"Prompt": 12345678901234567890, "language": null}']
    found = read("\r\n".join(lines), "a.jsonl")
    assert [row.cells for row in found] == [
        *CELLS,
        {"prompt": "12345678901234567890", "language": ""},
    ]
    assert [row.number for row in found] == [1, 2, 4]


def test_an_object_may_hold_other_ends_of_lines() -> None:
    found = read(json.dumps({"prompt": "a\u2028b\x85c"}, ensure_ascii=False), "a.jsonl")
    assert found[0].cells == {"prompt": "a\u2028b\x85c"}


@pytest.mark.parametrize(
    "line",
    ['["de", "Ja?"]', '"de"', "de;Ja?", '{"language": "de"', "[" * 200_000, "{'language': 'de'}"],
    ids=lambda text: text[:20],
)
def test_what_is_no_object(line: str) -> None:
    found = read(f"{line}\n" + json.dumps(CELLS[0]), "a.jsonl")
    assert found[0].problem.startswith("it is no JSON object")
    assert found[1].cells == CELLS[0]


@pytest.mark.parametrize("value", [["a"], {"a": 1}, True])
def test_a_value_that_is_no_text(value: object) -> None:
    found = read(json.dumps({"language": "de", "prompt": value}), "a.jsonl")
    assert found[0].problem == "'prompt' is neither text nor a number."


def test_numbers_stay_as_they_are_written() -> None:
    huge = "9" * 1_000_000
    found = read(f'{{"a": {huge}, "b": 1.10, "c": NaN}}', "a.jsonl")
    assert found[0].cells == {"a": huge, "b": "1.10", "c": "NaN"}
