"""A video in the tray: its frames, how many and which, or all of them on one sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import streamlit as st

from slm_backends import images, showing, video
from ui.markdown import literal
from ui.pictures import Picture

TYPES = ("mp4", "webm", "mov", "gif")
FRAMES, MAX_FRAMES = 8, 21
HOWS: dict[video.How, str] = {"even": "Evenly spaced", "changes": "Where the scene changes"}


@dataclass
class Clip:
    """`frames` are None until they were taken as `count` and `how` say; with `sheet`, one picture
    with all of them is sent."""

    name: str
    data: bytes = field(repr=False)
    count: int = FRAMES
    how: video.How = "even"
    sheet: bool = False
    frames: tuple[Picture, ...] | None = None
    notes: tuple[str, ...] = ()
    duration_s: float = 0.0

    @property
    def pictures(self) -> tuple[Picture, ...]:
        taken = self.frames or ()
        return (self._on_a_sheet(taken),) if self.sheet and len(taken) > 1 else taken

    def take(self, told: Callable[[float], None]) -> None:
        """Take the frames, which may take seconds; `told` is called with how much is done, 0 to 1.

        Raises what video.py raises; then there are none.
        """
        found = video.frames(
            self.data,
            self.count,
            self.how,
            name=self.name,
            progress=told,
            # Looking there lets Streamlit stop us: for a Cancel, or when the browser is gone.
            cancelled=lambda: "tray" not in st.session_state,
        )
        self.duration_s, self.notes = found.duration_s, found.notes
        self.frames = tuple(
            Picture(self.name, *images.sound(frame.image), at=clock(frame.time_s))
            for frame in found.frames
        )

    @property
    def taken(self) -> bool:
        return self.frames is not None

    def _on_a_sheet(self, frames: Sequence[Picture]) -> Picture:
        image = showing.sheet(tuple(frame.image for frame in frames))
        at = f"{frames[0].at} to {frames[-1].at}"
        return Picture(self.name, *images.sound(image), at=at)


def draw_strip(clip: Clip, first: int) -> None:
    """What is sent of it, with times; `first` is the first one's number."""
    with st.container(horizontal=True, wrap=False, gap="xxsmall", key=f"strip_{id(clip)}"):
        for number, picture in enumerate(clip.pictures, first):
            with st.container(key=f"frame_{id(clip)}_{number}"):
                st.image(picture.small, alt=f"Picture {number}: {picture.name}, {picture.at}")
                st.caption(f"**{number}** {picture.at}")


def settings(clip: Clip, key: str, going_on: Callable[..., None]) -> None:
    """How many frames, which, and whether they go as one picture."""

    def take_anew() -> None:
        clip.count = min(max(1, int(st.session_state[f"count_{key}"])), MAX_FRAMES)
        clip.how = st.session_state[f"how_{key}"]
        clip.frames = None

    def change_sheet() -> None:
        clip.sheet = st.session_state[f"sheet_{key}"]

    with st.popover(
        f"Frames of {clip.name}", icon=":material/tune:", key=f"settings_{key}", type="tertiary"
    ):
        st.slider(
            "Frames",
            1,
            MAX_FRAMES,
            clip.count,
            key=f"count_{key}",
            on_change=going_on,
            args=(take_anew,),
        )
        st.radio(
            "Which",
            list(HOWS),
            list(HOWS).index(clip.how),
            format_func=HOWS.__getitem__,
            key=f"how_{key}",
            on_change=going_on,
            args=(take_anew,),
        )
        st.toggle(
            "Contact sheet",
            clip.sheet,
            key=f"sheet_{key}",
            help="All frames on one picture: fewer tokens, and less of each to see.",
            on_change=going_on,
            args=(change_sheet,),
        )
        for told in (f"{clip.duration_s:.1f} s long.", *clip.notes):
            st.caption(literal(told))


def clock(seconds: float) -> str:
    """As in 1:04.5: minutes, seconds and tenths."""
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"
