"""What is measured of replies, rows and pairs of deployments."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from slm_backends.multilingual import overlap, parallel, scores, tasks
from slm_backends.multilingual.plan import Plan, Question
from slm_backends.multilingual.results import Cell, Results

GERMAN = "Das Museum ist montags geschlossen, und Kinder unter zwölf Jahren zahlen nichts."
ENGLISH = "The museum is closed on Mondays, and children under twelve do not pay anything."
SOLVE = Question("solve/apples/de", "de", "de", "Wie viele?", answer="15")
ASK = Question("ask/museum/de", "de", "de", "Wann?")
TRANSLATE = Question("translate/museum/en-de", "de", "de", "Translate", reference=GERMAN)


def cell(question: Question, text: str, deployment: str = "one", **facts: object) -> Cell:
    return replace(Cell(question.id, deployment, text, finish_reason="stop"), **facts)  # type: ignore[arg-type]


def results(**texts: list[str]) -> Results:
    """A run of "solve" in German, with these replies by deployment; "!": it failed."""
    count = len(next(iter(texts.values())))
    questions = tuple(replace(SOLVE, id=f"solve/{number}/de") for number in range(count))
    made = Results(Plan("solve", tuple(texts), questions))
    for deployment, replies in texts.items():
        for question, text in zip(questions, replies, strict=True):
            failed = {"error": "It broke off."} if text == "!" else {}
            one = cell(question, text, deployment, **failed)
            made.cells[one.key] = one
    return made


def test_a_number_is_right_wrong_or_not_found() -> None:
    right = scores.score(SOLVE, cell(SOLVE, "Anna hat nun 15,0 Äpfel."))
    assert (right.number, right.correct) == ("15", True)
    wrong = scores.score(SOLVE, cell(SOLVE, "Anna hat nun 16 Äpfel."))
    assert (wrong.number, wrong.correct) == ("16", False)
    nothing = scores.score(SOLVE, cell(SOLVE, "Anna hat nun fünfzehn Äpfel."))
    assert (nothing.number, nothing.correct) == ("", None)
    not_asked = scores.score(ASK, cell(ASK, "15"))
    assert (not_asked.number, not_asked.correct) == ("", None)


def test_chrf_needs_a_reference() -> None:
    same = scores.score(TRANSLATE, cell(TRANSLATE, GERMAN))
    assert (same.chrf, same.chrf_plus, same.fidelity.badge) == (100, 100, "right")
    other = scores.score(TRANSLATE, cell(TRANSLATE, ENGLISH))
    assert other.chrf == pytest.approx(overlap.chrf(ENGLISH, GERMAN))
    assert other.chrf is not None and other.chrf < 40
    assert other.fidelity.badge == "english"
    without = scores.score(ASK, cell(ASK, GERMAN))
    assert (without.chrf, without.chrf_plus, without.characters) == (None, None, len(GERMAN))


@pytest.mark.parametrize(
    ("text", "reason", "flags"),
    [
        (GERMAN, "stop", ()),
        (GERMAN, "length", ("cut",)),
        (" \n", "stop", ("empty",)),
        ("", "length", ("cut", "empty")),
        ("Das Museum ist zu.", "stop", ("short",)),
        (f"{GERMAN} {ENGLISH} Außerdem hat es am Sonntag bis spät geöffnet.", "stop", ("long",)),
        (f"{GERMAN} " * 4, "length", ("cut", "repeats", "long")),
    ],
)
def test_flags(text: str, reason: str, flags: tuple[str, ...]) -> None:
    found = scores.score(TRANSLATE, cell(TRANSLATE, text, finish_reason=reason))
    assert found.flags == flags
    assert set(flags) <= set(scores.FLAGS)


def test_lengths_without_a_reference_are_those_of_the_row() -> None:
    found = results(one=["Es sind 15."], two=[GERMAN], three=[GERMAN], four=["!"])
    question = found.plan.questions[0]
    usual = scores.usual_length(found, question)
    assert usual == len(GERMAN)
    assert scores.score(question, found.cells[question.id, "one"], usual).flags == ("short",)
    assert scores.score(question, found.cells[question.id, "two"], usual).flags == ()
    assert scores.usual_length(results(one=["a"], two=["b"]), question) is None
    assert [row.flags for row in scores.table(found)] == [{"short": 1}, {}, {}, {}]


def test_a_row_of_the_table() -> None:
    found = results(one=["Anna hat 15 Äpfel.", "She has 15 apples.", "Es sind 9 Äpfel.", "!"])
    for number, wait in enumerate((0.1, 0.4, 0.2, 9.0)):
        key = f"solve/{number}/de", "one"
        found.cells[key] = replace(
            found.cells[key], wait_s=wait, decode_s=2.0, completion_tokens=21
        )
    (row,) = scores.table(found)
    assert (row.language, row.deployment) == ("de", "one")
    assert (row.asked, row.done, row.failed) == (4, 3, 1)
    assert row.badges == {"right": 2, "english": 1}
    assert row.rates.line == pytest.approx(2 / 3)
    assert row.line is not None and row.line.value == pytest.approx(2 / 3)
    assert (row.checked, row.correct, row.not_found) == (3, 2, 0)
    assert row.accuracy is not None and row.accuracy.value == pytest.approx(2 / 3)
    assert row.accuracy.low < 2 / 3 < row.accuracy.high
    assert (row.wait_s, row.tokens_per_second, row.characters_per_second) == (0.2, 10, 9)
    assert (row.chrf, row.flags) == (None, {})


def test_a_table_of_nothing_yet() -> None:
    made = results(one=["15"])
    made.cells.clear()
    (row,) = scores.table(made)
    assert (row.asked, row.done, row.failed) == (1, 0, 0)
    assert (row.line, row.accuracy, row.wait_s, row.characters) == (None, None, None, None)
    assert scores.verdicts(made) == ()


def test_a_table_has_chrf_over_all_sentences_together() -> None:
    questions = tasks.questions("translate", ["de", "fr"])
    made = Results(Plan("translate", ("one",), questions))
    for question in questions:
        reply = question.reference if question.id.endswith("en-de") else question.content
        made.cells[question.id, "one"] = cell(question, reply)
    german, french = scores.table(made)
    assert german.chrf is not None and french.chrf is not None
    assert (german.chrf.value, german.chrf.low, german.chrf.high) == pytest.approx((100,) * 3)
    assert 5 < french.chrf.low < french.chrf.value < french.chrf.high < 50
    assert german.chrf.counted == len(parallel.texts("en").sentences)


def said(found: tuple[scores.Verdict, ...], measure: str, language: str = "de") -> scores.Verdict:
    return next(one for one in found if (one.measure, one.language) == (measure, language))


def test_verdicts_need_enough_prompts_and_a_difference() -> None:
    good, bad = "Es sind 15 Äpfel.", "Es sind 9 Äpfel."
    clear = scores.verdicts(results(one=[bad] * 12, two=[good] * 10 + [bad] * 2))
    assert said(clear, "correct").difference.verdict == "more"
    assert said(clear, "correct").values == pytest.approx((0, 10 / 12))
    assert "German, correct numbers: 83 % with two, 0 % with one" in said(clear, "correct").words
    assert said(clear, "language").difference.verdict == "within noise"
    noise = scores.verdicts(results(one=[bad] * 6 + [good] * 6, two=[bad] * 5 + [good] * 7))
    assert "within noise" in said(noise, "correct").words
    few = scores.verdicts(results(one=[bad] * 7, two=[good] * 7))
    assert said(few, "correct").difference.verdict == "too few to tell"
    assert "7 prompts are too few to tell" in said(few, "correct").words


def test_verdicts_count_what_both_answered() -> None:
    good, bad = "Es sind 15 Äpfel.", "Es sind 9 Äpfel."
    found = scores.verdicts(results(one=[good] * 9 + ["!"], two=["!"] + [good] * 8 + [bad]))
    assert said(found, "correct").difference.counted == 8
    assert said(found, "correct").values == (1, 1)
    assert said(found, "correct", "") == replace(
        said(found, "correct"), language="", words=said(found, "correct", "").words
    )


def test_chrf_is_not_taken_over_several_languages() -> None:
    questions = tasks.questions("translate", ["de", "fr"])
    made = Results(Plan("translate", ("one", "two"), questions))
    for question in questions:
        for deployment in ("one", "two"):
            made.cells[question.id, deployment] = cell(question, question.reference, deployment)
    found = scores.verdicts(made)
    assert {one.language for one in found if one.measure == "chrF"} == {"de", "fr"}
    assert {one.language for one in found if one.measure == "language"} == {"", "de", "fr"}


def test_partings_come_in_the_order_of_how_far() -> None:
    same = "Anna hat nun 15 Äpfel in ihrem Korb."
    found = scores.partings(
        results(
            one=[same, same, same, same, "!"],
            two=[same, "Anna now has 15 apples in her basket.", same.replace("15", "9"), "!", "!"],
        ),
        "one",
        "two",
    )
    assert [parting.question.id[6] for parting in found] == ["3", "2", "1", "0", "4"]
    assert [parting.reasons for parting in found] == [
        ("two gave no whole reply.",),
        ("one says 15, two says 9; 15 is right.",),
        ("Language: one right, two english.",),
        (),
        (),
    ]
    assert found[-1].weight == found[-2].weight == 0


def test_partings_by_overlap_and_length() -> None:
    made = Results(Plan("translate", ("one", "two"), (TRANSLATE,)))
    for deployment, text in (("one", GERMAN), ("two", f"{GERMAN} " * 3)):
        made.cells[TRANSLATE.id, deployment] = cell(TRANSLATE, text, deployment)
    (parting,) = scores.partings(made, "one", "two")
    higher, longer = parting.reasons
    assert higher.startswith("chrF is ") and higher.endswith("higher with one.")
    assert longer == "two wrote 3.0 times as much."


def test_a_run_of_many_cells_is_measured_once() -> None:
    deployments = [f"deployment {number}" for number in range(3)]
    made = results(**{name: [f"{GERMAN} {n} {name}" for n in range(300)] for name in deployments})
    first = scores.table(made), scores.verdicts(made)
    begun = time.process_time()
    assert (scores.table(made), scores.verdicts(made)) == first
    assert time.process_time() - begun < 0.2


def test_usable_replies_are_in_the_right_language_and_say_something() -> None:
    asked = "Warum regnet es? Erkläre es in zwei oder drei Sätzen."
    question = Question("ask/rain/de", "de", "de", asked)
    texts = {
        "a@x": "Wasser verdunstet, steigt auf, wird zu Wolken und fällt als Regen zur Erde.",
        "b@x": asked,
        "c@x": "Es regnet und regnet und regnet. " * 8,
        "d@x": "Water evaporates, rises, becomes clouds and falls to the ground as rain.",
    }
    found = Results(Plan("ask", tuple(texts), (question,)))
    for name, text in texts.items():
        found.cells[question.id, name] = Cell(question.id, name, text)
    shares = [row.usable.value for row in scores.table(found) if row.usable]
    assert shares == [1, 0, 0, 0]
