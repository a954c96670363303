"""The grid: a row a language, a column a deployment, drawn while replies come in.

A component of its own: one message to the browser holds all cells, and only those in which
something changed are drawn. The texts in it are data to its script, never code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from slm_backends.multilingual.languages import LANGUAGES
from slm_backends.multilingual.plan import Key, Question
from slm_backends.multilingual.runner import Campaign
from slm_backends.run import Reply
from ui.multilingual import cells
from ui.multilingual.cells import Asked
from ui.picker import label

OPENED = "ml_opened"  # in the session: (language, deployment) of the cell that was pressed

_table = st.components.v2.component(
    "slm_grid",
    html="<div></div>",
    js=Path(__file__).with_suffix(".js").read_text(encoding="utf-8"),
    isolate_styles=False,  # fonts by language are in style.css, for all of the page
)


class Grid:
    """A run's replies by language and deployment."""

    def __init__(self, campaign: Campaign) -> None:
        self.campaign = campaign
        self.deployments = campaign.results.plan.deployments
        self.rows: dict[str, list[Question]] = {}
        for question in campaign.results.plan.questions:
            self.rows.setdefault(question.language, []).append(question)

    def asked(self, code: str, deployment: str, live: Mapping[Key, Reply]) -> list[Asked]:
        """The replies of one cell of the grid."""
        done = self.campaign.results.cells
        return [
            Asked(
                question, done.get((question.id, deployment)), live.get((question.id, deployment))
            )
            for question in self.rows[code]
        ]

    def badges(self, code: str) -> set[str]:
        """Those of a row."""
        return {item.badge for id in self.deployments for item in self.asked(code, id, {})}

    def draw(self, languages: Sequence[str], texts: bool) -> None:
        """The rows of these languages. A cell that is pressed stands in the session as OPENED
        before the next run of the page."""

        def open_cell() -> None:
            if pressed := st.session_state.ml_grid.open:
                code, place = pressed
                st.session_state[OPENED] = (code, self.deployments[place])

        _table(data=self.data(languages, texts), key="ml_grid", on_open_change=open_cell)

    def data(self, languages: Sequence[str], texts: bool) -> dict[str, Any]:
        """What its script draws."""
        live = self.campaign.live()
        labels = [label(id) for id in self.deployments]
        return {
            "columns": labels,
            "rows": [
                {
                    "code": code,
                    "own": LANGUAGES[code].own,
                    "name": LANGUAGES[code].name,
                    "cells": [
                        cells.cell(
                            self.asked(code, id, live), f"{LANGUAGES[code].name}, {who}", who, texts
                        )
                        for id, who in zip(self.deployments, labels, strict=True)
                    ],
                }
                for code in languages
            ],
        }
