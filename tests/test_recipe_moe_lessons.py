"""What phi-moe-nano is taught is right: sums, code, dates, units and lists are worked out anew."""

from __future__ import annotations

import ast
import calendar
import contextlib
import datetime
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from command_line import ROOT

from recipes.phi_moe_nano import examine, german, kinds, stories
from slm_backends import shipped_weights
from slm_backends.moe import nano

SEEDS = range(400)
DIGEST = """
import hashlib
from recipes.phi_moe_nano import kinds
digest = hashlib.sha256()
for seed in range(2_000):
    digest.update(repr(kinds.lesson(seed)).encode())
print(digest.hexdigest())
"""


def of(kind: str, pattern: str) -> Iterator[tuple[re.Match[str], str]]:
    """(what the pattern finds in the question, the answer) of those lessons that it fits. The
    question mark and the capital letter that some lessons lack do not matter."""
    found = 0
    for seed in SEEDS:
        lesson = kinds.lesson(seed, kind)
        match = re.fullmatch(pattern, lesson.question.rstrip("?."), re.IGNORECASE | re.DOTALL)
        if match:
            found += 1
            yield match, lesson.answer
    assert found > 5, pattern


def test_a_seed_gives_the_same_lesson_in_every_process() -> None:
    digests = {
        subprocess.check_output(
            [sys.executable, "-c", DIGEST], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": chance}
        )
        for chance in ("1", "2")
    }
    assert len(digests) == 1


def test_every_kind_is_taught_as_often_as_it_should_be() -> None:
    asked = [kinds.lesson(seed).kind for seed in range(4_000)]
    assert sum(share for _, share in kinds.KINDS.values()) == pytest.approx(1)
    for kind, (_, share) in kinds.KINDS.items():
        assert asked.count(kind) / len(asked) == pytest.approx(share, abs=0.025)


def test_fresh_lessons_are_of_seeds_that_are_not_taught() -> None:
    lessons = list(examine.fresh("units", 5, seed=3))
    first = examine.FRESH + 3 * examine.LESSONS_A_SEED
    assert lessons == [kinds.lesson(seed, "units") for seed in range(first, first + 5)]
    # Trainings have seeds of up to a few digits, and a FRESH one would be the 900th.
    assert examine.FRESH >= 900 * kinds.LESSONS_A_SEED
    for model_id in (nano.MIXTURE, nano.TWIN):
        told = json.loads((shipped_weights.folder(model_id) / nano.TRAINING).read_text())
        assert told["lessons"] < kinds.LESSONS_A_SEED and told["seed"] < 900


def test_sums_are_right() -> None:
    words = {"plus": "+", "minus": "-", "times": "*", "divided by": "/"}
    pattern = r"\D*?(\d+) (plus|minus|times|divided by|[-+*/]) (\d+)(?: =)?"
    for match, answer in of("arithmetic", pattern):
        first, sign, second = match.groups()
        asked = f"{first} {words.get(sign, sign)} {second}"
        shown, _, result = answer.partition(" = ")
        assert shown == asked
        assert eval(shown) == int(result)
    assert all(
        re.fullmatch(pattern, kinds.lesson(seed, "arithmetic").question.rstrip("?."))
        for seed in SEEDS
    )


def test_what_python_prints_is_what_is_said() -> None:
    for match, answer in of("python", r"what \D+ of (print\(.*\))|what does (print\(.*\)) print"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(match[1] or match[2])
        assert printed.getvalue() == answer + "\n"


def test_functions_do_what_was_asked() -> None:
    cases: dict[str, list[tuple[tuple[Any, ...], Any]]] = {
        "adds two numbers": [((3, 4), 7)],
        "multiplies two numbers": [((3, 4), 12)],
        "returns the larger of two numbers": [((3, 4), 4), ((4, 3), 4)],
        "returns the smaller of two numbers": [((3, 4), 3), ((4, 3), 3)],
        "returns the square of a number": [((5,), 25)],
        "tells whether a number is even": [((5,), False), ((4,), True)],
        "returns the length of a text": [(("four",), 4)],
        "turns a text around": [(("abc",), "cba")],
        "returns the last item of a list": [(([1, 2, 3],), 3)],
        "returns the sum of a list": [(([1, 2, 3],), 6)],
        "returns a text in capital letters": [(("abc",), "ABC")],
        "counts the words of a text": [(("a bc d",), 3)],
    }
    pattern = r"write a (?:python )?function (?:called )?(\w+) (?:in python )?that (.*)"
    seen = set()
    for match, answer in of("python", pattern):
        code = re.fullmatch(r"```python\n(.*)\n```", answer, re.DOTALL)
        assert code
        ast.parse(code[1])
        made: dict[str, Any] = {}
        exec(code[1], made)
        seen.add(match[2])
        for given, wanted in cases[match[2]]:
            assert made[match[1]](*given) == wanted
    assert seen == cases.keys()


def test_days_and_dates_are_those_of_the_calendar() -> None:
    days = list(calendar.day_name)
    counts = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
    for match, answer in of("dates", r"what day is (\w+) days? (after|before) (\w+)"):
        # Any Monday does: 5 January 2026 was one.
        monday = datetime.date(2026, 1, 5)
        day = monday + datetime.timedelta(days.index(match[3]))
        far = datetime.timedelta(counts[match[1]] * (1 if match[2] == "after" else -1))
        assert answer == f"{(day + far):%A}."
    for match, answer in of("dates", r"which month comes (after|before) (\w+)"):
        day = datetime.datetime.strptime(f"15 {match[2]} 2025", "%d %B %Y")
        far = datetime.timedelta(30 if match[1] == "after" else -30)
        assert answer == f"{(day + far):%B}."
    for match, answer in of("dates", r"how many days does (\w+) have"):
        month = datetime.datetime.strptime(f"{match[1]} 2025", "%B %Y").month
        begin = datetime.date(2025, month, 1)
        end = datetime.date(2025 + month // 12, month % 12 + 1, 1)
        assert answer == f"{match[1]} has {(end - begin).days} days."
    for match, answer in of("dates", r"write (\d+ \w+ 2025) as numbers"):
        assert answer == f"{datetime.datetime.strptime(match[1], '%d %B %Y').date()}"
    for match, answer in of("dates", r"what date is the day (after|before) (\d+ \w+)"):
        day = datetime.datetime.strptime(f"{match[2]} 2025", "%d %B %Y")
        day += datetime.timedelta(1 if match[1] == "after" else -1)
        assert answer == f"{day.day} {day:%B}."


def test_units_are_turned_by_their_factor() -> None:
    #: of one thing each: length in millimetres, time in seconds, years apart, volume, weight
    worth = {
        "millimetres": 1, "centimetres": 10, "metres": 1_000, "kilometres": 1_000_000,
        "seconds": 1, "minutes": 60, "hours": 3_600, "days": 86_400, "weeks": 604_800,
        "months": 1, "years": 12, "millilitres": 1, "litres": 1_000, "grams": 1, "kilograms": 1_000,
    }  # fmt: skip
    ways = (
        r"how many (?P<to>\w+) are (?P<count>\d+) (?P<unit>\w+)",
        r"convert (?P<count>\d+) (?P<unit>\w+) to (?P<to>\w+)",
        r"what are (?P<count>\d+) (?P<unit>\w+) in (?P<to>\w+)",
    )
    for way in ways:
        for match, answer in of("units", way):
            count, unit, to = int(match["count"]), match["unit"], match["to"]
            wanted, rest = divmod(count * worth[unit], worth[to])
            assert rest == 0
            assert answer == f"{count} {unit} are {wanted} {to}."


def test_lists_are_done_as_asked() -> None:
    done = {
        "sort these words": lambda words: ", ".join(sorted(words)),
        "turn this list around": lambda words: ", ".join(words[::-1]),
        "how many words are in this list": lambda words: f"{len(words)}",
        "which word comes first in this list": lambda words: words[0],
        "which word comes last in this list": lambda words: words[-1],
        "make a numbered list": lambda words: "\n".join(
            f"{place + 1}. {words[place]}" for place in range(len(words))
        ),
        "put these words in capital letters": lambda words: ", ".join(words).upper(),
    }
    seen = set()
    for match, answer in of("lists", r"(.*): (.*)"):
        asked = match[1].lower()
        seen.add(asked)
        assert answer == done[asked](match[2].split(", "))
    assert seen == done.keys()


def test_german_says_the_same_word_for_word() -> None:
    """Each German word has its English one in the sentence that it translates."""
    nouns = {noun.german: noun.english for noun in german.NOUNS}
    plain = {
        told: english
        for table in (german.VERBS, german.QUALITIES, german.PLACES, german.TIMES, german.NUMBERS)
        for english, told in table.items()
    }
    asks = r"(?:translate into german|what is this in german|say in german): (.*)"
    back = r"(?:translate into english|what does this mean): (.*)"
    pairs = [(match[1], answer) for match, answer in of("german", asks)]
    pairs += [(answer, match[1]) for match, answer in of("german", back)]
    for english, in_german in pairs:
        rest = in_german
        for told in (*plain, *nouns):
            rest, times = re.subn(rf"\b{told}\b", "", rest)
            assert not times or {**plain, **nouns}[told] in english, (english, in_german)
        left = set(re.findall(r"\w+", rest.lower()))
        assert left <= {"der", "die", "das", "den", "ist", "sehr"}, (english, in_german)
        assert ("sehr" in left) == ("very" in english)
    genders = {noun.german: noun.gender for noun in german.NOUNS}
    for _, in_german in pairs:
        for article, noun in re.findall(r"\b(der|die|das|den) (\w+)", in_german, re.IGNORECASE):
            if noun in genders:
                wanted = {genders[noun], german.ACCUSATIVE[genders[noun]]}
                assert article.lower() in wanted


def test_a_story_is_about_its_hero() -> None:
    for match, answer in of("stories", r".* story about a (\w+)"):
        assert match[1] in stories.HEROES
        hero = re.match(rf"Once there was a \w+ {match[1]} called (\w+) who lived ", answer)
        assert hero and answer.count(hero[1]) >= 4 and "{" not in answer
        assert len(re.findall(r"\.(?= |$)", answer)) == 5


def test_what_is_not_known_is_said_to_be() -> None:
    for seed in SEEDS:
        assert kinds.lesson(seed, "other").answer == kinds.UNKNOWN
        for kind in kinds.KINDS.keys() - {"other"}:
            assert kinds.lesson(seed, kind).answer != kinds.UNKNOWN
