"""What each task asks in which language, and what it expects."""

from __future__ import annotations

import pytest

from slm_backends.errors import BadRequest
from slm_backends.multilingual import parallel, tasks
from slm_backends.multilingual.languages import LANGUAGES
from slm_backends.multilingual.plan import TASKS, Plan, Question

GERMAN, CHINESE, ENGLISH = (parallel.texts(code) for code in ("de", "zh", "en"))


def one(task: str, language: str, name: str, **other: object) -> Question:
    (found,) = tasks.questions(task, [language], names=[name], **other)  # type: ignore[arg-type]
    return found


def test_ask() -> None:
    text = GERMAN.ask["rain"]
    assert one("ask", "de", "rain") == Question("ask/rain/de", "de", "de", text, content=text)


def test_answer_in_asks_in_english() -> None:
    text = ENGLISH.ask["rain"]
    assert one("answer in", "zh", "rain") == Question(
        "answer in/rain/zh", "zh", "zh", f"{text} Answer in Chinese.", content=text
    )


def test_summarise() -> None:
    text = CHINESE.passages["bees"]
    assert one("summarise", "zh", "bees") == Question(
        "summarise/bees/zh", "zh", "zh", f"{CHINESE.say['summarise']}\n\n{text}", content=text
    )


def test_solve_knows_the_answer() -> None:
    text = GERMAN.problems["train"]
    assert one("solve", "de", "train") == Question(
        "solve/train/de", "de", "de", f"{GERMAN.say['solve']}\n\n{text}", answer="200", content=text
    )


def test_translate_into_each_language() -> None:
    text = ENGLISH.sentences["museum"]
    assert one("translate", "de", "museum") == Question(
        "translate/museum/en-de",
        "de",
        "de",
        f"{GERMAN.say['translate']}\n\n{text}",
        reference=GERMAN.sentences["museum"],
        content=text,
    )


def test_translate_from_each_language() -> None:
    text = GERMAN.sentences["museum"]
    assert one("translate", "de", "museum", other="Chinese", into=False) == Question(
        "translate/museum/de-zh",
        "de",
        "zh",
        f"{CHINESE.say['translate']}\n\n{text}",
        reference=CHINESE.sentences["museum"],
        content=text,
    )


@pytest.mark.parametrize("into", [True, False])
def test_the_other_language_is_no_row(into: bool) -> None:
    found = tasks.questions("translate", ["de", "en", "zh"], names=["museum"], into=into)
    assert [item.language for item in found] == ["de", "zh"]


@pytest.mark.parametrize("task", tasks.PARTS)
def test_all_of_a_task_in_all_languages_is_a_plan(task: str) -> None:
    found = tasks.questions(task, list(LANGUAGES))
    rows = [code for code in LANGUAGES if task != "translate" or code != "en"]
    assert len(found) == len(rows) * len(tasks.names(task))
    assert Plan(task, ("fake",), found).languages == tuple(rows)


def test_names_are_those_of_the_set() -> None:
    assert tasks.names("ask") == tasks.names("answer in") == tuple(ENGLISH.ask)
    assert tasks.names("translate") == tuple(ENGLISH.sentences)
    assert tasks.names("summarise") == tuple(ENGLISH.passages)
    assert tasks.names("solve") == tuple(ENGLISH.problems)
    assert set(tasks.PARTS) == set(TASKS) - {"file"}


def test_languages_and_names_come_once_and_in_order() -> None:
    found = tasks.questions("ask", ["zh", "German", "中文", "de"], names=["tea", "rain", "tea"])
    assert [item.id for item in found] == [
        "ask/rain/zh",
        "ask/tea/zh",
        "ask/rain/de",
        "ask/tea/de",
    ]


@pytest.mark.parametrize(
    ("arguments", "field", "message"),
    [
        (("sing", ["de"]), "task", "There is no task called 'sing' in the shipped set."),
        (("file", ["de"]), "task", "There is no task called 'file' in the shipped set."),
        (("ask", []), "languages", "No language is chosen."),
        (("translate", []), "languages", "No language is chosen."),
        (("ask", ["de", "tlh"]), "language", "There is no language called 'tlh' here."),
        (
            ("translate", ["en", "English"]),
            "languages",
            "There is nothing to translate but from English into itself.",
        ),
    ],
)
def test_what_cannot_be_asked(arguments: tuple[str, list[str]], field: str, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        tasks.questions(*arguments)
    assert (caught.value.field, caught.value.message) == (field, message)
    assert caught.value.hint


def test_a_name_that_the_set_does_not_have() -> None:
    with pytest.raises(BadRequest, match="nothing called 'museum' for the task 'ask'") as caught:
        tasks.questions("ask", ["de"], names=["rain", "museum"])
    assert caught.value.field == "names"
    assert "rain" in caught.value.hint
    with pytest.raises(BadRequest, match="no language called 'tlh'"):
        tasks.questions("translate", ["de"], other="tlh")
