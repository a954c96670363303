"""Tokens of Entra ID, by the real azure-identity from an `az` of our own."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from slm_backends import entra
from slm_backends.errors import NotInstalled, SLMError, Unauthorized

TOKEN = "a-token-that-must-not-show"
SCOPE = "https://ml.azure.com/.default"
HOUR = 3_600


class Az:
    """A program called `az` on the PATH: prints what it is told to, and notes what it was asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prints(self, text: str, *, status: int = 0) -> None:
        (self._folder / "answer").write_text(text)
        program = self._folder / "az"
        program.write_text(
            f"#!/bin/sh\necho \"$*\" >> '{self._folder}/asked'\n"
            f"/bin/cat '{self._folder}/answer' {'>&2' if status else ''}\nexit {status}\n"
        )
        program.chmod(0o755)

    def gives(self, token: str, *, seconds: float = HOUR) -> None:
        told = {"accessToken": token, "expires_on": int(time.time() + seconds)}
        self.prints(json.dumps(told | {"tokenType": "Bearer"}))

    @property
    def asked(self) -> list[str]:
        noted = self._folder / "asked"
        return noted.read_text().splitlines() if noted.exists() else []


@pytest.fixture
def az(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Az]:
    monkeypatch.setenv("PATH", str(tmp_path))
    # Else it asks the cloud's own address for a machine's identity first.
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential")
    entra.provider.cache_clear()
    yield Az(tmp_path)
    entra.provider.cache_clear()


def got(token: Callable[[], Awaitable[str]], times: int = 1) -> list[str]:
    """What so many callers at once are given."""

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(token() for _ in range(times)))

    return asyncio.run(all_of_them())


def failure(kind: type[SLMError]) -> SLMError:
    with pytest.raises(SLMError) as caught:
        got(entra.provider(SCOPE))
    assert type(caught.value) is kind, repr(caught.value)
    assert caught.value.hint
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    return caught.value


def test_a_token_is_asked_for_once_and_kept(az: Az) -> None:
    az.gives(TOKEN)
    token = entra.provider(SCOPE)
    assert az.asked == []  # not before it is wanted
    assert got(token, 4) == [TOKEN] * 4
    assert got(entra.provider(SCOPE)) == [TOKEN]
    assert az.asked == ["account get-access-token --output json --resource https://ml.azure.com"]


def test_every_scope_has_its_own_token(az: Az) -> None:
    az.gives(TOKEN)
    got(entra.provider(SCOPE))
    az.gives("another")
    assert got(entra.provider("https://cognitiveservices.azure.com/.default")) == ["another"]
    assert got(entra.provider(SCOPE)) == [TOKEN]


def test_a_token_is_renewed_before_it_ends(az: Az) -> None:
    az.gives(TOKEN, seconds=entra.RENEW_SECONDS - 1)
    token = entra.provider(SCOPE)
    assert got(token) == [TOKEN]
    az.gives("a later one")
    assert got(token) == ["a later one"]


def test_nobody_is_signed_in(az: Az) -> None:
    az.prints("ERROR: Please run 'az login' to setup account.", status=1)
    error = failure(Unauthorized)
    assert error.message == (
        "Microsoft Entra ID gave no token: AzureCliCredential: Please run 'az login' to set up an "
        "account."
    )
    assert "az login" in error.hint
    az.gives(TOKEN)  # signed in since
    assert got(entra.provider(SCOPE)) == [TOKEN]


def test_there_is_no_az(az: Az) -> None:
    assert "not found" in failure(Unauthorized).message


def test_what_az_said_is_passed_on_without_a_token(az: Az) -> None:
    az.prints("AADSTS50020: User account does not exist in the tenant.", status=1)
    assert "AADSTS50020" in failure(Unauthorized).message
    az.prints(json.dumps({"accessToken": TOKEN}))
    assert "Unexpected output" in failure(Unauthorized).message


def test_a_wrong_setting(az: Az, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "nonsense")
    assert "AZURE_TOKEN_CREDENTIALS" in failure(Unauthorized).message


def test_without_the_package(az: Az, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    error = failure(NotInstalled)
    assert error.hint == "pip install azure-identity"
    assert az.asked == []


def test_no_token_in_the_log(az: Az, caplog: pytest.LogCaptureFixture) -> None:
    az.gives(TOKEN)
    with caplog.at_level(logging.DEBUG):
        assert got(entra.provider(SCOPE)) == [TOKEN]
    assert TOKEN not in caplog.text
