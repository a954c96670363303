"""chrF and chrF++: by hand, as sacrebleu's authors have them, and as its public functions count."""

from __future__ import annotations

import numpy as np
import pytest
from sacrebleu.metrics.chrf import CHRF

from slm_backends.multilingual import overlap, parallel

PAIRS = [
    (english, german)
    for english, german in zip(
        parallel.texts("en").contents.values(), parallel.texts("de").contents.values(), strict=True
    )
]


def test_by_hand() -> None:
    # Of one character 2 of 3 agree, of two 1 of 2, of three 0 of 1: (2/3 + 1/2 + 0) / 3, and the F
    # of two equal numbers is that number.
    assert overlap.chrf("abc", "abd") == pytest.approx(100 * 7 / 18)
    # Reply "ab" to "abab": precision 1, 1; recall 2/4, 1/3. F2 = 5 P R / (4 P + R).
    assert overlap.chrf("ab", "abab") == pytest.approx(100 * 5 * (5 / 12) / (4 + 5 / 12))
    # chrF++ takes words in: of "a b" and "a c" 1 of 2 characters, 0 of 1 pairs of characters, 1 of
    # 2 words, 0 of 1 pairs of words.
    assert overlap.chrf_plus("a b", "a c") == pytest.approx(25)
    assert overlap.chrf("a b", "a c") == pytest.approx(25)


@pytest.mark.parametrize(
    ("reply", "reference", "expected"),
    [
        ("abcdefg", "hijklmnop", 0.0),
        ("a", "a", 100.0),
        ("aa", "ab", 25.0),
        ("", "reference", 0.0),
        ("a b c", "abc", 100.0),
        # Published with another smoothing of n-grams that are missing: equal to four digits.
        ("Nebo prostě nemají vybavení, které by jim pomohlo, uvedli lékaři.",
         "A někdy nemáme ani potřebný materiál, abychom jim pomohli, popsali lékaři.", 31.2256),
        ("Lapali po dechu, jejich životy skončily dřív, než skutečně začaly.",
         "Lapali po dechu a pak jejich život skončil - dřív, než skutečně mohl začít, připomněli.",
         57.1570),
    ],
)  # fmt: skip
def test_published_examples(reply: str, reference: str, expected: float) -> None:
    assert overlap.chrf(reply, reference) == pytest.approx(expected, abs=0.001)


@pytest.mark.parametrize("words", [0, 2])
def test_as_sacrebleu_by_sentence_and_corpus(words: int) -> None:
    metric = CHRF(word_order=words)
    single = overlap.chrf_plus if words else overlap.chrf
    for reply, reference in PAIRS:
        assert single(reply, reference) == pytest.approx(
            metric.sentence_score(reply, [reference]).score
        )
    corpus = overlap.corpus_chrf_plus if words else overlap.corpus_chrf
    given = np.array([[overlap.counts(*pair) for pair in PAIRS]], dtype=float)
    replies, references = (list(texts) for texts in zip(*PAIRS, strict=True))
    expected = metric.corpus_score(replies, [references]).score
    assert corpus(given)[0] == pytest.approx(expected)
    assert corpus(given)[0] != pytest.approx(np.mean([single(*pair) for pair in PAIRS]))


def test_samples_are_scored_each_by_itself() -> None:
    one, two = overlap.counts("abc", "abd"), overlap.counts("xyz", "abd")
    found = overlap.corpus_chrf(np.array([[one, one], [two, two], [one, two]], dtype=float))
    assert found == pytest.approx([700 / 18, 0, 350 / 18])


def test_the_signature_says_how_it_was_counted() -> None:
    assert overlap.signature().startswith("chrF2|nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|")
    assert overlap.signature(words=True).startswith("chrF2++|")
    assert "|nw:2|" in overlap.signature(words=True)
