"""Texts in a CSV file: nothing that a spreadsheet runs, and nothing lost."""

from __future__ import annotations

import csv
import io
import time

import pytest

from slm_backends.spreadsheet import csv_file


def read_back(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))


@pytest.mark.parametrize("cell", ["=1+1", "+cmd", "-cmd|x", "@SUM(A1)", "\t=1", "\r=1", "＝1", "="])
def test_what_would_be_run_gets_an_apostrophe(cell: str) -> None:
    assert read_back(csv_file([["a", cell]])) == [["a", f"'{cell}"]]


@pytest.mark.parametrize(
    "cell", ["-5", "+3", "-1,234.50", "12 %", "a=b", "", "ends\r\nhere", 'says "x", y;', "مطر\n雨"]
)
def test_everything_else_is_read_as_it_was(cell: str) -> None:
    assert read_back(csv_file([[cell, "b"]])) == [[cell, "b"]]


def test_it_has_the_mark_that_spreadsheets_want() -> None:
    assert csv_file([["値"]]) == b"\xef\xbb\xbf" + "値\r\n".encode()


def test_a_long_cell_takes_no_time() -> None:
    began = time.process_time()
    csv_file([["-" + "1 ," * 100_000 + "x"], ["+" + "1" * 300_000 + "x"]])
    assert time.process_time() - began < 1
