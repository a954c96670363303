"""What is asked: deployments, languages, a task, prompts of the set or of one's own, parameters.

All of it but a file stands in the address, so that a link asks the same. Draws widgets and returns
a Choice; starts nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import streamlit as st

from slm_backends import selector
from slm_backends.chat import PARAMETERS, Sampling
from slm_backends.errors import BadRequest, SLMError
from slm_backends.multilingual import parallel, table_file, tasks
from slm_backends.multilingual.languages import LANGUAGES, Language
from slm_backends.multilingual.plan import (
    MAX_AT_ONCE,
    MAX_DEPLOYMENTS,
    SAMPLING,
    TASKS,
    Plan,
    Question,
)
from slm_backends.multilingual.table_file import Table
from ui import problems, shell, visitor
from ui.markdown import literal
from ui.panes import DEFAULT
from ui.picker import label

FEW = ("en", "de", "zh", "ar", "sw")
PRESETS = {
    "A few": FEW,
    "Phi-3.5's 23": tuple(code for code, item in LANGUAGES.items() if item.phi),
    f"All {len(LANGUAGES)}": tuple(LANGUAGES),
}
#: task -> prompts of the set that are chosen at first
FIRST = {"solve": 2}
NUMBERS = ("max_tokens", "temperature", "seed")
TEMPLATES = {
    "csv": "text/csv",
    "jsonl": "application/jsonl",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
_INTO = {True: "into each language", False: "from each language"}


@dataclass(frozen=True)
class Choice:
    """`plan` is None where something is missing: `lacking` says what, in sentences."""

    plan: Plan | None
    lacking: tuple[str, ...] = ()

    @property
    def size(self) -> str:
        """How much that is, in words."""
        if self.plan is None:
            return ""
        rows, columns = len(self.plan.languages), len(self.plan.deployments)
        each = len(self.plan.questions)
        return (
            f"{_many(each, 'prompt')} in {_many(rows, 'language')} × "
            f"{_many(columns, 'deployment')} = {_many(each * columns, 'reply', 'replies')}"
        )


def name(language: Language) -> str:
    """A language as it is shown: its own name first."""
    if language.own == language.name:
        return language.name
    return f"{language.own} · {language.name}"


def from_link() -> None:
    """Take what the address says, once a session; what is not known is only mentioned."""
    if "ml_task" in st.session_state:
        return
    asked = st.query_params
    task = asked.get("task", "ask")
    state = st.session_state
    state.ml_task = task if task in TASKS else "ask"
    state.ml_deployments = _deployments(asked.get_all("deployment"))
    languages = _known("language", asked.get_all("language"), LANGUAGES)
    state.ml_languages = languages or list(FEW)
    state.ml_other = asked.get("other") if asked.get("other") in LANGUAGES else "en"
    state.ml_into = asked.get("into", "1") != "0"
    for known in tasks.PARTS:
        state[_prompts_key(known)] = list(tasks.names(known)[: FIRST.get(known, 1)])
    if state.ml_task in tasks.PARTS and "prompt" in asked:
        names = asked.get_all("prompt")
        state[_prompts_key(state.ml_task)] = _known("prompt", names, tasks.names(state.ml_task))
    for number in NUMBERS:
        _report(number, asked.get(_number_key(number)))


def remember() -> None:
    """Put the choice into the address; the numbers put themselves there."""
    state = st.session_state
    task = state.ml_task
    found: dict[str, str | list[str]] = {
        "deployment": _unless(state.ml_deployments, DEFAULT),
        "language": _unless(state.ml_languages, FEW),
        "task": "" if task == "ask" else task,
    }
    if task in tasks.PARTS:
        names = state[_prompts_key(task)]
        usual = tasks.names(task)[: FIRST.get(task, 1)]
        found["prompt"] = _unless(names, usual) if names else [""]
    if task == "translate":
        found["other"] = "" if state.ml_other == "en" else state.ml_other
        found["into"] = "" if state.ml_into else "0"
    for key in ("deployment", "language", "task", "prompt", "other", "into"):
        value = found.get(key, "")
        if st.query_params.get_all(key) == ([value] if isinstance(value, str) else value):
            continue
        if value:
            st.query_params[key] = value
        else:
            st.query_params.pop(key, None)


def draw() -> Choice:
    """The form."""
    deployments = _choose_deployments()
    languages = _choose_languages()
    task = st.segmented_control(
        "Task",
        list(TASKS),
        key="ml_task",
        required=True,
        format_func=lambda item: item.capitalize() if item != "file" else "Own file",
        persist_state="session",
    )
    st.caption(TASKS[task].capitalize() + ".")
    questions, lacking = _own_file() if task == "file" else _of_the_set(task, languages)
    with st.container(horizontal=True, key="ml_numbers"):
        sampling = _sampling()
        at_once = _at_once()
    lacking += _unable(deployments)
    if len(deployments) < 2:
        lacking.insert(0, "Choose two deployments or more.")
    if lacking or sampling is None:
        return Choice(None, tuple(lacking))
    try:
        return Choice(Plan(task, deployments, questions, sampling, at_once=at_once))
    except BadRequest as error:
        return Choice(None, (" ".join(filter(None, (error.message, error.hint))),))


def _choose_deployments() -> tuple[str, ...]:
    known = visitor.known().deployments
    chosen = st.session_state.ml_deployments
    # The browser names what is chosen by its label, so that the labels of those may not change.
    labels = {
        **{id: _labelled(id) for id in known},
        **{id: st.session_state.get("ml_labels", {}).get(id) or _labelled(id) for id in chosen},
    }
    st.session_state.ml_labels = labels
    ids = sorted(labels, key=lambda id: id in known and not visitor.state(known[id]).usable)
    found = st.multiselect(
        "Deployments",
        ids,
        key="ml_deployments",
        format_func=lambda id: labels.get(id, id),
        max_selections=MAX_DEPLOYMENTS,
        placeholder="Choose two or more",
        select_all=False,
        persist_state="session",
    )
    return tuple(found)


def _labelled(id: str) -> str:
    found = visitor.known().deployments.get(id)
    state = visitor.state(found) if found else None
    return label(id) if state is None or state.usable else f"{label(id)} ({state.word})"


def _unable(deployments: Sequence[str]) -> list[str]:
    """Draws why some cannot answer, with where to change that; returns a sentence for each."""
    known = visitor.known().deployments
    said = []
    for id in deployments:
        state = visitor.state(known[id]) if id in known else None
        if state is not None and not state.usable:
            said.append(f"{known[id].label} cannot answer now.")
            st.caption(f":orange[:material/warning: {literal(f'{known[id].label}: {state.label}')}]"
                       f" {literal(state.reason)}")  # fmt: skip
    if said:
        shell.link("models", "Fetch it or set it up on the Models page")
    return said


def _choose_languages() -> list[str]:
    with st.container(horizontal=True, vertical_alignment="bottom", key="ml_language_row"):
        found = st.multiselect(
            "Languages",
            list(LANGUAGES),
            key="ml_languages",
            format_func=lambda code: name(LANGUAGES[code]),
            placeholder="Choose some",
            persist_state="session",
        )
        with st.container(horizontal=True, key="ml_presets", width="content"):
            for title, codes in PRESETS.items():
                st.button(title, key=f"ml_preset_{title}", on_click=_prefer, args=(codes,))
    return list(found)


def _prefer(codes: Sequence[str]) -> None:
    st.session_state.ml_languages = list(codes)


def _of_the_set(task: str, languages: Sequence[str]) -> tuple[tuple[Question, ...], list[str]]:
    """(questions, what is missing) of a task of the shipped set."""
    other, into = "en", True
    if task == "translate":
        with st.container(horizontal=True, vertical_alignment="bottom", key="ml_translate"):
            other = st.selectbox(
                "The language that stays",
                list(LANGUAGES),
                key="ml_other",
                format_func=lambda code: name(LANGUAGES[code]),
                persist_state="session",
                width=260,
            )
            into = st.segmented_control(
                "Direction",
                list(_INTO),
                key="ml_into",
                required=True,
                format_func=lambda way: _INTO[way],
                persist_state="session",
            )
    said = getattr(parallel.texts("en"), tasks.PARTS[task])
    names = st.multiselect(
        "Prompts",
        list(tasks.names(task)),
        key=_prompts_key(task),
        format_func=lambda item: f"{item}: {_short(said[item])}",
        placeholder="All of them",
        max_selections=1 if task == "answer in" else None,
        persist_state="session",
    )
    if task == "answer in" and not names:
        return (), ["Choose a question."]
    try:
        return tasks.questions(task, languages, names=names, other=other, into=bool(into)), []
    except SLMError as error:
        return (), [" ".join(filter(None, (error.message, error.hint)))]


def _own_file() -> tuple[tuple[Question, ...], list[str]]:
    """(questions, what is missing) of a file of the visitor's."""
    given = st.file_uploader(
        "A file with columns language, prompt and, where you have one, reference",
        type=list(TEMPLATES),
        key="ml_file",
    )
    with st.container(horizontal=True, vertical_alignment="center", key="ml_templates"):
        st.caption("A template:")
        for kind, mime in TEMPLATES.items():
            st.download_button(
                kind.upper(),
                lambda kind=kind: table_file.template(kind),
                file_name=f"prompts.{kind}",
                mime=mime,
                key=f"ml_template_{kind}",
                type="tertiary",
                on_click="ignore",
            )
    if given is None:
        st.session_state.pop("ml_table", None)
        return (), ["Choose a file."]
    held = st.session_state.get("ml_table")
    if held is None or held[0] != given.file_id:
        st.session_state.ml_table = held = (given.file_id, _read(given.getvalue(), given.name))
    table = held[1]
    if isinstance(table, SLMError):
        problems.show(table)
        return (), ["Choose another file."]
    _draw_problems(table)
    return table.questions, [] if table.questions else ["No row of the file can be asked."]


def _read(content: bytes, name: str) -> Table | SLMError:
    try:
        return table_file.read(content, name)
    except SLMError as error:
        return error


def _draw_problems(table: Table) -> None:
    rows = _many(len(table.questions), "row")
    if not table.problems:
        st.caption(f":material/check: {rows} will be asked.")
        return
    with st.expander(f"{rows} will be asked; look at the others", expanded=True, key="ml_problems"):
        st.text("\n".join(table.problems))


def _sampling() -> Sampling | None:
    """What the boxes say; None, with a word on it, where one is empty that may not be."""
    values = {}
    for field in NUMBERS:
        parameter = PARAMETERS[field]
        kind, usual = parameter.kind, getattr(SAMPLING, field)
        values[field] = st.number_input(
            parameter.label,
            min_value=kind(parameter.minimum),
            max_value=kind(parameter.maximum),
            value=None if usual is None else kind(usual),
            step=kind(parameter.step),
            key=_number_key(field),
            help=parameter.help,
            placeholder="random" if usual is None else None,
            bind="query-params",
            persist_state="session",
            width=150,
        )
    for field, value in values.items():
        if value is None and getattr(SAMPLING, field) is not None:
            st.caption(f":orange[{PARAMETERS[field].label} is empty.]")
            return None
    return replace(SAMPLING, **values)


def _at_once() -> int:
    """0 where the box is empty."""
    found = st.number_input(
        "At once",
        min_value=1,
        max_value=MAX_AT_ONCE,
        value=None,
        key=_number_key("at_once"),
        help="Requests that each deployment has under way. Empty: as many as go well, which is "
        "fastest; 1 where the speed of a reply is the question.",
        placeholder="many",
        bind="query-params",
        persist_state="session",
        width=150,
    )
    return found or 0


def _deployments(asked: Iterable[str]) -> list[str]:
    known = []
    for id in dict.fromkeys(filter(None, list(asked)[:MAX_DEPLOYMENTS])):
        try:
            selector.check(id, visitor.access())
        except SLMError as error:
            _mention("deployment", id, error.hint)
        else:
            known.append(id)
    return known or list(DEFAULT)


def _known(what: str, asked: Iterable[str], known: Iterable[str]) -> list[str]:
    found = [item for item in dict.fromkeys(asked) if item in known]
    for item in asked:
        if item and item not in found:
            _mention(what, item)
    return found


def _mention(what: str, named: str, hint: str = "") -> None:
    named = " ".join(named.replace("`", "").split())[:80]
    st.toast(f"The link names a {what} that is not known here: `{named}`. {hint}".strip())


def _report(number: str, given: str | None) -> None:
    """Say when the link's value is not taken: the widget leaves it out without a word."""
    parameter = PARAMETERS[number]
    try:
        if given is not None and not parameter.minimum <= float(given) <= parameter.maximum:
            raise ValueError
    except ValueError:
        st.toast(f"The link's {parameter.label.lower()} was not taken: it is no number for that.")


def _unless(value: Sequence[str], usual: Sequence[str]) -> list[str]:
    return [] if list(value) == list(usual) else list(value)


def _prompts_key(task: str) -> str:
    return f"ml_prompts_{task}"


def _number_key(number: str) -> str:
    return f"{number}_multilingual"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 70 else f"{text[:69]}…"


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count:,} {one if count == 1 else more or f'{one}s'}"
