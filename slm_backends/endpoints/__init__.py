"""Backends that speak to a server, and the scripted one. They know nothing of runtimes.

One module a dialect: openai.py, azure.py, ollama.py. What they share is how a failure becomes one
of our errors: failures.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Protocol

from slm_backends.chat import About, Capabilities, ChatRequest, Event

#: A key, or what gives one that is still valid (a token of Entra ID lives an hour); "" is none.
Key = str | Callable[[], Awaitable[str]]


class Endpoint(Protocol):
    """One model on one server, spoken to in one dialect: a Backend that asks once.

    Neither retries nor keeps a state; remote.py does both around it. All raise SLMErrors, in whose
    words no key stands.
    """

    @property
    def id(self) -> str: ...

    #: May be written: what a server refused is taken out, and not named to it any more.
    capabilities: Capabilities

    @property
    def about(self) -> About: ...

    def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]: ...

    async def models(self) -> Sequence[str]:
        """The names that the server lists, in its order. Costs no tokens."""
        ...

    async def close(self) -> None: ...
