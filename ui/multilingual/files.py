"""Results as a file, and files of results opened: shown, resumed or run again like any run."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from slm_backends.errors import SLMError
from slm_backends.multilingual import report
from slm_backends.multilingual import results as files
from slm_backends.multilingual.results import Results
from ui import problems, visitor
from ui.multilingual.kept import KEEP_DAYS

PLACE = "ml_files"


def opening(show: Callable[[Results], None]) -> None:
    """A button that opens a file of results; `show` is called with them."""

    def take() -> None:
        given = st.session_state.ml_results_file
        if given is None:
            return
        try:
            show(files.read(given.getvalue(), given.name))
        except SLMError as error:
            problems.tell(PLACE, error)

    with st.popover("Open results", icon=":material/folder_open:", key="ml_opening"):
        st.file_uploader(
            "A .jsonl file that was downloaded here or written on the command line",
            type=["jsonl"],
            key="ml_results_file",
            on_change=take,
        )
    problems.draw(PLACE)


def download(results: Results) -> None:
    """Buttons for the results and for reports of them; a report is made when it is asked for."""
    access = visitor.access()
    kinds = {
        "Results (.jsonl)": ("jsonl", "application/jsonl", lambda: "".join(results.lines())),
        "Cells (.csv)": ("csv", "text/csv", lambda: report.csv_file(results)),
        "Everything (.json)": (
            "json",
            "application/json",
            lambda: report.json_file(results, access),
        ),
        "Report with charts (.zip)": (
            "zip",
            "application/zip",
            lambda: report.archive(results, access),
        ),
    }
    with st.container(horizontal=True, key="ml_downloads"):
        for title, (ending, mime, make) in kinds.items():
            st.download_button(
                title,
                make,
                file_name=f"multilingual-{results.made[:10]}.{ending}",
                mime=mime,
                icon=":material/download:",
                key=f"ml_download_{ending}",
                on_click="ignore",
            )
    st.caption(
        "Prompts, replies, parameters and versions are in each. The .jsonl opens here and on the "
        f"command line. The server keeps it for {KEEP_DAYS} days; who has this address can see it."
    )


def draw_damage(results: Results) -> None:
    """What of a file could not be read."""
    if results.damaged:
        with st.expander(f"{len(results.damaged):,} lines could not be read", key="ml_damage"):
            st.text("\n".join(results.damaged))
