"""A TOML file of tables whose entries become frozen dataclasses; a mistake is told with its line.

Knows TOML, types and lines. Does not know what any entry means: catalog.py does.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from slm_backends.errors import CatalogError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


class Mistake(Exception):
    """An entry is wrong: the `reason` without a full stop, and the `key` that is to blame."""

    def __init__(self, reason: str, key: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.key = key


class File:
    """One file with no other tables than those named. Every mistake becomes a CatalogError with
    file, line and reason."""

    def __init__(self, file: Path, tables: Collection[str]) -> None:
        self.file = file
        self.text = file.read_text(encoding="utf-8")
        try:
            self.data = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            raise CatalogError(f"{self.file}: {error}") from None
        for name, value in self.data.items():
            if name not in tables:
                raise self._wrong(name, "", f"there is no table called {name!r}")
            if not isinstance(value, dict):
                raise self._wrong(name, "", "must be a table")

    def table(self, table: str, make: Callable[[str, dict[str, Any]], T]) -> dict[str, T]:
        """What `make(id, entry)` makes of each entry; it may raise a Mistake."""
        made: dict[str, T] = {}
        for entry_id, entry in self.data.get(table, {}).items():
            if not isinstance(entry, dict):
                raise self._wrong(table, entry_id, "must be a table")
            try:
                made[entry_id] = make(entry_id, entry)
            except Mistake as mistake:
                raise self._wrong(table, entry_id, mistake.reason, mistake.key) from None
        return made

    def _wrong(self, table: str, entry_id: str, reason: str, key: str = "") -> CatalogError:
        where = f"[{table}.{entry_id}]" if entry_id else f"[{table}]"
        return CatalogError(
            f"{self.file}, line {self._line(table, entry_id, key)}: {where}: {reason}.",
            hint="Correct that line; README.md, 'Add a deployment', has an example.",
        )

    def _line(self, table: str, entry_id: str, key: str) -> int:
        """The line of the entry, or of `key` in it; 1 where the file spells it in another way."""
        header = re.compile(
            rf"\s*\[\s*{re.escape(table)}\s*(\.\s*[\"']?{re.escape(entry_id)}[\"']?\s*)?\]"
        )
        found = 1
        inside = False
        for number, line in enumerate(self.text.splitlines(), 1):
            if header.match(line):
                inside, found = True, number
                if not key:
                    return number
            elif line.lstrip().startswith("["):
                inside = False
            elif inside and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                return number
        return found


def make(kind: type[T], entry_id: str, entry: Mapping[str, Any], **given: Any) -> T:
    """A `kind` with that id and the fields of the entry, those in `given` set by the caller."""
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {"id": entry_id, **given}
    for key, value in entry.items():
        if key not in known or key in values:
            raise Mistake(f"there is no field called {key!r}", key)
        values[key] = typed(key, value, str(known[key].type))
    for name, field in known.items():
        if name not in values and field.default is MISSING:
            raise Mistake(f"{name} is missing")
    return kind(**values)


def refuse(entry: Iterable[str], foreign: Collection[str], kind: str) -> None:
    """A mistake where the entry has one of the fields that entries of its kind have no use for."""
    for key in entry:
        if key in foreign:
            raise Mistake(f"{key} does not go with {kind}", key)


def typed(key: str, value: Any, annotation: str) -> Any:
    """`value` where it has the type that the field is annotated with."""
    if annotation.startswith("tuple"):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise Mistake(f"{key} must be a list of strings", key)
        return tuple(value)
    if annotation.startswith("bool"):
        if not isinstance(value, bool):
            raise Mistake(f"{key} must be true or false", key)
    elif annotation.startswith("int"):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise Mistake(f"{key} must be a whole number, 0 or more", key)
    elif annotation.startswith("float"):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 0:
            raise Mistake(f"{key} must be a number, 0 or more", key)
        return float(value)
    elif not isinstance(value, str):
        raise Mistake(f"{key} must be a string", key)
    return value
