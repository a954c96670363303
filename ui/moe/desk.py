"""What lies on the Experts page: the turns of its sections, in the session and nowhere else.

Knows turns and who of them still runs. Draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import streamlit as st

from ui.moe import asking
from ui.moe.cut import Cut
from ui.moe.twins import Twins
from ui.panes import Turn


@dataclass
class Desk:
    """main   what was asked, with its reply
    other  what is compared with it
    cut    the same prompt with experts limited
    twins  one prompt, asked the mixture that comes with the playground and its twin
    """

    main: Turn | None = None
    other: Turn | None = None
    cut: Cut | None = None
    twins: Twins | None = None

    def turns(self) -> Iterator[Turn]:
        yield from (turn for turn in (self.main, self.other) if turn is not None)
        for several in (self.cut, self.twins):
            if several is not None:
                yield from several.turns

    @property
    def running(self) -> bool:
        turns = any(turn.running for turn in (self.main, self.other) if turn is not None)
        return turns or any(one.running for one in (self.cut, self.twins) if one is not None)

    def tick(self) -> None:
        """Somebody looks: ask what waits for what has ended."""
        for several in (self.cut, self.twins):
            if several is not None:
                several.go_on()
        asking.looked_at(self.turns())

    def stop(self) -> None:
        for several in (self.cut, self.twins):
            if several is not None:
                several.stopped = True
        for turn in self.turns():
            turn.cancel()

    def clear(self) -> None:
        """For another prompt."""
        self.stop()
        self.main = self.other = self.cut = self.twins = None


def desk() -> Desk:
    found: Desk = st.session_state.setdefault("moe_desk", Desk())
    return found


def left() -> None:
    """Another page was open: nothing of the knife stays."""
    if st.session_state.get("page") != "moe":
        desk().cut = None
