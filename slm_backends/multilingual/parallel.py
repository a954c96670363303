"""The shipped set: the same questions, texts and word problems in every language.

Lies beside this module as a TOML file a language, for speakers to correct, and answers.toml with
the numbers that answer the problems. Knows the files and that they agree with the English one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from slm_backends.errors import CatalogError
from slm_backends.multilingual.languages import LANGUAGES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).with_name("parallel")
PARTS = ("say", "ask", "sentences", "passages", "problems")


@dataclass(frozen=True)
class Texts:
    """What the set says in one language, by the names that all languages share.

    say        instructions: translate (into this language), summarise, solve
    ask        questions
    sentences  to be translated
    passages   to be summarised
    problems   whose answers are `answers()`
    """

    language: str
    say: Mapping[str, str]
    ask: Mapping[str, str]
    sentences: Mapping[str, str]
    passages: Mapping[str, str]
    problems: Mapping[str, str]

    @property
    def contents(self) -> dict[str, str]:
        """All that has the same meaning in every language, by "part/name"."""
        return {
            f"{part}/{name}": text
            for part in PARTS[1:]
            for name, text in getattr(self, part).items()
        }


@cache
def texts(code: str) -> Texts:
    """The set in a language of LANGUAGES. Raises CatalogError for a file that is not as the English
    one is: it names the file and what is missing or unknown."""
    file = FOLDER / f"{LANGUAGES[code].code}.toml"
    found = _read(file)
    shape = found if code == "en" else _read(FOLDER / "en.toml")
    for part in PARTS:
        given = found.get(part, {})
        if not isinstance(given, dict):
            raise _mistake(file, part, "must be a table of texts")
        for name, text in given.items():
            if not isinstance(text, str) or not text.strip():
                raise _mistake(file, f"{part}.{name}", "must be a text")
        for name in sorted(given.keys() ^ shape[part].keys()):
            known = name in shape[part]
            raise _mistake(file, f"{part}.{name}", "is missing" if known else "is not known")
    # In the order of the English file, so that every language is asked in the same one.
    return Texts(
        code, **{part: {name: found[part][name] for name in shape[part]} for part in PARTS}
    )


@cache
def answers() -> Mapping[str, int]:
    """Word problem -> the number that answers it."""
    read: Mapping[str, int] = tomllib.loads((FOLDER / "answers.toml").read_text(encoding="utf-8"))
    return read


def _mistake(file: Path, entry: str, what: str) -> CatalogError:
    return CatalogError(f"{file.name}: {entry} {what}.", hint=f"Correct it in {file}.")


def _read(file: Path) -> dict[str, dict[str, str]]:
    try:
        read: dict[str, dict[str, str]] = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CatalogError(f"{file.name} cannot be read: {error}") from None
    return read
