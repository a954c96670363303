"""The shipped set: every language says the same, in its own script, and a mistake is told."""

from __future__ import annotations

import re
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from slm_backends.errors import CatalogError
from slm_backends.multilingual import parallel
from slm_backends.multilingual.languages import LANGUAGES

OTHERS = [code for code in LANGUAGES if code != "en"]
#: how Unicode begins the names of a script's letters -> its ISO 15924 code
SCRIPTS = {
    "ARABIC": "Arab", "BENGALI": "Beng", "CJK": "Hani", "CYRILLIC": "Cyrl", "DEVANAGARI": "Deva",
    "HANGUL": "Hang", "HEBREW": "Hebr", "HIRAGANA": "Hira", "KATAKANA": "Kana",
    "KATAKANA-HIRAGANA": "Kana", "LATIN": "Latn", "THAI": "Thai",
}  # fmt: skip


def scripts(text: str) -> list[str]:
    """The script of each letter; marks above and below letters are none."""
    letters = (each for each in text if unicodedata.category(each)[0] == "L")
    # A mark that lengthens a vowel of Japanese belongs to no script by its name.
    names = (unicodedata.name(each).split()[0] for each in letters)
    return [SCRIPTS[name] for name in names if name != "IDEOGRAPHIC"]


def numbers(text: str) -> list[str]:
    """The numbers in a text, whatever script their digits are of."""
    digits = "".join(str(unicodedata.decimal(each, each)) for each in text)
    return sorted(re.findall(r"[0-9]+", digits))


def everything(code: str) -> dict[str, str]:
    found = parallel.texts(code)
    return found.contents | {f"say/{name}": text for name, text in found.say.items()}


def test_there_is_enough_of_it() -> None:
    english = parallel.texts("en")
    assert len(LANGUAGES) >= 24
    assert len(english.ask) >= 12
    assert len(english.problems) >= 10
    assert set(english.say) == {"translate", "summarise", "solve"}
    assert set(parallel.answers()) == set(english.problems)
    assert all(type(answer) is int for answer in parallel.answers().values())


def test_no_file_is_of_no_language() -> None:
    files = {file.stem for file in parallel.FOLDER.glob("*.toml")}
    assert files == {*LANGUAGES, "answers"}


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_language_is_written_in_its_script(code: str) -> None:
    for place, text in everything(code).items():
        found = scripts(text)
        own = sum(script in LANGUAGES[code].scripts for script in found)
        assert own > 0.85 * len(found), place
        assert set(found) <= {*LANGUAGES[code].scripts, "Latn"}, place


@pytest.mark.parametrize("code", LANGUAGES)
def test_no_text_has_stray_characters(code: str) -> None:
    for place, text in everything(code).items():
        assert text == text.strip() == unicodedata.normalize("NFC", text), place
        assert not re.search(r"[\t\r\n\ufeff\ufffd]|\s\s", text), place


@pytest.mark.parametrize("code", OTHERS)
def test_no_text_was_left_in_english(code: str) -> None:
    english = everything("en")
    for place, text in everything(code).items():
        assert text != english[place], place


@pytest.mark.parametrize("code", OTHERS)
def test_no_text_stands_there_twice(code: str) -> None:
    found = list(everything(code).values())
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("code", OTHERS)
def test_word_problems_have_the_numbers_of_the_english_ones(code: str) -> None:
    english = parallel.texts("en").problems
    for name, text in parallel.texts(code).problems.items():
        assert numbers(text) == numbers(english[name]), name


def test_the_answers_are_right() -> None:
    """By the arithmetic of the English texts."""
    assert parallel.answers() == {
        "apples": 12 - 5 + 8,
        "bus": 40 - (26 + 9 - 4),
        "book": 240 // 30,
        "eggs": 5 * 6 * 4,
        "shop": 5 * 3 + 2 * 4,
        "train": 80 * 5 // 2,
        "class": 28 * 3 // 4,
        "garden": 2 * (15 + 8),
        "cake": 16 - 3 * 2 - 3,
        "savings": 25 * 18,
    }


# --- mistakes in a file ---------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The English file, and the same one as if it were German, to be spoilt."""
    for name in ("en", "de"):
        shutil.copy(parallel.FOLDER / "en.toml", tmp_path / f"{name}.toml")
    monkeypatch.setattr(parallel, "FOLDER", tmp_path)
    parallel.texts.cache_clear()
    yield tmp_path
    parallel.texts.cache_clear()


def test_all_languages_are_asked_in_one_order(folder: Path) -> None:
    lines = (folder / "de.toml").read_text(encoding="utf-8").splitlines()
    start, end = lines.index("[ask]"), lines.index("[sentences]") - 2
    lines[start + 1 : end] = sorted(lines[start + 1 : end], reverse=True)
    (folder / "de.toml").write_text("\n".join(lines), encoding="utf-8")
    assert list(parallel.texts("de").ask) == list(parallel.texts("en").ask)


@pytest.mark.parametrize(
    ("line", "instead", "told"),
    [
        ("rain = .*", "", "de.toml: ask.rain is missing."),
        (r"\[problems\]", '[problems]\nowls = "?"', "de.toml: problems.owls is not known."),
        ("solve = .*", "solve = 5", "de.toml: say.solve must be a text."),
        ("museum = .*", 'museum = " "', "de.toml: sentences.museum must be a text."),
        (r"\[ask\]", "[[ask]]", "de.toml: ask must be a table of texts."),
        (r"\[ask\]", "[asked]", "de.toml: ask.bicycle is missing."),
        ('rain = "', 'rain = "\\\\q', "de.toml cannot be read: "),
        ('rain = "', "rain = ", "de.toml cannot be read: "),
    ],
)
def test_a_mistake_names_its_file_and_entry(
    folder: Path, line: str, instead: str, told: str
) -> None:
    file = folder / "de.toml"
    text, count = re.subn(f"^{line}", instead, file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert count == 1
    file.write_text(text, encoding="utf-8")
    with pytest.raises(CatalogError) as caught:
        parallel.texts("de")
    assert caught.value.message.startswith(told)


def test_a_file_that_is_not_there(folder: Path) -> None:
    (folder / "de.toml").unlink()
    with pytest.raises(CatalogError, match=r"^de\.toml cannot be read"):
        parallel.texts("de")
