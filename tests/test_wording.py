"""Repetition of replies, and two of them side by side."""

from __future__ import annotations

import random
import time

import pytest

from slm_backends.multilingual import parallel, wording
from slm_backends.multilingual.languages import LANGUAGES

CIRCLES = "The sea is blue and the sky is grey. " * 6


def test_repetition_by_hand() -> None:
    # 16 words, 13 runs of four: "a b c d" and so on. The first four repeat at each turn.
    assert wording.repetition("a b c d " * 4) == pytest.approx(1 - 4 / 13)
    assert wording.repetition(" ".join(map(str, range(20)))) == 0
    assert wording.repetition("a b c d a b c d") == 0  # too short to say
    # 24 characters, 17 runs of eight, 4 different
    assert wording.repetition("春夏秋冬" * 6) == pytest.approx(1 - 4 / 17)


@pytest.mark.parametrize(
    "text", [CIRCLES, "好好学习天天向上" * 5, "a" * 20, "haha" * 10, "ไป" * 12, "ab " * 20]
)
def test_what_repeats(text: str) -> None:
    assert wording.repeats(text)


@pytest.mark.parametrize("text", ["", "Yes.", "1000000000000", "-" * 50, "| --- | --- |\n" * 3])
def test_what_does_not(text: str) -> None:
    assert not wording.repeats(text)


@pytest.mark.parametrize("code", LANGUAGES)
def test_good_texts_of_every_language_do_not_repeat(code: str) -> None:
    for text in parallel.texts(code).contents.values():
        assert not wording.repeats(text), text


def test_what_only_gives_the_prompt_back() -> None:
    asked = "Warum regnet es? Erkläre es in zwei oder drei Sätzen."
    assert wording.echoes(asked, asked)
    assert wording.echoes(f"The question is: {asked}", asked)
    assert not wording.echoes(
        "Es regnet, weil Wasser aus den Wolken fällt, wenn sie kühl sind.", asked
    )
    assert not wording.echoes("", asked) and not wording.echoes("Ja.", asked)
    assert wording.echoes("为什么会下雨？请用两三句话解释。", "为什么会下雨？请用两三句话解释。")


def test_diff_by_words() -> None:
    assert wording.diff("The red cat sleeps.", "The old cat sleeps well.") == (
        ("same", "The ", "The "),
        ("changed", "red", "old"),
        ("same", " cat sleeps", " cat sleeps"),
        ("added", "", " well"),
        ("same", ".", "."),
    )


def test_diff_by_characters_where_words_have_no_spaces() -> None:
    assert wording.diff("今天很好", "今天不好") == (
        ("same", "今天", "今天"),
        ("changed", "很", "不"),
        ("same", "好", "好"),
    )


def test_diff_keeps_vowel_signs_with_their_letters() -> None:
    assert [part for _, part, _ in wording.diff("ที่", "ที")] == ["ที่"]
    assert ("changed", "किताब", "कलम") in wording.diff("यह किताब है", "यह कलम है")


@pytest.mark.parametrize(
    ("first", "second"),
    [("", ""), ("", "a"), ("a", ""), ("\u0301a", "a"), ("a\nb\r\nc", "a\nc"), ("好 a", "a 好")],
)
def test_diff_loses_nothing(first: str, second: str) -> None:
    parts = wording.diff(first, second)
    assert "".join(part for _, part, _ in parts) == first
    assert "".join(part for _, _, part in parts) == second


LETTERS = "".join(random.Random(1).choices([chr(0x4E00 + place) for place in range(101)], k=2_000))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a " * 9_000, "b a " * 9_000),
        ("好" * 1_900, "坏好" * 950),
        (LETTERS, LETTERS[::-1]),
        ("a b\n" * 1_900, "a c\n" * 1_900),
    ],
    ids=["words", "stutter", "backwards", "lines"],
)
def test_long_texts_take_little_time(first: str, second: str) -> None:
    begun = time.process_time()
    parts = wording.diff(first, second)
    assert time.process_time() - begun < 3
    assert "".join(part for _, _, part in parts) == second
