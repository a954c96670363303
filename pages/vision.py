"""Pictures and frames of videos, shown to one to four panes with the same question."""

import streamlit as st

from ui import attaching, cost, full_view, gallery, parameters, replies, shell, starters, tray
from ui.board import Board
from ui.panes import MAX_PROMPT, Pane, all_panes, going_on, new_turn_id, opened, remember_link
from ui.toolbar import toolbar

shell.open_page("vision")
if not opened():
    parameters.report_link()
lying = tray.tray()


def draw_above(pane: Pane) -> None:
    cost.draw(pane, lying.pictures)


board = Board(panes := all_panes(), draw_above, pictures=True)


def ask(prompt: str) -> None:
    """Send it with what lies in the tray, which is empty then."""
    if not lying.ready:  # frames are still to be taken: it waits in the composer
        st.session_state.composer = prompt
    elif board.ask(prompt, panes, new_turn_id(), lying.pictures):
        lying.clear()


def submit() -> None:
    """Enter: files are put into the tray, where they and their cost are seen before a second Enter
    asks."""
    given = st.session_state.composer
    prompt = given.text[:MAX_PROMPT]
    if given.files:
        going_on(lying.add, [(file.name, file.getvalue()) for file in given.files])
        if prompt:
            st.session_state.composer = prompt
    elif prompt.strip():
        ask(prompt)


def start(starter: starters.Starter) -> None:
    """Ask what a starter asks, about its sample where the tray is empty."""
    if not lying.items:
        lying.add(gallery.files([starter.sample]))
    ask(starter.prompt)


def snap() -> None:
    if photo := st.session_state.camera:
        going_on(lying.add, [("camera.jpg", photo.getvalue())])


honoured = parameters.honoured(panes)
view = toolbar(panes, board.add, board.clear)
offered = st.empty()  # a place of its own, so that it goes when a reply begins

with replies.cancelled_when_left(panes):
    lying.take_frames()
    asked = [turn for pane in panes for turn in pane.turns]
    running = any(turn.running for turn in asked)
    if view == "Chat" and not running and (lying.items or not asked):
        with offered.container(horizontal=True, key="starters"):
            starters.draw(lying.pictures, start)
    live = board.draw(view)
    board.draw_unsent()
    with st.bottom:
        tray.draw()
        with st.container(
            horizontal=True, wrap=False, vertical_alignment="center", key="vision_row"
        ):
            with st.popover("Samples", icon=":material/photo_library:", key="samples"):
                gallery.draw(lambda files: going_on(lying.add, files))
            with st.popover("Camera", icon=":material/photo_camera:", key="photo"):
                st.camera_input("Take a picture", key="camera", on_change=snap)
            st.chat_input(
                "Answering. Esc stops."
                if live
                else "Ask about the pictures"
                if lying.items
                else "Ask, or add pictures",
                key="composer",
                max_chars=MAX_PROMPT,
                accept_file="multiple",
                file_type=tray.TYPES,
                on_submit=submit,
                disabled=bool(live),
            )
            if live:
                board.stop_button()
        attaching.send_at_once()
    remember_link(panes)
    board.draw_dialog()
    full_view.draw()
    replies.follow(live)
if live or parameters.honoured(panes) != honoured:  # a server has refused what was asked for
    st.rerun()  # drawn once more as a whole: complete Markdown, the best of each row marked
