"""Any server that speaks the OpenAI chat-completions protocol, our own workers included.

Knows the openai package and turns its exceptions into ours. Does not know which server it talks to,
nor where a key comes from. Timings are the server's where it sends llama-server's `timings` object.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import asdict
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from slm_backends.chat import (
    About,
    Capabilities,
    ChatRequest,
    Event,
    Message,
    Queued,
    Sampling,
)
from slm_backends.endpoints import Key, failures, pictures, replies
from slm_backends.endpoints.caller import Caller
from slm_backends.endpoints.incoming import STALL_SECONDS, watch
from slm_backends.errors import BadRequest, SLMError, Unsupported

if TYPE_CHECKING:
    import httpx2
    from openai import APIStatusError, AsyncOpenAI

CONNECT_SECONDS = 10.0
READ_SECONDS = 600.0  # the longest silence before a reply: a long prompt on a slow computer
LIST_SECONDS = 30.0  # for the list of models, which costs a server nothing
MAX_ROUTED_BYTES = 64 * 2**20  # vLLM's experts of 32,000 tokens, 48 layers and 8 of each, in base64
NO_KEY = "none"  # the openai package wants a key also where the server does not
AS_IT_IS = {"Accept-Encoding": "identity"}  # compressed, the pieces of a reply come in lumps

# Fields of Sampling that the openai package has arguments for; others travel in the body.
_NATIVE = frozenset(
    {"max_tokens", "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop"}
)


class OpenAIBackend:
    """A model on a server.

    key       or what gives one, asked before each request; "" sends none
    auth      how it travels: bearer, as `Authorization: Bearer`, or api-key, Azure's own header
    streamed  whether the reply is asked for piece by piece; else it comes as one Delta
    inline_images  send pictures again in the text of the message where the server refuses them as
              parts of it, as NVIDIA's older route does; which form it takes is remembered
    experts   that each layer of its model has: a server that tells which of them worked names them
              by number, and nobody else knows how many there are
    stall_s   seconds that the server may be silent once a reply has begun
    ours      the server is a worker: on this computer, behind no proxy, and it understands
              `timings_per_token` and `return_progress`
    """

    def __init__(
        self,
        backend_id: str,
        base_url: str,
        served_as: str,
        capabilities: Capabilities,
        *,
        key: Key = "",
        auth: str = "bearer",
        about: About | None = None,
        start_hint: str = "",
        streamed: bool = True,
        inline_images: bool = False,
        experts: int = 0,
        stall_s: float = STALL_SECONDS,
        ours: bool = False,
    ) -> None:
        self.id = backend_id
        self.capabilities = capabilities
        self.about = about or About()
        self._caller = Caller(base_url, key, start_hint)
        self._served_as = served_as
        self._auth = auth
        self._streamed = streamed
        self._inline_images = inline_images
        self._experts = experts
        self._inline: bool | None = None  # not known before the first picture
        self._counts = True  # whether the server is asked to count tokens at the end of a stream
        self._stall_s = stall_s
        self._ours = ours
        self._client: AsyncOpenAI | None = None

    def __repr__(self) -> str:
        return f"OpenAIBackend({self.id!r}, {self._caller.shown!r})"

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self.capabilities.check(request)
        asked = request.experts is not None
        client = await self._connected()
        yield Queued()
        with self._our_errors(self._caller.unreachable):
            answer = await self._ask(client, request)
        with self._our_errors(self._caller.broke_off):
            if not self._in_pieces(request):
                experts = self._experts if asked else 0
                for event in replies.whole(answer, self._caller.refused_inside, experts):
                    yield event
                return
            read = replies.streamed(answer, self._caller.refused_inside, routing=asked)
            async with answer, aclosing(read) as events:
                async for event in events:
                    yield event

    async def models(self) -> tuple[str, ...]:
        """The names that the server lists, in its order. Costs no tokens.

        Raises NotFound where the answer is no list of models.
        """
        client = await self._connected()
        import httpx2

        with self._our_errors(self._caller.unreachable):
            response = await client.get(
                "/models",
                cast_to=httpx2.Response,
                options={
                    "headers": AS_IT_IS,
                    "timeout": httpx2.Timeout(LIST_SECONDS, connect=CONNECT_SECONDS),
                },
            )
        try:
            return replies.listed(response.json())
        except (ValueError, RecursionError):
            raise failures.no_list(self._caller.base_url) from None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    # --- asking -----------------------------------------------------------------------------------

    def _in_pieces(self, request: ChatRequest) -> bool:
        """vLLM tells which experts worked only of a reply that comes whole."""
        return self._streamed and (self._ours or request.experts is None)

    async def _ask(self, client: AsyncOpenAI, request: ChatRequest) -> Any:
        """The server's answer, before its first word. Where it refuses how it was asked, and there
        is another way to ask the same, it is asked once more."""
        import openai

        explicit = frozenset() if self._ours else self.capabilities.sampling
        pictured = any(message.images for message in request.messages)
        extra: dict[str, Any] = {"timings_per_token": True} if self._ours else {}
        if self._ours and pictured:
            extra["return_progress"] = True
        if self._ours:
            extra |= routing(request)
        elif request.experts is not None:
            # vLLM tells them of every reply, once it was started so; the tokens must be asked for.
            extra["return_token_ids"] = True
        illustrated = self._inline_images and pictured
        inline = illustrated and bool(self._inline)
        first: SLMError | None = None
        while True:
            making = partial(body, request, self._served_as, explicit, inline=inline, **extra)
            # Pictures may have to be made smaller, which takes a while.
            arguments = await asyncio.to_thread(making) if inline else making()
            if self._in_pieces(request):
                arguments["stream"] = True
                if self._counts:
                    arguments["stream_options"] = {"include_usage": True}
            try:
                answer = await client.chat.completions.create(**arguments, extra_headers=AS_IT_IS)
            except openai.APIStatusError as error:
                refused = self._refused(error, _parameters(arguments))
                if (
                    isinstance(refused, Unsupported)
                    and refused.field == "stream_options"
                    and "stream_options" in arguments
                ):
                    self._counts = False
                    continue
                of_form = error.status_code in (400, 422) and _of_form(refused)
                if of_form and illustrated and self._inline is None and not inline:
                    inline, first = True, refused
                    continue
                raise (of_form and first) or refused from None
            if illustrated:
                self._inline = inline
            return answer

    async def _connected(self) -> AsyncOpenAI:
        if self._client is None:
            openai = await asyncio.to_thread(_import_openai)
            trusted = await asyncio.to_thread(tls)
            import httpx2

            if self._client is not None:  # another request was faster
                return self._client

            async def limit(response: httpx2.Response) -> None:
                most = MAX_ROUTED_BYTES if self.capabilities.routing else None
                watch(response, httpx2.AsyncByteStream, stall_s=self._stall_s, most=most)

            self._client = openai.AsyncOpenAI(
                base_url=self._caller.base_url,
                api_key=NO_KEY,
                # Else it reads variables that are meant for one provider, and tells them to all.
                organization="",
                project="",
                max_retries=0,  # a comparison must not hide a retry in its numbers
                http_client=openai.DefaultAsyncHttpxClient(
                    timeout=openai.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
                    verify=trusted,
                    trust_env=not self._ours,
                    follow_redirects=False,  # a key goes to the address it was given for
                    event_hooks={"request": [self._sign], "response": [limit]},
                ),
            )
        return self._client

    async def _sign(self, request: httpx2.Request) -> None:
        """Put the key into a request, and nothing where there is none."""
        key = await self._caller.key()
        del request.headers["Authorization"]
        if not key:
            return
        if self._auth == "api-key":
            request.headers["api-key"] = key
        else:
            request.headers["Authorization"] = f"Bearer {key}"

    # --- failing ----------------------------------------------------------------------------------

    @contextmanager
    def _our_errors(self, disconnected: Callable[[BaseException], SLMError]) -> Iterator[None]:
        """Turn the openai package's exceptions into ours; `disconnected` those of the network."""
        import openai

        try:
            yield
        except openai.APIStatusError as error:
            raise self._refused(error) from None
        except openai.APIConnectionError as error:
            raise disconnected(error.__cause__ or error) from None
        except openai.APIError as error:  # an error object in the middle of the stream
            raise self._caller.refused_inside(error.body) from None
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise failures.no_chunk(error) from None

    def _refused(self, error: APIStatusError, asked: Collection[str] = ()) -> SLMError:
        return self._caller.refused(error.status_code, error.body, error.response.headers, asked)


@cache
def tls() -> ssl.SSLContext:
    """Whose certificates are trusted, read once for all clients: that takes a while."""
    import httpx2

    return httpx2.create_ssl_context()


def _import_openai() -> Any:
    import openai

    return openai


def _parameters(arguments: Mapping[str, Any]) -> frozenset[str]:
    """Names of the parameters in a request, for a server may know less than is sent."""
    return frozenset({*arguments, *arguments.get("extra_body", ())} - {"model", "messages"})


def _of_form(refused: SLMError) -> bool:
    """Whether a server may have refused the form of a request, and not what it asks for."""
    return type(refused) is BadRequest and refused.field in (None, "messages")


def body(
    request: ChatRequest,
    served_as: str,
    explicit: frozenset[str] = frozenset(),
    *,
    inline: bool = False,
    **extra: Any,
) -> dict[str, Any]:
    """Arguments of `client.chat.completions.create` for this request, streaming left out.

    `explicit` and `wanted` belong together; with `inline`, pictures go into the text; `extra` are
    fields that the openai package has no argument for.
    """
    arguments: dict[str, Any] = {
        "model": served_as,
        "messages": [_message(message, inline) for message in request.messages],
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


def routing(request: ChatRequest) -> dict[str, Any]:
    """What a worker of ours is asked of its experts, by the name of its field."""
    return {} if request.experts is None else {"experts": asdict(request.experts)}


def wanted(sampling: Sampling, explicit: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The fields of Sampling to send: those that ask for something, and those in `explicit` also
    with a neutral value, for servers whose own default is another."""
    names = sampling.asked() | explicit
    values = {name: getattr(sampling, name) for name in vars(sampling) if name in names}
    if "stop" in values:
        values["stop"] = list(values["stop"])
    return {name: value for name, value in values.items() if value not in (None, [])}


def _message(message: Message, inline: bool) -> dict[str, Any]:
    if not message.images:
        return {"role": message.role, "content": message.content}
    if inline:
        tags = [pictures.inline(image) for image in message.images]
        return {"role": message.role, "content": " ".join([message.content, *tags])}
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": pictures.data_url(image)}}
        for image in message.images
    ]
    return {"role": message.role, "content": [*parts, {"type": "text", "text": message.content}]}
