"""TOML into dataclasses: types, and the line that is to blame for a mistake."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slm_backends import entries
from slm_backends.errors import CatalogError


@dataclass(frozen=True)
class Thing:
    id: str
    name: str
    size: int = 0
    weight: float = 0.0
    round: bool = False
    tags: tuple[str, ...] = ()


def read(file: Path, text: str) -> dict[str, Thing]:
    file.write_text(text, encoding="utf-8")
    return entries.File(file, ("things",)).table(
        "things", lambda id, entry: entries.make(Thing, id, entry)
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "things.toml"


def test_every_type(file: Path) -> None:
    made = read(
        file,
        '[things.a]\nname = "A"\nsize = 1_000\nweight = 2\nround = true\ntags = ["x", "y"]\n'
        '[things."b.c"]\nname = "B"\n',
    )
    assert made == {
        "a": Thing("a", "A", 1000, 2.0, True, ("x", "y")),
        "b.c": Thing("b.c", "B"),
    }
    assert type(made["a"].weight) is float
    assert read(file, "") == {}


def test_fields_that_the_caller_sets_are_none_of_the_entry_s(file: Path) -> None:
    assert entries.make(Thing, "a", {}, name="given") == Thing("a", "given")
    for entry in ({"name": "mine"}, {"id": "b"}):
        with pytest.raises(entries.Mistake, match="there is no field called"):
            entries.make(Thing, "a", entry, name="given")


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('[things.a]\nname = "A"\n\nnome = 1\n', 4, "[things.a]: there is no field called 'nome'"),
        ("[things.a]\nsize = 1\n", 1, "name is missing"),
        ("[things.a]\nname = 1\n", 2, "name must be a string"),
        ('[things.a]\nname = "A"\nsize = 1.5\n', 3, "size must be a whole number, 0 or more"),
        ('[things.a]\nname = "A"\nsize = true\n', 3, "size must be a whole number, 0 or more"),
        ('[things.a]\nname = "A"\nweight = "1"\n', 3, "weight must be a number, 0 or more"),
        ('[things.a]\nname = "A"\nweight = -0.1\n', 3, "weight must be a number, 0 or more"),
        ('[things.a]\nname = "A"\nround = 1\n', 3, "round must be true or false"),
        ('[things.a]\nname = "A"\ntags = "x"\n', 3, "tags must be a list of strings"),
        ('[things.a]\nname = "A"\ntags = [1]\n', 3, "tags must be a list of strings"),
        ('[other.a]\nname = "A"\n', 1, "[other]: there is no table called 'other'"),
        ("things = 1\n", 1, "[things]: must be a table"),
        ("[things]\na = 1\n", 1, "[things.a]: must be a table"),
        # spelt in other ways that TOML has
        ('[ things . "a" ]\n"size" = -1\nname = "A"\n', 2, "size must be a whole number"),
        ("[things.b]\nname='B'\nsize=1\n[things.a]\nname='A'\nsize=-1\n", 6, "size must be"),
        ("[things]\na = {name = 1}\n", 1, "name must be a string"),
    ],
)
def test_a_mistake_has_its_line(file: Path, text: str, line: int, reason: str) -> None:
    with pytest.raises(CatalogError) as caught:
        read(file, text)
    message = caught.value.message
    assert message.startswith(f"{file}, line {line}: ")
    assert reason in message
    assert message.endswith(".")
    assert caught.value.hint


def test_what_is_no_toml_gives_the_parser_s_place(file: Path) -> None:
    with pytest.raises(CatalogError, match="line 2"):
        read(file, "[things.a]\nname = \n")


def test_a_field_of_another_kind_is_refused() -> None:
    entry: dict[str, Any] = {"name": "A", "device": "cuda"}
    with pytest.raises(entries.Mistake, match="device does not go with a server") as caught:
        entries.refuse(entry, {"device"}, "a server")
    assert caught.value.key == "device"
    entries.refuse(entry, {"served_as"}, "a server")
