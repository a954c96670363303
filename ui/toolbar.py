"""The row above the panes: view, sync, parameters for all, add a pane, import, export, clear."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from slm_backends import export
from ui import compare, importing, parameters, visitor
from ui.markdown import safe
from ui.panes import MAX_PANES, Pane, ending, synced


def toolbar(
    panes: list[Pane],
    add: Callable[[], None],
    clear: Callable[[], None],
    ask: importing.Ask | None = None,
) -> str:
    """Draw it; returns the view that was chosen, "Chat" or "Code". Without `ask` there is nothing
    to import."""
    with st.container(horizontal=True, vertical_alignment="center", key="toolbar"):
        view = st.segmented_control(
            "View",
            ["Chat", "Code"],
            default="Chat",
            required=True,
            key="view",
            label_visibility="collapsed",
        )
        st.toggle(
            "Sync",
            True,
            key=f"sync{ending()}",
            help="One system prompt and one set of parameters for all",
            on_change=parameters.each_its_own,
            args=(len(panes),),
            bind="query-params",
        )
        if synced():
            gear(panes)
        st.button(
            "Pane",
            icon=":material/add:",
            key="add",
            on_click=add,
            disabled=len(panes) >= MAX_PANES,
            help=f"Add a pane, {MAX_PANES} at most",
        )
        if ask is not None and st.button(
            "Import",
            icon=":material/upload:",
            key="import",
            help="A *.prompt.yml file, as GitHub Models kept them",
        ):
            importing.dialog(panes, ask)
        with st.popover(
            "Export", icon=":material/download:", disabled=not any(_made(panes)), key="export"
        ):
            _download(
                "Markdown", lambda: export.to_markdown(_made(panes), safe), "md", "text/markdown"
            )
            _download("JSON", lambda: export.to_json(_made(panes)), "json", "application/json")
        st.button(
            "Clear",
            icon=":material/delete_sweep:",
            key="clear",
            on_click=clear,
            disabled=not any(pane.turns for pane in panes),
        )
    known = visitor.known().deployments
    shown = [known[pane.deployment] for pane in panes if pane.deployment in known]
    st.caption(compare.kinship(shown))
    return str(view)


def gear(panes: list[Pane]) -> None:
    """The parameters of these panes: of all of them, or of one whose settings are its own."""
    suffix = panes[0].settings
    name = "System prompt and parameters"
    with st.popover(name, icon=":material/tune:", help=name, key=f"gear{suffix}"):
        parameters.panel(suffix, panes)


def _made(panes: list[Pane]) -> list[list[export.Exchange]]:
    return [pane.exchanges() for pane in panes]


def _download(label: str, make: Callable[[], str], ending: str, kind: str) -> None:
    st.download_button(label, make, f"comparison.{ending}", kind, on_click="ignore")
