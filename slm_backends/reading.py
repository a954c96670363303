"""A deployment that reads text only, asked about pictures: the text in them is read first.

Knows ocr.py, which reads and remembers what it has read, and the Backend that is asked.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from slm_backends import ocr
from slm_backends.chat import (
    MAX_IMAGES,
    About,
    Backend,
    Capabilities,
    ChatRequest,
    Event,
    Image,
    Looking,
    Message,
)


class Reading:
    """Takes pictures where `backend` takes none: it is given what they say, as quoted text.

    read   what was read for the latest request so far: its pictures in their order
    asked  what `backend` was given for it, None before that
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.read: list[tuple[Image, ocr.Reading]] = []
        self.asked: ChatRequest | None = None

    @property
    def id(self) -> str:
        return self._backend.id

    @property
    def capabilities(self) -> Capabilities:
        return replace(self._backend.capabilities, images=MAX_IMAGES)

    @property
    def about(self) -> About:
        return self._backend.about

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """As the backend's, with a Looking event before each picture that is read."""
        count = sum(len(message.images) for message in request.messages)
        self.read = []
        closed = threading.Event()
        messages: list[Message] = []
        try:
            for message in request.messages:
                readings = []
                for image in message.images:
                    yield Looking(len(self.read) + 1, count, 0, 1)
                    readings.append(await asyncio.to_thread(ocr.read, image, closed.is_set))
                    self.read.append((image, readings[-1]))
                if readings:
                    message = Message(message.role, ocr.message(message.content, readings))
                messages.append(message)
        finally:
            closed.set()
        if count:
            yield Looking(count, count, 1, 1)
        self.asked = replace(request, messages=tuple(messages))
        async with aclosing(self._backend.stream(self.asked)) as events:
            async for event in events:
                yield event
