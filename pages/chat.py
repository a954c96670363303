"""One prompt, one to four panes, each answered by a deployment of its own."""

import streamlit as st

from slm_backends.errors import ContextOverflow, SLMError, Unsupported
from slm_backends.run import Reply
from ui import parameters, replies, shell
from ui.code import draw_code
from ui.panes import MAX_PANES, MAX_PROMPT, Pane, all_panes, new_turn_id, remember_link
from ui.picker import next_deployment, picker
from ui.toolbar import gear, toolbar

STARTERS = {
    "Write": "Write two sentences about the sea.",
    "Complete": "Complete this sentence: The best thing about rain is",
    "Translate": "Translate into French: The cat is on the table.",
    "Summarise": "Summarise in one sentence: A crow was thirsty and found a jug with a little "
    "water in it. It could not reach the water, so it dropped stones into the jug until the water "
    "rose and it could drink.",
}

shell.open_page("chat")
if "panes" not in st.session_state:
    parameters.report_link()
panes = all_panes()


def ask(prompt: str, asked: list[Pane], turn_id: str) -> None:
    """Send a prompt to these panes at once, in place of their turn of that id and all after it.

    What cannot be sent replaces nothing, and is shown again below the panes.
    """
    try:
        samplings = [parameters.sampling(pane) for pane in asked]
    except SLMError as error:
        st.session_state.update(unsent=prompt, problem=error.message)
        return
    for pane, sampling in zip(asked, samplings, strict=True):
        pane.cut(turn_id)
        own = pane.settings
        pane.ask(prompt, parameters.system(own), sampling, turn_id, parameters.logprobs(own))


def send(prompt: str = "") -> None:
    prompt = (prompt or st.session_state.composer or "")[:MAX_PROMPT]
    if prompt.strip():
        ask(prompt, panes, new_turn_id())


def act(name: str, number: int, turn_id: str) -> None:
    """A button under a reply: edit, or again; before that, drop the oldest turns or a parameter."""
    pane = next(pane for pane in panes if pane.number == number)
    turn = pane.turn(turn_id)
    if turn is None:
        return
    if name == "edit":
        st.session_state.editing = turn_id
        return
    for other in panes:
        other.keep()
    if name == "drop" and isinstance(turn.reply.error, ContextOverflow):
        pane.drop_oldest(turn.reply.error)
    if name == "without" and isinstance(turn.reply.error, Unsupported):
        pane.without |= {str(turn.reply.error.field)}
    ask(turn.prompt, [pane], turn_id)


@st.dialog("Edit the prompt")
def edit(turn_id: str, prompt: str) -> None:
    st.caption("It is sent again to every pane that has it; what came after it there is removed.")
    changed = st.text_area("Prompt", prompt, height=200, max_chars=MAX_PROMPT)
    if st.button("Resend", type="primary", disabled=not changed.strip()):
        ask(changed[:MAX_PROMPT], [pane for pane in panes if pane.turn(turn_id)], turn_id)
        st.rerun()


def add_pane() -> None:
    if len(panes) < MAX_PANES:
        panes.append(Pane(next_deployment([pane.deployment for pane in panes])))


def close_pane(pane: Pane) -> None:
    pane.cancel()
    for place, shown in enumerate(panes, 1):
        if shown is pane and len(panes) > 1:
            parameters.close_up(place, len(panes))
            del panes[place - 1]
            break


def stop() -> None:
    for pane in panes:
        pane.cancel()


def clear() -> None:
    stop()
    for pane in panes:
        pane.turns.clear()
        pane.sent_from, pane.earlier = 0, ()


def row_of(turn_id: str) -> list[Reply]:
    return [turn.reply for pane in panes if (turn := pane.turn(turn_id))]


honoured = parameters.honoured(panes)
view = toolbar(panes, add_pane, clear, ask)
starters = st.empty()  # a place of its own, so that it goes when a reply begins
if not any(pane.turns for pane in panes) and view == "Chat":
    with starters.container(horizontal=True, key="starters"):
        for name, prompt in STARTERS.items():
            st.button(name, key=f"start_{name}", help=prompt, on_click=send, args=(prompt,))

live: list[replies.LiveReply] = []
with replies.cancelled_when_left(panes):
    for column, pane in zip(st.columns(len(panes), border=True), panes, strict=True):
        with column:
            with st.container(
                horizontal=True, wrap=False, vertical_alignment="center", key=f"head_{pane.number}"
            ):
                picker(pane)
                if not st.session_state.sync:
                    gear([pane])
                st.button(
                    "",
                    icon=":material/close:",
                    key=f"close_{pane.number}",
                    help="Close this pane",
                    type="tertiary",
                    on_click=close_pane,
                    args=(pane,),
                    disabled=len(panes) == 1,
                )
            with st.container(
                key=f"history_{pane.number}", height=460, autoscroll=view == "Chat", border=False
            ):
                if view == "Code":
                    draw_code(pane)
                    continue
                replies.draw_earlier(pane)
                for number, turn in enumerate(pane.turns):
                    if number == pane.sent_from > 0:
                        st.caption("Older turns are not sent any more: they no longer fit.")
                    drawn = replies.draw_turn(pane, turn, row_of, act)
                    live += [drawn] if drawn else []

    if problem := st.session_state.pop("problem", ""):
        st.error("That was not sent.", icon=":material/error:")
        st.text(problem)
        st.code(st.session_state.pop("unsent", ""), language=None)
    with st.bottom, st.container(horizontal=True, vertical_alignment="center", key="composer_row"):
        st.chat_input(
            "Answering. Esc stops." if live else "Ask all panes at once",
            key="composer",
            max_chars=MAX_PROMPT,
            on_submit=send,
            disabled=bool(live),
        )
        if live:
            st.button(
                "Stop",
                icon=":material/stop_circle:",
                key="stop_all",
                type="primary",
                shortcut="Esc",
                on_click=stop,
            )
    remember_link(panes)
    if editing := st.session_state.pop("editing", ""):
        edit(editing, next(turn.prompt for pane in panes if (turn := pane.turn(editing))))
    replies.follow(live)
if live or parameters.honoured(panes) != honoured:  # a server has refused what was asked for
    st.rerun()  # drawn once more as a whole: complete Markdown, the best of each row marked
