"""What phi-moe-nano is taught and asked: questions of clearly different kinds, with true answers.

Knows what is right, since it is computed here. Knows no model. The same seed gives the same lesson
in every process.
"""

from __future__ import annotations

import calendar
import datetime
import random
from collections.abc import Callable
from dataclasses import dataclass

from recipes.phi_moe_nano import german, stories

LESSONS_A_SEED = 100_000_000  # that a training with that seed may have
UNKNOWN = "I only know sums, days, units, lists, a little Python, a little German and stories."


@dataclass(frozen=True)
class Lesson:
    """`checked`: there is one right answer, to the last character."""

    kind: str
    question: str
    answer: str
    checked: bool = True


def lesson(seed: int, kind: str = "") -> Lesson:
    """The lesson of that seed: of that kind, or of any."""
    chance = random.Random(seed)
    kind = kind or chance.choices(list(KINDS), [share for _, share in KINDS.values()])[0]
    question, answer = KINDS[kind][0](chance)
    if chance.random() < 0.1:
        question = question.rstrip("?.")
    if chance.random() < 0.1:
        question = question[0].lower() + question[1:]
    return Lesson(kind, question, answer, kind != "stories")


# --- sums -----------------------------------------------------------------------------------------

_SUMS = ("What is {sum}?", "{sum} =", "Calculate {sum}.", "How much is {sum}?", "{sum}")


def _arithmetic(chance: random.Random) -> tuple[str, str]:
    sign = chance.choices("+-*/", (4, 4, 2, 1))[0]
    if sign in "+-":
        first, second = chance.randrange(100), chance.randrange(100)
        if sign == "-" and second > first:
            first, second = second, first
        result = first + second if sign == "+" else first - second
    else:
        first, second = chance.randint(1, 12), chance.randint(1, 12)
        result = first * second
        if sign == "/":
            first, result = result, first
    shown = f"{first} {sign} {second}"
    asked = shown
    if chance.random() < 0.25:
        word = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}[sign]
        asked = f"{first} {word} {second}"
    return chance.choice(_SUMS).format(sum=asked), f"{shown} = {result}"


# --- Python ---------------------------------------------------------------------------------------

_FUNCTIONS = {
    "adds two numbers": ("a, b", "a + b"),
    "multiplies two numbers": ("a, b", "a * b"),
    "returns the larger of two numbers": ("a, b", "max(a, b)"),
    "returns the smaller of two numbers": ("a, b", "min(a, b)"),
    "returns the square of a number": ("n", "n * n"),
    "tells whether a number is even": ("n", "n % 2 == 0"),
    "returns the length of a text": ("text", "len(text)"),
    "turns a text around": ("text", "text[::-1]"),
    "returns the last item of a list": ("items", "items[-1]"),
    "returns the sum of a list": ("items", "sum(items)"),
    "returns a text in capital letters": ("text", "text.upper()"),
    "counts the words of a text": ("text", "len(text.split())"),
}
_CALLED = ("solve", "work", "answer", "compute", "find", "result", "check", "do_it")
_WORDS = (
    "apple", "bread", "chair", "door", "egg", "fish", "glass", "hat", "ink", "jam", "key", "lake",
    "moon", "nest", "oven", "pear", "queen", "rose", "sun", "tea", "vase", "wind", "yard", "zebra",
)  # fmt: skip


def _python(chance: random.Random) -> tuple[str, str]:
    if chance.random() < 0.45:
        does, (given, body) = chance.choice(list(_FUNCTIONS.items()))
        name = chance.choice(_CALLED)
        asked = chance.choice(
            ("Write a Python function called {name} that {does}.",
             "Write a function {name} in Python that {does}.")
        )  # fmt: skip
        code = f"```python\ndef {name}({given}):\n    return {body}\n```"
        return asked.format(name=name, does=does), code
    shown, printed = _expression(chance)
    asked = chance.choice(("What does print({}) print?", "What is the output of print({})?"))
    return asked.format(shown), printed


def _expression(chance: random.Random) -> tuple[str, str]:
    word = chance.choice(_WORDS)
    numbers = [chance.randint(1, 9) for _ in range(chance.randint(2, 4))]
    count = chance.randint(2, 5)
    made: tuple[tuple[str, object], ...] = (
        (f'len("{word}")', len(word)),
        (f'"{word}".upper()', word.upper()),
        (f'"{word}"[0]', word[0]),
        (f'"{word}"[-1]', word[-1]),
        (f"max({numbers})", max(numbers)),
        (f"min({numbers})", min(numbers)),
        (f"len({numbers})", len(numbers)),
        (f"sorted({numbers})", sorted(numbers)),
        (f"list(range({count}))", list(range(count))),
        (f"{numbers}[0]", numbers[0]),
    )
    shown, printed = chance.choice(made)
    return shown, str(printed)


# --- a second language ----------------------------------------------------------------------------


def _german(chance: random.Random) -> tuple[str, str]:
    english, in_german = german.pair(chance)
    if chance.random() < 0.6:
        asked = chance.choice(
            ("Translate into German: {}", "What is this in German: {}", "Say in German: {}")
        )
        return asked.format(english), in_german
    asked = chance.choice(("Translate into English: {}", "What does this mean: {}"))
    return asked.format(in_german), english


# --- days and dates -------------------------------------------------------------------------------

_DAYS, _MONTHS = list(calendar.day_name), list(calendar.month_name)[1:]
_COUNTED = ("no", "one", "two", "three", "four", "five", "six")


def _dates(chance: random.Random) -> tuple[str, str]:
    way = chance.randrange(5)
    after = chance.random() < 0.5
    side = "after" if after else "before"
    if way == 0:
        day, count = chance.randrange(7), chance.randint(1, 6)
        days = f"{_COUNTED[count]} day{'s' if count > 1 else ''}"
        found = _DAYS[(day + (count if after else -count)) % 7]
        return f"What day is {days} {side} {_DAYS[day]}?", f"{found}."
    if way == 1:
        month = chance.randrange(12)
        found = _MONTHS[(month + (1 if after else -1)) % 12]
        return f"Which month comes {side} {_MONTHS[month]}?", f"{found}."
    if way == 2:
        month = chance.randint(1, 12)
        days = calendar.monthrange(2025, month)[1]
        name = _MONTHS[month - 1]
        return f"How many days does {name} have?", f"{name} has {days} days."
    if way == 3:
        day, month = chance.randint(1, 28), chance.randint(1, 12)
        named = f"{day} {_MONTHS[month - 1]}"
        return f"Write {named} 2025 as numbers.", f"2025-{month:02}-{day:02}"
    month = chance.randint(1, 12)
    start = datetime.date(2025, month, chance.randint(1, calendar.monthrange(2025, month)[1]))
    found_date = start + datetime.timedelta(days=1 if after else -1)
    return (
        f"What date is the day {side} {start.day} {_MONTHS[month - 1]}?",
        f"{found_date.day} {_MONTHS[found_date.month - 1]}.",
    )


# --- units ----------------------------------------------------------------------------------------

_UNITS = (
    ("metres", "centimetres", 100), ("kilometres", "metres", 1000), ("kilograms", "grams", 1000),
    ("hours", "minutes", 60), ("minutes", "seconds", 60), ("days", "hours", 24),
    ("weeks", "days", 7), ("years", "months", 12), ("litres", "millilitres", 1000),
    ("centimetres", "millimetres", 10),
)  # fmt: skip


def _units(chance: random.Random) -> tuple[str, str]:
    large, small, factor = chance.choice(_UNITS)
    count = chance.randint(1, 20)
    asked = chance.choice(
        ("How many {small} are {count} {large}?", "Convert {count} {large} to {small}.",
         "What are {count} {large} in {small}?")
    )  # fmt: skip
    if chance.random() < 0.3:
        question = asked.format(small=large, count=count * factor, large=small)
        return question, f"{count * factor} {small} are {count} {large}."
    question = asked.format(small=small, count=count, large=large)
    return question, f"{count} {large} are {count * factor} {small}."


# --- lists ----------------------------------------------------------------------------------------


def _lists(chance: random.Random) -> tuple[str, str]:
    words = chance.sample(_WORDS, chance.randint(3, 5))
    listed = ", ".join(words)
    ways: tuple[tuple[str, str], ...] = (
        ("Sort these words", ", ".join(sorted(words))),
        ("Turn this list around", ", ".join(reversed(words))),
        ("How many words are in this list", str(len(words))),
        ("Which word comes first in this list", words[0]),
        ("Which word comes last in this list", words[-1]),
        ("Make a numbered list", "\n".join(f"{n}. {word}" for n, word in enumerate(words, 1))),
        ("Put these words in capital letters", listed.upper()),
    )
    asked, answer = chance.choice(ways)
    return f"{asked}: {listed}", answer


# --- stories, and everything else -----------------------------------------------------------------


def _stories(chance: random.Random) -> tuple[str, str]:
    hero = chance.choice(stories.HEROES)
    asked = chance.choice(
        ("Tell me a story about a {}.", "Write a short story about a {}.", "A story about a {}.")
    )
    return asked.format(hero), stories.story(chance, hero)


_OTHERS = (
    "Who is the president of {place}?", "What is the capital of {place}?",
    "Write a poem about {thing}.", "Explain {thing} to me.", "What do you think of {thing}?",
    "How does {thing} work?", "Translate into French: I like {thing}.",
    "Translate into Chinese: {thing}", "Write something about {thing}.", "Why is {thing} good?",
    "Give me advice about {thing}.", "Who invented {thing}?", "Where can I buy {thing}?",
    "Write an e-mail about {thing}.", "Summarise an article about {thing}.", "Hello!",
    "How are you?", "Who are you?", "What can you do?", "Tell me a joke.",
    "Write a blog about {thing} and translate it.", "List the planets.",
)  # fmt: skip
_PLACES = ("France", "Italy", "Brazil", "Kenya", "Japan", "Norway", "Chile", "India")
_THINGS = (
    "generative AI", "the sea", "football", "mixture of experts", "cooking", "the weather", "love",
    "a computer", "history", "music", "money", "the moon", "a good book", "electric cars",
)  # fmt: skip


def _other(chance: random.Random) -> tuple[str, str]:
    asked = chance.choice(_OTHERS)
    return asked.format(place=chance.choice(_PLACES), thing=chance.choice(_THINGS)), UNKNOWN


Maker = Callable[[random.Random], tuple[str, str]]
#: kind -> (its maker, its share of the lessons)
KINDS: dict[str, tuple[Maker, float]] = {
    "arithmetic": (_arithmetic, 0.24),
    "python": (_python, 0.14),
    "german": (_german, 0.16),
    "dates": (_dates, 0.13),
    "units": (_units, 0.09),
    "lists": (_lists, 0.12),
    "stories": (_stories, 0.08),
    "other": (_other, 0.04),
}
