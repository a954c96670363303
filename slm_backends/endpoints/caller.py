"""Who asks a server: at which address, with which key, and how its failures are told to people.

Knows what may not be said: every key that was sent is taken out of a server's words. Knows neither
dialect nor package.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from slm_backends.endpoints import Key, failures
from slm_backends.errors import SLMError, StreamBroken, Unavailable


class Caller:
    """Raises Unavailable for what can be no address. `start_hint` says what to do where nobody
    answers."""

    def __init__(self, base_url: str, key: Key, start_hint: str) -> None:
        self.base_url = failures.address(base_url)
        self._key = key
        self._start_hint = start_hint
        self._secrets = {key} if isinstance(key, str) else set()

    @property
    def shown(self) -> str:
        return failures.shown(self.base_url)

    @property
    def signs_in(self) -> bool:
        """Whether the key is a token, given anew when the last one ends."""
        return not isinstance(self._key, str)

    async def key(self) -> str:
        """The key to send now, or empty. Raises Unauthorized for what no header can carry."""
        key = self._key if isinstance(self._key, str) else await self._key()
        self._secrets.add(key)
        return failures.sendable(key)

    def clean(self, text: str) -> str:
        return failures.without(*self._secrets)(text)

    def refused(
        self,
        status: int,
        sent: Any,
        headers: Mapping[str, str] | None = None,
        asked: Collection[str] = (),
    ) -> SLMError:
        """The error of an answer; as of failures.refused."""
        return failures.refused(
            status, sent, headers, hint=self._start_hint, clean=self.clean, asked=asked
        )

    def refused_inside(self, sent: Any) -> SLMError:
        """The error of what came in the middle of a reply, in place of a piece of it."""
        return self.refused(0, sent)

    def unreachable(self, error: BaseException) -> Unavailable:
        return failures.unreachable(self.base_url, error, hint=self._start_hint, clean=self.clean)

    def broke_off(self, error: BaseException) -> StreamBroken:
        return failures.broke_off(error, clean=self.clean)
