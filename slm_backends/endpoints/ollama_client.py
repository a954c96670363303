"""The ollama package's client, made safe to point at any address, with the requests that it lacks.

Sends nothing that it was not told to: no key and no address from the environment, and no redirect
is followed. What goes wrong becomes one of our errors. Knows httpx and the package, and is imported
only when a server is asked, for that takes a third of a second. Does not know what a chat is.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import ollama

from slm_backends.chat import SAMPLING_FIELDS
from slm_backends.endpoints import Key, failures, incoming
from slm_backends.endpoints.openai import CONNECT_SECONDS, READ_SECONDS, tls
from slm_backends.errors import MemoryExceeded, NotFound, SLMError
from slm_backends.hosts import is_this_computer

ASK_SECONDS = 30.0  # for what costs a server nothing
CHECK_ADDRESS = "Check the address: Ollama's own is http://127.0.0.1:11434."


class Client(ollama.AsyncClient):
    """One server. `base_url` may end in /v1 or /api, as other clients are given it.

    Raises Unavailable for what can be no address.

    start_hint  what to do where nobody answers, a sentence
    stall_s     seconds without a byte, after the first word of a reply, that end it
    """

    def __init__(self, base_url: str, key: Key, *, start_hint: str, stall_s: float) -> None:
        self.base_url = re.sub(r"/(v1|api)$", "", failures.address(base_url).rstrip("/"))
        self._key = key
        self._start_hint = start_hint
        self._stall_s = stall_s
        super().__init__(
            self.base_url,
            headers={"Accept-Encoding": "identity"},
            follow_redirects=False,  # the package would, and a key goes where it was given for
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            verify=tls(),
            # A proxy would be asked for what is on this computer.
            trust_env=not is_this_computer(urlsplit(self.base_url).hostname or ""),
            event_hooks={"request": [self._sign], "response": [self._check]},
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def version(self) -> str:
        """As in 0.12.6."""
        version = (await self._client.get("/api/version")).json()["version"]
        if not isinstance(version, str):
            raise ValueError("the version is no text")
        return version

    async def lines(
        self, path: str, body: Mapping[str, Any], *, endless: bool = False
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The objects that the server streams in answer, each on a line.

        Closing the iterator closes the connection, which is how Ollama is told to stop. The limits
        of incoming.py hold; `endless` says that there may be any number of lines without text. The
        package's own `chat` has no limits, knows neither `truncate` nor `shift`, and ends lines
        also where a text has one of Unicode's other line breaks.
        """
        answer: httpx.Response | None = None
        begun = False
        try:
            async with self._client.stream("POST", path, json=body) as answer:
                async for line in _split(answer.aiter_raw()):
                    sent = json.loads(line)
                    if not isinstance(sent, dict):
                        raise ValueError(f"a {type(sent).__name__} instead of an object")
                    if "error" in sent:
                        raise _refused(0, sent, answer)
                    begun = True
                    characters = _characters(sent)
                    if characters or endless:
                        answer.extensions["incoming"].progress(characters)
                    yield sent
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._broken(error, answered=answer is not None) from None
        except (ValueError, RecursionError) as error:
            if answer is None or begun:
                raise failures.no_chunk(error) from None
            raise failures.no_reply(answer.headers.get("content-type", "")) from None

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Around calls of the package's own methods: their exceptions become ours."""
        try:
            with anyio.fail_after(ASK_SECONDS):
                yield
        except ConnectionError as error:
            # The package puts an advertisement in place of the reason, and leaves that behind.
            raise self._broken(error.__context__ or error, answered=False) from None
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise self._broken(error, answered=False) from None
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
            raise NotFound(
                f"{failures.shown(self.base_url)} answers, but not as Ollama does.",
                hint=CHECK_ADDRESS,
            ) from None

    async def _sign(self, request: httpx.Request) -> None:
        key = self._key if isinstance(self._key, str) else await self._key()
        # The package puts OLLAMA_API_KEY there, wherever the request goes.
        request.headers.pop("Authorization", None)
        if key:
            request.headers["Authorization"] = f"Bearer {failures.sendable(key)}"

    async def _check(self, response: httpx.Response) -> None:
        incoming.watch(response, httpx.AsyncByteStream, stall_s=self._stall_s)
        if response.status_code < 300:
            return
        await response.aread()
        try:
            sent = response.json()
        except (ValueError, RecursionError):
            sent = response.text
        raise _refused(response.status_code, sent, response) from None

    def _broken(self, error: BaseException, *, answered: bool) -> SLMError:
        if answered:
            return failures.broke_off(error)
        return failures.unreachable(self.base_url, error, hint=self._start_hint)


def _refused(status: int, sent: Any, response: httpx.Response) -> SLMError:
    secret = response.request.headers.get("Authorization", "").removeprefix("Bearer ")
    error = failures.refused(
        status,
        _unwrapped(sent),
        response.headers,
        clean=failures.without(secret),
        asked=SAMPLING_FIELDS,
    )
    if status == 404 and type(error) is NotFound:
        missing = re.search(r"model ['\"](.+?)['\"] not found", error.message)
        error.hint = f"Bring it with `ollama pull {missing[1]}`." if missing else CHECK_ADDRESS
    if "requires more system memory" in error.message:
        return MemoryExceeded(
            error.message, hint="Unload another model on the Models page, or pick a smaller one."
        )
    return error


def _unwrapped(sent: Any) -> Any:
    """Where Ollama repeats an error of llama-server, that is JSON as the text of its own."""
    text = sent.get("error") if isinstance(sent, dict) else None
    if not isinstance(text, str):
        return sent
    with contextlib.suppress(ValueError, RecursionError):
        inner = json.loads(text)
        detail = inner.get("error") if isinstance(inner, dict) else None
        if isinstance(detail, dict):
            counts = {
                "prompt_tokens": detail.get("n_prompt_tokens"),
                "context": detail.get("n_ctx"),
            }
            return {"error": {**detail, **counts}}
    return sent


async def _split(parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The lines that are not blank; the last needs no line break."""
    unfinished = bytearray()
    async for part in parts:
        unfinished += part
        if b"\n" not in part:
            continue
        *lines, rest = bytes(unfinished).split(b"\n")
        unfinished = bytearray(rest)
        for line in filter(bytes.strip, lines):
            yield line
    if unfinished.strip():
        yield bytes(unfinished)


def _characters(sent: Mapping[str, Any]) -> int:
    message = sent.get("message")
    if not isinstance(message, dict):
        return 0
    texts = (message.get("content"), message.get("thinking"))
    return sum(len(text) for text in texts if isinstance(text, str))
