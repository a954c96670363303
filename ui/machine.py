"""This computer on the Models page: memory, disk, the models that are loaded, the runtimes.

Draws itself again every other second, since what it shows changes by itself: replies elsewhere load
models, idle ones end, fetches of other people go on.
"""

from __future__ import annotations

import streamlit as st

from slm_backends import disk, doctor, fetching, fit, selector, store
from slm_backends.errors import SLMError
from slm_backends.fit import gigabytes
from slm_backends.local import Worker
from slm_backends.terminal import duration
from ui import visitor

EVERY = 2.0  # seconds


@st.fragment(run_every=EVERY)
def overview() -> None:
    """Memory and disk, and a row for each worker. Redraws the page when the list below is stale."""
    workers = selector.workers()
    _memory(workers)
    for worker in workers:
        _worker(worker)
    if not workers:
        st.caption("No model is loaded. One is when it is first asked, or with its Load button.")
    _redraw_when_changed(workers)


def _memory(workers: list[Worker]) -> None:
    budget = fit.memory_budget()
    taken = sum(worker.memory_bytes for worker in workers)
    with st.container(horizontal=True, key="machine"):
        st.metric(
            "Memory of loaded models",
            gigabytes(taken),
            f"of {gigabytes(budget)} that they may take",
            delta_color="off",
            delta_arrow="off",
            help="SLM_MEMORY_GB sets the limit. A model that does not fit takes the place of the "
            "one that was idle longest, or waits for one that answers.",
        )
        st.metric(
            "Free memory",
            gigabytes(fit.free_memory()),
            f"of {gigabytes(fit.total_memory())}",
            delta_color="off",
            delta_arrow="off",
        )
        st.metric(
            "Weights on disk",
            gigabytes(_weights()),
            f"{gigabytes(disk.free(store.home()))} free",
            delta_color="off",
            delta_arrow="off",
            help=f"In {store.home()}; SLM_HOME moves it.",
        )


@st.cache_data(ttl=10, show_spinner=False)
def _weights() -> int:
    return store.total_size()


def _worker(worker: Worker) -> None:
    deployment = visitor.known().deployments.get(worker.deployment_id)
    name = deployment.label if deployment else worker.deployment_id
    with st.container(
        horizontal=True, vertical_alignment="center", key=f"worker_{worker.deployment_id}"
    ):
        with st.container(gap=None):
            st.markdown(f"**{name}**")
            st.caption(" · ".join(_facts(worker)))
        if st.button(
            "Unload",
            key=f"unload_{worker.deployment_id}",
            disabled=worker.in_use > 0,
            help="End its process; its memory goes back.",
        ):
            try:
                selector.unload(worker.deployment_id)
            except SLMError as error:
                st.toast(error.message)
            st.rerun()


def _facts(worker: Worker) -> list[str]:
    if worker.in_use:
        use = f"{worker.in_use} running" + (f", {worker.waiting} waiting" if worker.waiting else "")
    else:
        use = f"idle for {duration(round(worker.idle_s))}"
    about = " ".join(filter(None, (worker.about.version, worker.about.device)))
    return [gigabytes(worker.memory_bytes), use, *([about] if about else []), f"pid {worker.pid}"]


def _redraw_when_changed(workers: list[Worker]) -> None:
    """The list of models shows what is loaded and fetched: when that changed, draw all of it."""
    now = (
        frozenset(worker.deployment_id for worker in workers),
        frozenset(fetch.deployment_id for fetch in fetching.running()),
    )
    before, st.session_state.machine_seen = st.session_state.get("machine_seen", now), now
    if before != now:
        st.rerun()


def runtimes() -> None:
    """Versions and devices of the runtimes, behind a fold: looking takes seconds."""
    with st.expander("Runtimes and devices", key="runtimes"):
        if st.button("Look again" if "runtimes_found" in st.session_state else "Look"):
            with st.spinner("Starting each runtime in a process of its own"):
                st.session_state.runtimes_found = list(doctor.runtimes())
        for finding in st.session_state.get("runtimes_found", ()):
            st.markdown(f"**{finding.subject}**: {finding.detail}")
            if finding.todo:
                st.code(finding.todo, language="shell")
