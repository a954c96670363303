"""A deployment on a server: the Backend that the selector gives out for it.

Around an endpoint, which asks once, it waits and asks again where the server says so, learns which
parameters the server refuses, and tells the health of the server what came of it. Knows connections
and dialects by name. Lives on the background loop; its properties may be asked from any thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from slm_backends.access import Connection
from slm_backends.catalog import Deployment
from slm_backends.chat import (
    PARAMETERS,
    About,
    Capabilities,
    ChatRequest,
    Delta,
    Event,
    Held,
    Message,
    Sampling,
)
from slm_backends.endpoints import Endpoint, Key
from slm_backends.errors import Busy, Retired, SLMError, Unauthorized, Unavailable, Unsupported
from slm_backends.health import Board, Health

HELD_SECONDS = 60.0  # the longest that a reply waits because a server said so, all times together
TRIES = 4
FIRST_WAIT = 2.0  # seconds, where the server does not say how long; doubled each time

# When told to be talkative they write down the headers of answers, and those may repeat a key.
for _name in ("httpcore.http11", "httpcore2.http11"):
    logging.getLogger(_name).addFilter(
        lambda record: not record.getMessage().startswith("receive_response_headers.complete")
    )


class RemoteBackend:
    """Made by the selector for one deployment and one connection."""

    def __init__(self, deployment: Deployment, connection: Connection, board: Board) -> None:
        self.id = deployment.id
        self.deployment = deployment
        self.connection = connection
        self.refused: frozenset[str] = frozenset()  # parameters, learnt from the server's own words
        self._board = board
        self._endpoint: Endpoint | None = None
        self._active = 0
        self._leaving = False

    def __repr__(self) -> str:
        return f"RemoteBackend({self.id!r}, {self.connection.base_url!r})"

    @property
    def served_as(self) -> str:
        return self.deployment.served_as or self.deployment.model.id

    @property
    def capabilities(self) -> Capabilities:
        item = self.deployment
        return Capabilities(
            frozenset(item.sampling) - self.refused,
            item.model.context,
            images=item.images,
            logprobs=item.logprobs,
            routing=item.routing,
        )

    @property
    def about(self) -> About:
        if self._endpoint is not None:
            return self._endpoint.about
        return About(self.deployment.runtime_name, artefact=self.deployment.artefact)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self.capabilities.check(request)
        self._active += 1
        try:
            async with aclosing(self._persistently(request)) as events:
                async for event in events:
                    yield event
        except SLMError as error:
            # The frames that end here hold what the server sent: it may repeat the key.
            raise error.with_traceback(None) from None
        finally:
            await self._release()

    async def _persistently(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        held, wait = 0.0, FIRST_WAIT
        tries = 1
        while True:
            answered = False
            try:
                async with aclosing(self._asked().stream(request)) as events:
                    async for event in events:
                        answered = answered or isinstance(event, Delta)
                        yield event
                self._board.answered(self.connection, self.served_as)
                return
            except Unsupported as error:
                if answered or not self._learn(error, request):
                    raise
            except (Busy, Unavailable) as error:
                self._board.failed(self.connection, error, self.served_as)
                pause = _pause(error, wait)
                if answered or pause is None or tries >= TRIES or held + pause > HELD_SECONDS:
                    raise _tired(error, pause) from None
                yield Held(pause, f"{_first_sentence(error)} Asking again in {pause:.0f} s")
                await asyncio.sleep(pause)
                held, wait, tries = held + pause, 2 * wait, tries + 1
            except SLMError as error:
                self._board.failed(self.connection, error, self.served_as)
                raise

    async def probe(self, *, one_token: bool = False) -> Health:
        """Ask the server for its models, and this model for one token where that is allowed; what
        is known from then on."""
        if not self._board.begin(self.connection):
            return self._board.server(self.connection)
        self._active += 1
        try:
            if self._endpoint is None:
                # Else the round trip would hold the import of a package and the first connection.
                await self._asked().models()
            begun = time.perf_counter()
            models = await self._asked().models()
            known = self._board.listed(self.connection, models, time.perf_counter() - begun)
            if one_token:
                await self._one_token()
                known = self._board.model(self.connection, self.served_as)
            return known
        except SLMError as error:
            return self._board.failed(self.connection, error)
        finally:
            self._board.end(self.connection)
            await self._release()

    async def _release(self) -> None:
        self._active -= 1
        if self._leaving and not self._active:
            await self.close()

    async def leave(self) -> None:
        """Close the client when its last reply has ended: another one has taken its place."""
        self._leaving = True
        if not self._active:
            await self.close()

    async def close(self) -> None:
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            await endpoint.close()

    async def _one_token(self) -> None:
        asked = Sampling(max_tokens=1, temperature=0.0, top_p=1.0)
        try:
            async with aclosing(
                self._asked().stream(ChatRequest((Message("user", "Hello"),), asked))
            ) as events:
                async for _ in events:
                    pass
        except SLMError as error:
            self._board.failed(self.connection, error, self.served_as)
        else:
            self._board.answered(self.connection, self.served_as)

    def _asked(self) -> Endpoint:
        if self._endpoint is None:
            if self.connection.missing:
                raise missing(self.connection)
            self._endpoint = endpoint(
                self.deployment, self.connection, self.served_as, self.capabilities
            )
        return self._endpoint

    def _learn(self, error: Unsupported, request: ChatRequest) -> bool:
        """Remember that the server refuses a parameter. Whether the same request may be sent again
        without it: only where it asked for nothing by it."""
        name = error.field or ""
        if name not in self.capabilities.sampling:
            return False
        self.refused |= {name}
        self._asked().capabilities = self.capabilities
        if name in PARAMETERS and name not in request.sampling.asked():
            return True
        error.hint = f"It is left alone from now on: send the prompt again without {name}."
        return False


def endpoint(
    deployment: Deployment, connection: Connection, served_as: str, capabilities: Capabilities
) -> Endpoint:
    """The client for that deployment in the dialect of its provider. Calls nobody."""
    provider = connection.provider
    about = About(deployment.runtime_name, artefact=deployment.artefact)
    key = _key(connection)
    if provider.dialect == "azure":
        from slm_backends.endpoints.azure import AzureBackend

        return AzureBackend(
            deployment.id, connection.base_url, served_as, capabilities,
            key=key, about=about, start_hint=deployment.start, streamed=deployment.streamed,
        )  # fmt: skip
    if provider.dialect == "ollama":
        from slm_backends.endpoints.ollama import OllamaBackend

        return OllamaBackend(
            deployment.id, connection.base_url, served_as, capabilities,
            key=key, about=about, start_hint=deployment.start, streamed=deployment.streamed,
        )  # fmt: skip
    from slm_backends.endpoints.openai import OpenAIBackend

    return OpenAIBackend(
        deployment.id, connection.base_url, served_as, capabilities,
        key=key, about=about, start_hint=deployment.start,
        auth="api-key" if provider.auth == "api-key" and not connection.entra else "bearer",
        streamed=deployment.streamed, inline_images=provider.inline_images,
        experts=deployment.model.experts,
    )  # fmt: skip


def ended(connection: Connection) -> Retired:
    """The error of a connection to a provider that has ended."""
    provider = connection.provider
    other = f", or set {provider.address} to a gateway that speaks its API"
    return Retired(
        f"{provider.name} was retired on {connection.ended}.",
        on=connection.ended,
        hint=f"Pick another deployment{other if provider.address else ''}.",
    )


def missing(connection: Connection) -> Unauthorized:
    """The error of a connection that lacks its address or its key."""
    return Unauthorized(
        f"{connection.provider.name} is not set up: it needs {connection.missing}.",
        hint=f"Set {connection.missing}, or type it on the Models page.",
    )


def _key(connection: Connection) -> Key:
    if connection.entra:
        from slm_backends import entra

        return entra.provider(connection.provider.scope)
    return connection.key.reveal()


def _pause(error: Busy | Unavailable, wait: float) -> float | None:
    """Seconds to wait before the same is asked again; None where it shall not be."""
    if error.retry_after is not None:
        return error.retry_after
    return wait if isinstance(error, Busy) else None


def _tired(error: SLMError, pause: float | None) -> SLMError:
    if isinstance(error, Busy) and pause is not None and pause > HELD_SECONDS:
        at = time.strftime("%H:%M", time.localtime(time.time() + pause))
        error.hint = f"The server asks to come back at {at}."
    return error


def _first_sentence(error: SLMError) -> str:
    words = error.message.partition(". ")[0].rstrip(".")
    return f"{words[:120]}."
