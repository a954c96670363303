"""A mixture of experts: its answer, and which of its experts worked on each token."""

import streamlit as st

from slm_backends.errors import SLMError
from slm_backends.routing import Experts
from ui import parameters, problems, shell, visitor
from ui.moe import (
    answer,
    arithmetic,
    asking,
    beside,
    compared,
    cut,
    files,
    knife,
    starters,
    twins,
    views,
)
from ui.moe.desk import desk, left
from ui.panes import MAX_PROMPT, all_panes, opened, remember_link
from ui.picker import label, picker
from ui.toolbar import gear

EVERY = 0.25  # seconds between two looks at a reply that grows
EVERY_VIEW = 1.0  # and between two drawings of its charts
MAX_LINKED = 1_500  # characters of a prompt that the address holds
PLACE = "moe_page"

left()
shell.open_page("moe")
if not opened():
    parameters.report_link()
    st.session_state.composer = st.query_params.get("prompt", "")[:MAX_PROMPT]
panes = all_panes()
del panes[:-1]  # one deployment: the last that a link names or adds
pane, shown = panes[0], desk()


def ask(prompt: str, other: str = "") -> None:
    """Ask what is on screen anew, and with `other` a second prompt to compare it with."""
    try:
        sampling = parameters.sampling(pane)
    except SLMError as error:
        problems.tell(PLACE, error)
        st.session_state.composer = prompt
        return
    shown.clear()
    system = parameters.system(pane.settings)
    shown.main = asking.ask(pane.deployment, prompt, system, sampling)
    if other:
        shown.other = asking.ask(pane.deployment, other, system, sampling)


def submit() -> None:
    if (prompt := (st.session_state.composer or "")[:MAX_PROMPT]).strip():
        ask(prompt)


def start(starter: starters.Starter) -> None:
    st.session_state[f"system{pane.settings}"] = starter.system
    ask(starter.prompt)


def compare(prompt: str) -> None:
    """Ask the deployment of the reply on screen another prompt in the same way."""
    first = shown.main
    assert first is not None
    shown.other = asking.ask(first.deployment, prompt, first.system, first.sampling)


def limit(experts: Experts) -> None:
    assert shown.main is not None
    shown.cut = cut.make(shown.main, experts)


def ask_twins() -> None:
    assert shown.main is not None
    shown.twins = twins.Twins(shown.main.prompt, shown.main.sampling)


with st.container(horizontal=True, vertical_alignment="center", key="moe_head"):
    picker(pane)
    gear([pane])
busy = shown.running
starters.draw(start, busy)
problems.draw(PLACE)
with st.container(horizontal=True, vertical_alignment="center", key="moe_row"):
    st.chat_input(
        "Answering. Esc stops." if busy else "Ask it something",
        key="composer",
        max_chars=MAX_PROMPT,
        on_submit=submit,
        disabled=busy,
    )
    if busy:
        st.button(
            "Stop",
            icon=":material/stop_circle:",
            key="moe_stop",
            type="primary",
            shortcut="Esc",
            on_click=shown.stop,
        )
remember_link(panes)
turn = shown.main
if turn is not None and len(turn.prompt) <= MAX_LINKED:
    st.query_params.prompt = turn.prompt


@st.fragment(run_every=EVERY if busy else None)
def draw_answer() -> None:
    """The prompt and its reply; the page is drawn as a whole when nothing runs any more."""
    shown.tick()
    with st.container(border=True, key="moe_answer"):
        if turn.deployment != pane.deployment:
            st.caption(f"answered by {label(turn.deployment)}")
        st.text(turn.prompt)
        answer.draw(turn)
        if turn.reply.ended and turn.reply.text:
            answer.draw_json(turn)
    if busy and not shown.running:
        st.rerun()


@st.fragment(run_every=EVERY_VIEW if busy else None)
def draw_views() -> None:
    """Which experts worked, in one of several ways."""
    trace = asking.traced(turn)
    if trace is None and not asking.tells(turn):
        st.info(silence(), icon=":material/visibility_off:")
        return
    view = st.segmented_control(
        "View",
        ["Tokens", "Load", "Flow", "Pairs", "Compare", "Knife"],
        default="Tokens",
        required=True,
        key="moe_view",
        label_visibility="collapsed",
    )
    if trace is None:
        st.caption("Nothing has been told of its experts.")
        return
    if view == "Compare":
        compared.draw(turn, shown.other, compare, ask)
    elif view == "Knife" and not asking.limits(turn):
        st.caption("Who answered does not let its experts be limited.")
    elif view == "Knife":
        knife.draw(trace, shown.cut, limit, busy)
    else:
        views.VIEWS[str(view)](trace)
    files.download(turn, trace)


def silence() -> str:
    """Why nothing is told of a reply's experts."""
    known = visitor.known().deployments.get(turn.deployment)
    if known is not None and not known.model.experts:
        return "This model is no mixture of experts: all of it works on each token."
    return "This runtime or server does not reveal which experts worked."


# Places of their own, so that what stands below stays where it is when a reply begins.
answer_place, views_place = st.container(), st.container()
if turn is not None:
    with answer_place:
        draw_answer()
    with views_place:
        st.subheader("Which experts worked")
        draw_views()
st.subheader("A mixture beside its dense twin")
st.fragment(beside.draw, run_every=EVERY_VIEW if busy else None)(
    shown.twins, ask_twins, turn.prompt if turn else "", busy
)
st.fragment(arithmetic.draw)()
