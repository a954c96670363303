"""Any server that speaks the OpenAI chat-completions protocol, our own workers included.

Knows the openai package and turns its exceptions into ours. Does not know which server it talks to,
nor where a key comes from. Timings are the server's where it sends llama-server's `timings` object.
"""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import AsyncGenerator, Mapping
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
    Sampling,
    Timings,
)
from slm_backends.endpoints import failures
from slm_backends.errors import SLMError, StreamBroken

if TYPE_CHECKING:
    from openai import AsyncOpenAI

CONNECT_SECONDS = 10.0
READ_SECONDS = 600.0  # the longest silence: a long prompt on a slow computer
NO_KEY = "none"  # the openai package wants a key also where the server does not

# Fields of Sampling that the openai package has arguments for; others travel in the body.
_NATIVE = frozenset(
    {"max_tokens", "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop"}
)


class OpenAIBackend:
    """A model on a server. `ours` says that the server is a worker: on this computer, behind no
    proxy, and it understands `timings_per_token`."""

    def __init__(
        self,
        backend_id: str,
        base_url: str,
        served_as: str,
        capabilities: Capabilities,
        *,
        api_key: str = "",
        about: About | None = None,
        start_hint: str = "",
        ours: bool = False,
    ) -> None:
        self.id = backend_id
        self.capabilities = capabilities
        self.about = about or About()
        self._base_url = base_url
        self._served_as = served_as
        self._api_key = api_key
        self._clean = failures.without(api_key)
        self._start_hint = start_hint
        self._ours = ours
        self._extra = {"timings_per_token": True} if ours else {}
        self._explicit = frozenset() if ours else capabilities.sampling
        self._client: AsyncOpenAI | None = None

    def __repr__(self) -> str:
        return f"OpenAIBackend({self.id!r}, {self._base_url!r})"

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self.capabilities.check(request)
        client = await self._connected()
        import openai

        yield Queued()
        answered = False
        try:
            async with await client.chat.completions.create(
                **body(request, self._served_as, self._explicit, **self._extra),
                stream=True,
                stream_options={"include_usage": True},
                extra_headers={"Accept-Encoding": "identity"},
            ) as chunks:
                answered = True
                async with aclosing(_events(chunks)) as events:
                    async for event in events:
                        yield event
        except openai.APIStatusError as error:
            raise self._refused(error.status_code, error.body, error.response.headers) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            if answered:
                raise failures.broke_off(cause, clean=self._clean) from None
            raise failures.unreachable(
                self._base_url, cause, hint=self._start_hint, clean=self._clean
            ) from None
        except openai.APIError as error:  # an error object in the middle of the stream
            raise self._refused(0, error.body, {}) from None
        except (ValueError, TypeError, AttributeError) as error:
            raise failures.no_chunk(error) from None

    def _refused(self, status: int, sent: Any, headers: Mapping[str, str]) -> SLMError:
        return failures.refused(status, sent, headers, hint=self._start_hint, clean=self._clean)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _connected(self) -> AsyncOpenAI:
        if self._client is None:
            openai = await asyncio.to_thread(_import_openai)
            if self._client is not None:  # another request was faster
                return self._client
            timeout = openai.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
            self._client = openai.AsyncOpenAI(
                base_url=self._base_url,
                api_key=self._api_key or NO_KEY,
                # Else it reads variables that are meant for one provider, and tells them to all.
                organization="",
                project="",
                max_retries=0,  # a comparison must not hide a retry in its numbers
                http_client=openai.DefaultAsyncHttpxClient(
                    timeout=timeout,
                    trust_env=not self._ours,
                    follow_redirects=False,  # a key goes to the address it was given for
                ),
            )
        return self._client


def _import_openai() -> Any:
    import openai

    return openai


def body(
    request: ChatRequest,
    served_as: str,
    explicit: frozenset[str] = frozenset(),
    **extra: Any,
) -> dict[str, Any]:
    """Arguments of `client.chat.completions.create` for this request, streaming left out.

    `explicit` and `wanted` belong together; `extra` are fields that the openai package has no
    argument for.
    """
    arguments: dict[str, Any] = {
        "model": served_as,
        "messages": [_message(message) for message in request.messages],
    }
    for name, value in wanted(request.sampling, explicit).items():
        (arguments if name in _NATIVE else extra)[name] = value
    if request.top_logprobs is not None:
        arguments["logprobs"] = True
        if request.top_logprobs:
            arguments["top_logprobs"] = request.top_logprobs
    if extra:
        arguments["extra_body"] = extra
    return arguments


def wanted(sampling: Sampling, explicit: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The fields of Sampling to send: those that ask for something, and those in `explicit` also
    with a neutral value, for servers whose own default is another."""
    names = sampling.asked() | explicit
    values = {name: getattr(sampling, name) for name in vars(sampling) if name in names}
    if "stop" in values:
        values["stop"] = list(values["stop"])
    return {name: value for name, value in values.items() if value not in (None, [])}


def _message(message: Message) -> dict[str, Any]:
    if not message.images:
        return {"role": message.role, "content": message.content}
    parts: list[dict[str, Any]] = [
        {
            "type": "image_url",
            "image_url": {
                "url": f"data:{image.media_type};base64,"
                + base64.b64encode(image.data).decode("ascii")
            },
        }
        for image in message.images
    ]
    return {"role": message.role, "content": [*parts, {"type": "text", "text": message.content}]}


async def _events(chunks: Any) -> AsyncGenerator[Event, None]:
    started = False
    reason = ""
    usage: Any = None
    timings: Timings | None = None
    chunk: Any = None
    async for chunk in chunks:
        usage = chunk.usage or usage
        live = _timings((chunk.model_extra or {}).get("timings"))
        for choice in chunk.choices or ():
            if not started:
                started = True
                yield Prefill()
            text = (choice.delta and choice.delta.content) or ""
            logprobs = _logprobs(choice.logprobs) if choice.logprobs else ()
            if text or logprobs:
                yield Delta(text, live, logprobs)
            reason = choice.finish_reason or reason
        timings = live or timings
    if chunk is None:
        raise StreamBroken(
            "The server answered, but not with a streamed reply.",
            hint="Check the address: it usually ends in /v1.",
        )
    if not reason:
        raise StreamBroken("The reply ended without a finish reason.", hint=failures.AGAIN)
    details = usage.prompt_tokens_details if usage else None
    yield Finished(
        reason,
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        cached_tokens=details.cached_tokens if details else None,
        timings=timings,
    )


def _timings(sent: Any) -> Timings | None:
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


def _logprobs(sent: Any) -> tuple[Logprob, ...]:
    """The tokens in the `logprobs` of a choice; what is not as in OpenAI's API is left out."""
    return _tokens(getattr(sent, "content", None), with_top=True)


def _tokens(sent: Any, *, with_top: bool = False) -> tuple[Logprob, ...]:
    return tuple(
        Logprob(
            item.token,
            float(item.logprob),
            _count(getattr(item, "id", None)),
            _tokens(getattr(item, "top_logprobs", None)) if with_top else (),
        )
        for item in (sent if isinstance(sent, list) else ())
        if isinstance(getattr(item, "token", None), str)
        and _is_number(getattr(item, "logprob", None))
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else None
