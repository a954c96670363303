"""The tray: pictures and videos that go with the next prompt, in the order in which a model gets
them.

Lives in the session's state, so that it outlasts a change of page. Knows files and their limits;
who is asked about them is the page's matter.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import streamlit as st

from slm_backends import file_kinds, images
from slm_backends.chat import MAX_IMAGE_BYTES, MAX_IMAGES
from slm_backends.errors import BadRequest, SLMError
from ui import clips, full_view
from ui.clips import Clip
from ui.markdown import literal
from ui.panes import going_on, on_screen
from ui.pictures import Picture

TYPES = ("png", "jpg", "jpeg", "webp", *clips.TYPES)

_ids = itertools.count(1)

File = tuple[str, bytes]  # its name and what is in it


@dataclass(eq=False)
class Item:
    """A picture, or a video with the frames that were taken from it."""

    what: Picture | Clip
    id: int = field(default_factory=lambda: next(_ids))

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return (self.what,) if isinstance(self.what, Picture) else self.what.pictures


@dataclass
class Tray:
    """`refused` says what could not be taken, until it is put away."""

    items: list[Item] = field(default_factory=list)
    refused: list[SLMError] = field(default_factory=list)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(picture for item in self.items for picture in item.pictures)

    def add(self, files: Sequence[File]) -> None:
        """Take what can be taken, pictures before videos; the rest is told by file."""
        videos = [file for file in files if file_kinds.kind(file[1]) in file_kinds.VIDEOS]
        found = images.several(
            [file for file in files if file not in videos],
            [picture.image for picture in (*_sent(), *self.pictures)],
        )
        self.items += [
            Item(Picture(each.name, each.image, each.width, each.height, each.notes))
            for each in found.opened
        ]
        self.refused += found.refused
        self.items += [Item(Clip(name, data)) for name, data in videos]

    @property
    def ready(self) -> bool:
        """Whether all frames were taken."""
        return all(isinstance(item.what, Picture) or item.what.taken for item in self.items)

    def take_frames(self) -> None:
        """Take the frames of videos that are new or shall be taken otherwise; says how far it is.
        A video without usable ones is told, and put away."""
        for item in [*self.items]:
            if isinstance(item.what, Picture) or item.what.taken:
                continue
            place = st.empty()
            with place.container(horizontal=True, vertical_alignment="center"):
                text = f"Taking frames of {literal(item.what.name)}"
                bar = st.progress(0.0, text)
                st.button(
                    "Cancel",
                    key=f"cancel_item_{item.id}",
                    on_click=going_on,
                    args=(self.items.remove, item),
                )
                try:
                    item.what.take(partial(bar.progress, text=text))
                    self._check(self.pictures)
                except SLMError as error:
                    self.refused.append(error)
                    self.items.remove(item)
            place.empty()

    def _check(self, pictures: Sequence[Picture]) -> None:
        """Raise BadRequest where they and those of the conversation are too many, or too large."""
        sent = _sent()
        if len(sent) + len(pictures) > MAX_IMAGES:
            raise BadRequest(
                f"A conversation may have {MAX_IMAGES} pictures: with it, there would be "
                f"{len(sent) + len(pictures)}.",
                hint="Remove some, or clear the conversation.",
            )
        size = sum(len(picture.image.data) for picture in (*sent, *pictures))
        if size > MAX_IMAGE_BYTES:
            raise BadRequest(
                f"With it, the pictures of the conversation have {size / 2**20:.0f} MiB; "
                f"{MAX_IMAGE_BYTES // 2**20} are allowed.",
                hint="Remove some, clear the conversation, or make them smaller.",
            )

    def move(self, item: Item, places: int) -> None:
        here = self.items.index(item)
        self.items.insert(max(0, here + places), self.items.pop(here))

    def clear(self) -> None:
        self.items.clear()
        self.refused.clear()


def tray() -> Tray:
    """The session's own."""
    if "tray" not in st.session_state:
        st.session_state.tray = Tray()
    found: Tray = st.session_state.tray
    return found


def draw() -> None:
    """The pictures in a row, numbered as the models see them; nothing while it is empty."""
    shown = tray()
    place = st.empty()  # so that what was sent goes at once, and not when the replies have ended
    if not (shown.items or shown.refused):
        return
    with place.container(gap="xsmall"):
        if shown.refused:
            _draw_refused(shown)
        if shown.items:
            number = len(_sent())
            with st.container(horizontal=True, wrap=False, key="tray"):
                for at, item in enumerate(shown.items):
                    with st.container(key=f"item_{item.id}"):
                        _draw_item(shown, item, at, number + 1)
                    number += len(item.pictures)


def _draw_refused(shown: Tray) -> None:
    with st.container(horizontal=True, vertical_alignment="center", key="refused"):
        why = [literal(f"{error.message} {error.hint}") for error in shown.refused]
        st.caption(":red[:material/error:] " + "  \n".join(why))
        st.button(
            "Dismiss",
            key="dismiss",
            type="tertiary",
            on_click=going_on,
            args=(shown.refused.clear,),
        )


def _draw_item(shown: Tray, item: Item, place: int, number: int) -> None:
    if isinstance(item.what, Picture):
        st.image(item.what.small, alt=f"Picture {number}: {item.what.name}")
        st.caption(f"**{number}** {literal(item.what.name)}")
    else:
        clips.draw_strip(item.what, number)
    with st.container(horizontal=True, wrap=False, gap="xxsmall", key=f"moves_{item.id}"):
        step = partial(_icon, item, number)
        step("arrow_back", "Move left", shown.move, item, -1, disabled=place == 0)
        last = place == len(shown.items) - 1
        step("arrow_forward", "Move right", shown.move, item, 1, disabled=last)
        step("open_in_full", "Full view", full_view.ask, item.pictures, number)
        if isinstance(item.what, Clip):
            clips.settings(item.what, str(item.id), going_on)
        step("close", "Remove", shown.items.remove, item)


def _icon(
    item: Item,
    number: int,
    icon: str,
    name: str,
    do: Callable[..., object],
    *args: object,
    disabled: bool = False,
) -> None:
    st.button(
        f"{name}: {number}",
        icon=f":material/{icon}:",
        key=f"{icon}_item_{item.id}",
        help=name,
        type="tertiary",
        disabled=disabled,
        on_click=going_on,
        args=(do, *args),
    )


def _sent() -> Sequence[Picture]:
    """The pictures that the conversation has already: the most that any pane has."""
    return max((pane.sent_pictures for pane in on_screen()), key=len, default=[])
