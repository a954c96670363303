"""Tokens of Microsoft Entra ID in the place of a key, for whom this computer is signed in as.

Knows the azure-identity package, which asks the environment, a managed identity of the cloud, `az`
and the like in turn. For the owner's connections only: a visitor has a key of their own. Calls
nobody before a token is wanted, and keeps a token for as long as it is valid.
"""

from __future__ import annotations

import asyncio
import functools
import re
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from slm_backends.errors import NotInstalled, Unauthorized

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken
    from azure.identity import DefaultAzureCredential

RENEW_SECONDS = 300.0  # before it ends: a token must outlive the request it is sent with
MAX_REASON = 500  # characters of what the package says went wrong

SIGN_IN = (
    "Run `az login` on the computer that serves the playground, or give it a managed identity; "
    "a key in its place works too."
)


@functools.cache
def provider(scope: str) -> Callable[[], Awaitable[str]]:
    """What gives a token for that scope, as in `https://ml.azure.com/.default`.

    It raises NotInstalled where azure-identity is missing, and Unauthorized where nobody is signed
    in.
    """
    tokens = _Tokens(scope)

    async def token() -> str:
        # Not the package's asynchronous half: that one wants another HTTP client beside it.
        return tokens.kept() or await asyncio.to_thread(tokens.renewed)

    return token


class _Tokens:
    """The latest token of one scope, from any thread."""

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._lock = threading.Lock()
        self._credential: DefaultAzureCredential | None = None
        self._latest: AccessToken | None = None

    def kept(self) -> str:
        """The token while it is valid for long enough, else empty."""
        latest = self._latest
        return latest.token if latest and latest.expires_on > time.time() + RENEW_SECONDS else ""

    def renewed(self) -> str:
        """A valid token, blocking for seconds where it must be asked for; asked once for all who
        wait."""
        with self._lock:
            return self.kept() or self._asked()

    def _asked(self) -> str:
        try:
            from azure.core.exceptions import AzureError
            from azure.identity import DefaultAzureCredential
        except ImportError:
            raise NotInstalled(
                "Signing in with Microsoft Entra ID needs a package that is not installed.",
                package="azure-identity",
            ) from None
        try:
            if self._credential is None:
                self._credential = DefaultAzureCredential()
            self._latest = self._credential.get_token(self._scope)
        except (AzureError, ValueError) as error:  # the second one for settings that are wrong
            raise Unauthorized(
                f"Microsoft Entra ID gave no token: {_reason(str(error))}.", hint=SIGN_IN
            ) from None
        return self._latest.token


def _reason(words: str) -> str:
    """What the package says, in a line: of each way that it tried, or else its first sentence."""
    tried = re.findall(r"^\t(.+)$", words, re.MULTILINE) or words.splitlines()[:1]
    return "; ".join(line.strip().rstrip(".") for line in tried)[:MAX_REASON]
