"""The panes of a comparison: what each holds, asks and has been answered.

Lives in the session's state and nowhere else. Knows Runs and requests; draws nothing.
"""

from __future__ import annotations

import itertools
import uuid
from dataclasses import dataclass, field, replace

import streamlit as st

from slm_backends import run, selector
from slm_backends.chat import MAX_TOP_LOGPROBS, ChatRequest, Message, Sampling
from slm_backends.errors import ContextOverflow, SLMError
from slm_backends.export import Exchange, cost
from slm_backends.run import Reply, Run
from ui import visitor

MAX_PANES = 4
MAX_PROMPT = 100_000  # characters
DEFAULT = ("smollm2-135m-instruct@onnx", "smollm2-135m-instruct@openvino")

_numbers = itertools.count(1)


@dataclass
class Turn:
    """A prompt and the reply to it. Panes that were asked together share `id`."""

    id: str
    prompt: str
    system: str
    sampling: Sampling
    deployment: str
    run: Run | None = None
    refused: SLMError | None = None
    request: ChatRequest | None = None
    followed: int = 0  # runs of the page that watched it; the last one is responsible for its end
    kept: bool = False  # the next run of the page shall go on with it

    @property
    def reply(self) -> Reply:
        if self.run is not None:
            return self.run.reply
        return Reply(state="failed", error=self.refused, finish_reason="error")

    @property
    def running(self) -> bool:
        return not self.reply.ended

    @property
    def cost(self) -> float | None:
        """In US dollars, None where that is not known."""
        return cost(self.reply, visitor.known().deployments.get(self.deployment))

    @property
    def sent_without(self) -> list[str]:
        """Parameters that were set and not sent, as who answered does not honour them."""
        asked = replace(self.sampling, left_out=()).asked()
        return sorted(asked.intersection(self.sampling.left_out))

    def cancel(self) -> None:
        """Stop the model; waits for the little time that this takes."""
        if self.run is not None:
            self.run.cancel()
            self.run.wait(timeout=1)


@dataclass
class Pane:
    """One column. `sent_from` is the first turn that still fits: older ones are shown, not sent.

    earlier  messages of a file, sent before all turns
    without  parameters that the visitor said to leave out for this deployment
    """

    deployment: str
    number: int = field(default_factory=lambda: next(_numbers))
    turns: list[Turn] = field(default_factory=list)
    sent_from: int = 0
    earlier: tuple[Message, ...] = ()
    without: frozenset[str] = frozenset()

    @property
    def settings(self) -> str:
        """What ends the keys of this pane's parameters: nothing while all share one set, else its
        place, so that a link fits the panes of whoever opens it."""
        if st.session_state.get("sync", True):
            return ""
        place = next(n for n, pane in enumerate(st.session_state.panes, 1) if pane is self)
        return f"_{place}"

    @property
    def sharing(self) -> list[Pane]:
        """The panes with the same parameters, itself included."""
        panes: list[Pane] = st.session_state.panes
        return panes if st.session_state.get("sync", True) else [self]

    def pick(self, deployment: str) -> None:
        self.deployment, self.without = deployment, frozenset()

    def turn(self, turn_id: str) -> Turn | None:
        return next((turn for turn in self.turns if turn.id == turn_id), None)

    def conversation(self, prompt: str, system: str) -> tuple[Message, ...]:
        """The messages that a new prompt is sent with: replies that failed are left out."""
        messages = [Message("system", system)] if system.strip() else []
        messages += self.earlier
        for turn in self.turns[self.sent_from :]:
            if turn.reply.text:
                messages += [Message("user", turn.prompt), Message("assistant", turn.reply.text)]
        return (*messages, Message("user", prompt))

    def ask(
        self, prompt: str, system: str, sampling: Sampling, turn_id: str, logprobs: bool = False
    ) -> None:
        """Start a Run. A refusal becomes the turn's error, for this pane alone.

        With `logprobs`, log-probabilities are asked for where the deployment gives them.
        """
        left_out = tuple(sorted(self.without.union(sampling.left_out)))
        sampling = replace(sampling, left_out=left_out)
        turn = Turn(turn_id, prompt, system, sampling, self.deployment)
        try:
            turn.request = ChatRequest(self.conversation(prompt, system), sampling)
            backend = selector.backend(self.deployment, visitor.access())
            if logprobs and backend.capabilities.logprobs:
                turn.request = replace(turn.request, top_logprobs=MAX_TOP_LOGPROBS)
            turn.run = run.start(backend, turn.request)
        except SLMError as error:
            turn.refused = error
        self.turns.append(turn)

    def cut(self, turn_id: str) -> None:
        """Remove the turn of that id, where there is one, and all after it."""
        for index, turn in enumerate(self.turns):
            if turn.id == turn_id:
                for later in self.turns[index:]:
                    later.cancel()
                del self.turns[index:]
                self.sent_from = min(self.sent_from, index)
                return

    def cancel(self) -> None:
        for turn in self.turns:
            turn.cancel()

    def keep(self) -> None:
        """Let what runs here go on through the next run of the page."""
        for turn in self.turns:
            turn.kept = turn.running

    def drop_oldest(self, overflow: ContextOverflow) -> None:
        """Stop sending the oldest turns until the rest should fit, going by its characters."""
        room = (overflow.context or 0) - (overflow.max_tokens or 0)
        excess = 1 - room / (overflow.prompt_tokens or 1)
        sent = self.turns[self.sent_from :]
        total = sum(len(turn.prompt) + len(turn.reply.text) for turn in sent)
        dropped = 0
        for turn in sent:
            dropped += len(turn.prompt) + len(turn.reply.text)
            self.sent_from += 1
            if dropped >= excess * total:
                break

    def exchanges(self) -> list[Exchange]:
        return [
            Exchange(turn.deployment, turn.request, turn.reply, turn.cost)
            for turn in self.turns
            if turn.request is not None
        ]


def all_panes() -> list[Pane]:
    """The session's panes; from the link at its first call, the default two without one."""
    if "panes" not in st.session_state:
        asked = st.query_params.get_all("pane")
        st.session_state.panes = [Pane(known) for known in _known(asked)] or [
            Pane(deployment) for deployment in DEFAULT
        ]
    panes: list[Pane] = st.session_state.panes
    for deployment_id in _known([st.query_params.pop("add", "")]):
        _show(panes, deployment_id)
    return panes


def _show(panes: list[Pane], deployment_id: str) -> None:
    """Have a pane with that deployment: one more, or the last one where there is no room."""
    if any(pane.deployment == deployment_id for pane in panes):
        return
    if len(panes) == MAX_PANES:
        panes.pop().cancel()
    panes.append(Pane(deployment_id))


def remember_link(panes: list[Pane]) -> None:
    """Put the deployments in the address, for a colleague; parameters put themselves there."""
    shown = [pane.deployment for pane in panes]
    asked = [] if shown == list(DEFAULT) else shown
    if st.query_params.get_all("pane") != asked:
        st.query_params["pane"] = asked


def new_turn_id() -> str:
    return uuid.uuid4().hex[:12]


def _known(asked: list[str]) -> list[str]:
    """Ids from a link that exist; a link is somebody's input, so the rest is only mentioned."""
    known = []
    for deployment_id in filter(None, asked[:MAX_PANES]):
        try:
            selector.check(deployment_id, visitor.access())
        except SLMError as error:
            named = " ".join(deployment_id.replace("`", "").split())[:80]
            st.toast(f"The link names what is not known here: `{named}`. {error.hint}")
        else:
            known.append(deployment_id)
    return known
