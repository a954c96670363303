"""One module a runtime: tokens in, tokens out. Nothing here knows of HTTP, text or queues.

Importing an engine's module imports no runtime; making the engine does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from slm_backends.catalog import LOCAL_RUNTIMES
from slm_backends.chat import Sampling
from slm_backends.errors import NotInstalled

Progress = Callable[[float, str], None]  # fraction of the load that is done, and what comes now


class Engine(Protocol):
    """One loaded model that advances several sequences together. Used by one thread only.

    version     of the runtime, as its package says
    device      what computes
    context     tokens that a prompt and its reply may take together
    eos         token ids that end a reply
    max_active  sequences that it advances together at most
    """

    version: str
    device: str
    context: int
    eos: frozenset[int]
    max_active: int

    def admit(self, key: int, prompt: list[int], sampling: Sampling) -> None:
        """Begin a sequence. `prompt` has at least one token; all fit in `context`."""
        ...

    def step(self) -> Iterable[tuple[int, list[int] | Exception]]:
        """Advance every sequence a little; yield (key, new tokens), none while a prompt is read, or
        (key, error) for one that cannot go on. What it raises concerns all of them."""
        ...

    def release(self, key: int) -> None:
        """Forget a sequence, finished or not, and free what it held."""
        ...


def sampling_fields(runtime: str) -> frozenset[str]:
    """Fields of Sampling that this runtime honours."""
    fields: frozenset[str] = _module(runtime).SAMPLING
    return fields


def load(runtime: str, folder: Path, progress: Progress) -> Engine:
    """The weights in `folder` on `runtime`, warmed up. Raises NotInstalled."""
    _, modules, package = LOCAL_RUNTIMES[runtime]
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as error:
        raise NotInstalled(
            f"{LOCAL_RUNTIMES[runtime][0]} is not installed here ({error}).", package=package
        ) from error
    engine: Engine = _module(runtime).load(folder, progress)
    return engine


def _module(runtime: str):  # type: ignore[no-untyped-def]
    return importlib.import_module(f"slm_backends.worker.engines.{runtime}")
