"""The panes of a comparison: what each holds, asks and has been answered.

Lives in the session's state and nowhere else. Knows Runs and requests; draws nothing.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import streamlit as st

from slm_backends import picture_cost, run, selector, showing
from slm_backends.chat import MAX_TOP_LOGPROBS, Backend, ChatRequest, Image, Message, Sampling
from slm_backends.errors import ContextOverflow, SLMError
from slm_backends.export import Exchange, cost
from slm_backends.picture_cost import Cost
from slm_backends.reading import Reading
from slm_backends.run import Reply, Run
from ui import visitor
from ui.pictures import Picture

MAX_PANES = 4
MAX_PROMPT = 100_000  # characters
PICTURE_CHARACTERS = 3_000  # about 750 tokens, as of one of Phi-3.5-vision's smaller pictures
DEFAULT = ("smollm2-135m-instruct@onnx", "smollm2-135m-instruct@openvino")
#: page -> the panes that it opens with
DEFAULTS = {
    "chat": DEFAULT,
    "vision": ("phi-vision-nano@transformers", "smollm2-135m-instruct@onnx"),
    "moe": ("phi-moe-nano@transformers",),
}

_numbers = itertools.count(1)


@dataclass
class Turn:
    """A prompt and the reply to it. Panes that were asked together share `id`.

    pictures  that were sent with the prompt, as they lay in the tray
    way       how this pane's deployment was given them: a name of showing.WAYS
    picture_tokens  of all pictures that went with the request; 0 where that is not known
    """

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
    pictures: tuple[Picture, ...] = ()
    way: str = showing.ALL
    picture_tokens: int = 0

    @property
    def reply(self) -> Reply:
        if self.run is not None:
            return self.run.reply
        return Reply(state="failed", error=self.refused, finish_reason="error")

    @property
    def sent(self) -> ChatRequest | None:
        """The request as it reached the deployment: without pictures where they were read."""
        if self.run is not None and isinstance(self.run.backend, Reading):
            return self.run.backend.asked
        return self.request

    @property
    def length(self) -> int:
        """In characters, as many for each picture as its tokens would be of text."""
        text = len(self.prompt) + len(self.reply.text)
        return text + PICTURE_CHARACTERS * len(self.pictures)

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
    wanted   how its deployment shall be shown pictures: a name of showing.WAYS; empty: as fits best
    """

    deployment: str
    number: int = field(default_factory=lambda: next(_numbers))
    turns: list[Turn] = field(default_factory=list)
    sent_from: int = 0
    earlier: tuple[Message, ...] = ()
    without: frozenset[str] = frozenset()
    wanted: str = ""

    @property
    def settings(self) -> str:
        """What ends the keys of this pane's parameters: the page's own ending while all share one
        set, and else its place, so that a link fits the panes of whoever opens it."""
        if synced():
            return ending()
        place = next(n for n, pane in enumerate(on_screen(), 1) if pane is self)
        return f"{ending()}_{place}"

    @property
    def sharing(self) -> list[Pane]:
        """The panes with the same parameters, itself included."""
        return on_screen() if synced() else [self]

    def pick(self, deployment: str) -> None:
        self.deployment, self.without, self.wanted = deployment, frozenset(), ""

    def turn(self, turn_id: str) -> Turn | None:
        return next((turn for turn in self.turns if turn.id == turn_id), None)

    def conversation(
        self, prompt: str, system: str, pictures: Sequence[Picture] = ()
    ) -> tuple[Message, ...]:
        """The messages that a new prompt is sent with: replies that failed are left out, and the
        pictures of their prompts go with the next one."""
        messages = [Message("system", system)] if system.strip() else []
        messages += self.earlier
        waiting: list[Image] = []
        for turn in self.turns[self.sent_from :]:
            waiting += [picture.image for picture in turn.pictures]
            if turn.reply.text:
                messages += [
                    Message("user", turn.prompt, tuple(waiting)),
                    Message("assistant", turn.reply.text),
                ]
                waiting = []
        waiting += [picture.image for picture in pictures]
        return (*messages, Message("user", prompt, tuple(waiting)))

    @property
    def sent_pictures(self) -> list[Picture]:
        """Those of the turns that a new prompt is sent with."""
        return [picture for turn in self.turns[self.sent_from :] for picture in turn.pictures]

    def backend(self) -> Backend:
        """Raises what the selector raises."""
        return selector.backend(self.deployment, visitor.access())

    def way(self, count: int) -> str:
        """How its deployment is shown so many pictures. Raises as `backend` does."""
        return showing.fitting(self.backend().capabilities.images, count, self.wanted)

    def cost(self, pictures: Sequence[Picture], max_tokens: int) -> Cost | None:
        """What the pictures of the conversation and these cost with a reply of so many tokens; None
        without pictures, and where only the text in them is read.

        The conversation's text is counted as far as its last reply told; the question is not.
        """
        deployment = visitor.known().deployments.get(self.deployment)
        sizes = [picture.size for picture in (*self.sent_pictures, *pictures)]
        if deployment is None or not sizes:
            return None
        way = self.way(len(sizes))
        if way == showing.TEXT:
            return None
        if way == showing.SHEET:
            return picture_cost.sheet(deployment, sizes, self._text_tokens, max_tokens)
        shown = sizes[:1] if way == showing.FIRST else sizes
        return picture_cost.of(deployment, shown, self._text_tokens, max_tokens)

    @property
    def _text_tokens(self) -> int:
        """Of the conversation so far; 0 where that is not known."""
        last = next((turn for turn in reversed(self.turns) if turn.reply.prompt_tokens), None)
        if last is None or self.sent_from:  # it was told of more than is sent now
            return 0
        used = (last.reply.prompt_tokens or 0) + (last.reply.completion_tokens or 0)
        return max(0, used - last.picture_tokens)

    def ask(
        self,
        prompt: str,
        system: str,
        sampling: Sampling,
        turn_id: str,
        logprobs: bool = False,
        pictures: Sequence[Picture] = (),
    ) -> None:
        """Start a Run. A refusal becomes the turn's error, for this pane alone.

        With `logprobs`, log-probabilities are asked for where the deployment gives them.
        """
        left_out = tuple(sorted(self.without.union(sampling.left_out)))
        sampling = replace(sampling, left_out=left_out)
        turn = Turn(turn_id, prompt, system, sampling, self.deployment, pictures=tuple(pictures))
        try:
            messages = self.conversation(prompt, system, pictures)
            turn.request = ChatRequest(messages, sampling)
            backend = self.backend()
            if count := sum(len(message.images) for message in messages):
                turn.way = self.way(count)
                if cost := self.cost(pictures, sampling.max_tokens):
                    if cost.refusal:
                        raise ContextOverflow(
                            cost.refusal,
                            prompt_tokens=cost.total + self._text_tokens,
                            max_tokens=sampling.max_tokens,
                            context=backend.capabilities.context,
                        )
                    turn.picture_tokens = cost.total
                messages = showing.shown(messages, turn.way)
                turn.request = replace(turn.request, messages=messages)
                if turn.way == showing.TEXT:
                    backend = Reading(backend)
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
        """Stop sending the oldest turns until the rest should fit, going by its length."""
        room = (overflow.context or 0) - (overflow.max_tokens or 0)
        excess = 1 - room / (overflow.prompt_tokens or 1)
        sent = self.turns[self.sent_from :]
        total = sum(turn.length for turn in sent)
        dropped = 0
        for turn in sent:
            dropped += turn.length
            self.sent_from += 1
            if dropped >= excess * total:
                break

    def exchanges(self) -> list[Exchange]:
        return [
            Exchange(turn.deployment, turn.request, turn.reply, turn.cost)
            for turn in self.turns
            if turn.request is not None
        ]


def ending() -> str:
    """What ends the keys of this page's widgets and panes: Chat's have none, for short links."""
    page = st.session_state.get("page", "chat")
    return "" if page == "chat" else f"_{page}"


def synced() -> bool:
    """Whether the panes on screen share one set of parameters."""
    return bool(st.session_state.get(f"sync{ending()}", True))


def on_screen() -> list[Pane]:
    """The panes of this page."""
    panes: list[Pane] = st.session_state[f"panes{ending()}"]
    return panes


def going_on(do: Callable[..., object] | None = None, *args: object) -> None:
    """For a widget that reruns the page: do that, while the panes go on with their replies."""
    for pane in on_screen():
        pane.keep()
    if do is not None:
        do(*args)


def opened() -> bool:
    """Whether this page has its panes already."""
    return f"panes{ending()}" in st.session_state


def all_panes() -> list[Pane]:
    """The page's panes; from the link at its first call, its default without one."""
    if not opened():
        asked = st.query_params.get_all("pane")
        st.session_state[f"panes{ending()}"] = [Pane(known) for known in _known(asked)] or [
            Pane(deployment) for deployment in _default()
        ]
    panes = on_screen()
    for deployment_id in _known([st.query_params.pop("add", "")]):
        _show(panes, deployment_id)
    return panes


def _default() -> tuple[str, ...]:
    return DEFAULTS[st.session_state.get("page", "chat")]


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
    asked = [] if shown == list(_default()) else shown
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
