"""In which language a text is: by its script where that decides, else by py3langid.

Scripts decide for most: Han without kana is Chinese, kana is Japanese, and Hangul, Thai, Hebrew,
Arabic, Bengali and Devanagari are each written by one language of LANGUAGES. Russian and Ukrainian
are told apart by the letters that only one of them has, as far as there are any. What is left goes
to py3langid's naive Bayes over byte n-grams (BSD-3-Clause, code and model), asked for the languages
of that script only, and to the most common words of each, which tell a short text.
`python -m benchmarks.languages` measures it beside others.

Knows texts of any kind. Knows no reply and what was wanted of it: that is fidelity.py.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from slm_backends.multilingual.languages import LANGUAGES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_WORDS_FILE = Path(__file__).with_name("common_words.toml")

#: Letters of each script, without its digits and punctuation; its marks that are no letters of
#: their own (vowel signs) count with them.
SCRIPTS: Mapping[str, re.Pattern[str]] = {
    script: re.compile(f"[{letters}]+")
    for script, letters in {
        "Latn": "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
        "\uff21-\uff3a\uff41-\uff5a",
        "Cyrl": "\u0400-\u0481\u048a-\u052f",
        "Grek": "\u0370-\u0373\u0376-\u037d\u0386-\u03ff\u1f00-\u1fff",
        "Arab": "\u0620-\u064a\u066e-\u06d3\u06d5\u06fa-\u06ff\u0750-\u077f\ufb50-\ufdff"
        "\ufe70-\ufefc",
        "Hebr": "\u05d0-\u05f2",
        "Hani": "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
        "Hira": "\u3041-\u309f",
        "Kana": "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f",
        "Hang": "\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3",
        "Thai": "\u0e01-\u0e3a\u0e40-\u0e4e",
        "Beng": "\u0980-\u09e3\u09f0-\u09f1",
        "Deva": "\u0900-\u0963\u0971-\u097f",
        "Guru": "\u0a01-\u0a65\u0a70-\u0a75",
        "Gujr": "\u0a81-\u0ae5",
        "Orya": "\u0b01-\u0b65",
        "Taml": "\u0b82-\u0be5",
        "Telu": "\u0c00-\u0c65",
        "Knda": "\u0c80-\u0ce5",
        "Mlym": "\u0d00-\u0d65",
        "Sinh": "\u0d81-\u0ddf",
        "Laoo": "\u0e81-\u0ecd\u0edc-\u0edf",
        "Mymr": "\u1000-\u103f\u1050-\u109f",
        "Khmr": "\u1780-\u17d3",
        "Geor": "\u10a0-\u10ff",
        "Armn": "\u0531-\u0587",
        "Ethi": "\u1200-\u135a",
    }.items()
}
_JAPANESE = ("Hani", "Hira", "Kana")
#: Letters of an alphabet that say as much as one of these.
_DENSITY = {"Hani": 3, "Hira": 2, "Kana": 2, "Hang": 2}
_KANA = 0.05  # share of kana in a text from which it is Japanese

_TELLING = 6.0  # how much likelier one of its common words makes a language
_WORDS_TOLD = 12  # after which n-grams know as much
_WORD = re.compile(r"[^\W\d_]+")

_ONLY_RUSSIAN = re.compile("[ёъыэ]")
_ONLY_UKRAINIAN = re.compile("[ґєії]")
#: Of Persian, Urdu and others that write with Arabic letters.
_NOT_ARABIC = re.compile(
    "[\u0679\u067e\u0686\u0688\u0691\u0698\u06a9\u06af\u06ba\u06be\u06c1\u06cc\u06d2]"
)
_NOT_ARABIC_SHARE = 0.05

MAX_CHARACTERS = 5_000  # that are looked at: enough for any decision


@dataclass(frozen=True)
class Guess:
    """`language` is a code of LANGUAGES, empty for none of them and where nothing tells.

    confidence  0 to 1
    script      as `script_of`
    """

    language: str
    confidence: float
    script: str


def identify(text: str) -> Guess:
    """The language of most of a text. Without letters: confidence 0. In a script that no language
    of LANGUAGES is written in: no language, confidence 1."""
    script, likely = likelihoods(text)
    if not likely:
        return Guess("", 1.0 if script else 0.0, script)
    language = max(likely, key=lambda code: likely[code])
    return Guess(language, likely[language], script)


def script_of(text: str) -> str:
    """The ISO 15924 code of the script of most letters, empty without letters. Japanese is told by
    the one of its three scripts that it has most of."""
    counts = letters(text)
    return _main(counts) if counts else ""


def letters(text: str) -> dict[str, int]:
    """Script -> its letters in the text, for those that it has. One of Chinese, Japanese or Korean
    counts as two or three, as it says more. Scripts that are not known here are "Zzzz"."""
    counts: dict[str, int] = {}
    for letter, number in Counter(unicodedata.normalize("NFC", text)).items():
        if script := _script(letter):
            counts[script] = counts.get(script, 0) + number * _DENSITY.get(script, 1)
    return counts


@lru_cache(maxsize=65_536)
def _script(letter: str) -> str:
    for script, pattern in SCRIPTS.items():
        if pattern.match(letter):
            return script
    return "Zzzz" if letter.isalpha() else ""


def likelihoods(text: str) -> tuple[str, dict[str, float]]:
    """The script, and how likely each language is that is written in it; they add up to 1."""
    text = unicodedata.normalize("NFC", text[:MAX_CHARACTERS])
    counts = letters(text)
    if not counts:
        return "", {}
    script = _main(counts)
    if script in _JAPANESE:
        return script, _chinese_or_japanese(counts)
    if script == "Arab" and len(_NOT_ARABIC.findall(text)) > _NOT_ARABIC_SHARE * counts["Arab"]:
        return script, {}
    if script == "Cyrl" and (told := _russian_or_ukrainian(text.lower())):
        return script, told
    codes = [code for code, known in LANGUAGES.items() if script in known.scripts]
    if len(codes) < 2:
        return script, dict.fromkeys(codes, 1.0)
    return script, _by_n_grams(text, codes)


def is_common(word: str) -> bool:
    """Whether a small word is one of the most common of some language."""
    return any(word in words for words in _common_words().values())


def _main(counts: Mapping[str, int]) -> str:
    """The script of most letters; Japanese's three are one against all others."""
    japanese = {script: counts[script] for script in _JAPANESE if script in counts}
    others = {script: number for script, number in counts.items() if script not in japanese}
    if sum(japanese.values()) >= max(others.values(), default=0):
        return max(japanese, key=lambda script: japanese[script])
    return max(others, key=lambda script: others[script])


def _chinese_or_japanese(counts: Mapping[str, int]) -> dict[str, float]:
    """A few Han characters may be either's: a Japanese word without kana gets less likely with
    each more."""
    han, hiragana, katakana = (counts.get(script, 0) // _DENSITY[script] for script in _JAPANESE)
    if hiragana + katakana > _KANA * (han + hiragana + katakana):
        return {"ja": 1.0, "zh": 0.0}
    japanese = 0.4 * 0.85**han
    return {"zh": 1 - japanese, "ja": japanese}


def _russian_or_ukrainian(text: str) -> dict[str, float]:
    """By the letters that only one of them has; nothing where they do not tell."""
    russian, ukrainian = len(_ONLY_RUSSIAN.findall(text)), len(_ONLY_UKRAINIAN.findall(text))
    if russian == ukrainian:
        return {}
    share = russian / (russian + ukrainian)
    return {"ru": share, "uk": 1 - share}


def _by_n_grams(text: str, codes: list[str]) -> dict[str, float]:
    ranked = {("nb" if code == "no" else code): value for code, value in _identifier().rank(text)}
    words = _WORD.findall(text.lower())[:_WORDS_TOLD]
    common = _common_words()
    likely = {
        code: ranked[code] * _TELLING ** sum(word in common[code] for word in words)
        for code in codes
    }
    total = sum(likely.values())
    return {code: value / total for code, value in likely.items()}


@cache
def _common_words() -> Mapping[str, frozenset[str]]:
    read = tomllib.loads(_WORDS_FILE.read_text(encoding="utf-8"))
    return {code: frozenset(words.split()) for code, words in read.items()}


@cache
def _identifier() -> Any:
    """Loaded when first needed: 0.5 s and 100 MB."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(
        [
            "no" if code == "nb" else code
            for code, known in LANGUAGES.items()
            if known.scripts[0] in ("Latn", "Cyrl")
        ]
    )
    return identifier
