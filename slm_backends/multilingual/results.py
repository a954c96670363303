"""What came of a plan, and the file that keeps it: one JSON object a line.

    {"kind": "plan", ...}    the first line: what was asked, with what versions, when
    {"kind": "about", ...}   a line a deployment: what really answered
    {"kind": "cell", ...}    a line a reply, as each comes in

Lines are only added, so that a run which is cut off loses one reply at most; `write` puts all of
them into the plan's order. Knows files and their faults. Knows no model and no measure.
"""

from __future__ import annotations

import io
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from slm_backends.chat import About, decode_speed
from slm_backends.errors import BadRequest
from slm_backends.multilingual.plan import Key, Plan
from slm_backends.run import Reply

T = TypeVar("T")

FORMAT = 1
MAX_BYTES = 200_000_000
MAX_DAMAGED = 20  # lines that are told of one by one
MOST = 1e15  # of any number in a cell; past it arithmetic is not exact
PACKAGES = ("onnxruntime-genai", "openvino-genai", "transformers", "torch", "mlx-lm", "openai")


@dataclass(frozen=True)
class Cell:
    """What one deployment replied to one question. Times are seconds; None where not known.

    error     why there is no reply, or only a part of one; empty where there is a whole one
    counted   whether the server counted the tokens and took the times
    wait_s    to the first token, decode_s from there to the last, total_s everything
    """

    question: str
    deployment: str
    text: str = ""
    error: str = ""
    finish_reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    counted: bool = False
    wait_s: float | None = None
    decode_s: float | None = None
    total_s: float = 0.0

    @property
    def key(self) -> Key:
        return self.question, self.deployment

    @property
    def done(self) -> bool:
        return not self.error

    @property
    def tokens_per_second(self) -> float | None:
        return decode_speed(self.completion_tokens, self.decode_s)

    @property
    def characters_per_second(self) -> float | None:
        """Characters over the decode time: comparable where tokenizers differ."""
        return len(self.text) / self.decode_s if self.text and self.decode_s else None

    @classmethod
    def of(cls, key: Key, reply: Reply) -> Cell:
        """The cell of a reply that has ended."""
        error = reply.error.message if reply.error is not None else ""
        return cls(
            *key,
            # A server can send half of a character, which no file can hold.
            text=reply.text.encode(errors="replace").decode(),
            error=error or ("Stopped." if reply.state == "stopped" else ""),
            finish_reason=reply.finish_reason,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            cached_tokens=reply.cached_tokens,
            counted=reply.counted,
            wait_s=reply.wait_s,
            decode_s=reply.decode_s,
            total_s=reply.total_s,
        )


def versions() -> dict[str, str]:
    """Of Python, the system and the packages that answer."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@dataclass
class Results:
    """A plan and the cells there are. Changed by one thread at a time.

    made      when it was begun, ISO 8601
    abouts    deployment -> what really answered
    damaged   lines of the file that could not be read, as sentences
    """

    plan: Plan
    cells: dict[Key, Cell] = field(default_factory=dict)
    abouts: dict[str, About] = field(default_factory=dict)
    made: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat("T", "seconds"))
    versions: dict[str, str] = field(default_factory=versions)
    damaged: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[Key, ...]:
        """Cells without a whole reply, in the plan's order."""
        return tuple(
            key for key in self.plan.keys if (cell := self.cells.get(key)) is None or not cell.done
        )

    @property
    def failed(self) -> tuple[Key, ...]:
        return tuple(key for key in self.plan.keys if (c := self.cells.get(key)) and not c.done)

    @property
    def complete(self) -> bool:
        return not self.missing

    def lines(self) -> Iterator[str]:
        """The file, in the plan's order."""
        yield header(self)
        for deployment in self.plan.deployments:
            if deployment in self.abouts:
                yield about_line(deployment, self.abouts[deployment])
        for key in self.plan.keys:
            if key in self.cells:
                yield cell_line(self.cells[key])


def header(results: Results) -> str:
    return _line(
        kind="plan",
        format=FORMAT,
        made=results.made,
        versions=results.versions,
        plan=results.plan.to_json(),
    )


def about_line(deployment: str, about: About) -> str:
    return _line(kind="about", deployment=deployment, **asdict(about))


def cell_line(cell: Cell) -> str:
    return _line(kind="cell", **asdict(cell))


def _line(**content: Any) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"


def write(results: Results, file: Path) -> None:
    """Replace the file by one in the plan's order, at once. Raises OSError."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.name, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(results.lines())
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read(content: bytes, name: str = "The file") -> Results:
    """The results in a file. A cell that stands there twice counts as it stands last; a line that
    is cut off or no cell of this plan is left out and told of in `damaged`. Raises BadRequest where
    the first line is no plan."""
    if len(content) > MAX_BYTES:
        raise BadRequest(f"{name} is larger than {MAX_BYTES / 1e6:.0f} MB.", field="file")
    lines = io.BytesIO(content)
    results = _begun(lines.readline(), name)
    keys = set(results.plan.keys)
    damaged: list[str] = []
    more = 0
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        try:
            _take(results, keys, _parsed(line))
        except ValueError as error:
            if len(damaged) == MAX_DAMAGED:
                more += 1
            else:
                damaged.append(f"{name}, line {number}: {error}.")
    results.damaged = (*damaged, f"And {more:,} lines more.") if more else tuple(damaged)
    return results


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line.decode("utf-8-sig"))
        if b"\\u" in line:  # half a character can be written so, and nowhere else
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise ValueError("not a whole JSON object") from None
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def _begun(line: bytes, name: str) -> Results:
    try:
        first = _parsed(line)
    except ValueError:
        first = {}
    if first.get("kind") != "plan" or first.get("format") != FORMAT:
        raise BadRequest(
            f"{name} is no file of results of this playground.",
            field="file",
            hint="Open a .jsonl file that was downloaded here, or written by "
            "`python -m slm_backends multilingual`.",
        )
    told = first.get("versions")
    made = Results(Plan.from_json(first.get("plan")), made=str(first.get("made", ""))[:40])
    made.versions = {str(k): str(v) for k, v in told.items()} if isinstance(told, dict) else {}
    return made


def _take(results: Results, keys: set[Key], found: dict[str, Any]) -> None:
    """Raises ValueError for what is neither a cell of the plan nor about one of its deployments."""
    kind = found.pop("kind", "")
    if kind == "about":
        deployment = found.pop("deployment", "")
        if deployment in results.plan.deployments:
            results.abouts[deployment] = _made(About, found)
        return
    if kind != "cell":
        raise ValueError("neither a cell nor about a deployment")
    cell = _made(Cell, found)
    if cell.key not in keys:
        raise ValueError("a cell that its plan does not have")
    results.cells[cell.key] = cell


def _made(kind: type[T], given: dict[str, Any]) -> T:
    """A `kind` with these fields. Raises ValueError for one that it does not have, that is of the
    wrong kind, or that is missing."""
    kinds = {item.name: str(item.type) for item in fields(kind)}  # type: ignore[arg-type]
    for name, value in given.items():
        if name not in kinds:
            raise ValueError(f"there is no field called {name[:40]!r}")
        if not _fits(value, kinds[name]):
            raise ValueError(f"{name} is of the wrong kind")
    try:
        return kind(**given)
    except TypeError:
        raise ValueError("a field is missing") from None


def _fits(value: Any, kind: str) -> bool:
    if value is None:
        return "None" in kind
    wanted = kind.removesuffix(" | None")
    if type(value) in (int, float):  # what is not a number is not between anything either
        return wanted in ("float", type(value).__name__) and 0 <= value < MOST
    return type(value).__name__ == wanted
