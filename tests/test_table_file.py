"""A person's own prompts: which rows become questions, and what is said of the others."""

from __future__ import annotations

from typing import Literal

import pytest

from slm_backends.errors import BadRequest
from slm_backends.multilingual import table_file
from slm_backends.multilingual.plan import MAX_CHARACTERS, MAX_QUESTIONS, Plan, Question
from slm_backends.multilingual.table_file import COLUMNS, MAX_PROBLEMS, Table


def read(text: str, name: str = "prompts.csv") -> Table:
    return table_file.read(text.encode(), name)


def test_rows_become_questions() -> None:
    table = read(
        "language,prompt,reference,expected,answer,system\n"
        "de,Wie geht es?,Gut.,,,\n"
        "Chinese,二加三？,,,5,\n"
        "Русский,Say hello,,Swahili,,Be kind.\n"
    )
    assert table.problems == ()
    assert table.questions == (
        Question("file/2", "de", "de", "Wie geht es?", reference="Gut.", line=2),
        Question("file/3", "zh", "zh", "二加三？", answer="5", line=3),
        Question("file/4", "ru", "sw", "Say hello", system="Be kind.", line=4),
    )


def test_columns_in_any_order_and_case() -> None:
    table = read(" Prompt ,LANGUAGE\nHej?,sv\n")
    assert [(item.language, item.prompt) for item in table.questions] == [("sv", "Hej?")]


def test_columns_that_mean_nothing_are_told_of_once() -> None:
    table = read("language,prompt,Note,colour\nde,Ja?,x,red\nfr,Oui ?,y,blue\n")
    assert len(table.questions) == 2
    assert table.problems == ("Not used, as they mean nothing here: 'note', 'colour'.",)
    many = ",".join(f"c{number}" for number in range(9))
    table = read(f"language,prompt,{many}\nde,Ja?,{many}\n")
    assert table.problems == (
        "Not used, as they mean nothing here: 'c0', 'c1', 'c2', 'c3', 'c4' and 4 more.",
    )


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("Klingon,nuqneH?,,", "Row 3: there is no language called 'Klingon' here."),
        (",Hello?,,", "Row 3: it has no language."),
        ("de,,,", "Row 3: it has no prompt."),
        ("de,Ja?,Elvish,", "Row 3: there is no language called 'Elvish' here."),
        ("de,Ja?,,many", "Row 3: its answer is no number in digits, as 42 or 3.5: 'many'."),
        ('de,Ja?,,"1,250"', "Row 3: its answer is no number in digits, as 42 or 3.5: '1,250'."),
        ("de,Ja\x07?,,", "Row 3: its prompt holds the character U+0007."),
        ("de," + "a" * (MAX_CHARACTERS + 1), "Row 3: its prompt has more than 20,000 characters."),
        ("de,Ja?,,7,what", "Row 3: it has more cells than the first row has names."),
        ("de," + "a" * 1_000_000, "Row 3: a cell has more than 131,072 characters."),
        (
            'de,"Ja" oder nein?,,',
            "Row 3: its quotation marks do not match; one in a quoted cell is written twice.",
        ),
    ],
    ids=lambda text: text[-60:],
)
def test_a_row_with_a_mistake_is_left_out_and_told_of(row: str, problem: str) -> None:
    table = read(f"language,prompt,expected,answer\nfr,Oui ?,,\n{row}\nit,Sì?,,\n")
    assert [item.language for item in table.questions] == ["fr", "it"]
    assert table.problems == (problem,)


def test_no_more_problems_than_one_reads() -> None:
    table = read("language,prompt\n" + "Klingon,nuqneH?\n" * 50 + "de,Ja?\n")
    assert len(table.questions) == 1
    assert len(table.problems) == MAX_PROBLEMS + 1
    assert table.problems[-1] == "And 30 more."


def test_blank_rows_are_nothing_and_equal_rows_are_kept() -> None:
    table = read("\nlanguage,prompt\n\nde,Ja?\n,\n  ,\t\nde,Ja?\n")
    assert [item.id for item in table.questions] == ["file/4", "file/7"]
    assert table.problems == ()
    Plan("file", ("fake",), table.questions)  # equal prompts, but not equal ids


@pytest.mark.parametrize("text", ["=1+1", "+49 30", "-5", "@SUM(A1)", '=HYPERLINK("x")'])
def test_what_looks_like_a_formula_stays_text(text: str) -> None:
    cell = text.replace('"', '""')
    assert read(f'language,prompt\nde,"{cell}"\n').questions[0].prompt == text


def test_an_answer_in_digits_of_any_script() -> None:
    table = read("language,prompt,answer\nar,؟,٤٢\nhi,?,-४.५\nen,?, +7 \nen,?,\n")
    assert [item.answer for item in table.questions] == ["42", "-4.5", "7", ""]


def test_no_more_rows_than_a_plan_takes() -> None:
    table = read("language,prompt\n" + "de,Ja?\n" * (MAX_QUESTIONS + 5))
    assert len(table.questions) == MAX_QUESTIONS
    assert table.problems == ("Only the first 5,000 rows are taken.",)
    Plan("file", ("fake",), table.questions)


@pytest.mark.parametrize("content", ["language,prompt\n", "language,prompt\n\n,,,\n"])
def test_a_table_without_rows(content: str) -> None:
    with pytest.raises(BadRequest, match=r"^prompts.csv has no prompts\.$") as caught:
        read(content)
    assert caught.value.field == "file"
    assert "language and prompt" in caught.value.hint


@pytest.mark.parametrize("kind", ["csv", "jsonl", "xlsx"])
def test_templates_are_read_without_a_problem(kind: Literal["csv", "jsonl", "xlsx"]) -> None:
    table = table_file.read(table_file.template(kind), f"template.{kind}")
    assert table.problems == ()
    assert [item.language for item in table.questions] == ["de", "zh", "en"]
    assert [item.expected for item in table.questions] == ["de", "zh", "es"]
    assert [item.answer for item in table.questions] == ["", "7", ""]
    assert table.questions[0].reference == "Guten Morgen!"
    assert table.questions[2].system == "You answer briefly."
    Plan("file", ("fake",), table.questions)


def test_a_template_for_excel_says_that_it_is_utf_8() -> None:
    content = table_file.template("csv")
    assert content.startswith(b"\xef\xbb\xbf")
    assert content.decode("utf-8-sig").splitlines()[0] == ",".join(COLUMNS)
