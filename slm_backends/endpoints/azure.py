"""A server that speaks Azure's model-inference protocol, through the Azure AI Inference SDK.

Knows the azure-ai-inference package and turns its exceptions into ours. What is sent and received
has the shapes of the OpenAI dialect, so openai.py says what to ask for and replies.py reads what
comes. Does not know which server it talks to, nor where a key comes from.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

from slm_backends.chat import About, Capabilities, ChatRequest, Event, Message, Queued
from slm_backends.endpoints import Key, failures, pictures, replies
from slm_backends.endpoints.caller import Caller
from slm_backends.endpoints.incoming import STALL_SECONDS
from slm_backends.endpoints.openai import AS_IT_IS, LIST_SECONDS, body
from slm_backends.errors import NotFound, SLMError, StreamBroken, Unsupported

if TYPE_CHECKING:
    from azure.ai.inference.aio import ChatCompletionsClient
    from azure.core.exceptions import HttpResponseError

    from slm_backends.endpoints.azure_http import Answer, Transport

API_VERSION = "2024-05-01-preview"  # the SDK's own
USER_AGENT = "azsdk-python-ai-inference"  # the SDK would add this computer's system
NO_ADDRESS = "Not Found"  # all that mlx_lm.server says where anything stands behind its address
NO_SUCH_ROUTE = (404, 405, 501)  # what servers answer that do not know a route


class AzureBackend:
    """A model on a server.

    key       or what gives a token of Entra ID, asked before each request; "" sends none
    streamed  whether the reply is asked for piece by piece; else it comes as one Delta
    stall_s   seconds that the server may be silent once a reply has begun
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
        api_version: str = "",
    ) -> None:
        self.id = backend_id
        self.capabilities = capabilities
        self.about = about or About()
        self._caller = Caller(base_url, key, start_hint)
        self._served_as = served_as
        self._streamed = streamed
        self._counts = True  # whether the server is asked to count tokens at the end of a stream
        self._stall_s = stall_s
        self._api_version = api_version or API_VERSION
        self._versioned = True  # whether the server takes a version behind its address
        self._transport: Transport | None = None

    def __repr__(self) -> str:
        return f"AzureBackend({self.id!r}, {self._caller.shown!r})"

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self.capabilities.check(request)
        client = await self._connected()
        yield Queued()
        with self._our_errors(self._caller.unreachable):
            found, answer = await self._ask(client, request)
        with self._our_errors(self._caller.broke_off):
            if not self._streamed:
                for event in replies.whole(_as_completion(found), self._caller.refused_inside):
                    yield event
                return
            chunks = _Chunks(found, answer.response)
            read = replies.streamed(chunks, self._caller.refused_inside)
            async with found, aclosing(read) as events:
                async for event in events:
                    yield event

    async def models(self) -> tuple[str, ...]:
        """The name of the one model that the endpoint has, or else the names that it lists, in its
        order. Costs no tokens.

        Raises NotFound where it names none.
        """
        client = await self._connected()
        with self._our_errors(self._caller.unreachable):
            return await self._told(client) or await self._listed(client)

    async def close(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()

    # --- asking -----------------------------------------------------------------------------------

    async def _ask(self, client: ChatCompletionsClient, request: ChatRequest) -> tuple[Any, Answer]:
        """(what the SDK makes of the answer, the answer), before its first word. Where the server
        does not know how to count tokens in a stream, or knows no address with a version behind
        it, it is asked once more without."""
        from azure.core.exceptions import HttpResponseError

        versioned = self._versioned
        while True:
            arguments = self._arguments(request)
            extras = arguments["model_extras"]
            answers: list[Answer] = []
            try:
                found = await client.complete(
                    **arguments,
                    headers=await self._headers(),
                    answered=answers.append,
                    versioned=versioned,
                )
            except HttpResponseError as error:
                asked = {*arguments, *extras} - {"model", "messages", "model_extras"}
                refused = self._refused(error, asked)
                unknown = error.status_code == 404 and answers[0].text() == NO_ADDRESS
                if versioned and unknown:
                    versioned = False
                    continue
                field = refused.field if isinstance(refused, Unsupported) else ""
                if field != "stream_options" or field not in extras:
                    raise refused from None
                self._counts = False
            else:
                self._versioned = versioned
                return found, answers[0]

    def _arguments(self, request: ChatRequest) -> dict[str, Any]:
        """Arguments of the SDK's `complete`. It lets servers that check what they are sent take
        `model_extras` as they are, by a header of its own."""
        arguments = body(request, self._served_as, self.capabilities.sampling)
        extras = arguments.pop("extra_body", {})
        for name in ("logprobs", "top_logprobs"):
            if name in arguments:
                extras[name] = arguments.pop(name)
        if self._streamed:
            arguments["stream"] = True
            if self._counts:
                extras["stream_options"] = {"include_usage": True}
        messages = [_message(message) for message in request.messages]
        return arguments | {"messages": messages, "model_extras": extras}

    async def _told(self, client: ChatCompletionsClient) -> tuple[str, ...]:
        """The name of the endpoint's one model; none where it does not know that question."""
        from azure.core.exceptions import HttpResponseError

        headers = await self._headers()
        try:
            info = await client.get_model_info(headers=headers, silence=LIST_SECONDS)
            return replies.listed([info.get("model_name")])
        except HttpResponseError as error:
            # 400 is the answer of an endpoint of many: it was not told which.
            if error.status_code not in (400, *NO_SUCH_ROUTE):
                raise
        except (StreamBroken, ValueError, TypeError, AttributeError):
            pass  # another page of that server
        return ()

    async def _listed(self, client: ChatCompletionsClient) -> tuple[str, ...]:
        """What the server lists as others do; the SDK has no method for that."""
        from azure.core.exceptions import HttpResponseError
        from azure.core.rest import HttpRequest

        asked = HttpRequest(
            "GET",
            f"{self._caller.base_url}/models",
            params={"api-version": self._api_version},
            headers=await self._headers(),
        )
        answer: Any = await client.send_request(asked, silence=LIST_SECONDS)
        if answer.status_code in NO_SUCH_ROUTE:
            raise NotFound(
                f"{self._caller.shown} does not name its models.",
                hint="Ask its owner for the name of the deployment, and type that.",
            )
        if answer.status_code != 200:
            raise HttpResponseError(response=answer)
        try:
            return replies.listed(answer.json())
        except (StreamBroken, ValueError):
            raise failures.no_list(self._caller.base_url) from None

    async def _headers(self) -> dict[str, str]:
        """With the key as the SDK sends one: serverless and managed endpoints look for it in the
        one place, Azure OpenAI's in the other. A token belongs into the first."""
        headers = AS_IT_IS | {"User-Agent": USER_AGENT}
        key = await self._caller.key()
        if key:
            headers["Authorization"] = f"Bearer {key}"
            if not self._caller.signs_in:
                headers["api-key"] = key
        return headers

    async def _connected(self) -> ChatCompletionsClient:
        """A client of its own for each request: it keeps what a server told of its model, and a
        probe wants to know it anew. The connections are the transport's."""
        if self._transport is None:
            await asyncio.to_thread(_import_sdk)
        from azure.ai.inference.aio import ChatCompletionsClient
        from azure.core.credentials import AzureKeyCredential

        from slm_backends.endpoints.azure_http import Transport

        if self._transport is None:  # no other request was faster
            self._transport = Transport(self._stall_s)
        return ChatCompletionsClient(
            self._caller.base_url,
            AzureKeyCredential("none"),  # it wants one; `_headers` has the key
            api_version=self._api_version,
            transport=self._transport,
            policies=[],  # nothing tries again, follows a redirect, logs or traces
        )

    # --- failing ----------------------------------------------------------------------------------

    @contextmanager
    def _our_errors(self, disconnected: Callable[[BaseException], SLMError]) -> Iterator[None]:
        """Turn exceptions of the SDK, and of httpx2 below it, into ours; `disconnected` those of
        the network."""
        import httpx2
        from azure.core.exceptions import HttpResponseError

        from slm_backends.endpoints.azure_http import ErrorInReply

        try:
            yield
        except HttpResponseError as error:
            raise self._refused(error) from None
        except ErrorInReply as error:
            raise self._caller.refused_inside(error.sent) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise disconnected(error) from None
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            # The SDK quotes what it could not read.
            raise failures.no_chunk(
                ValueError(self._caller.clean(failures.reason(error)))
            ) from None

    def _refused(self, error: HttpResponseError, asked: Collection[str] = ()) -> SLMError:
        answer: Any = error.response
        if answer.status_code < 300:
            return failures.no_reply(answer.content_type)
        try:
            sent = answer.response.json()
        except (ValueError, RecursionError):
            sent = answer.text()
        return self._caller.refused(answer.status_code, sent, answer.headers, asked)


class _Chunks:
    """The SDK's updates in the form of the openai package, which has names for all of their parts,
    log-probabilities too."""

    def __init__(self, updates: AsyncIterator[Any], response: Any) -> None:
        self._updates = updates
        self.response = response

    async def __aiter__(self) -> AsyncIterator[Any]:
        from openai.types.chat import ChatCompletionChunk

        async for update in self._updates:
            yield ChatCompletionChunk.construct(**update.as_dict())


def _as_completion(found: Any) -> Any:
    from openai.types.chat import ChatCompletion

    return ChatCompletion.construct(**found.as_dict())


def _message(message: Message) -> Any:
    from azure.ai.inference import models

    kinds: dict[str, Any] = {
        "system": models.SystemMessage,
        "user": models.UserMessage,
        "assistant": models.AssistantMessage,
    }
    kind = kinds[message.role]
    if not message.images:
        return kind(content=message.content)
    urls = [models.ImageUrl(url=pictures.data_url(image)) for image in message.images]
    parts = [models.ImageContentItem(image_url=url) for url in urls]
    return kind(content=[*parts, models.TextContentItem(text=message.content)])


def _import_sdk() -> None:
    """What is imported late: a second, the first time."""
    for name in (
        "azure.ai.inference.aio",
        "openai.types.chat",
        "slm_backends.endpoints.azure_http",
    ):
        importlib.import_module(name)
