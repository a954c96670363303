"""Short German sentences and what they are in English: from a small lexicon, by rules."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Noun:
    """`gender` is der, die or das."""

    english: str
    german: str
    gender: str


NOUNS = (
    Noun("dog", "Hund", "der"), Noun("man", "Mann", "der"), Noun("teacher", "Lehrer", "der"),
    Noun("apple", "Apfel", "der"), Noun("tree", "Baum", "der"), Noun("table", "Tisch", "der"),
    Noun("cat", "Katze", "die"), Noun("woman", "Frau", "die"), Noun("flower", "Blume", "die"),
    Noun("lamp", "Lampe", "die"), Noun("bag", "Tasche", "die"), Noun("clock", "Uhr", "die"),
    Noun("child", "Kind", "das"), Noun("house", "Haus", "das"), Noun("book", "Buch", "das"),
    Noun("bread", "Brot", "das"), Noun("car", "Auto", "das"), Noun("picture", "Bild", "das"),
)  # fmt: skip
WHO = ("dog", "man", "teacher", "cat", "woman", "child")
VERBS = {
    "sees": "sieht", "buys": "kauft", "needs": "braucht", "finds": "findet", "loves": "liebt",
    "has": "hat", "looks for": "sucht", "brings": "bringt",
}  # fmt: skip
QUALITIES = {
    "big": "groß", "small": "klein", "old": "alt", "new": "neu", "beautiful": "schön",
    "red": "rot", "green": "grün", "expensive": "teuer",
}  # fmt: skip
PLACES = {
    "in the house": "im Haus", "in the garden": "im Garten", "at school": "in der Schule",
    "on the table": "auf dem Tisch", "in the city": "in der Stadt",
}  # fmt: skip
TIMES = {"today": "heute", "tomorrow": "morgen", "now": "jetzt", "here": "hier"}
ACCUSATIVE = {"der": "den", "die": "die", "das": "das"}
NUMBERS = {
    "one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf", "six": "sechs",
    "seven": "sieben", "eight": "acht", "nine": "neun", "ten": "zehn", "eleven": "elf",
    "twelve": "zwölf",
}  # fmt: skip


def pair(chance: random.Random) -> tuple[str, str]:
    """(English, German): a sentence or a word."""
    return chance.choices((_does, _is, _where, _word), (5, 3, 2, 2))[0](chance)


def _does(chance: random.Random) -> tuple[str, str]:
    who = chance.choice([noun for noun in NOUNS if noun.english in WHO])
    what = chance.choice([noun for noun in NOUNS if noun is not who])
    verb = chance.choice(list(VERBS))
    english = f"The {who.english} {verb} the {what.english}"
    german = f"{who.gender.capitalize()} {who.german} {VERBS[verb]} "
    whom = f"{ACCUSATIVE[what.gender]} {what.german}"
    if chance.random() < 0.3:
        when = chance.choice(list(TIMES))
        return f"{english} {when}.", f"{german}{TIMES[when]} {whom}."
    return f"{english}.", f"{german}{whom}."


def _is(chance: random.Random) -> tuple[str, str]:
    what, quality = chance.choice(NOUNS), chance.choice(list(QUALITIES))
    very = chance.random() < 0.3
    return (
        f"The {what.english} is {'very ' if very else ''}{quality}.",
        f"{what.gender.capitalize()} {what.german} ist {'sehr ' if very else ''}"
        f"{QUALITIES[quality]}.",
    )


def _where(chance: random.Random) -> tuple[str, str]:
    what, place = chance.choice(NOUNS), chance.choice(list(PLACES))
    asked = chance.random() < 0.4
    if asked:
        return (
            f"Is the {what.english} {place}?",
            f"Ist {what.gender} {what.german} {PLACES[place]}?",
        )
    return (
        f"The {what.english} is {place}.",
        f"{what.gender.capitalize()} {what.german} ist {PLACES[place]}.",
    )


def _word(chance: random.Random) -> tuple[str, str]:
    if chance.random() < 0.4:
        number = chance.choice(list(NUMBERS))
        return number, NUMBERS[number]
    noun = chance.choice(NOUNS)
    return f"the {noun.english}", f"{noun.gender} {noun.german}"
