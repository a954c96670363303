"""What the pages with panes have in common: the panes side by side, and what their buttons do.

A page makes a Board in each of its runs. Knows panes and replies; what is sent beside a prompt is
the page's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st

from slm_backends.errors import ContextOverflow, SLMError, Unsupported
from slm_backends.run import Reply
from ui import parameters, replies
from ui.code import draw_code
from ui.panes import MAX_PANES, MAX_PROMPT, Pane, synced
from ui.picker import next_deployment, picker
from ui.pictures import Picture
from ui.toolbar import gear


@dataclass
class Board:
    """The panes on screen.

    above     draws what a page has between a pane's head and its turns
    pictures  whether its panes are shown pictures
    """

    panes: list[Pane]
    above: Callable[[Pane], None] | None = None
    pictures: bool = False

    def ask(
        self, prompt: str, asked: list[Pane], turn_id: str, pictures: Sequence[Picture] = ()
    ) -> bool:
        """Send a prompt to these panes at once, in place of their turn of that id and all after it.

        What cannot be sent replaces nothing, and is shown again below the panes.
        """
        try:
            samplings = [parameters.sampling(pane) for pane in asked]
        except SLMError as error:
            st.session_state.update(unsent=prompt, problem=error.message)
            return False
        for pane, sampling in zip(asked, samplings, strict=True):
            pane.cut(turn_id)
            own = pane.settings
            system, logprobs = parameters.system(own), parameters.logprobs(own)
            pane.ask(prompt, system, sampling, turn_id, logprobs, pictures)
        return True

    def act(self, name: str, number: int, turn_id: str) -> None:
        """A button under a reply: edit, or again; before that, drop the oldest turns or a
        parameter."""
        pane = next(pane for pane in self.panes if pane.number == number)
        turn = pane.turn(turn_id)
        if turn is None:
            return
        if name == "edit":
            st.session_state.editing = turn_id
            return
        for other in self.panes:
            other.keep()
        if name == "drop" and isinstance(turn.reply.error, ContextOverflow):
            pane.drop_oldest(turn.reply.error)
        if name == "without" and isinstance(turn.reply.error, Unsupported):
            pane.without |= {str(turn.reply.error.field)}
        self.ask(turn.prompt, [pane], turn_id, turn.pictures)

    def add(self) -> None:
        if len(self.panes) < MAX_PANES:
            taken = [pane.deployment for pane in self.panes]
            self.panes.append(Pane(next_deployment(taken, self.pictures)))

    def close(self, pane: Pane) -> None:
        pane.cancel()
        for place, shown in enumerate(self.panes, 1):
            if shown is pane and len(self.panes) > 1:
                parameters.close_up(place, len(self.panes))
                del self.panes[place - 1]
                break

    def stop(self) -> None:
        for pane in self.panes:
            pane.cancel()

    def clear(self) -> None:
        self.stop()
        for pane in self.panes:
            pane.turns.clear()
            pane.sent_from, pane.earlier = 0, ()

    def row_of(self, turn_id: str) -> list[Reply]:
        return [turn.reply for pane in self.panes if (turn := pane.turn(turn_id))]

    def draw(self, view: str) -> list[replies.LiveReply]:
        """All panes; returns the replies that are still being written."""
        live: list[replies.LiveReply] = []
        for column, pane in zip(st.columns(len(self.panes), border=True), self.panes, strict=True):
            with column:
                self._head(pane)
                if self.above is not None and view == "Chat":
                    self.above(pane)
                with st.container(
                    key=f"history_{pane.number}",
                    height=460,
                    autoscroll=view == "Chat",
                    border=False,
                ):
                    if view == "Code":
                        draw_code(pane)
                    else:
                        live += self._turns(pane)
        return live

    def draw_unsent(self) -> None:
        """What could not be sent, and why."""
        if problem := st.session_state.pop("problem", ""):
            st.error("That was not sent.", icon=":material/error:")
            st.text(problem)
            st.code(st.session_state.pop("unsent", ""), language=None)

    def stop_button(self) -> None:
        st.button(
            "Stop",
            icon=":material/stop_circle:",
            key="stop_all",
            type="primary",
            shortcut="Esc",
            on_click=self.stop,
        )

    def draw_dialog(self) -> None:
        """Where an Edit button was pressed: the prompt, to be changed and sent again."""
        if editing := st.session_state.pop("editing", ""):
            turns = [turn for pane in self.panes if (turn := pane.turn(editing))]
            _edit(self, editing, turns[0].prompt, turns[0].pictures)

    def _head(self, pane: Pane) -> None:
        with st.container(
            horizontal=True, wrap=False, vertical_alignment="center", key=f"head_{pane.number}"
        ):
            picker(pane)
            if not synced():
                gear([pane])
            st.button(
                "Close this pane",
                icon=":material/close:",
                key=f"close_{pane.number}",
                help="Close this pane",
                type="tertiary",
                on_click=self.close,
                args=(pane,),
                disabled=len(self.panes) == 1,
            )

    def _turns(self, pane: Pane) -> list[replies.LiveReply]:
        live = []
        replies.draw_earlier(pane)
        for number, turn in enumerate(pane.turns):
            if number == pane.sent_from > 0:
                st.caption("Older turns are not sent any more: they no longer fit.")
            if drawn := replies.draw_turn(pane, turn, self.row_of, self.act):
                live.append(drawn)
        return live


@st.dialog("Edit the prompt")
def _edit(board: Board, turn_id: str, prompt: str, pictures: Sequence[Picture]) -> None:
    st.caption("It is sent again to every pane that has it; what came after it there is removed.")
    changed = st.text_area("Prompt", prompt, height=200, max_chars=MAX_PROMPT)
    if st.button("Resend", type="primary", disabled=not changed.strip()):
        asked = [pane for pane in board.panes if pane.turn(turn_id)]
        board.ask(changed[:MAX_PROMPT], asked, turn_id, pictures)
        st.rerun()
