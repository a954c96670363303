"""The routing on screen as a file: what was asked of what, and which experts worked."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import streamlit as st

from slm_backends.moe import export
from slm_backends.moe.trace import Trace
from ui import visitor
from ui.panes import Turn


def download(turn: Turn, trace: Trace) -> None:
    with st.container(horizontal=True, vertical_alignment="center", key="moe_export"):
        st.caption("Export this routing", width="content")
        for name, ending, kind, make in (
            ("JSON", "json", "application/json", export.as_json),
            ("Parquet", "parquet", "application/vnd.apache.parquet", export.as_parquet),
        ):
            st.download_button(
                name,
                lambda make=make: make(trace, facts(turn)),
                f"routing.{ending}",
                kind,
                icon=":material/download:",
                key=f"moe_export_{ending}",
                on_click="ignore",
            )


def facts(turn: Turn) -> dict[str, Any]:
    """What the routing was told of."""
    deployment = visitor.known().deployments.get(turn.deployment)
    source = None if deployment is None else deployment.source
    reply, about = turn.reply, turn.reply.about
    return {
        "deployment": turn.deployment,
        "model": deployment.model.id if deployment else turn.deployment,
        "weights": (source.repo or source.shipped or source.wheel or source.path) if source else "",
        "revision": source.revision if source and source.repo else "",
        "artefact": about.artefact,
        "runtime": about.runtime,
        "version": about.version,
        "device": about.device,
        "system": turn.system,
        "prompt": turn.prompt,
        "reply": reply.text,
        "finish_reason": reply.finish_reason,
        **asdict(turn.sampling),
    }
