"""Import on the Chat page: a prompt that was kept for GitHub Models, with its parameters.

Nothing is dropped in silence: what has no place here is said before anything is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import streamlit as st

from slm_backends import prompt_file
from slm_backends.chat import Message
from slm_backends.errors import SLMError
from slm_backends.prompt_file import PromptFile
from ui import parameters, problems, visitor
from ui.markdown import literal
from ui.panes import MAX_PANES, MAX_PROMPT, Pane, new_turn_id

Ask = Callable[[str, list[Pane], str], object]


@st.dialog("Import a prompt", width="large")
def dialog(panes: list[Pane], ask: Ask) -> None:
    given = st.file_uploader(
        "A *.prompt.yml file, as repositories kept them for GitHub Models",
        ["yml", "yaml"],
        key="prompt_file",
        max_upload_size=1,
    )
    if given is None:
        return
    try:
        file = prompt_file.read(given.getvalue())
        _offer(file, panes, ask)
    except SLMError as error:
        problems.show(error)


def _offer(file: PromptFile, panes: list[Pane], ask: Ask) -> None:
    """What the file asks for, to be looked over and sent."""
    if file.name or file.description:
        st.caption(literal(" · ".join(filter(None, (file.name, file.description)))))
    chosen = _deployments(file.model)
    values = {
        name: str(st.text_input(name, value, key=f"variable_{name}"))
        for name, value in file.variables.items()
    }
    system = prompt_file.fill(file.system, values)
    earlier = tuple(
        replace(message, content=prompt_file.fill(message.content, values))
        for message in file.earlier
    )
    if system:
        st.caption("System prompt")
        st.text(system)
    if earlier:
        st.caption(f"{len(earlier)} earlier messages of the file are sent before the prompt.")
    filled = prompt_file.fill(file.prompt, values)
    if st.session_state.get("imported_from") != filled or "imported" not in st.session_state:
        st.session_state.update(imported_from=filled, imported=filled)
    prompt = st.text_area("Prompt", height=150, key="imported", max_chars=MAX_PROMPT)
    if file.sampling:
        said = ", ".join(f"{name} {value!r}" for name, value in file.sampling.items())
        st.caption(literal(f"Parameters: {said}"))
    if left_out := [*file.left_out, *parameters.without_a_box(system, file.sampling)]:
        st.warning("\n".join(f"- {literal(sentence)}" for sentence in left_out))
    if st.button(
        "Send",
        type="primary",
        key="send_imported",
        disabled=not prompt.strip(),
        on_click=_send,
        args=(chosen, system, earlier, file, panes, ask),
    ):
        st.rerun()


def _deployments(model: str) -> list[str]:
    """Who shall answer: of the deployments of the file's model, the first that can."""
    known = visitor.known()
    if not model:
        return []
    try:
        offered = prompt_file.deployments_for(model, known, visitor.access())
    except SLMError as error:
        problems.show(error)
        return []
    states = {id: visitor.state(known.deployments[id]) for id in offered}
    usable = [id for id in offered if states[id].usable]
    if not usable:
        st.caption(f"No deployment of {literal(model)} can answer now.")
    return st.multiselect(
        f"{literal(model)} is answered by",
        usable,
        usable[:1],
        format_func=lambda id: f"{known.deployments[id].label} ({states[id].label})",
        max_selections=MAX_PANES,
        key=f"answered_by_{model}",
        placeholder="The panes stay as they are",
    )


def _send(
    chosen: list[str],
    system: str,
    earlier: tuple[Message, ...],
    file: PromptFile,
    panes: list[Pane],
    ask: Ask,
) -> None:
    """Begin anew with what the file asks for, in the panes that were chosen."""
    prompt = st.session_state.imported
    for pane in panes:
        pane.cancel()
    deployments = chosen or [pane.deployment for pane in panes]
    panes[:] = [Pane(deployment, earlier=earlier) for deployment in deployments]
    parameters.fill(system, file.sampling)
    ask(prompt[:MAX_PROMPT], panes, new_turn_id())
