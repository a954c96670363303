"""One prompt, one to four panes, each answered by a deployment of its own."""

import streamlit as st

from ui import parameters, replies, shell
from ui.board import Board
from ui.panes import MAX_PROMPT, all_panes, new_turn_id, opened, remember_link
from ui.toolbar import toolbar

STARTERS = {
    "Write": "Write two sentences about the sea.",
    "Complete": "Complete this sentence: The best thing about rain is",
    "Translate": "Translate into French: The cat is on the table.",
    "Summarise": "Summarise in one sentence: A crow was thirsty and found a jug with a little "
    "water in it. It could not reach the water, so it dropped stones into the jug until the water "
    "rose and it could drink.",
}

shell.open_page("chat")
if not opened():
    parameters.report_link()
board = Board(panes := all_panes())


def send(prompt: str = "") -> None:
    prompt = (prompt or st.session_state.composer or "")[:MAX_PROMPT]
    if prompt.strip():
        board.ask(prompt, panes, new_turn_id())


honoured = parameters.honoured(panes)
view = toolbar(panes, board.add, board.clear, board.ask)
starters = st.empty()  # a place of its own, so that it goes when a reply begins
if not any(pane.turns for pane in panes) and view == "Chat":
    with starters.container(horizontal=True, key="starters"):
        for name, prompt in STARTERS.items():
            st.button(name, key=f"start_{name}", help=prompt, on_click=send, args=(prompt,))

with replies.cancelled_when_left(panes):
    live = board.draw(view)
    board.draw_unsent()
    with st.bottom, st.container(horizontal=True, vertical_alignment="center", key="composer_row"):
        st.chat_input(
            "Answering. Esc stops." if live else "Ask all panes at once",
            key="composer",
            max_chars=MAX_PROMPT,
            on_submit=send,
            disabled=bool(live),
        )
        if live:
            board.stop_button()
    remember_link(panes)
    board.draw_dialog()
    replies.follow(live)
if live or parameters.honoured(panes) != honoured:  # a server has refused what was asked for
    st.rerun()  # drawn once more as a whole: complete Markdown, the best of each row marked
