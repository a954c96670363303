"""How far a run is, with Stop, Resume and Retry.

The run itself goes on whether anybody looks or not: nothing here ends it but Stop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import streamlit as st

from slm_backends.errors import SLMError
from slm_backends.multilingual.plan import Key, Plan
from slm_backends.multilingual.runner import Campaign, Progress
from slm_backends.terminal import duration
from ui import problems
from ui.markdown import literal
from ui.multilingual import kept

EVERY = 0.5  # seconds between two looks at a run
PLACE = "ml_running"


def draw(campaign: Campaign, again: Callable[[], None], *, esc: bool) -> None:
    """The line and its buttons. `again` begins the same run anew; with `esc`, that key stops it."""
    problems.draw(PLACE)
    if campaign.problem:
        told = f"{literal(campaign.problem)} Download the results."
        st.warning(told, icon=":material/warning:")
    if campaign.running:
        st.fragment(_going_on, run_every=EVERY)(campaign, esc)
    else:
        _ended(campaign, again)


def start(campaign: Campaign, only: Collection[Key] | None = None) -> None:
    """Ask for what is missing, or for these; where that cannot be, the page's next run says why."""
    wanted = len(campaign.results.missing if only is None else only)
    try:
        kept.start(campaign, only)
    except SLMError as error:
        problems.tell(PLACE, error)
    else:
        st.session_state.ml_begun = (campaign, time.monotonic(), wanted)


def usual_seconds(plan: Plan) -> float | None:
    """How long it should take, going by the last run of the same deployments that this session has
    seen to its end; None without one."""
    each: float | None = st.session_state.get("ml_pace", {}).get(plan.deployments)
    return None if each is None else each * len(plan.keys)


def _learn_pace(campaign: Campaign) -> None:
    begun, since, wanted = st.session_state.get("ml_begun", (None, 0.0, 0))
    if begun is campaign and wanted and campaign.results.complete:
        pace = st.session_state.setdefault("ml_pace", {})
        pace[campaign.results.plan.deployments] = (time.monotonic() - since) / wanted


def _going_on(campaign: Campaign, esc: bool) -> None:
    if not campaign.running:
        _learn_pace(campaign)
        st.rerun()
    progress = campaign.progress
    with st.container(horizontal=True, vertical_alignment="center", key="ml_progress"):
        ended = progress.done + progress.failed
        st.progress(ended / max(1, progress.total), line(progress))
        st.button(
            "Stop",
            icon=":material/stop_circle:",
            key="ml_stop",
            type="primary",
            shortcut="Esc" if esc else None,
            on_click=campaign.stop,
        )


def _ended(campaign: Campaign, again: Callable[[], None]) -> None:
    results = campaign.results
    failed = results.failed
    left = len(results.missing) - len(failed)
    done = len(results.plan.keys) - len(results.missing)
    with st.container(horizontal=True, vertical_alignment="center", key="ml_ended"):
        st.markdown(f"**{line(Progress(done, len(failed), len(results.plan.keys), None, ''))}**")
        if left:
            st.button(
                f"Resume: {left:,} left",
                icon=":material/play_arrow:",
                key="ml_resume",
                type="primary",
                on_click=start,
                args=(campaign,),
            )
        if failed:
            st.button(
                f"Retry {len(failed):,} failed",
                icon=":material/refresh:",
                key="ml_retry",
                on_click=start,
                args=(campaign, failed),
            )
        st.button(
            "Run this again",
            icon=":material/replay:",
            key="ml_again",
            help="The same prompts, deployments and parameters, from the beginning",
            on_click=again,
        )


def line(progress: Progress) -> str:
    """How far it is, in words."""
    parts = [f"{progress.done:,} of {progress.total:,} replies"]
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    if progress.seconds_left is not None:
        parts.append(f"about {duration(progress.seconds_left)} left")
    return " · ".join([*parts, *filter(None, [progress.doing])])
