"""What is measured of replies besides their language, by cell, by row, and between deployments.

Numbers that can be known are compared with what was asked for; everything else is counted, not
judged. Failed cells are counted as such and measured no further. Two deployments are only ever
compared over the questions that both answered, and noise.py says whether that tells anything.

Knows questions, cells and results. Knows no model; draws nothing.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from slm_backends.multilingual import noise, numerals, overlap, wording
from slm_backends.multilingual.fidelity import Fidelity, Rates, fidelity, pass_rates
from slm_backends.multilingual.languages import LANGUAGES
from slm_backends.multilingual.noise import Interval
from slm_backends.multilingual.plan import Question
from slm_backends.multilingual.results import Cell, Results
from slm_backends.multilingual.wording import diff

__all__ = ["FLAGS", "Parting", "Row", "Score", "Verdict", "diff", "partings", "score", "table",
           "usual_length", "verdicts"]  # fmt: skip

BADGES = ("right", "mixed", "english", "other", "unclear")
#: flag -> what it says
FLAGS: Mapping[str, str] = {
    "empty": "nothing but white space",
    "cut": "the limit of tokens ended it",
    "echoes": "half of it, or more, stands in the prompt",
    "repeats": "30 % of it, or more, stands in it before, or it stutters",
    "short": "less than half as long as the reference, or as half of the replies to this prompt",
    "long": "more than twice as long as the reference, or as half of the replies to this prompt",
}
#: Of a reply with one of these flags nobody has anything, whatever its language.
USELESS = frozenset({"empty", "echoes", "repeats"})
_HALF = 2.0  # times the usual length, or a part of it
_CHARACTERS = 20  # that a length must differ by at least
_REPLIES = 3  # of a prompt that have a usual length

_Pair = tuple[Question, Cell]


@dataclass(frozen=True)
class Score:
    """What is known of one reply.

    number      that it ends with, as decimal digits; empty: none, or none was asked for
    correct     whether that is the answer; None: none was found, or none was asked for
    chrf        0 to 100; None without a reference. chrf_plus is chrF++
    flags       of FLAGS
    characters  of the reply
    """

    fidelity: Fidelity
    number: str
    correct: bool | None
    chrf: float | None
    chrf_plus: float | None
    flags: tuple[str, ...]
    characters: int


@dataclass(frozen=True)
class Row:
    """One deployment in one language.

    asked, done, failed  questions; done are those with a whole reply, which all else is of
    badges     fidelity's badge -> replies
    rates      fidelity's pass rates; `line` is that by line, with its interval
    usable     share of replies in the right language, line and word, without a flag of USELESS
    checked    replies to questions with an answer: correct, wrong, or with no number found
    accuracy   correct / checked, 0 to 1
    chrf, chrf_plus  over all replies with a reference together, 0 to 100
    wait_s, tokens_per_second, characters_per_second, characters  medians
    flags      flag -> replies
    """

    language: str
    deployment: str
    asked: int
    done: int
    failed: int
    badges: Mapping[str, int]
    rates: Rates
    line: Interval | None
    usable: Interval | None
    checked: int
    correct: int
    not_found: int
    accuracy: Interval | None
    chrf: Interval | None
    chrf_plus: Interval | None
    wait_s: float | None
    tokens_per_second: float | None
    characters_per_second: float | None
    characters: float | None
    flags: Mapping[str, int]


@dataclass(frozen=True)
class Parting:
    """How far two deployments part over one question. `weight` is 0 where nothing was found; it
    orders, and has no unit. `reasons` are for people."""

    question: Question
    weight: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """Two deployments by one of MEASURES in one language; language "": in all together.

    values      of the first and of the second, over the questions that count for both
    difference  what the second has more; its `verdict` says whether that is more than noise
    words       a sentence for people
    """

    language: str
    measure: str
    first: str
    second: str
    values: tuple[float, float]
    difference: Interval
    words: str


@lru_cache(maxsize=20_000)
def score(question: Question, cell: Cell, usual: float | None = None) -> Score:
    """What is known of a reply. `usual` is how long replies to this question are, in characters:
    see `usual_length`. A reference goes before it."""
    text = cell.text
    number, correct = "", None
    if question.answer:
        number = numerals.last_number(text, question.expected)
        correct = numerals.same(number, question.answer) if number else None
    chrf = chrf_plus = None
    if question.reference.strip():
        chrf = overlap.chrf(text, question.reference)
        chrf_plus = overlap.chrf_plus(text, question.reference)
    return Score(
        fidelity(text, question.expected),
        number,
        correct,
        chrf,
        chrf_plus,
        tuple(_flags(question, cell, usual)),
        len(text),
    )


def _flags(question: Question, cell: Cell, usual: float | None) -> Iterable[str]:
    text = cell.text.strip()
    if cell.finish_reason == "length":
        yield "cut"
    if not text:
        yield "empty"
        return
    if wording.echoes(text, question.prompt):
        yield "echoes"
    if wording.repeats(text):
        yield "repeats"
    wanted = len(question.reference.strip()) or usual
    if wanted is None or abs(len(text) - wanted) < _CHARACTERS:
        return
    if len(text) * _HALF < wanted:
        yield "short"
    elif len(text) > wanted * _HALF:
        yield "long"


def usual_length(results: Results, question: Question) -> float | None:
    """The median of the characters of the whole replies to a question; None for fewer than three
    of them."""
    lengths = [
        len(cell.text.strip())
        for deployment in results.plan.deployments
        if (cell := results.cells.get((question.id, deployment))) and cell.done
    ]
    return statistics.median(lengths) if len(lengths) >= _REPLIES else None


def table(results: Results) -> tuple[Row, ...]:
    """A row for each language and deployment, in the order of the plan."""
    usual = {item.id: usual_length(results, item) for item in results.plan.questions}
    return tuple(
        _row(
            language,
            deployment,
            tuple(
                (item, results.cells.get((item.id, deployment)), usual[item.id])
                for item in results.plan.questions
                if item.language == language
            ),
        )
        for language in results.plan.languages
        for deployment in results.plan.deployments
    )


@lru_cache(maxsize=2_048)
def _row(
    language: str, deployment: str, asked: tuple[tuple[Question, Cell | None, float | None], ...]
) -> Row:
    done = [(item, cell, usual) for item, cell, usual in asked if cell is not None and cell.done]
    scores = [score(*one) for one in done]
    pairs = [(item, cell) for item, cell, _ in done]
    checked = [found for (item, _), found in zip(pairs, scores, strict=True) if item.answer]
    flags = Counter(flag for found in scores for flag in found.flags)
    badges = Counter(found.fidelity.badge for found in scores)
    return Row(
        language,
        deployment,
        asked=len(asked),
        done=len(done),
        failed=sum(cell is not None and not cell.done for _, cell, _ in asked),
        badges={badge: badges[badge] for badge in BADGES if badges[badge]},
        rates=pass_rates(found.fidelity for found in scores),
        line=_measured("language", pairs),
        usable=_measured("usable", pairs),
        checked=len(checked),
        correct=sum(found.correct is True for found in checked),
        not_found=sum(found.correct is None for found in checked),
        accuracy=_measured("correct", pairs),
        chrf=_measured("chrF", pairs),
        chrf_plus=_measured("chrF++", pairs),
        wait_s=_median(cell.wait_s for _, cell in pairs),
        tokens_per_second=_median(cell.tokens_per_second for _, cell in pairs),
        characters_per_second=_median(cell.characters_per_second for _, cell in pairs),
        characters=_median(float(found.characters) for found in scores),
        flags={flag: flags[flag] for flag in FLAGS if flags[flag]},
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


# A measure: what a question counts with, None where it does not; and what many of them make.
def _line(question: Question, cell: Cell) -> bool | None:
    return fidelity(cell.text, question.expected).line_pass


def _usable(question: Question, cell: Cell) -> bool:
    found = score(question, cell)
    return found.fidelity.badge == "right" and USELESS.isdisjoint(found.flags)


def _correct(question: Question, cell: Cell) -> bool | None:
    return score(question, cell).correct is True if question.answer else None


def _counts(question: Question, cell: Cell) -> overlap.Counts | None:
    reference = question.reference
    return overlap.counts(cell.text, reference) if reference.strip() else None


def _speed(question: Question, cell: Cell) -> float | None:
    return cell.characters_per_second


#: measure -> what it is called, its unit, what a question counts with, and what many make
MEASURES: Mapping[str, tuple[str, str, Callable[[Question, Cell], Any], noise.Statistic]] = {
    "language": ("replies in the right language", "%", _line, noise.mean),
    "usable": ("usable replies", "%", _usable, noise.mean),
    "correct": ("correct numbers", "%", _correct, noise.mean),
    "chrF": ("chrF", "", _counts, overlap.corpus_chrf),
    "chrF++": ("chrF++", "", _counts, overlap.corpus_chrf_plus),
    "characters/s": ("characters per second", "", _speed, noise.median),
}


def _measured(measure: str, pairs: Sequence[_Pair]) -> Interval | None:
    _, _, counted, statistic = MEASURES[measure]
    values = [value for pair in pairs if (value := counted(*pair)) is not None]
    return noise.interval(values, statistic)


def verdicts(results: Results) -> tuple[Verdict, ...]:
    """Every two deployments by every measure that counts for both: first in all languages
    together, then in each. chrF of several languages together is no number, and is left out."""
    found = []
    for first, second in itertools.combinations(results.plan.deployments, 2):
        both = tuple(
            (item, before, after)
            for item in results.plan.questions
            if (before := results.cells.get((item.id, first))) and before.done
            if (after := results.cells.get((item.id, second))) and after.done
        )
        for language in ("", *results.plan.languages):
            asked = tuple(one for one in both if language in ("", one[0].language))
            for measure in MEASURES:
                expected = {item.expected for item, _, _ in asked}
                if not (measure.startswith("chrF") and len(expected) > 1):
                    found.append(_verdict(language, measure, first, second, asked))
    return tuple(one for one in found if one is not None)


@lru_cache(maxsize=8_192)
def _verdict(
    language: str,
    measure: str,
    first: str,
    second: str,
    asked: tuple[tuple[Question, Cell, Cell], ...],
) -> Verdict | None:
    _, _, counted, statistic = MEASURES[measure]
    both = [(counted(item, before), counted(item, after)) for item, before, after in asked]
    both = [pair for pair in both if None not in pair]
    before, after = [one for one, _ in both], [two for _, two in both]
    difference = noise.difference(before, after, statistic)
    one, two = noise.interval(before, statistic), noise.interval(after, statistic)
    if difference is None or one is None or two is None:
        return None
    values = one.value, two.value
    words = _sentence(language, measure, first, second, values, difference)
    return Verdict(language, measure, first, second, values, difference, words)


def _sentence(
    language: str,
    measure: str,
    first: str,
    second: str,
    values: tuple[float, float],
    difference: Interval,
) -> str:
    name, unit, _, _ = MEASURES[measure]
    factor = 100 if unit else 1
    one, two = (f"{factor * value:.{0 if unit else 1}f}" for value in values)
    unit = f" {unit}" if unit else ""
    where = f"{LANGUAGES[language].name}, {name}" if language else f"All languages, {name}"
    facts = f"{where}: {two}{unit} with {second}, {one}{unit} with {first}"
    low, high = factor * difference.low, factor * difference.high
    span = f"95 % of resamples differ by {low:+.1f} to {high:+.1f}"
    asked = f"{difference.counted} prompt{'s' * (difference.counted != 1)}"
    if difference.verdict == "too few to tell":
        return (
            f"{facts}; {asked} are too few to tell."
            if difference.counted != 1
            else (f"{facts}; {asked} is too little to tell.")
        )
    if difference.verdict == "within noise":
        return f"{facts}; that is within noise ({asked}, {span})."
    return f"{facts}; that is more than noise ({asked}, {span})."


# Weights of a parting: what a person would look at first.
_FAILED, _ANSWERS, _BADGES, _OVERLAP, _LENGTHS = 8.0, 4.0, 2.0, 2.0, 0.5
_FAR = {"right": 0, "mixed": 1, "unclear": 1, "english": 2, "other": 2}
_GAP = 10.0  # of chrF that is worth a word
_TIMES = 2.0  # as long that is worth a word


def partings(results: Results, first: str, second: str) -> tuple[Parting, ...]:
    """The questions that both deployments have a cell of, those first over which they part most:
    one failed, one number is right, one is in another language, chrF, length."""
    found = [
        _parting(item, before, after)
        for item in results.plan.questions
        if (before := results.cells.get((item.id, first)))
        if (after := results.cells.get((item.id, second)))
    ]
    return tuple(sorted(found, key=lambda parting: -parting.weight))


@lru_cache(maxsize=8_192)
def _parting(question: Question, before: Cell, after: Cell) -> Parting:
    first, second = before.deployment, after.deployment
    if not (before.done and after.done):
        if before.done == after.done:
            return Parting(question, 0.0, ())
        failed = second if before.done else first
        return Parting(question, _FAILED, (f"{failed} gave no whole reply.",))
    weight = 0.0
    reasons = []
    one, two = score(question, before), score(question, after)
    if one.correct is not two.correct:
        weight += _ANSWERS * (1 if True in (one.correct, two.correct) else 0.5)
        said = (f"{id} says {found.number or 'no number'}" for id, found in
                ((first, one), (second, two)))  # fmt: skip
        reasons.append(f"{', '.join(said)}; {question.answer} is right.")
    badges = one.fidelity.badge, two.fidelity.badge
    if badges[0] != badges[1]:
        weight += _BADGES * max(0.5, abs(_FAR[badges[0]] - _FAR[badges[1]]))
        reasons.append(f"Language: {first} {badges[0]}, {second} {badges[1]}.")
    if one.chrf is not None and two.chrf is not None:
        gap = abs(one.chrf - two.chrf)
        weight += _OVERLAP * gap / 100
        if gap >= _GAP:
            better = first if one.chrf > two.chrf else second
            reasons.append(f"chrF is {gap:.0f} higher with {better}.")
    lengths = sorted((one.characters or 1, two.characters or 1))
    times = lengths[1] / lengths[0]
    weight += _LENGTHS * min(math.log2(times), 4.0)
    if times >= _TIMES and lengths[1] - lengths[0] >= _CHARACTERS:
        longer = first if one.characters > two.characters else second
        reasons.append(f"{longer} wrote {times:.1f} times as much.")
    return Parting(question, weight, tuple(reasons))
