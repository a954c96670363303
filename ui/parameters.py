"""The panel of sampling parameters and the system prompt, drawn from chat.PARAMETERS.

Changing a widget does not rerun the page, so a streaming reply goes on; the value counts from the
next prompt. Numbers travel in the link, texts (system prompt) do not.
"""

from __future__ import annotations

from collections.abc import Iterable

import streamlit as st

from slm_backends import selector
from slm_backends.chat import MAX_STOPS, PARAMETERS, SAMPLING_FIELDS, Parameter, Sampling
from slm_backends.errors import BadRequest
from ui.panes import Pane

MAX_SYSTEM = 20_000  # characters


def panel(suffix: str, panes: Iterable[Pane]) -> None:
    """Draw the widgets for these panes. `suffix` sets one panel's keys apart from another's."""
    st.text_area(
        "System prompt",
        key=f"system{suffix}",
        max_chars=MAX_SYSTEM,
        height=90,
        placeholder="How the model should answer. Counts from the next prompt.",
        on_change="ignore",
        persist_state="session",
    )
    honoured = [selector.honoured(pane.deployment) for pane in panes]
    listed = list(PARAMETERS.values())
    for pair in zip(listed[::2], listed[1::2], strict=True):
        for column, parameter in zip(st.columns(2, gap="small"), pair, strict=True):
            with column:
                _number(parameter, suffix, _not_honoured(parameter.name, honoured))
    st.text_area(
        "Stop strings",
        key=f"stop{suffix}",
        height=68,
        placeholder=f"One a line, {MAX_STOPS} at most",
        help="The reply ends before the first of these.",
        on_change="ignore",
        persist_state="session",
    )


def system(suffix: str) -> str:
    """The system prompt, cut to its limit."""
    return str(st.session_state.get(f"system{suffix}") or "")[:MAX_SYSTEM]


def sampling(suffix: str) -> Sampling:
    """What the panel says. Raises BadRequest for what a browser or a link got wrong."""
    values = {}
    for name, parameter in PARAMETERS.items():
        value = st.session_state.get(f"{name}{suffix}", parameter.default)
        if value is None and parameter.default is not None:
            raise BadRequest(f"{parameter.label} is empty.", field=name)
        values[name] = value
    stop = str(st.session_state.get(f"stop{suffix}") or "")
    return Sampling(**values, stop=tuple(line for line in stop.splitlines() if line))


def _number(parameter: Parameter, suffix: str, missing: str) -> None:
    kind = parameter.kind
    st.number_input(
        parameter.label,
        min_value=kind(parameter.minimum),
        max_value=kind(parameter.maximum),
        value=None if parameter.default is None else kind(parameter.default),
        step=kind(parameter.step),
        key=f"{parameter.name}{suffix}",
        help=parameter.help + (f"\n\nNot honoured by {missing}." if missing else ""),
        placeholder="random" if parameter.default is None else None,
        on_change="ignore",
        bind="query-params",
        persist_state="session",
    )


def _not_honoured(name: str, honoured: list[tuple[str, frozenset[str]]]) -> str:
    return ", ".join(sorted({runtime for runtime, fields in honoured if name not in fields}))


assert {*PARAMETERS, "stop"} == SAMPLING_FIELDS, "every field needs its widget"
