"""What the owner has set: variables of the environment, and the file of secrets beside them.

`.streamlit/secrets.toml` in the project's folder, or the file that SLM_SECRETS names, holds the
same names as the environment, one `NAME = "value"` a line; the environment goes first. Knows names
and values, not what they are for. No value is ever part of an error.
"""

from __future__ import annotations

import os
import re
import sys
from functools import lru_cache
from pathlib import Path

from slm_backends.errors import SLMError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SECRETS = Path(__file__).resolve().parents[1] / ".streamlit" / "secrets.toml"
NO = ("0", "no", "off", "false")


class BadSettings(SLMError):
    """The file of secrets cannot be read."""

    code = "bad_settings"


def value(name: str) -> str:
    """What is set under that name, without spaces around it; empty where nothing is.

    Raises BadSettings where the file of secrets is broken.
    """
    return os.environ.get(name, "").strip() or _secrets().get(name, "")


def flag(name: str, *, default: bool) -> bool:
    """Whether that is switched on; `default` where nothing is set under that name, and no where the
    file of secrets cannot be read: what is switched on allows something."""
    try:
        text = value(name)
    except BadSettings:
        return False
    return text.lower() not in NO if text else default


def source(name: str) -> str:
    """Where that name is set, in words, or empty."""
    if os.environ.get(name, "").strip():
        return "the environment"
    return secrets_file().name if name in _secrets() else ""


def names() -> list[str]:
    """The names in the file of secrets."""
    return sorted(_secrets())


def secrets_file() -> Path:
    named = os.environ.get("SLM_SECRETS", "")
    return Path(named).expanduser() if named else SECRETS


def _secrets() -> dict[str, str]:
    file = secrets_file()
    try:
        return _read(file, file.stat().st_mtime_ns)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadSettings(f"{file} cannot be read: {error.strerror}.") from None


@lru_cache(maxsize=2)
def _read(file: Path, _changed: int) -> dict[str, str]:
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # Only the place: other words of theirs may quote the file.
        line = re.search(r"line \d+", str(error))
        raise BadSettings(
            f"{file} is not TOML{f': look at {line.group()}' if line else ''}.",
            hint='Each line is NAME = "value", with quotes.',
        ) from None
    plain = {name: item for name, item in found.items() if isinstance(item, (str, int, float))}
    return {name: str(item).strip() for name, item in plain.items()}
