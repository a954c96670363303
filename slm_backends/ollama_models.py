"""The models on an Ollama server: which it has and which are loaded; to bring, unload, remove one.

    server = OllamaServer("http://127.0.0.1:11434")
    for model in await server.models(): ...
    async with aclosing(server.pull("phi3.5")) as steps:
        async for progress in steps: ...          # leaving the loop cancels it
    await server.close()

Does not chat (endpoints/ollama.py). Lives on the background loop. Every method raises SLMErrors.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from slm_backends.endpoints import Key, failures
from slm_backends.endpoints.incoming import STALL_SECONDS
from slm_backends.endpoints.ollama import connect
from slm_backends.errors import FetchFailed, StreamBroken
from slm_backends.watch import Progress

if TYPE_CHECKING:
    from slm_backends.endpoints.ollama_client import Client

PULL_AGAIN = "Check the name on ollama.com/library, then pull again: it goes on where it stopped."
DOWNLOADING = 0.9  # of a pull, roughly by the time it takes; the rest is checking
#: What a server says of a pull beside bytes -> (the step in our words, the share done by then)
STEPS = {
    "pulling manifest": ("asking the registry", 0.0),
    "verifying sha256 digest": ("checking", DOWNLOADING),
    "writing manifest": ("finishing", 0.99),
}


@dataclass(frozen=True)
class Installed:
    """A model that the server has.

    name            as it is asked for, with its tag
    size            bytes on its disk
    digest          of its manifest, 64 hexadecimal digits: the same means the same artefact
    parameter_size  as in 3.8B
    quantisation    as in Q4_0
    family          as in phi3
    modified        when it was brought or made; None where the server does not say
    """

    name: str
    size: int = 0
    digest: str = ""
    parameter_size: str = ""
    quantisation: str = ""
    family: str = ""
    modified: datetime | None = None


@dataclass(frozen=True)
class Loaded:
    """A model in the server's memory.

    memory   bytes in all, its context included; `vram` of them are on a GPU
    context  tokens of the window that was set up; None where the server does not say
    until    when it is unloaded if nobody asks it anything; None where the server does not say
    """

    name: str
    memory: int = 0
    vram: int = 0
    context: int | None = None
    until: datetime | None = None

    @property
    def on_gpu(self) -> float:
        """The share of it that is on a GPU, 0 to 1."""
        return min(self.vram / self.memory, 1.0) if self.memory else 0.0


@dataclass(frozen=True)
class Shown:
    """What the server tells of one model; empty where it does not.

    template      how it writes a conversation down, in Go's template language
    parameters    (name, value) that it was packed with, a name with several values several times
    context       tokens that it was made for; None where not said
    capabilities  as in completion, vision, tools, thinking
    licence       its whole text
    """

    name: str
    template: str = ""
    parameters: tuple[tuple[str, str], ...] = ()
    context: int | None = None
    capabilities: frozenset[str] = frozenset()
    licence: str = ""
    parameter_size: str = ""
    quantisation: str = ""
    family: str = ""


def full_name(name: str) -> str:
    """The name as two that mean the same model have it in common: phi3.5, phi3.5:latest and
    library/Phi3.5 are one. Source: types/model/name.go in ollama/ollama."""
    name = re.sub(r"^(https?://)?(registry\.ollama\.ai/)?(library/)?", "", name.strip().lower())
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


class OllamaServer:
    """One server. `base_url`, `key` and `start_hint` as of OllamaBackend. Made without a call."""

    def __init__(self, base_url: str, *, key: Key = "", start_hint: str = "") -> None:
        self._base_url = base_url
        self._key = key
        self._start_hint = start_hint
        self._client: Client | None = None

    def __repr__(self) -> str:
        return f"OllamaServer({failures.shown(self._base_url)!r})"

    async def version(self) -> str:
        """Of the server, as in 0.12.6."""
        client = await self._connected()
        with client.asking():
            return await client.version()

    async def models(self) -> Sequence[Installed]:
        """What the server has, in its order: the newest first."""
        client = await self._connected()
        with client.asking():
            return [
                Installed(
                    item.model or "",
                    int(item.size or 0),
                    item.digest or "",
                    **_details(item.details),
                    modified=item.modified_at,
                )
                for item in (await client.list()).models
            ]

    async def running(self) -> Sequence[Loaded]:
        """What is in its memory, in its order: that which stays longest first."""
        client = await self._connected()
        with client.asking():
            return [
                Loaded(
                    item.model or item.name or "",
                    int(item.size or 0),
                    int(item.size_vram or 0),
                    item.context_length,
                    item.expires_at,
                )
                for item in (await client.ps()).models
            ]

    async def show(self, name: str) -> Shown:
        """NotFound where the server does not have it."""
        client = await self._connected()
        with client.asking():
            told = await client.show(name)
            known = told.modelinfo or {}
            return Shown(
                name,
                told.template or "",
                _parameters(told.parameters or ""),
                _context(known),
                frozenset(told.capabilities or ()),
                told.license or "",
                **_details(told.details),
            )

    async def pull(self, name: str) -> AsyncGenerator[Progress, None]:
        """Have the server bring a model from its registry, or look for a newer one.

        Closing the iterator cancels it; pulled again, it goes on where it stopped. Raises
        FetchFailed in the server's words where that fails on its side.
        """
        client = await self._connected()
        done: dict[str, tuple[int, int]] = {}
        last = Progress("asking the registry", 0, None, "steps", 0.0)
        yield last
        try:
            asked = {"model": name, "stream": True}
            async with aclosing(client.lines("/api/pull", asked, endless=True)) as told:
                async for line in told:
                    now = _progress(line, done, last)
                    if now != last:
                        yield now
                    last = now
        except StreamBroken as error:
            raise FetchFailed(
                f"Ollama did not get {name}: {error.message}", hint=PULL_AGAIN
            ) from None
        if last.step != "ready":
            raise FetchFailed(f"Ollama stopped in the middle of getting {name}.", hint=PULL_AGAIN)

    async def unload(self, name: str) -> None:
        """Take a model out of the server's memory, after the replies that it is giving."""
        client = await self._connected()
        with client.asking():
            await client.generate(name, keep_alive=0)

    async def remove(self, name: str) -> None:
        """Delete a model from the server's disk. NotFound where it is not there."""
        client = await self._connected()
        with client.asking():
            await client.delete(name)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _connected(self) -> Client:
        if self._client is None:
            made = await connect(
                self._base_url, self._key, start_hint=self._start_hint, stall_s=STALL_SECONDS
            )
            self._client = self._client or made
        return self._client


def _details(sent: Any) -> dict[str, str]:
    return {
        "parameter_size": getattr(sent, "parameter_size", None) or "",
        "quantisation": getattr(sent, "quantization_level", None) or "",
        "family": getattr(sent, "family", None) or "",
    }


def _parameters(text: str) -> tuple[tuple[str, str], ...]:
    """From lines of a name, blanks and a value, which has quotes around it where it is text."""
    pairs = (line.split(None, 1) for line in text.splitlines())
    return tuple((pair[0], pair[1].strip().strip('"')) for pair in pairs if len(pair) == 2)


def _context(known: Mapping[str, Any]) -> int | None:
    """Its key begins with the architecture, as in llama.context_length."""
    value = known.get(f"{known.get('general.architecture')}.context_length")
    return value if isinstance(value, int) else None


def _progress(
    line: Mapping[str, Any], done: dict[str, tuple[int, int]], last: Progress
) -> Progress:
    """How far a pull is after that line. `done` is kept for the next: bytes and size of each layer.

    The sizes of layers come one after the other, but the first, the weights, is nearly all of it.
    """
    status, digest, total = (line.get(name) for name in ("status", "digest", "total"))
    if status == "success":
        return Progress("ready", 1, 1, "steps", 1.0)
    if isinstance(digest, str) and isinstance(total, int):
        completed = line.get("completed")
        done[digest] = (completed if isinstance(completed, int) else 0, total)
        arrived, whole = (sum(numbers) for numbers in zip(*done.values(), strict=True))
        share = DOWNLOADING * min(arrived / whole, 1.0) if whole else 0.0
        return Progress("downloading", arrived, whole, "bytes", max(share, last.fraction))
    if status not in STEPS:
        return last
    step, fraction = STEPS[status]
    return Progress(step, 0, None, "steps", max(fraction, last.fraction))
