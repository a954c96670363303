"""Tables of what was measured: by language and deployment, and one deployment against another.

What counts, and what is noise, is scores' to say. Draws it.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from slm_backends.multilingual import lesson, scores
from slm_backends.multilingual.languages import LANGUAGES
from slm_backends.multilingual.noise import FEWEST, Interval
from slm_backends.multilingual.results import Results
from slm_backends.multilingual.scores import Row, Verdict
from ui.markdown import literal
from ui.multilingual import demo, tokens
from ui.multilingual.cells import BADGES
from ui.picker import label

#: measure -> what its values are multiplied with to be shown
_SHOWN = {"language": 100, "usable": 100, "correct": 100}


def draw(results: Results) -> None:
    """All of them, of the replies that there are now."""
    st.markdown("**By language and deployment**")
    rows = [row(item) for item in scores.table(results)]
    st.dataframe(_told(rows), hide_index=True, key="ml_table")
    st.caption(
        "Lines and words are the shares of replies that pass, as the Language Confusion Benchmark "
        "counts them. Usable: in the right language, and neither empty, nor the prompt again, nor "
        "going round in circles. In brackets: 95 % intervals. Times and speeds are medians."
    )
    if len(results.plan.deployments) > 1:
        _draw_verdicts(scores.verdicts(results))
    tokens.draw(results)
    if results.plan.title == lesson.TITLE:
        demo.draw_published()


def row(found: Row) -> dict[str, Any]:
    """A row as it is shown: columns that say nothing of this run hold None."""
    rates = found.rates
    return {
        "Language": LANGUAGES[found.language].name,
        "Deployment": label(found.deployment),
        "Replies": f"{found.done} of {found.asked}",
        **{
            BADGES[kind][1].capitalize(): found.badges.get(kind, 0)
            for kind in ("right", "mixed", "english", "other", "unclear")
        },
        "Failed": found.failed,
        "Usable": _percent(found.usable.value if found.usable else None),
        "Lines": _percent(rates.line),
        "Words": _percent(rates.word),
        "Correct": f"{found.correct} of {found.checked}" if found.checked else None,
        "chrF": _interval(found.chrf),
        "chrF++": _interval(found.chrf_plus),
        "First token, s": _rounded(found.wait_s, 2),
        "Tokens/s": _rounded(found.tokens_per_second, 1),
        "Characters/s": _rounded(found.characters_per_second, 1),
        "Characters": _rounded(found.characters, 0),
        "Look at": ", ".join(f"{count} {flag}" for flag, count in found.flags.items()) or None,
    }


def _told(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without columns that say nothing of any row; a text that is missing is a dash."""
    kinds = {name: {type(one[name]) for one in rows} - {type(None)} for name in rows[0]}
    return [
        {name: "–" if one[name] is None and str in kind else one[name]
         for name, kind in kinds.items() if kind}
        for one in rows
    ]  # fmt: skip


def _draw_verdicts(verdicts: tuple[Verdict, ...]) -> None:
    st.markdown("**One against the other**")
    if not verdicts:
        st.caption("There is nothing yet that both have answered.")
        return
    for item in verdicts:
        if not item.language:
            icon = "check" if item.difference.verdict in ("more", "less") else "question_mark"
            st.markdown(f":material/{icon}: {literal(item.words)}")
    by_language = [item for item in verdicts if item.language and item.difference.counted >= FEWEST]
    if by_language:
        st.dataframe(list(map(_against, by_language)), hide_index=True, key="ml_verdicts")
    few = "" if by_language else f" To tell of a language alone, it takes {FEWEST} prompts in it."
    st.caption(
        "Over the prompts that both have answered. “Within noise” is what another choice of "
        f"prompts could turn round: nothing is ranked by it.{few}"
    )


def _against(found: Verdict) -> dict[str, Any]:
    factor = _SHOWN.get(found.measure, 1)
    first, second = (round(factor * value, 1) for value in found.values)
    low, high = factor * found.difference.low, factor * found.difference.high
    return {
        "Language": LANGUAGES[found.language].name,
        "Measure": found.measure,
        "First": label(found.first),
        "Value": first,
        "Second": label(found.second),
        "Its value": second,
        "Difference": f"{low:+.1f} to {high:+.1f}",
        "Prompts": found.difference.counted,
        "Verdict": found.difference.verdict,
    }


def _interval(found: Interval | None) -> str | None:
    if found is None:
        return None
    if found.verdict == "too few to tell":
        return f"{found.value:.1f}"
    return f"{found.value:.1f} ({found.low:.1f} to {found.high:.1f})"


def _percent(rate: float | None) -> str | None:
    return None if rate is None else f"{100 * rate:.0f} %"


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
