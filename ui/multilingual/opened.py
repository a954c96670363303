"""A cell opened: its prompt, every deployment's whole reply with its numbers, and two compared.

Knows a run's questions and cells. What is wrong with a reply's language is fidelity's to say, where
two part is scores'.
"""

from __future__ import annotations

import html

import streamlit as st

from slm_backends.export import seconds
from slm_backends.multilingual import scores
from slm_backends.multilingual.fidelity import Fidelity, fidelity
from slm_backends.multilingual.identify import identify
from slm_backends.multilingual.languages import LANGUAGES
from slm_backends.multilingual.plan import Question
from slm_backends.multilingual.results import Cell, Results
from slm_backends.multilingual.runner import Campaign
from ui import shell, visitor
from ui.markdown import literal
from ui.multilingual import cells, running
from ui.multilingual.cells import Asked
from ui.multilingual.choosing import name
from ui.picker import label


def dialog(campaign: Campaign, language: str, deployment: str) -> None:
    """Open it on that deployment's reply; the page is drawn anew when it is closed."""
    title = name(LANGUAGES[language])
    st.dialog(title, width="large", on_dismiss="rerun")(_draw)(campaign, language, deployment)


def _draw(campaign: Campaign, language: str, deployment: str) -> None:
    plan = campaign.results.plan
    questions = [item for item in plan.questions if item.language == language]
    question = questions[0]
    if len(questions) > 1:
        question = st.selectbox(
            "Prompt",
            questions,
            format_func=lambda item: item.id,
            key="ml_question",
        )
    _draw_prompt(question)
    labels = [label(id) for id in plan.deployments]
    pair = len(plan.deployments) > 1
    tabs = st.tabs(
        [*labels, "Difference"] if pair else labels, default=label(deployment), key="ml_replies"
    )
    for tab, id in zip(tabs, plan.deployments, strict=False):
        with tab:
            _draw_cell(campaign, question, id)
    if pair:
        with tabs[-1]:
            _draw_difference(campaign.results, question)


def _draw_prompt(question: Question) -> None:
    if question.system.strip():
        st.caption("System prompt")
        st.html(cells.passage(question.system, ""))
    st.caption(f"Prompt · the reply should be {LANGUAGES[question.expected].name}")
    st.html(cells.passage(question.prompt, identify(question.prompt).language))
    if question.answer:
        st.caption(f"A right reply ends with {question.answer}.")
    if question.reference:
        with st.expander("The reference", type="compact", key="ml_reference"):
            st.html(cells.passage(question.reference, question.expected))


def _draw_cell(campaign: Campaign, question: Question, id: str) -> None:
    cell = campaign.results.cells.get((question.id, id))
    live = campaign.live().get((question.id, id))
    asked = Asked(question, cell, live)
    st.html(cells.badge(asked.badge))
    if cell is None or live is not None:
        st.caption("It has not been answered yet." if live is None else "It is being answered.")
        return
    if cell.error:
        st.text(cell.error)
        _draw_state(id)
    if (found := asked.found) is not None:
        st.caption(found.words)
        st.html(lines(found))
    elif cell.text:
        st.html(cells.passage(cell.text, ""))
    _draw_numbers(question, cell, scores.usual_length(campaign.results, question))
    st.button(
        "Ask again",
        icon=":material/refresh:",
        key=f"ml_again_{question.id}_{id}",
        help="This reply alone; the new one takes its place",
        disabled=campaign.running,
        on_click=running.start,
        args=(campaign, [(question.id, id)]),
    )


def _draw_state(id: str) -> None:
    """What keeps a deployment from answering, where something still does."""
    deployment = visitor.known().deployments.get(id)
    state = visitor.state(deployment) if deployment is not None else None
    if state is not None and not state.usable:
        st.caption(literal(f"{state.label}: {state.reason}"))
        shell.link("models", "Look on the Models page")


def lines(found: Fidelity) -> str:
    """A reply line by line, with the language of each that is not the expected one."""
    drawn = []
    for item in found.lines:
        wrong = item.language not in ("", found.expected)
        known = LANGUAGES.get(item.language)
        note = html.escape(known.name if known else item.language) if wrong else ""
        mark = f'<span class="ml-note">{note}</span>' if note else ""
        text = cells.passage(item.text, item.language)
        drawn.append(f'<div class="ml-line{" ml-wrong" if wrong else ""}">{mark}{text}</div>')
    return "".join(drawn)


def _draw_numbers(question: Question, cell: Cell, usual: float | None) -> None:
    score = scores.score(question, cell, usual)
    rows = {
        "Prompt tokens": _count(cell.prompt_tokens),
        "Reply tokens": _count(cell.completion_tokens),
        "Characters": f"{score.characters:,}",
        "First token": "–" if cell.wait_s is None else seconds(cell.wait_s),
        "Tokens/s": _speed(cell.tokens_per_second),
        "Characters/s": _speed(cell.characters_per_second),
        "Ended by": cell.finish_reason or "–",
    }
    if question.answer:
        verdict = {True: "right", False: "wrong", None: "no number was found"}[score.correct]
        rows["Number"] = f"{score.number or '–'}: {verdict}"
    if score.chrf is not None:
        rows["chrF"] = f"{score.chrf:.1f}"
    if score.chrf_plus is not None:
        rows["chrF++"] = f"{score.chrf_plus:.1f}"
    if score.flags:
        rows["Look at it"] = "; ".join(scores.FLAGS[flag] for flag in score.flags)
    st.table(rows, border="horizontal")


def _draw_difference(results: Results, question: Question) -> None:
    """Two replies beside each other, with what only one of them says marked, and how they part."""
    deployments = results.plan.deployments
    chosen = list(deployments[:2])
    if len(deployments) > 2:
        chosen = [
            st.selectbox(side, deployments, place, format_func=label, key=f"ml_{side}")
            for place, side in enumerate(("Left", "Right"))
        ]
    pair = [results.cells.get((question.id, id)) for id in chosen]
    if not all(cell is not None and cell.done for cell in pair):
        st.caption("There are no two whole replies to compare yet.")
        return
    first, second = (cell for cell in pair if cell is not None)
    for parting in scores.partings(results, first.deployment, second.deployment):
        if parting.question == question:
            st.caption(literal(" ".join(parting.reasons)) or "Nothing to speak of.")
    parts = scores.diff(first.text, second.text)
    left, right = st.columns(2)
    with left:
        _draw_side(question, first, [(kind, said) for kind, said, _ in parts], "del")
    with right:
        _draw_side(question, second, [(kind, said) for kind, _, said in parts], "ins")


def _draw_side(question: Question, cell: Cell, parts: list[tuple[str, str]], tag: str) -> None:
    st.caption(literal(label(cell.deployment)))
    st.html(cells.marked(parts, fidelity(cell.text, question.expected).language, tag))


def _count(value: int | None) -> str:
    return "not reported" if value is None else f"{value:,}"


def _speed(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
