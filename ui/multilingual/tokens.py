"""What the same content costs in tokens, by language and tokenizer, and which models share one.

Counting is premium's. Draws a table a deployment whose tokenizer is here, and of the others what
their own prompts told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from slm_backends.errors import SLMError
from slm_backends.multilingual import premium
from slm_backends.multilingual.languages import LANGUAGES
from slm_backends.multilingual.premium import Counts, Measured
from slm_backends.multilingual.results import Results
from ui import problems, visitor
from ui.markdown import literal
from ui.picker import label


def draw(results: Results) -> None:
    """Of the run's deployments and languages."""
    st.markdown("**What a language costs in tokens**")
    plan = results.plan
    try:
        found = [premium.counts(id, visitor.access()) for id in plan.deployments]
    except SLMError as error:
        problems.show(error)
        return
    known = [item for item in found if item is not None]
    measured = premium.measured(results)
    others = [id for id, item in zip(plan.deployments, found, strict=True) if item is None]
    rows = [counted(one, code) for one in _different(known) for code in plan.languages
            if code in one.costs]  # fmt: skip
    rows += [_asked(id, one) for id in others for one in measured.get(id, {}).values()]
    if rows:
        st.dataframe(rows, hide_index=True, key="ml_tokens")
    for group in premium.sharing(known):
        st.caption(literal(f"One tokenizer: {', '.join(map(label, group))}."))
    for id in others:
        told = (
            "what its prompts cost, template included, as its server counts them"
            if id in measured
            else "not known: its tokenizer is not on this computer, and there is nothing to compare"
        )
        st.caption(literal(f"{label(id)}: {told}."))
    st.caption("Against English, of the same content: the project's own set in all its languages.")


def counted(found: Counts, code: str) -> dict[str, Any]:
    """A row of a deployment whose tokenizer is here."""
    cost = found.costs[code]
    row: dict[str, Any] = {
        "Language": LANGUAGES[code].name,
        "Tokenizer of": label(found.deployment),
        "Against English": f"× {cost.premium:.2f}",
        "Tokens": cost.total,
        "Tokens/character": round(cost.tokens_per_character, 2),
    }
    if found.context:
        row["The context holds"] = f"{cost.characters_in(found.context):,} characters"
    return row


def _asked(id: str, found: Measured) -> dict[str, Any]:
    return {
        "Language": LANGUAGES[found.language].name,
        "Tokenizer of": label(id),
        "Against English": f"× {found.premium:.2f}",
        "Tokens": found.tokens,
    }


def _different(known: Sequence[Counts]) -> list[Counts]:
    """One of each tokenizer; of those that share one, that whose model takes most."""
    best: dict[str, Counts] = {}
    for one in known:
        other = best.get(one.tokenizer)
        if other is None or (one.context or 0) > (other.context or 0):
            best[one.tokenizer] = one
    return list(best.values())
