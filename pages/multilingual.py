"""The same in many languages: who answers in yours, what it costs in tokens, where it slips."""

import streamlit as st

from slm_backends import disk
from slm_backends.errors import SLMError
from slm_backends.multilingual.plan import Plan
from slm_backends.multilingual.results import Results
from slm_backends.multilingual.runner import Campaign
from slm_backends.terminal import duration
from ui import problems, shell, visitor
from ui.multilingual import charted, choosing, demo, files, kept, measured, opened, replies, running
from ui.multilingual.grid import OPENED, Grid

#: what is shown of a run
VIEWS = {
    "Replies": lambda campaign: replies.draw(Grid(campaign)),
    "Tables": lambda campaign: measured.draw(campaign.results),
    "Charts": lambda campaign: charted.draw(campaign.results),
    "Export": lambda campaign: files.download(campaign.results),
}

PLACE = "ml_page"

shell.open_page("multilingual")
choosing.from_link()


def begin(plan: Plan) -> None:
    """Start a run; its address is all that leads to it."""
    if show(Results(plan)) and (found := on_screen()):
        running.start(found)


def show(results: Results) -> bool:
    """Have these results on screen, under an address of their own; whether that could be done."""
    try:
        st.session_state.ml_run = st.query_params.run = kept.keep(results)
    except OSError as error:
        said = SLMError(f"The results cannot be kept: {error.strerror}.", hint=disk.HINT)
        problems.tell(PLACE, said)
        return False
    return True


def on_screen() -> Campaign | None:
    """The run that the address names, or else the session's last one."""
    token = st.query_params.get("run") or st.session_state.get("ml_run", "")
    own = st.session_state.setdefault("ml_own", {})
    try:
        found = kept.find(token, visitor.access(), own)
    except (SLMError, OSError) as error:
        problems.show(error if isinstance(error, SLMError) else SLMError(str(error)))
        return None
    if found is None:
        if token:
            st.toast(f"The run of this address is gone: they are kept for {kept.KEEP_DAYS} days.")
            st.query_params.pop("run", None)
            st.session_state.pop("ml_run", None)
        return None
    st.session_state.ml_run = st.query_params.run = token
    return found


campaign = on_screen()
problems.draw(PLACE)
fold = "ml_asked" if campaign is None else "ml_asked_run"  # one of its own, so that it closes
with st.expander("What is asked", expanded=campaign is None, key=fold):
    choice = choosing.draw()
choosing.remember()
with st.container(horizontal=True, vertical_alignment="center", key="ml_start_row"):
    if campaign is None or not campaign.running:
        # Not by on_click: it would start what was chosen before a box that was just left.
        pressed = st.button(
            "Start",
            icon=":material/play_arrow:",
            key="ml_start",
            type="primary" if campaign is None else "secondary",
            disabled=choice.plan is None,
        )
        if pressed and choice.plan is not None:
            begin(choice.plan)
            st.rerun()
        demo.button(begin)
        files.opening(show)
    seconds = running.usual_seconds(choice.plan) if choice.plan is not None else None
    usual = "" if seconds is None else f" · about {duration(seconds)}, as the last run went"
    st.caption(f"{choice.size}{usual}" or " ".join(choice.lacking))
if campaign is not None:
    results = campaign.results
    files.draw_damage(results)
    cell = st.session_state.pop(OPENED, None)
    running.draw(campaign, lambda: begin(results.plan), esc=cell is None)
    view = st.segmented_control(
        "View", list(VIEWS), default="Replies", required=True, key="ml_view",
        label_visibility="collapsed",
    )  # fmt: skip
    VIEWS[str(view)](campaign)
    if cell is not None:
        opened.dialog(campaign, *cell)
