"""The bytes of a server's answer, within limits: whatever a server sends, memory does not grow and
nobody waits for ever.

Knows how many bytes may come before a piece of a reply is made of them, how long a server may be
silent in the middle of one, and how server-sent events are cut. Does not know what is in them.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio

from slm_backends.chat import MAX_CHARACTERS
from slm_backends.endpoints import failures
from slm_backends.errors import StreamBroken

STALL_SECONDS = 60.0  # the longest silence after the first word of a reply
MAX_BYTES = 8 * 2**20  # without a piece of a reply in them: MAX_CHARACTERS fit, escaped as \uXXXX
MAX_ERROR_BYTES = 64 * 2**10  # of the body of an error; the rest is not read


class Incoming:
    """The parts of one answer's body: iterate over it instead of over `parts`.

    status        of HTTP: from 400 on the body only explains, and ends early rather than failing
    content_type  of the answer; server-sent events come out one by one, each as `data: ` with what
                  it holds, and without the empty ones and the comments that servers send to keep a
                  connection open, which not every client expects
    stall_s       seconds without a byte, after the first word of a reply, that end it
    most          bytes without a piece of a reply in them; None: MAX_BYTES

    Raises StreamBroken where a limit is passed.
    """

    def __init__(
        self,
        parts: AsyncIterable[bytes],
        status: int,
        content_type: str = "",
        *,
        stall_s: float = STALL_SECONDS,
        most: int | None = None,
    ) -> None:
        self._parts = parts
        self._explains = status >= 400
        self._events = not self._explains and content_type.startswith("text/event-stream")
        self._stall_s = stall_s
        self._begun = self._explains
        self._done = False
        self._limit = MAX_ERROR_BYTES if self._explains else most or MAX_BYTES
        self._bytes = 0
        self._characters = 0

    def progress(self, characters: int = 0) -> None:
        """A piece of a reply, with so many characters of text, was made of what came so far.

        Raises StreamBroken where the text is longer than a message may be.
        """
        self._bytes = 0
        self._begun = self._begun or characters > 0
        self._characters += characters
        check_length(self._characters)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async with aclosing(self._bounded()) as parts:
            if not self._events:
                async for part in parts:
                    yield part
                return
            async for event in _events(parts):
                self._done = self._done or event == b"[DONE]"
                yield b"data: " + event + b"\n\n"

    async def aclose(self) -> None:
        if hasattr(self._parts, "aclose"):
            await self._parts.aclose()

    async def _bounded(self) -> AsyncGenerator[bytes, None]:
        parts = self._parts.__aiter__()
        while True:
            part = await self._next(parts)
            if part is None:
                return
            room = self._limit - self._bytes
            self._bytes += len(part)
            if room >= len(part):
                yield part
            elif self._explains or self._done:
                yield part[:room]
                return
            else:
                raise StreamBroken(
                    f"The server sent {self._limit / 2**20:.0f} MB without a piece of a reply.",
                    hint="Check the address: another kind of server may answer there.",
                )

    async def _next(self, parts: AsyncIterator[bytes]) -> bytes | None:
        """The next part, None at the end."""
        try:
            with anyio.move_on_after(self._stall_s if self._begun else None) as patience:
                return await anext(parts, None)
        except Exception:
            if self._explains:  # the status is known, its explanation is not worth an error
                return None
            raise
        if patience.cancelled_caught and not self._explains:
            raise StreamBroken(
                f"The reply stalled: the server was silent for {self._stall_s:g} seconds.",
                hint=failures.AGAIN,
            )
        return None


def check_length(characters: int) -> None:
    """Raise StreamBroken for a reply with more of them than a message may have."""
    if characters > MAX_CHARACTERS:
        raise StreamBroken(
            f"The reply passed {MAX_CHARACTERS:,} characters and was stopped.",
            hint="Set max_tokens lower.",
        )


async def _events(parts: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """What each server-sent event holds, where it holds anything. One without an end is dropped."""
    unfinished = bytearray()
    data: list[bytes] = []
    async for part in parts:
        unfinished += part
        if b"\n" not in part:
            continue
        *lines, rest = bytes(unfinished).split(b"\n")
        unfinished = bytearray(rest)
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].strip())
            elif not line:
                # A line break in JSON is a blank; some clients expect all of it on one line.
                event = b" ".join(data)
                data.clear()
                if event:
                    yield event


@functools.cache
def _kind(byte_stream: type) -> type[Incoming]:
    return type("IncomingStream", (Incoming, byte_stream), {})


def watch(response: Any, byte_stream: type, *, stall_s: float, most: int | None = None) -> None:
    """Put an Incoming between an httpx response and its reader, who finds it under "incoming" in
    the response's `extensions`. For a hook that sees responses before their bodies are read.

    byte_stream  the AsyncByteStream of that httpx: there are two, and they know only their own
    """
    headers = response.headers
    made = _kind(byte_stream)(
        response.stream,
        response.status_code,
        headers.get("content-type", ""),
        stall_s=stall_s,
        most=most,
    )
    if headers.get("content-encoding", "identity") != "identity":
        # Nobody asked for that, and a few bytes of it can become any number.
        if response.status_code < 400:
            raise StreamBroken(
                "The server compressed its answer, although it was asked not to.",
                hint="Switch compression off there, or in the proxy before it.",
            )
        made._limit = 0
    response.stream = response.extensions["incoming"] = made
