"""The tree drawn at the top of errors.py is the tree."""

from __future__ import annotations

import re

import pytest

from slm_backends import errors
from slm_backends.errors import ContextOverflow, NotInstalled, SLMError


def _subclasses(kind: type[SLMError]) -> list[type[SLMError]]:
    # Only those of the module: others may define errors of their own.
    return [item for item in kind.__subclasses__() if item.__module__ == errors.__name__]


def _drawn() -> dict[str, str]:
    """name -> name of its parent, read from the drawing."""
    parents, path = {}, ["SLMError"]
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│ ]*)[├└]── (\w+)", line)
        if match:
            depth = len(match[1]) // 4
            parents[match[2]] = path[depth]
            path[depth + 1 :] = [match[2]]
    return parents


def _real(kind: type[SLMError]) -> dict[str, str]:
    found = {}
    for child in _subclasses(kind):
        found[child.__name__] = kind.__name__
        found |= _real(child)
    return found


def test_the_drawing_is_true() -> None:
    assert _drawn() == _real(SLMError)
    assert len(_drawn()) > 10


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("BadRequest", 400),
        ("Unsupported", 400),
        ("ContextOverflow", 400),
        ("Unauthorized", 401),
        ("NotFound", 404),
        ("Busy", 429),
        ("Unavailable", 503),
        ("WorkerDied", 500),
        ("StreamBroken", 502),
    ],
)
def test_statuses(name: str, status: int) -> None:
    assert getattr(errors, name).status == status


def test_each_has_a_code_of_its_own() -> None:
    codes = [
        getattr(errors, name).code for name in ("SLMError", *_drawn()) if name != "FetchFailed"
    ]
    assert len(set(codes)) == len(codes)


def test_an_overflow_gives_both_numbers_and_a_way_out() -> None:
    error = ContextOverflow.measured(8_000, 512, 8_192)
    assert (error.prompt_tokens, error.max_tokens, error.context) == (8_000, 512, 8_192)
    for number in ("8,000", "512", "8,512", "8,192"):
        assert number in str(error)
    assert "oldest turns" in error.hint
    assert error.field == "messages"


def test_a_missing_package_comes_with_the_line_that_brings_it() -> None:
    assert NotInstalled("No runtime.", package="onnxruntime-genai").hint == (
        "pip install onnxruntime-genai"
    )


def test_message_is_the_sentence() -> None:
    error = SLMError("A sentence.", hint="What to do.")
    assert (str(error), error.message, error.hint) == ("A sentence.", "A sentence.", "What to do.")
