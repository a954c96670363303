"""A model on an Ollama server, spoken to in Ollama's own protocol, which tells more than the OpenAI
one that it speaks too: its timings, and how large a context it set up.

Knows what /api/chat wants and sends. Does not know how a server is reached (ollama_client.py), nor
which models it has (ollama_models.py). The protocol: docs/api.md and api/types.go in ollama/ollama.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from slm_backends.chat import (
    About,
    Capabilities,
    ChatRequest,
    Delta,
    Event,
    Finished,
    Logprob,
    Message,
    Prefill,
    Queued,
    Timings,
)
from slm_backends.endpoints import Key, failures
from slm_backends.endpoints.incoming import STALL_SECONDS
from slm_backends.endpoints.openai import wanted
from slm_backends.errors import StreamBroken

if TYPE_CHECKING:
    from slm_backends.endpoints.ollama_client import Client

SMALLEST_WINDOW = 4_096  # tokens; Ollama's own where there is little memory for graphics
IMAGE_TOKENS = 1_024  # more than most models make of a picture; Ollama itself reckons with 768
TURN_TOKENS = 16  # more than templates put around a message

_OPTIONS = {"max_tokens": "num_predict", "repetition_penalty": "repeat_penalty"}
THINKING = ("<think>\n", "\n</think>\n\n")


class OllamaBackend:
    """A model on an Ollama server.

    base_url    may end in /v1 or /api, as other clients are given it
    key         for a server behind a proxy that wants one; Ollama itself asks for none
    start_hint  what to tell a person when nobody answers
    streamed    False asks for the reply in one piece
    stall_s     seconds without a byte, after the first word of a reply, that end it
    """

    def __init__(
        self,
        backend_id: str,
        base_url: str,
        served_as: str,
        capabilities: Capabilities,
        *,
        key: Key = "",
        about: About | None = None,
        start_hint: str = "",
        streamed: bool = True,
        stall_s: float = STALL_SECONDS,
    ) -> None:
        self.id = backend_id
        self.capabilities = capabilities
        self.about = about or About()
        self._base_url = failures.address(base_url)
        self._served_as = served_as
        self._key = key
        self._start_hint = start_hint
        self._streamed = streamed
        self._stall_s = stall_s
        self._client: Client | None = None

    def __repr__(self) -> str:
        return f"OllamaBackend({self.id!r}, {failures.shown(self._base_url)!r})"

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self.capabilities.check(request)
        client = await self._connected()
        yield Queued()
        asked = body(request, self._served_as, self.capabilities, streamed=self._streamed)
        async with (
            aclosing(client.lines("/api/chat", asked)) as lines,
            aclosing(_events(lines)) as events,
        ):
            async for event in events:
                yield event

    async def models(self) -> Sequence[str]:
        client = await self._connected()
        with client.asking():
            return [item.model for item in (await client.list()).models if item.model]

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _connected(self) -> Client:
        if self._client is None:
            made = await connect(
                self._base_url, self._key, start_hint=self._start_hint, stall_s=self._stall_s
            )
            self._client = self._client or made  # another request may have been faster
        return self._client


async def connect(base_url: str, key: Key, *, start_hint: str, stall_s: float) -> Client:
    """A client for that server. Calls nobody. Raises Unavailable for what can be no address."""

    def make() -> Client:
        from slm_backends.endpoints.ollama_client import Client

        return Client(base_url, key, start_hint=start_hint, stall_s=stall_s)

    return await asyncio.to_thread(make)  # the import takes a third of a second


def body(
    request: ChatRequest, served_as: str, capabilities: Capabilities, *, streamed: bool = True
) -> dict[str, Any]:
    """What /api/chat is sent for this request.

    Everything that the deployment honours is named, also where it is neutral: Ollama's own defaults
    are others (top_k 40, for one), and so may those in the model's Modelfile be.

    `truncate` and `shift`: left alone, Ollama drops the oldest turns of a conversation that its
    window does not hold, before the reply and in the middle of it, and tells nobody. Told not to,
    it refuses. Versions that do not know them still get a window that is large enough, up to the
    model's context.
    """
    sampling = request.sampling
    options = {
        _OPTIONS.get(name, name): value
        for name, value in wanted(sampling, capabilities.sampling).items()
    }
    if sampling.repetition_penalty != 1.0:
        options["repeat_last_n"] = -1  # all of the context, not its last 64 tokens
    options["num_ctx"] = window(request, capabilities.context)
    asked: dict[str, Any] = {
        "model": served_as,
        "messages": [_message(message) for message in request.messages],
        "options": options,
        "stream": streamed,
        "truncate": False,
        "shift": False,
    }
    if request.top_logprobs is not None:
        asked |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    return asked


def window(request: ChatRequest, context: int | None) -> int:
    """Tokens of the context that Ollama shall set up: enough for the conversation and its reply,
    but not more than the model's `context`, where that is known.

    The tokens are not known here, so that they are reckoned high: a byte is one at most, and two
    letters or blanks are seldom more than one. In powers of two, since each change has Ollama load
    the model anew.
    """
    needed = request.sampling.max_tokens
    for message in request.messages:
        letters = sum(map(len, re.findall(r"[A-Za-z ]+", message.content)))
        needed += len(message.content.encode()) - letters // 2
        needed += TURN_TOKENS + IMAGE_TOKENS * len(message.images)
    tokens = max(SMALLEST_WINDOW, 1 << (needed - 1).bit_length())
    return min(tokens, context) if context else tokens


def _message(message: Message) -> dict[str, Any]:
    sent: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        sent["images"] = [base64.b64encode(image.data).decode("ascii") for image in message.images]
    return sent


async def _events(lines: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[Event, None]:
    last: Mapping[str, Any] | None = None
    thinking = started = False
    async for line in lines:
        if not started:
            started = True
            yield Prefill()
        message = line.get("message") or {}
        thought, text = _said(message, "thinking"), _said(message, "content")
        # What a model thinks is a part of what it says: other runtimes send it so, in its own tags.
        opening = THINKING[0] if thought and not thinking else ""
        closing = THINKING[1] if text and (thinking or thought) else ""
        thinking = (thinking or bool(thought)) and not closing
        piece = opening + thought + closing + text
        logprobs = _logprobs(line.get("logprobs"), with_top=True)
        if piece or logprobs:
            yield Delta(piece, None, logprobs)
        if line.get("done") is True:
            last = line
    if not started:
        raise failures.no_reply()
    if last is None:
        raise StreamBroken("The reply ended without a finish reason.", hint=failures.AGAIN)
    reason = str(last.get("done_reason") or "stop")  # old versions give none
    if reason in ("load", "unload"):
        raise StreamBroken(
            f"Ollama answered that it did {reason} the model, and nothing else.",
            hint=failures.AGAIN,
        )
    yield Finished(
        reason,
        prompt_tokens=_count(last.get("prompt_eval_count")),
        completion_tokens=_count(last.get("eval_count")),
        timings=timings(last),
    )


def timings(last: Mapping[str, Any]) -> Timings | None:
    """Ollama's own times from the last object of a reply, None where one of them is missing.

    Its clock of `eval_duration` starts when the first token is there, although `eval_count` counts
    that too: llama-server's `predicted_ms` in the versions that run one, `startGenerationTime` in
    runner/llamarunner/runner.go before. So it is what `predicted_ms` means here, and the decode
    speed is that of the tokens after the first, a little below eval_count / eval_duration. What
    `total_duration` has beyond the prompt and the reply was waiting: for the model to be loaded,
    and for other requests. All are nanoseconds.
    """
    names = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
    durations = [last.get(name) for name in names]
    prompt_n, predicted_n = _count(last.get("prompt_eval_count")), _count(last.get("eval_count"))
    if prompt_n is None or predicted_n is None or not all(map(_is_number, durations)):
        return None
    total, load, prompt, predicted = (value / 1e6 for value in durations if value is not None)
    return Timings(
        prompt_n,
        prompt,
        predicted_n,
        predicted,
        queue_ms=max(total - prompt - predicted, load),
        load_ms=load,
    )


def _logprobs(sent: Any, *, with_top: bool = False) -> tuple[Logprob, ...]:
    """What is not as Ollama describes it is left out. It gives no ids."""
    return tuple(
        Logprob(
            item["token"],
            float(item["logprob"]),
            top=_logprobs(item.get("top_logprobs")) if with_top else (),
        )
        for item in (sent if isinstance(sent, list) else ())
        if isinstance(item, dict)
        and isinstance(item.get("token"), str)
        and _is_number(item.get("logprob"))
    )


def _said(message: Any, name: str) -> str:
    text = (message.get(name) or "") if isinstance(message, dict) else None
    if not isinstance(text, str):
        raise failures.no_chunk(ValueError(f"a message without a {name} that is text"))
    return text


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 2**63


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and _is_number(value) else None
