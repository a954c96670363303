"""The OpenAI chat-completions protocol as JSON: requests read strictly, replies written.

Knows field names and their meaning; what it does not know it refuses by name, never drops. Where
the protocol has no word, llama-server's is used (`timings`, `timings_per_token`,
`return_progress`). Does no I/O.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from slm_backends.chat import (
    PARAMETERS,
    ChatRequest,
    Image,
    Looking,
    Message,
    Sampling,
    Timings,
)
from slm_backends.errors import BadRequest, SLMError, Unsupported
from slm_backends.routing import Experts
from slm_backends.worker.engines import Fired, Mixture, Token
from slm_backends.worker.vocabulary import Vocabulary

# Accepted because they change nothing about the reply, whatever they say.
_WITHOUT_EFFECT = frozenset({"user", "metadata", "store", "safety_identifier"})
# Accepted only with the value that asks for nothing.
_ONLY_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "tools": ([],),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
}
LEAST_LOGPROB = -9999.0  # as in OpenAI's API; JSON has no word for minus infinity
_DATA_URL = re.compile(r"data:(image/[a-z]+);base64,(.*)", re.DOTALL)


@dataclass(frozen=True)
class Asked:
    """A request as it came: `request` is complete but for max_tokens where `open_ended` is set."""

    request: ChatRequest
    model: str | None
    open_ended: bool
    stream: bool
    include_usage: bool
    timings_per_token: bool
    return_progress: bool


def read_request(body: Any) -> Asked:
    """The JSON of a chat-completions request, checked. Raises BadRequest with the field."""
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    body = {name: value for name, value in body.items() if value is not None}
    options = body.pop("stream_options", {})
    if not isinstance(options, dict):
        raise BadRequest("stream_options must be an object.", field="stream_options")
    unknown = options.keys() - {"include_usage", "include_obfuscation"}
    if unknown:
        name = f"stream_options.{min(unknown)}"
        raise Unsupported(f"There is no parameter called {name} here.", field=name)
    messages = body.pop("messages", None)
    if not isinstance(messages, list):
        raise BadRequest("messages must be a list.", field="messages")
    # What is left out asks for nothing, so that a request means the same on every server.
    sampling: dict[str, Any] = {
        name: parameter.neutral
        for name, parameter in PARAMETERS.items()
        if parameter.neutral is not None
    }
    for name in ("max_tokens", "max_completion_tokens"):
        if name in body:
            sampling["max_tokens"] = body.pop(name)
    for name in PARAMETERS:
        if name in body:
            sampling[name] = body.pop(name)
    stop = body.pop("stop", ())
    if not isinstance(stop, (str, list, tuple)):
        raise BadRequest("stop must be a string or a list of strings.", field="stop")
    sampling["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    model = body.pop("model", None)
    if not isinstance(model, (str, type(None))):
        raise BadRequest("model must be a string.", field="model")
    stream = _flag(body, "stream")
    timings_per_token = _flag(body, "timings_per_token")
    return_progress = _flag(body, "return_progress")
    top_logprobs = _top_logprobs(body)
    experts = _experts(body)
    for name, value in body.items():
        if name in _ONLY_NEUTRAL:
            if value not in _ONLY_NEUTRAL[name]:
                raise Unsupported(f"{name} is not supported here.", field=name)
        elif name not in _WITHOUT_EFFECT:
            raise Unsupported(f"There is no parameter called {name} here.", field=name)
    return Asked(
        request=ChatRequest(
            tuple(_message(message) for message in messages),
            Sampling(**sampling),
            top_logprobs,
            experts,
        ),
        model=model,
        open_ended="max_tokens" not in sampling,
        stream=stream,
        include_usage=_flag(options, "include_usage"),
        timings_per_token=timings_per_token,
        return_progress=return_progress,
    )


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.pop(name, False)
    if not isinstance(value, bool):
        raise BadRequest(f"{name} must be true or false.", field=name)
    return value


def _top_logprobs(body: dict[str, Any]) -> int | None:
    """How many alternatives each token shall have, or None where no log-probability is asked."""
    if _flag(body, "logprobs"):
        top: int = body.pop("top_logprobs", 0)
        return top
    if "top_logprobs" in body:
        raise BadRequest("top_logprobs needs logprobs to be true.", field="top_logprobs")
    return None


def _experts(body: dict[str, Any]) -> Experts | None:
    """A field of ours: that the routing is told, and how experts are limited."""
    asked = body.pop("experts", None)
    if asked is None:
        return None
    if not isinstance(asked, dict):
        raise BadRequest("experts must be an object.", field="experts")
    unknown = asked.keys() - {"k", "off", "reply"}
    if unknown:
        raise Unsupported(f"experts has no {min(unknown)!r}.", field="experts")
    return Experts(**asked)


def _message(message: Any) -> Message:
    if not isinstance(message, dict):
        raise BadRequest("Each message must be an object.", field="messages")
    unknown = {
        name
        for name, value in message.items()
        if name not in ("role", "content", "name") and value not in (None, [])
    }
    if unknown:
        raise Unsupported(
            f"Messages with {', '.join(sorted(unknown))} are not supported here.", field="messages"
        )
    role = message.get("role")
    role = "system" if role == "developer" else role
    content = message.get("content")
    if isinstance(content, str):
        return Message(role, content)  # type: ignore[arg-type]
    if not isinstance(content, list):
        raise BadRequest("A message's content must be text or a list of parts.", field="messages")
    texts: list[str] = []
    images: list[Image] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url":
            images.append(_image(part.get("image_url")))
        else:
            raise BadRequest("A content part must be of type text or image_url.", field="messages")
    return Message(role, "\n".join(texts), tuple(images))  # type: ignore[arg-type]


def _image(value: Any) -> Image:
    url = value.get("url") if isinstance(value, dict) else None
    match = _DATA_URL.match(url) if isinstance(url, str) else None
    if match is None:
        raise BadRequest(
            "An image must be a data URL with base64; remote addresses are not fetched.",
            field="messages",
        )
    try:
        return Image(base64.b64decode(match[2], validate=True), match[1])
    except binascii.Error:
        raise BadRequest("An image's base64 is broken.", field="messages") from None


def write_progress(looking: Looking) -> dict[str, int]:
    """`prompt_progress` as in llama-server, of images: the names in it are ours."""
    return {
        "image": looking.image,
        "images": looking.images,
        "crop": looking.crop,
        "crops": looking.crops,
    }


def write_routing(fired: Fired, mixture: Mixture, vocabulary: Vocabulary) -> dict[str, Any]:
    """routing.Routed as JSON, its arrays in base64: an object of ours."""
    return {
        "start": fired.start,
        "ids": fired.ids,
        "tokens": [vocabulary.piece(token).text for token in fired.ids],
        "layers": mixture.layers,
        "experts": mixture.experts,
        "k": fired.k,
        "chosen": base64.b64encode(fired.chosen).decode(),
        "weights": base64.b64encode(fired.weights).decode(),
        "scores": base64.b64encode(fired.scores).decode(),
    }


def write_timings(timings: Timings) -> dict[str, Any]:
    """llama-server's `timings`, with `queue_ms` added; decode speed counts from the first token."""
    return {
        "cache_n": timings.cache_n,
        "queue_ms": timings.queue_ms,
        "prompt_n": timings.prompt_n,
        "prompt_ms": timings.prompt_ms,
        "predicted_n": timings.predicted_n,
        "predicted_ms": timings.predicted_ms,
        "predicted_per_second": timings.tokens_per_second,
    }


class Logprobs:
    """Writes the log-probabilities of one reply as OpenAI does, with llama-server's `id` for each.

    The end token is no part of a reply and is left out. Joined, the `bytes` are the reply's; the
    `token` of half a character has a replacement character there.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._first = True

    def write(self, tokens: Iterable[Token]) -> dict[str, Any]:
        """The `logprobs` of a choice, for the next tokens of the reply."""
        return {"content": [self._entry(token) for token in tokens], "refusal": None}

    def _entry(self, token: Token) -> dict[str, Any]:
        assert token.logprob is not None, "the engine was not asked for log-probabilities"
        entry = self._described(token.id, token.logprob)
        entry["top_logprobs"] = [self._described(*other) for other in token.top]
        self._first = self._first and entry["bytes"] is None
        return entry

    def _described(self, token: int, logprob: float) -> dict[str, Any]:
        piece = self._vocabulary.piece(token, first=self._first)
        return {
            "id": token,
            "token": piece.text,
            "bytes": None if piece.bytes is None else list(piece.bytes),
            "logprob": max(logprob, LEAST_LOGPROB),
        }


def write_usage(timings: Timings) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": timings.prompt_n,
        "completion_tokens": timings.predicted_n,
        "total_tokens": timings.prompt_n + timings.predicted_n,
    }
    if timings.cache_n is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": timings.cache_n}
    return usage


def write_error(error: SLMError) -> dict[str, Any]:
    """OpenAI's error object; `param` names the field of a bad request."""
    detail: dict[str, Any] = {
        "message": error.message,
        "type": "invalid_request_error" if 400 <= error.status < 500 else "server_error",
        "param": getattr(error, "field", None),
        "code": error.code,
        "hint": error.hint,
    }
    for number in ("prompt_tokens", "max_tokens", "context"):
        if getattr(error, number, None) is not None:
            detail[number] = getattr(error, number)
    return {"error": detail}
