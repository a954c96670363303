"""A scripted backend, for tests, for pacing, and to see what failures look like.

`fake@tokens=200,rate=50` answers without any model. Settings, all optional, comma-separated:

    tokens=N      length of the reply (100)
    rate=N        tokens a second (100; 0 is as fast as possible)
    load=S        seconds that loading takes (0)
    first=S       seconds from the prompt to the first token (0.05)
    fail=N        raise an error after N tokens
    break=N       end the stream after N tokens without a last word
    images=N      pictures that it takes in a conversation (0)
    look=S        seconds that it looks at each of them (0)
    refuse=CODE   refuse the request: busy, key, unreachable, overflow (of more than one message)
    text=NAME     markdown (default), plain, code, hostile, or echo (the prompt's own text)

Its tokens are words. Of the sampling it plays along with everything and obeys only max_tokens, so
that two runs are equal.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from slm_backends.chat import (
    SAMPLING_FIELDS,
    About,
    Capabilities,
    ChatRequest,
    Delta,
    Event,
    Finished,
    Loading,
    Looking,
    Prefill,
    Queued,
    Timings,
)
from slm_backends.errors import (
    Busy,
    ContextOverflow,
    NotFound,
    SLMError,
    StreamBroken,
    Unauthorized,
    Unavailable,
)

PREFIX = "fake@"
CONTEXT = 8_192
CROPS = 5  # of each picture that it looks at
_REFUSALS = ("busy", "key", "unreachable", "overflow")

_TEXTS = {
    "plain": "The quick brown fox jumps over the lazy dog and then it rests in the sun.\n\n",
    "markdown": (
        "A paragraph with **bold** words, `code` and a [link](https://example.com) in it, "
        "long enough to fill more than one line on most screens that people use.\n\n"
        "- first point\n- second point\n- third point\n\n"
        "```python\ndef square(number):\n    return number * number\n\nprint(square(7))\n```\n\n"
    ),
    "code": (
        "```python\nfor number in range(10):\n    print(number)\n\n\n    print('again')\n```\n\n"
    ),
    "hostile": (
        "![leak](http://127.0.0.1:9/leak.png) <img src='http://127.0.0.1:9/x'> "
        "[click](javascript:alert(1)) <script>alert(1)</script> ![r][ref]\n\n"
        "[ref]: http://127.0.0.1:9/ref.png\n\n"
        "```mermaid\ngraph TD\n  A@{ img: 'http://127.0.0.1:9/m.png' }\n```\n\n"
    ),
}


@dataclass(frozen=True)
class Script:
    tokens: int = 100
    rate: float = 100.0
    load: float = 0.0
    first: float = 0.05
    fail: int = -1
    break_: int = -1
    images: int = 0
    look: float = 0.0
    refuse: str = ""
    text: str = "markdown"

    @classmethod
    def parse(cls, backend_id: str) -> Script:
        """The script of an id such as `fake@tokens=200,rate=50`. Raises NotFound for others."""
        kinds = {field.name.rstrip("_"): field for field in fields(cls)}
        values: dict[str, Any] = {}
        for setting in filter(None, backend_id.removeprefix(PREFIX).split(",")):
            name, _, value = setting.partition("=")
            try:
                field = kinds[name]
                kind = {"int": int, "float": float, "str": str}[str(field.type)]
                values[field.name] = kind(value)
            except (KeyError, ValueError):
                raise NotFound(
                    f"{backend_id!r} has a setting that is not understood: {setting!r}.",
                    hint=f"Settings are {', '.join(kinds)}, as in fake@tokens=200,rate=50.",
                ) from None
        script = cls(**values)
        if script.text not in (*_TEXTS, "echo"):
            raise NotFound(f"text must be one of {', '.join((*_TEXTS, 'echo'))}.")
        if script.refuse not in ("", *_REFUSALS):
            raise NotFound(f"refuse must be one of {', '.join(_REFUSALS)}.")
        return script


class FakeBackend:
    """Answers as its script says."""

    def __init__(self, backend_id: str) -> None:
        self.id = backend_id
        self._script = Script.parse(backend_id)
        self.capabilities = Capabilities(SAMPLING_FIELDS, CONTEXT, self._script.images)
        self.about = About("Fake", "1", "none", "a script, no weights")
        self._loaded = False
        self.active = 0  # replies being given now: what a test of cancellation looks at

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self.capabilities.check(request)
        self.active += 1
        try:
            async for event in self._play(request):
                yield event
        finally:
            self.active -= 1

    async def _play(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        script = self._script
        if not self._loaded:
            for tenth in range(10 if script.load else 0):
                yield Loading(tenth / 10, "reading nothing")
                await asyncio.sleep(script.load / 10)
            self._loaded = True
        asked = time.perf_counter()
        yield Queued()
        self._refuse(request)
        yield Prefill()
        count = sum(len(message.images) for message in request.messages)
        for number in range(1, count + 1):
            for crop in range(1, CROPS + 1):
                await asyncio.sleep(script.look / CROPS)
                yield Looking(number, count, crop, CROPS)
        await asyncio.sleep(script.first)
        first = time.perf_counter()
        limit = min(script.tokens, request.sampling.max_tokens)
        prompt_n = sum(len(message.content.split()) for message in request.messages)
        timings = Timings(prompt_n, 1000 * (first - asked), 0, 0.0)
        self._misbehave(0)
        for word in itertools.islice(_words(script.text, request), limit):
            timings = replace(
                timings,
                predicted_n=timings.predicted_n + 1,
                predicted_ms=1000 * (time.perf_counter() - first),
            )
            yield Delta(word, timings)
            self._misbehave(timings.predicted_n)
            due = first + timings.predicted_n / script.rate if script.rate else 0.0
            # Also for 0 seconds: it lets others have a turn.
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        reason = "length" if timings.predicted_n == request.sampling.max_tokens else "stop"
        yield Finished(reason, prompt_n, timings.predicted_n, 0, timings)

    def _refuse(self, request: ChatRequest) -> None:
        code = self._script.refuse
        if code == "busy":
            raise Busy("The script is busy, as it was told to be.", hint="Wait a little.")
        if code == "key":
            raise Unauthorized("No key found.", hint="Set FAKE_API_KEY.")
        if code == "unreachable":
            raise Unavailable("Nobody answers, as the script says.", hint="Start it.")
        if code == "overflow" and len(request.messages) > 1:
            tokens = CONTEXT * len(request.messages)
            raise ContextOverflow.measured(tokens, request.sampling.max_tokens, CONTEXT)

    def _misbehave(self, count: int) -> None:
        if count == self._script.fail:
            raise SLMError("The script failed here, as it was told to.", hint="Try again.")
        if count == self._script.break_:
            raise StreamBroken("The script broke off here, as it was told to.")


def _words(name: str, request: ChatRequest) -> Iterator[str]:
    text = request.messages[-1].content if name == "echo" else _TEXTS[name]
    words: list[str] = re.findall(r"\S+\s*", text)
    return iter(words) if name == "echo" else itertools.cycle(words)
