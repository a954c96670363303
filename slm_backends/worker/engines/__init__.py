"""One module a runtime: tokens in, tokens out. Nothing here knows of HTTP, text or queues.

Importing an engine's module imports no runtime; making the engine does.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from slm_backends.catalog import LOCAL_RUNTIMES
from slm_backends.chat import Looking, Sampling
from slm_backends.errors import NotInstalled
from slm_backends.routing import Experts
from slm_backends.worker.pieces import Piece

Progress = Callable[[float, str], None]  # fraction of the load that is done, and what comes now


class Token(NamedTuple):
    """One token of a reply; natural log-probabilities only where admit was asked for them.

    `logprob` and `top` are of the model's own distribution, before temperature, penalties and the
    like; `top` is (id, logprob), likeliest first.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Fired(NamedTuple):
    """Which experts worked on the tokens `ids`, the first of them at place `start`. Arrays as in
    routing.Routed: what follows may be joined to it."""

    start: int
    ids: list[int]
    k: int
    chosen: bytes
    weights: bytes
    scores: bytes


class Mixture(NamedTuple):
    """Of a model with experts: `k` of `experts` work on a token in each of `layers`."""

    layers: int
    experts: int
    k: int


class Engine(Protocol):
    """One loaded model that advances several sequences together. Used by one thread only.

    version     of the runtime, as its package says
    device      what computes
    context     tokens that a prompt and its reply may take together, never more than was asked for
    eos         token ids that end a reply
    max_active  sequences that it advances together at most
    images      that a prompt may have; 0: it reads text and is never given `pieces`
    mixture     its experts; None: it has none, or cannot tell, and is never given `experts`
    """

    version: str
    device: str
    context: int
    eos: frozenset[int]
    max_active: int
    images: int
    mixture: Mixture | None

    def lay_out(self, pieces: Sequence[Piece]) -> list[int]:
        """The tokens of a prompt with pictures: each place that a picture takes holds a negative
        number made from its `slot` and from how it is cut, so that two prompts with the same tokens
        are the same. Called from any thread; decodes no picture. Not asked of engines that take
        none."""
        ...

    def admit(
        self,
        key: int,
        prompt: list[int],
        sampling: Sampling,
        top_logprobs: int | None = None,
        pieces: Sequence[Piece] = (),
        experts: Experts | None = None,
        written: Sequence[int] = (),
    ) -> int | None:
        """Begin a sequence; how many tokens of the prompt need not be computed again, or None where
        the runtime does not say. `prompt` has at least one token; all fit in `context`. Where there
        are pictures, `prompt` is what lay_out made of `pieces`.

        With `top_logprobs`, every Token carries its logprob and that many alternatives. Only asked
        of engines whose module says LOGPROBS.

        With `experts`, what worked is told, limited as it says. The tokens `written` are then the
        reply's first, whatever the model would have chosen.
        """
        ...

    def step(self) -> Iterable[tuple[int, list[Token] | Looking | Fired | Exception]]:
        """Advance every sequence a little; yield (key, new tokens), none while a prompt is read,
        (key, Looking) when it has looked at a part of a picture, (key, Fired) where that was asked,
        or (key, error) for one that cannot go on. What it raises concerns all of them."""
        ...

    def release(self, key: int) -> None:
        """Forget a sequence, finished or not, and free what it held."""
        ...


def sampling_fields(runtime: str) -> frozenset[str]:
    """Fields of Sampling that this runtime honours."""
    fields: frozenset[str] = _module(runtime).SAMPLING
    return fields


def gives_logprobs(runtime: str) -> bool:
    """Whether this runtime gives log-probabilities."""
    return bool(_module(runtime).LOGPROBS)


def gives_routing(runtime: str) -> bool:
    """Whether this runtime can tell which experts of a mixture worked, and limit them."""
    return bool(getattr(_module(runtime), "ROUTING", False))


def load(
    runtime: str,
    folder: Path,
    progress: Progress,
    *,
    device: str = "",
    context: int | None = None,
    memory: int | None = None,
) -> Engine:
    """The weights in `folder` on `runtime`, warmed up. Raises NotInstalled.

    device   what shall compute, in the runtime's own word; empty: the best that is found to work
    context  tokens that the engine shall hold at most; None: what the model was made for
    memory   bytes of weights that may be in memory, the rest is read from the disk; None: all of
             them. Only asked of a runtime that can (fit.py)
    """
    _, modules, package = LOCAL_RUNTIMES[runtime]
    for name, value in getattr(_module(runtime), "ENVIRONMENT", {}).items():
        os.environ.setdefault(name, value)  # read when the runtime is first imported
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as error:
        raise NotInstalled(
            f"{LOCAL_RUNTIMES[runtime][0]} is not installed here ({error}).", package=package
        ) from error
    partly = {} if memory is None else {"memory": memory}
    engine: Engine = _module(runtime).load(
        folder, progress, device=device, context=context, **partly
    )
    return engine


def _module(runtime: str):  # type: ignore[no-untyped-def]
    return importlib.import_module(f"slm_backends.worker.engines.{runtime}")
