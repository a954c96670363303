"""HTTP for the Azure AI Inference SDK: through httpx2 as in the OpenAI dialect, so that both have
the same limits, fail for the same reasons, and hang up at once.

In place of the SDK's own transport, which reads bodies of any size, and of its pipeline, which
tries again, follows redirects and logs. Knows what azure.core wants of a transport and of an
answer. Does not know what is asked, nor any key.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx2
from azure.core.pipeline.transport import AsyncHttpTransport
from azure.core.rest import HttpRequest

from slm_backends.endpoints import failures
from slm_backends.endpoints.incoming import watch
from slm_backends.endpoints.openai import CONNECT_SECONDS, READ_SECONDS, tls


class ErrorInReply(Exception):
    """An error object came in the middle of a reply; the SDK would pass over it. `sent` is it."""

    def __init__(self, sent: dict[str, Any]) -> None:
        super().__init__("an error came in the middle of the reply")
        self.sent = sent


class Answer:
    """An httpx2 response under the names that the SDK looks for."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.status_code = response.status_code
        self.reason = response.reason_phrase
        self.headers = response.headers
        self.content_type = response.headers.get("content-type", "")

    async def read(self) -> bytes:
        return await self.response.aread()

    def text(self, encoding: str | None = None) -> str:
        return self.response.text

    def json(self) -> Any:
        """Raises StreamBroken for what is not JSON."""
        try:
            return self.response.json()
        except (ValueError, RecursionError):
            raise failures.no_reply(self.content_type) from None

    async def iter_bytes(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events, one by one and in the only form that the SDK reads, which is how
        Incoming cuts them. Raises ErrorInReply, and StreamBroken for what are none."""
        if self.content_type and not self.content_type.startswith("text/event-stream"):
            raise failures.no_reply(self.content_type)
        async for event in self.response.aiter_raw():
            if b'"error"' in event:
                _check(event)
            yield event

    async def close(self) -> None:
        await self.response.aclose()


class Transport(AsyncHttpTransport[HttpRequest, Answer]):
    """Sends each request once, to the address that it names and to no other.

    What it is told beside a request, as options of the SDK's methods:

    answered  called with the Answer before its body is read
    silence   seconds without a byte that are too many
    versioned whether the SDK's `?api-version=` stays behind the address
    """

    def __init__(self, stall_s: float) -> None:
        async def limit(response: httpx2.Response) -> None:
            watch(response, httpx2.AsyncByteStream, stall_s=stall_s)

        self._client = httpx2.AsyncClient(
            verify=tls(),
            follow_redirects=False,  # a key goes to the address it was given for
            event_hooks={"response": [limit]},
        )

    async def send(
        self,
        request: HttpRequest,
        *,
        stream: bool = False,
        answered: Callable[[Answer], None] = lambda answer: None,
        silence: float = READ_SECONDS,
        versioned: bool = True,
        **_: Any,
    ) -> Answer:
        built = self._client.build_request(
            request.method,
            request.url if versioned else request.url.partition("?")[0],
            headers=request.headers,
            content=request.content,
            timeout=httpx2.Timeout(silence, connect=CONNECT_SECONDS),
        )
        answer = Answer(await self._client.send(built, stream=True))
        answered(answer)
        if not stream:
            await answer.read()
        return answer

    async def open(self) -> None:
        """Connections are made as they are needed."""

    async def close(self) -> None:
        await self._client.aclose()

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _check(event: bytes) -> None:
    """Raise ErrorInReply for a server-sent event that is an error."""
    try:
        sent = json.loads(event.removeprefix(b"data: "))
    except (ValueError, RecursionError):
        return  # the SDK will find that too
    if isinstance(sent, dict) and (sent.get("error") or sent.get("object") == "error"):
        raise ErrorInReply(sent)
