"""Tables in replies: found where a reader sees them, and CSV files that no spreadsheet runs."""

from __future__ import annotations

import csv
import io
import random
import time

import pytest
from streamlit.testing.v1 import AppTest

from ui import tables
from ui.tables import Table

PLAIN = "| Bar | Value |\n| --- | ---: |\n| A | 4 |\n| B | 7 |"
ROWS = (("Bar", "Value"), ("A", "4"), ("B", "7"))


def rows(text: str) -> list[tuple[tuple[str, ...], ...]]:
    return [table.rows for table in tables.find(text)]


def read_back(table: Table) -> list[list[str]]:
    """As a spreadsheet reads the file."""
    return list(csv.reader(io.StringIO(table.csv.decode("utf-8-sig"))))


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        f"Here it is:\n\n{PLAIN}\n\nThat is all.",
        PLAIN.replace("\n", "\r\n"),
        "Bar | Value\n---|---\nA | 4\nB | 7\n",
        "  | Bar | Value |\n  |:--|:-:|\n  | A | 4 |\n  | B | 7 |\n",
        "| Bar | Value |\n|-|-|\n| **A** | `4` |\n| *B* | 7 |",
        "| Bar | Value |\n|-|-|\n| A | 4 | and more |\n| B | 7 |",
    ],
)
def test_a_table_is_found(text: str) -> None:
    assert rows(text) == [ROWS]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no table | here",
        "| Bar | Value |\n| A | 4 |",
        "| Bar | Value |\n| --- |",
        "a\n---\nb",
        f"```python\n{PLAIN}\n```",
        f"~~~~\n```\n~~~~\n```sql\n{PLAIN}",
    ],
)
def test_no_table_is_none(text: str) -> None:
    assert rows(text) == []


def test_several_with_text_between() -> None:
    assert rows(f"{PLAIN}\n\nand\n\n{PLAIN}\nends here") == [ROWS, ROWS]
    assert len(rows(f"{PLAIN}\n\n" * 30)) == tables.MOST


@pytest.mark.parametrize("info", ["", "markdown", "md"])
def test_in_a_fence_it_is_shown_as_code_and_so_drawn_here(info: str) -> None:
    (table,) = tables.find(f"Sure:\n```{info}\n{PLAIN}\n```\nDone.")
    assert table.rows == ROWS and table.fenced
    assert table.source == PLAIN
    assert not tables.find(PLAIN)[0].fenced


def test_cells_that_are_empty_missing_or_hold_bars() -> None:
    (found,) = rows("| a | b | c |\n|---|---|---|\n| 1 | | 3 |\n| x\\|y |\n|  |  |  |")
    assert found[1:] == (("1", "", "3"), ("x|y", "", ""), ("", "", ""))
    (found,) = rows("| a |\n| --- |\n| one<br>two |")
    assert found == (("a",), ("one two",))


@pytest.mark.parametrize(
    "cell",
    ["=1+1", "=HYPERLINK(0)", "+cmd", "-cmd", "@SUM(A1)", "＝1+1", "- 5 apples", "+", "=", "-1-1"],
)
def test_a_formula_is_made_harmless(cell: str) -> None:
    (table,) = tables.find(f"| a | b |\n|---|---|\n| {cell} | **{cell}** |")
    _, (first, second) = read_back(table)
    assert first == second == f"'{cell}"


@pytest.mark.parametrize("cell", ["-5", "+3", "-1,234.50", "12 %", "-0.5%", "7", "a-b", "x = y"])
def test_numbers_and_words_stay(cell: str) -> None:
    (table,) = tables.find(f"| a |\n| --- |\n| {cell} |")
    assert read_back(table)[1] == [cell]


def test_the_file_keeps_every_character() -> None:
    (table,) = tables.find('| Straße, "x" | 値 |\n|---|---|\n| a;b | ‽ |')
    assert table.csv.startswith(b"\xef\xbb\xbf")  # or a spreadsheet takes it for Latin-1
    assert read_back(table) == [['Straße, "x"', "値"], ["a;b", "‽"]]


def test_nothing_makes_it_slow_or_fall() -> None:
    chance = random.Random(5)
    alphabet = ["|", "|", "-", ":", "\n", "\n", "`", "```", "*", "**", "\\", " ", "a", "=", "~~~"]
    begun = time.process_time()
    for _ in range(300):
        text = "".join(chance.choice(alphabet) for _ in range(400))
        for table in tables.find(text):
            assert len({len(row) for row in table.rows}) == 1
            assert read_back(table)
    for text in ("|" * 20_000, "| -" * 9_000, "*" * 20_000 + "|\n|-|", "|a|\n" * 9_000):
        tables.find(f"{text}\n{text}")
        tables.find(f"|{'-' * 20_000}\n|-|\n|{'*' * 20_000}a|")
    assert time.process_time() - begun < 5


def _page() -> None:
    import streamlit as st

    from ui import tables

    tables.draw(st.session_state.reply, "p1")


def test_each_is_offered_as_a_file() -> None:
    page = AppTest.from_function(_page)
    page.session_state["reply"] = f"{PLAIN}\n\n```\n{PLAIN}\n```"
    page.run()
    assert not page.exception
    offered = page.get("download_button")
    assert [button.proto.label for button in offered] == ["Table 1 as CSV", "Table 2 as CSV"]
    assert [element.value for element in page.markdown] == [PLAIN]  # the one in the fence
    page.session_state["reply"] = "No table."
    assert not page.run().get("download_button")
