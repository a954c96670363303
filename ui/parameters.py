"""The panel of sampling parameters and the system prompt, drawn from chat.PARAMETERS.

Changing a widget does not rerun the page, so a streaming reply goes on; the value counts from the
next prompt. Numbers travel in the link, texts (system prompt) do not. What no pane that shares the
panel would honour is greyed out, and not sent.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import streamlit as st

from slm_backends import selector
from slm_backends.chat import (
    MAX_STOPS,
    PARAMETERS,
    SAMPLING_FIELDS,
    Parameter,
    Sampling,
    checked,
)
from slm_backends.errors import BadRequest, SLMError
from ui import visitor
from ui.markdown import literal
from ui.panes import Pane, ending, synced

MAX_SYSTEM = 20_000  # characters

#: (the runtime's name, the fields that it honours) of each pane
Honoured = list[tuple[str, frozenset[str]]]


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
    known = honoured(panes)
    listed = list(PARAMETERS.values())
    for pair in zip(listed[::2], listed[1::2], strict=True):
        for column, parameter in zip(st.columns(2, gap="small"), pair, strict=True):
            with column:
                _number(parameter, suffix, parameter.name in _left_out(known))
                _say_who_does_not(parameter.name, known)
    st.text_area(
        "Stop strings",
        key=f"stop{suffix}",
        height=68,
        placeholder=f"One a line, {MAX_STOPS} at most",
        help="The reply ends before the first of these.",
        on_change="ignore",
        persist_state="session",
        disabled="stop" in _left_out(known),
    )
    _say_who_does_not("stop", known)
    st.toggle(
        "Log-probabilities",
        key=f"logprobs{suffix}",
        help="How sure a model was of its tokens, where its runtime says so: the details of a "
        "reply then compare that too. It costs a little speed.",
        on_change="ignore",
        persist_state="session",
    )


def honoured(panes: Iterable[Pane]) -> Honoured:
    """What each of them honours now: it shrinks when a server has refused something."""
    found = []
    for pane in panes:
        with contextlib.suppress(SLMError):  # what is not there any more says so when it is asked
            found.append(selector.honoured(pane.deployment, visitor.access()))
    return found


def logprobs(suffix: str) -> bool:
    """Whether log-probabilities are wanted of who gives them."""
    return bool(st.session_state.get(f"logprobs{suffix}"))


def system(suffix: str) -> str:
    """The system prompt, cut to its limit."""
    return str(st.session_state.get(f"system{suffix}") or "")[:MAX_SYSTEM]


def sampling(pane: Pane) -> Sampling:
    """What this pane's panel says, without what nobody who shares it honours. Raises BadRequest for
    what a browser or a link got wrong."""
    suffix = pane.settings
    values = {}
    for name, parameter in PARAMETERS.items():
        value = st.session_state.get(f"{name}{suffix}", parameter.default)
        if value is None and parameter.default is not None:
            raise BadRequest(f"{parameter.label} is empty.", field=name)
        values[name] = value
    stop = str(st.session_state.get(f"stop{suffix}") or "")
    return Sampling(
        **values,
        stop=tuple(line for line in stop.splitlines() if line),
        left_out=_left_out(honoured(pane.sharing)),
    )


def report_link() -> None:
    """Say which numbers of the link are not taken: the widgets leave them out without a word."""
    for key, given in st.query_params.items():
        parameter = PARAMETERS.get(re.sub(rf"{ending()}(_\d+)?$", "", key))
        if parameter is None or (not given and parameter.default is None):
            continue
        try:
            checked(parameter, float(given))
        except BadRequest as error:
            st.toast(f"The link's value was not taken: {error.message}")
        except ValueError:
            st.toast(f"The link's value was not taken: {parameter.name} must be a number.")


def each_its_own(count: int) -> None:
    """When Sync is switched off: begin with the common values in every pane."""
    if synced():
        return
    for place in range(1, count + 1):
        for name in _NAMES:
            common, key = _key(name), _key(name, place)
            if common not in st.session_state or key in st.session_state:
                continue
            st.session_state[key] = value = st.session_state[common]
            if name in PARAMETERS and value != PARAMETERS[name].default:
                st.query_params[key] = str(value)  # a new widget does not do that by itself


def fill(system: str, values: Mapping[str, Any]) -> None:
    """Have one panel for all panes say this. Call it before the widgets are drawn."""
    st.session_state[_key("sync")] = True
    st.session_state[_key("system")] = system[:MAX_SYSTEM]
    for name, value in values.items():
        st.session_state[_key(name)] = "\n".join(_lines(value)) if name == "stop" else value


def without_a_box(system: str, values: Mapping[str, Any]) -> list[str]:
    """What `fill` cannot take in, a sentence each."""
    lost = [stop for stop in values.get("stop", ()) if stop not in _lines(values["stop"])]
    said = [f"The stop string {stop!r} was left out: here, each is a line." for stop in lost]
    if len(system) > MAX_SYSTEM:
        said.append(f"The system prompt was cut after {MAX_SYSTEM:,} characters.")
    return said


def _lines(stops: Iterable[str]) -> list[str]:
    """The stop strings that a box of lines can hold."""
    return [stop for stop in stops if stop.splitlines() == [stop]]


def close_up(place: int, count: int) -> None:
    """The pane in that place, of so many, goes: those behind it move up with their values."""
    for name in _NAMES:
        for here in range(place, count + 1):
            behind = _key(name, here + 1)
            if behind in st.session_state:
                st.session_state[_key(name, here)] = st.session_state[behind]
            else:
                st.session_state.pop(_key(name, here), None)


def _key(name: str, place: int = 0) -> str:
    """Of a widget of this page: of the panel for all panes, or of the pane in that place."""
    return f"{name}{ending()}_{place}" if place else f"{name}{ending()}"


def _number(parameter: Parameter, suffix: str, disabled: bool) -> None:
    kind = parameter.kind
    st.number_input(
        parameter.label,
        min_value=kind(parameter.minimum),
        max_value=kind(parameter.maximum),
        value=None if parameter.default is None else kind(parameter.default),
        step=kind(parameter.step),
        key=f"{parameter.name}{suffix}",
        help=parameter.help,
        placeholder="random" if parameter.default is None else None,
        on_change="ignore",
        bind="query-params",
        persist_state="session",
        disabled=disabled,
    )


def _left_out(known: Honoured) -> tuple[str, ...]:
    """The fields that nobody here honours."""
    if not known:
        return ()
    return tuple(sorted(SAMPLING_FIELDS.difference(*(fields for _, fields in known))))


def _say_who_does_not(name: str, known: Honoured) -> None:
    lacking = sorted({runtime for runtime, fields in known if name not in fields})
    if not lacking:
        return
    who = literal(", ".join(lacking))
    unsent = " It is not sent." if name in _left_out(known) else ""
    st.caption(f"Not honoured by {who}.{unsent}")


_NAMES = ("system", *PARAMETERS, "stop", "logprobs")
assert {*PARAMETERS, "stop"} == SAMPLING_FIELDS, "every field needs its widget"
