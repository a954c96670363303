"""A person's own prompts: a CSV, JSONL or Excel file with a row a prompt, and templates of these.

    table = table_file.read(content, "prompts.csv")   # bytes, as a person gives them
    table.questions, table.problems                   # the good rows; what is wrong with the others

Columns are language and prompt, and may be reference, expected, answer and system, in any order.
A file is data from anywhere: what it may hold is limited, a row with a mistake is told of and left
out, and formulas are never computed. Knows rows and columns. The formats are rows.py's.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from slm_backends.errors import BadRequest
from slm_backends.multilingual import rows, workbook
from slm_backends.multilingual.languages import language
from slm_backends.multilingual.plan import MAX_CHARACTERS, MAX_QUESTIONS, Question
from slm_backends.multilingual.rows import Row

MAX_PROBLEMS = 20  # that are told of one by one
NEEDED = ("language", "prompt")
COLUMNS = (*NEEDED, "reference", "expected", "answer", "system")
FORM = (
    "The first row names the columns: language and prompt, and where you like reference, expected, "
    "answer and system."
)
MAX_COLUMNS_TOLD = 5
_ANSWER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
#: What no prompt needs: control characters, and halves of characters that cannot be written.
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")

EXAMPLES = (
    {
        "language": "de",
        "prompt": "Übersetze ins Deutsche: Good morning!",
        "reference": "Guten Morgen!",
    },
    {
        "language": "Chinese",
        "prompt": "一个星期有几天？请用一个数字回答。",
        "answer": "7",
    },
    {
        "language": "English",
        "prompt": "Say in Spanish, in one sentence, what a library is.",
        "expected": "es",
        "system": "You answer briefly.",
    },
)


@dataclass(frozen=True)
class Table:
    """What a file holds: a question a good row, and sentences about the others and about columns
    that have no meaning here, MAX_PROBLEMS of them at most and how many more there are."""

    questions: tuple[Question, ...]
    problems: tuple[str, ...] = ()


def read(content: bytes, name: str) -> Table:
    """The prompts in a file whose kind its name ends with. Raises BadRequest where it cannot be
    read as a whole: of no known kind, too large, without the columns, without a row."""
    questions: list[Question] = []
    problems: list[str] = []
    unknown: dict[str, None] = {}
    filled = 0
    for row in rows.read(content, name, needed=NEEDED):
        if filled == MAX_QUESTIONS:
            problems.insert(0, f"Only the first {MAX_QUESTIONS:,} rows are taken.")
            break
        filled += 1
        unknown |= dict.fromkeys(column for column in row.cells if column not in COLUMNS)
        try:
            questions.append(_question(row))
        except BadRequest as error:
            problems.append(f"Row {row.number}: {error.message[0].lower()}{error.message[1:]}")
    if not filled:
        raise BadRequest(f"{name} has no prompts.", field="file", hint=FORM)
    if unknown:
        problems.insert(0, f"Not used, as they mean nothing here: {_listed(list(unknown))}.")
    if len(problems) > MAX_PROBLEMS:
        more = len(problems) - MAX_PROBLEMS
        problems = [*problems[:MAX_PROBLEMS], f"And {more:,} more."]
    return Table(tuple(questions), tuple(problems))


def template(kind: Literal["csv", "jsonl", "xlsx"]) -> bytes:
    """A file of that kind with three rows, to be filled in."""
    if kind == "jsonl":
        lines = (json.dumps(example, ensure_ascii=False) + "\n" for example in EXAMPLES)
        return "".join(lines).encode()
    table = [COLUMNS, *(tuple(item.get(column, "") for column in COLUMNS) for item in EXAMPLES)]
    if kind == "xlsx":
        return workbook.made(table)
    text = io.StringIO(newline="")
    csv.writer(text).writerows(table)
    return text.getvalue().encode("utf-8-sig")  # without the mark Excel guesses another


def _question(row: Row) -> Question:
    if row.problem:
        raise BadRequest(row.problem)
    for column in COLUMNS:
        _check(column, row.cells.get(column, ""))
    for column in NEEDED:
        if not row.cells.get(column, "").strip():
            raise BadRequest(f"It has no {column}.")
    spoken = language(row.cells["language"]).code
    expected = row.cells.get("expected", "")
    return Question(
        f"file/{row.number}",
        spoken,
        language(expected).code if expected.strip() else spoken,
        row.cells["prompt"],
        system=row.cells.get("system", ""),
        reference=row.cells.get("reference", ""),
        answer=_number(row.cells.get("answer", "")),
        line=row.number,
    )


def _check(column: str, text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise BadRequest(f"Its {column} has more than {MAX_CHARACTERS:,} characters.")
    if found := _UNSAFE.search(text):
        raise BadRequest(f"Its {column} holds the character U+{ord(found[0]):04X}.")


def _number(text: str) -> str:
    """An answer in decimal digits, whatever script it was written in."""
    digits = "".join(str(unicodedata.decimal(each, each)) for each in text.strip())
    if digits and not _ANSWER.fullmatch(digits):
        raise BadRequest(f"Its answer is no number in digits, as 42 or 3.5: {text.strip()[:40]!r}.")
    return digits.removeprefix("+")


def _listed(columns: list[str]) -> str:
    named = [repr(column[:40]) for column in columns[:MAX_COLUMNS_TOLD]]
    more = len(columns) - len(named)
    return ", ".join(named) + (f" and {more:,} more" if more else "")
