"""No key leaves the process but in the header that it is for: a planted one is searched in all that
is written, while servers repeat it in every way that they have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import planted
import pytest
from command_line import ROOT
from planted import KEY
from serving import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

PATIENCE = 120  # seconds
RUNTIMES = ("openai", "foundry", "azure-inference", "ollama")


def test_it_is_found_in_every_notation() -> None:
    import base64
    import urllib.parse

    for prefix in ("", "u", "us", "user:"):
        pairs = base64.b64encode(f"{prefix}{KEY}".encode()).decode()
        assert planted.found(f"Basic {pairs}")
    assert planted.found(f"Bearer {KEY}")
    assert planted.found(f"?key={urllib.parse.quote(KEY, safe='')}")
    assert not planted.found("sk-planted and more")


def repeating(case: str, key: str) -> Response:
    """A failure with the key in it."""
    words = f"Incorrect API key provided: {key}. Bearer {key} is not known."
    if case == "refused":
        return JSONResponse({"error": {"message": words, "code": "invalid_api_key"}}, 401)
    if case == "field":
        error = {"message": words, "param": key, "code": key, "hint": words}
        return JSONResponse({"error": error}, 400)
    if case == "ended":
        return JSONResponse({"detail": f"Function {key} has reached its end of life."}, 410)
    if case == "text":
        return PlainTextResponse(words, 404)
    if case == "page":
        return HTMLResponse(f"<html><title>{words}</title>", 500)
    if case == "moved":
        return PlainTextResponse("", 307, {"location": f"https://elsewhere.example/{key}"})
    if case == "inside":
        stream = f"data: {json.dumps({'error': {'message': words, 'code': 500}})}\n\n"
        return Response(stream, media_type="text/event-stream")
    assert case == "nonsense"
    return Response(f"data: {{{key}\n\n", media_type="text/event-stream")


CASES = ("refused", "field", "ended", "text", "page", "moved", "inside", "nonsense")


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """(its address, the cases in which a key came)"""
    seen: list[str] = []

    async def answer(request: Request) -> Response:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        key = request.headers.get("api-key", bearer)
        case = request.path_params["case"]
        seen.append(f"{request.path_params['runtime']} {case}" if key == KEY else "no key")
        return repeating(case, key)

    route = Route("/{runtime}/{case}/{rest:path}", answer, methods=["GET", "POST"])
    with serving(Starlette(routes=[route])) as address:
        yield address, seen


def test_a_planted_key_is_nowhere(server: tuple[str, list[str]], tmp_path: Path) -> None:
    address, seen = server
    written = tmp_path / "written"
    written.mkdir()
    own = tmp_path / "catalog.toml"
    own.write_text(
        "[models.m]\nname = 'M'\n"
        + "".join(
            f"[deployments.'m@{runtime}:{case}']\n"
            f"base_url = '{address}/{runtime}/{case}'\nkey = 'PLANTED_{runtime[0].upper()}'\n"
            for runtime in RUNTIMES
            for case in CASES
        )
    )
    secrets = tmp_path / "secrets.toml"
    secrets.write_text(f"PLANTED_A = '{KEY}'\nPLANTED_F = '{KEY}'\n")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("leaking.py")), str(written)],
        input=KEY,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        cwd=ROOT,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ["PYTHONPATH"])),
            "PYTHONUTF8": "1",
            "SLM_CATALOG": str(own),
            "SLM_SECRETS": str(secrets),
            "SLM_HOME": str(tmp_path / "home"),
            "PLANTED_O": KEY,
            "NVIDIA_API_KEY": KEY,
            "NVIDIA_BASE_URL": f"{address}/nim/refused",
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("done\n")
    # It was sent, and repeated to us, in each dialect and way.
    assert set(seen) >= {f"{runtime} {case}" for runtime in RUNTIMES for case in CASES}
    assert "no key" not in seen
    assert done.stdout.count("[key]") > 100
    files = {file.name: file.read_text(encoding="utf-8") for file in written.iterdir()}
    assert set(files) == {"comparison.md", "comparison.json"}
    for name, text in {"stdout": done.stdout, "stderr": done.stderr, **files}.items():
        lines = [line for line in text.splitlines() if planted.found(line)]
        assert lines == [], f"{name}: {sorted({line[:60] for line in lines})}"
    for file in (tmp_path / "home").rglob("*"):
        assert not file.is_file() or not planted.found(file.read_text(errors="replace")), file
