"""What the panes of a row have in common: their weights, and how far their replies are the same."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from slm_backends import compare
from slm_backends.catalog import Deployment
from ui import visitor
from ui.panes import Turn, on_screen


def kinship(deployments: Sequence[Deployment]) -> str:
    """What a comparison of these compares: one artefact, one model, or several."""
    if len({item.id for item in deployments}) < 2:
        return ""
    found = {compare.relation(deployments[0], item) for item in deployments[1:]}
    if "different models" in found:
        return "Different models."
    if "not known" in found:
        return "The same model; whether it is the same artefact is not known."
    if "same model" in found:
        artefacts = dict.fromkeys(item.artefact or item.id for item in deployments)
        return "The same model, different artefacts: " + " · ".join(artefacts)
    return "The same artefact on different runtimes."


def draw_beside_first(turn: Turn) -> None:
    """What a reply has in common with the one in the first pane of its row; nothing for that one
    itself, nor while one of them is being written."""
    places = enumerate(on_screen(), 1)
    row = [(place, other) for place, pane in places if (other := pane.turn(turn.id))]
    if not row or row[0][1] is turn or row[0][1].running or turn.running:
        return
    first_place, first = row[0]
    place = next(place for place, other in row if other is turn)
    st.caption(f"Beside pane {first_place}")
    known = visitor.known().deployments
    if first.deployment in known and turn.deployment in known:
        st.text(compare.describe(known[first.deployment], known[turn.deployment]))
    if first.reply.state == turn.reply.state == "done":
        found = compare.match(first.reply, turn.reply)
        # As plain text: it repeats what a model wrote.
        st.text("\n".join(compare.words(found, f"Pane {first_place}", f"Pane {place}")))
        warmest = max(first.sampling.temperature, turn.sampling.temperature)
        if found.sides is not None and warmest > 0:
            st.caption(f"Sampled at temperature {warmest:g}: also equal models part by chance.")
