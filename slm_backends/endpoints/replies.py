"""A reply in OpenAI's API, as our events: in pieces or whole, with log-probabilities and timings
where a server sends them.

Knows which parts of it servers leave out, or send otherwise. Does not know how it was asked for.
"""

from __future__ import annotations

import base64
import math
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

from slm_backends.chat import Delta, Event, Finished, Logprob, Looking, Prefill, Timings
from slm_backends.endpoints import failures, vllm
from slm_backends.endpoints.incoming import Incoming, check_length
from slm_backends.errors import Filtered, SLMError, StreamBroken
from slm_backends.routing import Routed


async def streamed(
    chunks: Any, refused: Callable[[Any], SLMError], *, routing: bool = False
) -> AsyncGenerator[Event, None]:
    """The events of the openai package's chunks. `refused` makes an error of what a server sends in
    place of one; `routing` is read where a worker of ours was asked for it: to others the word may
    mean anything."""
    incoming: Incoming = chunks.response.extensions["incoming"]
    started = False
    reason = ""
    usage: Any = None
    timings: Timings | None = None
    chunk: Any = None
    async for chunk in chunks:
        if chunk.object == "error":  # vLLM's older form
            raise refused(chunk.to_dict())
        usage = chunk.usage or usage
        live = timings_of((chunk.model_extra or {}).get("timings"))
        incoming.progress()
        for choice in chunk.choices or ():
            if not started:
                started = True
                yield Prefill()
            if looking := looking_of((chunk.model_extra or {}).get("prompt_progress")):
                yield looking
            if routing and (routed := routed_of((chunk.model_extra or {}).get("routing"))):
                yield routed
            text = (choice.delta and choice.delta.content) or ""
            logprobs = logprobs_of(choice.logprobs) if choice.logprobs else ()
            if text or logprobs:
                incoming.progress(len(text) + len(logprobs))
                yield Delta(_text(text), live, logprobs)
            reason = _text(choice.finish_reason or reason)
        timings = live or timings
    if chunk is None:
        raise failures.no_reply(chunks.response.headers.get("content-type", ""))
    if not reason:
        raise StreamBroken("The reply ended without a finish reason.", hint=failures.AGAIN)
    yield _finished(reason, usage, timings)


def whole(sent: Any, refused: Callable[[Any], SLMError], experts: int = 0) -> Iterator[Event]:
    """The events of a reply that came in one piece. No Prefill: when it began nobody knows.

    `experts` is how many each layer of the model has, where it was asked which of them worked."""
    if isinstance(sent, str):  # what the openai package makes of another content type
        raise failures.no_reply("html" if sent.lstrip().startswith("<") else "")
    more = sent.model_extra or {}
    if more.get("error") or sent.object == "error":
        raise refused(sent.to_dict())
    if not sent.choices:
        raise StreamBroken("The server's answer has no reply in it.", hint=failures.AGAIN)
    choice = sent.choices[0]
    text = _text(choice.message.content or "")
    check_length(len(text))
    logprobs = logprobs_of(choice.logprobs) if choice.logprobs else ()
    timings = timings_of(more.get("timings"))
    if experts and (choice.model_extra or {}).get("routed_experts"):
        yield vllm.routed(sent, experts)
    if text or logprobs:
        yield Delta(text, timings, logprobs)
    yield _finished(_text(choice.finish_reason or "stop"), sent.usage, timings)


def _finished(reason: str, usage: Any, timings: Timings | None) -> Finished:
    if reason == Filtered.code:
        raise failures.filtered()
    details = getattr(usage, "prompt_tokens_details", None)
    return Finished(
        reason[: failures.MAX_NAME],
        prompt_tokens=count_of(getattr(usage, "prompt_tokens", None)),
        completion_tokens=count_of(getattr(usage, "completion_tokens", None)),
        cached_tokens=count_of(getattr(details, "cached_tokens", None)),
        timings=timings,
    )


def _text(sent: Any) -> str:
    if isinstance(sent, str):
        return sent
    raise TypeError("a text in it is none")


def listed(sent: Any) -> tuple[str, ...]:
    """The names in a server's list of models: as in OpenAI's API, or in one of the forms of those
    who do it otherwise. Raises ValueError where there is no list."""
    for name in ("data", "models"):
        if isinstance(sent, dict) and isinstance(sent.get(name), list):
            sent = sent[name]
    if not isinstance(sent, list):
        raise ValueError("no list of models")
    named = [
        item.get("id") or item.get("name") or item.get("model") if isinstance(item, dict) else item
        for item in sent
    ]
    names = [name for name in named if isinstance(name, str) and name.isprintable() and name]
    return tuple(dict.fromkeys(name for name in names if len(name) <= failures.MAX_ERROR))


def looking_of(sent: Any) -> Looking | None:
    """How far a worker of ours is with the images of a prompt."""
    names = ("image", "images", "crop", "crops")
    if not isinstance(sent, dict) or not all(type(sent.get(name)) is int for name in names):
        return None
    return Looking(**{name: sent[name] for name in names})


def routed_of(sent: Any) -> Routed | None:
    """What a worker of ours tells of its experts."""
    if not isinstance(sent, dict):
        return None
    arrays = {name: base64.b64decode(sent[name]) for name in ("chosen", "weights", "scores")}
    listed = {name: tuple(sent[name]) for name in ("ids", "tokens")}
    return Routed(**(sent | arrays | listed))


def timings_of(sent: Any) -> Timings | None:
    if not isinstance(sent, dict):
        return None
    numbers = {name: value for name, value in sent.items() if _is_number(value)}
    try:
        return Timings(
            int(numbers["prompt_n"]),
            float(numbers["prompt_ms"]),
            int(numbers["predicted_n"]),
            float(numbers["predicted_ms"]),
            float(numbers.get("queue_ms", 0.0)),
            int(numbers["cache_n"]) if "cache_n" in numbers else None,
        )
    except KeyError:
        return None


def logprobs_of(sent: Any) -> tuple[Logprob, ...]:
    """The tokens in the `logprobs` of a choice; what is not as in OpenAI's API is left out."""
    return _tokens(getattr(sent, "content", None), with_top=True)


def _tokens(sent: Any, *, with_top: bool = False) -> tuple[Logprob, ...]:
    return tuple(
        Logprob(
            item.token,
            float(item.logprob),
            count_of(getattr(item, "id", None)),
            _tokens(getattr(item, "top_logprobs", None)) if with_top else (),
        )
        for item in (sent if isinstance(sent, list) else ())
        if isinstance(getattr(item, "token", None), str)
        and _is_number(getattr(item, "logprob", None))
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def count_of(value: Any) -> int | None:
    return value if isinstance(value, int) else None
