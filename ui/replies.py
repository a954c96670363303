"""Turns on screen: prompt, reply, its numbers, and the loop that follows replies as they grow.

Redraws only what a token can still change: finished paragraphs become elements of their own, so
that bytes and drawing grow with the length of a reply and not with its square.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import streamlit as st

from slm_backends import background, selector
from slm_backends.chat import SAMPLING_FIELDS
from slm_backends.errors import ContextOverflow, SLMError, Unauthorized, Unsupported
from slm_backends.health import Health
from slm_backends.run import Reply
from ui import compare, numbers, sent, shell, tables, visitor
from ui.clipboard import copy_button
from ui.markdown import Pieces, safe
from ui.panes import Pane, Turn

TICK = 0.1  # seconds between two drawings
HANDOVER = 0.25  # seconds for the next run of the page to take over what it keeps
FIRST_TICK = 0.03  # until the first character: waiting for it is felt more than anything else


class LiveReply:
    """A reply on screen that is still being written."""

    def __init__(
        self, turn: Turn, row: Callable[[str], Sequence[Reply]], draw_error: Callable[[], None]
    ) -> None:
        self.turn = turn
        self._row = row
        self._draw_error = draw_error
        # Out of st.empty: a block in the place of an older one would keep its children on screen.
        self._body = st.empty().container(key=f"reply_{turn.id}_{id(turn)}")
        self._slot = self._body.empty()
        self._below = st.empty()  # and empty again at once when the page runs anew
        self._line = st.empty()
        self._pieces = Pieces()
        self._drawn = ""
        self._said = ""
        self.done = False

    def draw(self) -> bool:
        """Draw what is new; whether there is text on screen."""
        reply = self.turn.reply
        finished, rest = self._pieces.take(reply.text)
        for piece in finished:
            self._slot.markdown(safe(piece))
            self._slot = self._body.empty()
        if rest and (finished or rest != self._drawn):
            self._slot.markdown(safe(rest))
        self._drawn = rest
        self.done = reply.ended
        if reply.error is not None:  # now, as the other panes may go on for long
            with self._below.container():
                self._draw_error()
        if reply.ended:
            line = numbers.final(reply, self._row(self.turn.id), self.turn.cost)
        else:
            line = numbers.live(reply)
        if line != self._said:
            self._line.caption(line)
            self._said = line
        return bool(reply.text)


def follow(replies: list[LiveReply]) -> None:
    """Draw until all have ended."""
    while not all(reply.done for reply in replies):
        shown = [reply.draw() for reply in replies if not reply.done]
        time.sleep(TICK if all(shown) else FIRST_TICK)
        "panes" in st.session_state  # noqa: B015 - looking there lets Streamlit stop us here


@contextmanager
def cancelled_when_left(panes: Sequence[Pane]) -> Iterator[None]:
    """Cancel what runs in these panes when the block is left, however that comes: at its end, by
    Stop, by a widget that reruns the page, or by a browser that is gone.

    What an earlier run of the page had followed is cancelled at once, but for what a button in
    another pane said to keep; so that this can be known, the end of a block has a little patience.
    """
    running = [turn for pane in panes for turn in pane.turns if turn.running]
    for turn in running:
        if turn.followed and not turn.kept:
            turn.cancel()
        turn.followed += 1
        turn.kept = False
    seen = [(turn, turn.followed) for turn in running]

    def cancel_what_nobody_follows() -> None:
        for turn, followed in seen:
            if turn.followed == followed and turn.run is not None:
                turn.run.cancel()

    def let_go() -> None:
        background.loop().call_later(HANDOVER, cancel_what_nobody_follows)

    try:
        yield
    finally:
        # No Streamlit in here: it would raise again, and the rest would not happen.
        background.call(let_go)


def draw_earlier(pane: Pane) -> None:
    """The messages that a file put before all turns, folded."""
    if pane.earlier:
        with st.expander(f"{len(pane.earlier)} earlier messages", type="compact"):
            for message in pane.earlier:
                st.caption(message.role)
                st.text(message.content)


def draw_turn(
    pane: Pane, turn: Turn, row: Callable[[str], Sequence[Reply]], act: Callable[..., None]
) -> LiveReply | None:
    """Draw a turn; returns what must be followed while it is still running.

    `act(name, pane number, turn id)` is called before the next run of the page when a button is
    pressed: "again", "edit", "drop" or "without".
    """
    key = f"{pane.number}_{turn.id}"
    with st.chat_message("user", avatar=":material/person:"):
        if turn.pictures:
            sent.draw(pane, turn)
        st.markdown(safe(turn.prompt))
    live = None
    with st.chat_message("assistant", avatar=":material/smart_toy:"):
        if turn.deployment != pane.deployment:
            st.caption(f"answered by {turn.deployment}")
        if turn.sent_without:
            st.caption(f"Sent without {', '.join(turn.sent_without)}.")
        if turn.running:
            live = LiveReply(turn, row, lambda: _draw_error(pane, turn, act))
            live.draw()
        else:
            reply = turn.reply
            if reply.text:
                st.markdown(safe(reply.text))
            if pane.sent_pictures:
                tables.draw(reply.text, key)
            if reply.error is not None:
                _draw_error(pane, turn, act)
            elif not reply.text:
                stopped = reply.state == "stopped"
                st.caption("Stopped before the first word." if stopped else "An empty reply.")
            st.caption(numbers.final(reply, row(turn.id), turn.cost))
            known = visitor.known().deployments.get(turn.deployment)
            if warning := numbers.past_sound(reply, known):
                st.caption(f":orange[:material/warning: {warning}]")
        with st.container(
            horizontal=True, vertical_alignment="center", gap="small", key=f"actions_{key}"
        ):
            st.button(
                "Regenerate",
                key=f"again_{key}",
                type="tertiary",
                on_click=act,
                args=("again", pane.number, turn.id),
            )
            st.button(
                "Edit",
                key=f"edit_{key}",
                type="tertiary",
                help="Change the prompt and send it again",
                on_click=act,
                args=("edit", pane.number, turn.id),
            )
            if live is None:
                copy_button(turn.reply.text, key=f"copy_{key}")
                with st.popover("Details", type="tertiary", key=f"details_{key}"):
                    numbers.details(turn.reply, _server_of(turn), turn.cost)
                    compare.draw_beside_first(turn)
    return live


def _server_of(turn: Turn) -> Health | None:
    """What is known of the server that answered; None where this computer did."""
    deployment = visitor.known().deployments.get(turn.deployment)
    if deployment is None or deployment.provider is None:
        return None
    try:
        return selector.health(deployment.provider, visitor.access())
    except SLMError:  # a key that cannot be used any more
        return Health()


def _draw_error(pane: Pane, turn: Turn, act: Callable[..., None]) -> None:
    error = turn.reply.error
    assert error is not None
    with st.container(border=True, key=f"error_{pane.number}_{turn.id}"):
        st.markdown(
            ":red[:material/error: **No answer**]"
            if not turn.reply.text
            else ":red[:material/error: **Broke off**]"
        )
        # As plain text: an error may repeat what a server or a model wrote.
        st.text(error.message)
        if error.hint:
            st.text(error.hint)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(
                "Retry",
                key=f"retry_{pane.number}_{turn.id}",
                icon=":material/refresh:",
                on_click=act,
                args=("again", pane.number, turn.id),
            )
            if isinstance(error, Unsupported) and error.field in SAMPLING_FIELDS:
                st.button(
                    f"Send without {error.field}",
                    key=f"without_{pane.number}_{turn.id}",
                    on_click=act,
                    args=("without", pane.number, turn.id),
                )
            if isinstance(error, Unauthorized):
                shell.link("models", "Set it up on the Models page")
            if isinstance(error, ContextOverflow) and len(pane.turns) - pane.sent_from > 1:
                st.button(
                    "Drop the oldest turns and retry",
                    key=f"drop_{pane.number}_{turn.id}",
                    on_click=act,
                    args=("drop", pane.number, turn.id),
                )
