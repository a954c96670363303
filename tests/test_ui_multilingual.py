"""Cells of the Many languages grid: what they say of replies, and texts as HTML."""

from __future__ import annotations

from slm_backends.multilingual.plan import Question
from slm_backends.multilingual.results import Cell
from slm_backends.multilingual.wording import diff
from slm_backends.run import Reply
from ui.multilingual import cells
from ui.multilingual.cells import Asked

DE = Question("ask/rain/de", "de", "de", "Warum regnet es?")
SUM = Question("solve/sum/de", "de", "de", "Wie viel ist 3 und 4?", answer="7")
GERMAN = "Es regnet, weil warme Luft nach oben steigt und dort wieder abkühlt."
ENGLISH = "It rains because warm air rises and cools down again in the sky."


def done(text: str, question: Question = DE, **more: object) -> Asked:
    return Asked(question, Cell(question.id, "x", text, **more))  # type: ignore[arg-type]


def words(*asked: Asked) -> list[str]:
    return [item["words"] for item in cells.cell(asked, "German, x", "x", True)["badges"]]


def test_a_badge_says_what_there_is_of_a_reply() -> None:
    assert words(done(GERMAN)) == ["right language"]
    assert words(done(ENGLISH)) == ["English"]
    assert words(done("", error="It broke off.")) == ["no answer"]
    assert words(Asked(DE)) == ["waiting"]
    assert words(Asked(DE, live=Reply("decoding", text="Es"))) == ["answering"]


def test_badges_of_several_are_counted_and_the_latest_is_shown() -> None:
    asked = done(GERMAN), done(ENGLISH), done(ENGLISH), Asked(DE)
    assert words(*asked) == ["1 right language", "2 English", "1 waiting"]
    assert cells.cell(asked, "", "", True)["text"] == ENGLISH
    growing = Asked(DE, live=Reply("decoding", text="Weil"))
    assert cells.cell((growing, *asked), "", "", True)["text"] == "Weil"
    assert "text" not in cells.cell(asked, "", "", False)


def test_a_reply_that_is_asked_again_is_being_answered() -> None:
    cell = Cell(DE.id, "x", error="It broke off.")
    assert words(Asked(DE, cell, Reply("prefill"))) == ["answering"]


def test_a_text_goes_with_its_language_and_direction() -> None:
    assert cells.told("he") == {"lang": "he", "dir": "rtl"}
    assert cells.told("ja") == {"lang": "ja", "dir": "ltr"}
    assert cells.told("") == {"lang": "", "dir": "auto"}
    assert (
        cells.passage("<b>&", "he")
        == '<div class="ml-whole" lang="he" dir="rtl">&lt;b&gt;&amp;</div>'
    )


def test_what_only_one_text_has_is_marked_and_all_of_it_is_escaped() -> None:
    parts = diff("a <i> b", "a <i> c")
    first = cells.marked([(kind, one) for kind, one, _ in parts], "", "del")
    assert first.endswith("&lt;i&gt; <del>b</del></div>")
    second = cells.marked([(kind, two) for kind, _, two in parts], "", "ins")
    assert second.endswith("&lt;i&gt; <ins>c</ins></div>")


def test_the_line_below_a_reply_names_what_should_be_looked_at() -> None:
    wrong = done("Das Ergebnis ist 8.", SUM, completion_tokens=12, finish_reason="length")
    below = cells.cell([wrong], "", "", True)["below"]
    assert below == "12 tokens · wrong number · cut"
    assert "right number" in cells.cell([done("Das Ergebnis ist 7.", SUM)], "", "", True)["below"]


def test_a_long_reply_is_shortened_and_has_no_empty_lines() -> None:
    shown = cells.cell([done(f"Eins.\n\n \nZwei. {'lang ' * 200}")], "", "", True)["text"]
    assert shown.startswith("Eins.\nZwei.")
    assert len(shown) == cells.SHOWN + 1
