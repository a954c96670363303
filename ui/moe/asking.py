"""Asking one deployment one thing, with its routing where it tells that.

Knows requests and Runs, and what a reply's routing is together. Draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from slm_backends import background, run, selector
from slm_backends.chat import ChatRequest, Message, Sampling
from slm_backends.errors import SLMError
from slm_backends.moe.trace import Trace, trace
from slm_backends.routing import Experts
from ui import visitor
from ui.panes import Turn, new_turn_id

#: Seconds that nobody has looked before a reply is stopped. Browsers let a page that is hidden look
#: once a minute.
PATIENCE = 90.0


def ask(
    deployment_id: str,
    prompt: str,
    system: str,
    sampling: Sampling,
    experts: Experts | None = None,
    *,
    logprobs: bool = False,
) -> Turn:
    """Start a Run. Which experts worked is asked of who tells it; limits of `experts` are for
    those who do. A refusal becomes the turn's error."""
    turn = Turn(new_turn_id(), prompt, system, sampling, deployment_id)
    messages = [Message("system", system)] if system.strip() else []
    try:
        backend = selector.backend(deployment_id, visitor.access())
        asked = experts or (Experts() if backend.capabilities.routing else None)
        turn.request = ChatRequest(
            (*messages, Message("user", prompt)), sampling, 0 if logprobs else None, asked
        )
        turn.run = run.start(backend, turn.request)
    except SLMError as error:
        turn.refused = error
    return turn


def again(turn: Turn, experts: Experts) -> Turn:
    """The same with its experts limited, or with a reply that is written; with its
    log-probabilities."""
    return ask(turn.deployment, turn.prompt, turn.system, turn.sampling, experts, logprobs=True)


def tells(turn: Turn) -> bool:
    """Whether which experts worked was asked for, as its deployment says that it tells it."""
    return turn.request is not None and turn.request.experts is not None


def limits(turn: Turn) -> bool:
    """Whether the experts of its deployment can be limited."""
    return turn.run is not None and turn.run.backend.capabilities.knife


def traced(turn: Turn | None) -> Trace | None:
    """Which experts have worked so far; None where nothing was told."""
    return None if turn is None else trace(turn.reply.routing, turn.reply.prompt_tokens)


def looked_at(turns: Iterable[Turn]) -> None:
    """Somebody sees them now; when nobody has for PATIENCE, those that still run are stopped."""
    for turn in turns:
        if turn.running:
            turn.followed += 1
            _stop_unless_followed(turn, turn.followed)


def _stop_unless_followed(turn: Turn, seen: int) -> None:
    def stop() -> None:
        if turn.followed == seen and turn.run is not None:
            turn.run.cancel()

    background.call(lambda: background.loop().call_later(PATIENCE, stop))
