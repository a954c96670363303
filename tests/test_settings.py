"""Variables and the file of secrets: which goes first, and that none shows where it is broken."""

from __future__ import annotations

import os
from pathlib import Path

import planted
import pytest
from planted import KEY

from slm_backends import settings
from slm_backends.settings import BadSettings

NAME = "SLM_TEST_SETTING"


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "secrets.toml"
    monkeypatch.setenv("SLM_SECRETS", str(file))
    monkeypatch.delenv(NAME, raising=False)
    return file


def test_the_environment_goes_first(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (settings.value(NAME), settings.source(NAME)) == ("", "")
    secrets.write_text(f'{NAME} = "  from the file "\n')
    assert settings.value(NAME) == "from the file"
    assert settings.source(NAME) == "secrets.toml"
    assert settings.names() == [NAME]
    monkeypatch.setenv(NAME, " from the environment ")
    assert settings.value(NAME) == "from the environment"
    assert settings.source(NAME) == "the environment"
    monkeypatch.setenv(NAME, "  ")
    assert settings.value(NAME) == "from the file"


def test_a_changed_file_is_read_again(secrets: Path) -> None:
    secrets.write_text(f'{NAME} = "one"\n')
    assert settings.value(NAME) == "one"
    secrets.write_text(f'{NAME} = "two"\n')
    os.utime(secrets, ns=(1, 1))  # whatever the clock's resolution
    assert settings.value(NAME) == "two"


def test_tables_belong_to_others(secrets: Path) -> None:
    secrets.write_text(f'[connections]\n{NAME} = "theirs"\n')
    assert settings.value(NAME) == ""
    assert settings.names() == []


@pytest.mark.parametrize(
    ("written", "default", "on"),
    [
        ('"no"', True, False),
        ('"OFF"', True, False),
        ("0", True, False),
        ("false", True, False),
        ('""', True, True),
        ('""', False, False),
        ('"1"', False, True),
        ("1", False, True),
        ("true", False, True),
        ('"yes"', False, True),
    ],
)
def test_a_switch(secrets: Path, written: str, default: bool, on: bool) -> None:
    secrets.write_text(f"{NAME} = {written}\n")
    assert settings.flag(NAME, default=default) is on


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (f'A = "fine"\n{NAME} = {KEY}\n'.encode(), "look at line 2"),
        (f'{NAME} = "{KEY}\n'.encode(), "look at line 1"),
        (f'"{KEY}" = 1\n"{KEY}" = 2\n'.encode(), "look at line 2"),
        (f'{NAME} = "{KEY} \xff"\n'.encode("latin-1"), "not TOML"),
    ],
)
def test_a_broken_file_is_told_without_what_is_in_it(
    secrets: Path, content: bytes, place: str
) -> None:
    secrets.write_bytes(content)
    with pytest.raises(BadSettings) as caught:
        settings.value(NAME)
    error = caught.value
    assert place in error.message
    assert str(secrets) in error.message
    assert error.hint
    assert not planted.found(planted.told(error))
    assert settings.flag(NAME, default=True) is False


def test_a_folder_in_its_place(secrets: Path) -> None:
    secrets.mkdir()
    with pytest.raises(BadSettings, match="cannot be read"):
        settings.value(NAME)


def test_the_example_names_what_the_code_reads() -> None:
    """Each name in it is one that some module asks for."""
    root = Path(__file__).parents[1]
    example = (root / ".streamlit" / "secrets.toml.example").read_text(encoding="utf-8")
    named = {
        line.removeprefix("# ").partition(" = ")[0]
        for line in example.splitlines()
        if line.startswith("# ") and " = " in line
    }
    written = "".join(
        file.read_text(encoding="utf-8")
        for file in (root / "slm_backends").rglob("*")
        if file.suffix in (".py", ".toml")
    )
    assert len(named) >= 10
    assert {name for name in named if f'"{name}"' not in written} == set()
