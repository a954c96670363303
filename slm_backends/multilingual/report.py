"""Results as files to take away: a table of cells, JSON, a document, and an archive of it all.

    report.csv_file(results), report.json_file(results)    # bytes
    report.markdown(results)                               # text, without pictures
    report.archive(results)                                # a ZIP with the document's charts

Holds what was asked, with which parameters and versions, what came back and what was measured. The
document is document.py's. Knows no page. Keys of providers are in no results, so they are not here.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from slm_backends import spreadsheet
from slm_backends.access import EVERYONE, Access
from slm_backends.multilingual import charts, drawing, overlap, premium, scores
from slm_backends.multilingual.document import markdown
from slm_backends.multilingual.plan import Question
from slm_backends.multilingual.premium import Counts
from slm_backends.multilingual.results import Cell, Results
from slm_backends.multilingual.scores import Score

__all__ = ["COLUMNS", "archive", "counts", "csv_file", "json_file", "markdown"]

COLUMNS = (
    "question",
    "language",
    "deployment",
    "state",
    "system",
    "prompt",
    "expected",
    "reference",
    "answer",
    "reply",
    "badge",
    "line pass",
    "word pass",
    "number",
    "correct",
    "chrF",
    "chrF++",
    "flags",
    "characters",
    "prompt tokens",
    "reply tokens",
    "first token s",
    "total s",
    "tokens/s",
    "characters/s",
    "finish reason",
    "error",
)


def csv_file(results: Results) -> bytes:
    """A row a cell of the plan, under COLUMNS. `state` is "done", "failed" or "missing"; only what
    is done has measures."""
    rows = (_row(*each) for each in _cells(results))
    return spreadsheet.csv_file([COLUMNS, *([row[name] for name in COLUMNS] for row in rows)])


def json_file(results: Results, access: Access = EVERYONE) -> bytes:
    """Everything in one object: plan, versions, what answered, cells with their scores, the table,
    the comparisons and what languages cost in tokens."""
    whole = {
        "made": results.made,
        "versions": results.versions,
        "plan": results.plan.to_json(),
        "abouts": {name: asdict(about) for name, about in results.abouts.items()},
        "damaged": results.damaged,
        "missing": results.missing,
        "measures": {
            "chrF": overlap.signature(),
            "chrF++": overlap.signature(words=True),
            "flags": dict(scores.FLAGS),
        },
        "cells": [
            asdict(cell)
            | {
                "tokens_per_second": cell.tokens_per_second,
                "characters_per_second": cell.characters_per_second,
                "score": None if score is None else asdict(score),
            }
            for _, cell, score in _cells(results)
            if isinstance(cell, Cell)
        ],
        "table": [asdict(row) for row in scores.table(results)],
        "verdicts": [
            asdict(verdict) | {"verdict": verdict.difference.verdict}
            for verdict in scores.verdicts(results)
        ],
        "tokens": {
            "by tokenizer": [asdict(found) for found in counts(results, access)],
            "as sent": {
                deployment: {code: asdict(found) for code, found in costs.items()}
                for deployment, costs in premium.measured(results).items()
            },
        },
    }
    return json.dumps(whole, ensure_ascii=False, indent=1, allow_nan=False).encode()


def archive(results: Results, access: Access = EVERYONE) -> bytes:
    """A ZIP of report.md, charts/*.png, results.jsonl and cells.csv. Takes some seconds."""
    counted = counts(results, access)
    drawn = charts.drawn(results, counted)
    files: dict[str, str | bytes] = {
        "report.md": markdown(results, drawn, counted),
        "results.jsonl": "".join(results.lines()),
        "cells.csv": csv_file(results),
        **{f"charts/{chart.name}.png": drawing.png(chart) for chart in drawn},
    }
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return written.getvalue()


def counts(results: Results, access: Access = EVERYONE) -> tuple[Counts, ...]:
    """Of the deployments whose tokenizer is on this computer."""
    found = (premium.counts(deployment, access) for deployment in results.plan.deployments)
    return tuple(one for one in found if one is not None)


def _cells(results: Results) -> Iterator[tuple[Question, Cell | str, Score | None]]:
    """In the plan's order the cell, or of one that is missing the deployment, and what a whole
    reply scored."""
    asked = {question.id: question for question in results.plan.questions}
    usual = {key: scores.usual_length(results, question) for key, question in asked.items()}
    for key in results.plan.keys:
        question = asked[key[0]]
        cell = results.cells.get(key)
        done = cell is not None and cell.done
        yield (
            question,
            key[1] if cell is None else cell,
            scores.score(question, cell, usual[key[0]]) if cell is not None and done else None,
        )


def _row(question: Question, cell: Cell | str, score: Score | None) -> dict[str, str]:
    row = dict.fromkeys(COLUMNS, "")
    row |= {
        "question": question.id,
        "language": question.language,
        "system": question.system,
        "prompt": question.prompt,
        "expected": question.expected,
        "reference": question.reference,
        "answer": question.answer,
    }
    if isinstance(cell, str):
        return row | {"deployment": cell, "state": "missing"}
    row |= {
        "deployment": cell.deployment,
        "state": "done" if cell.done else "failed",
        "reply": cell.text,
        "prompt tokens": _shown(cell.prompt_tokens),
        "reply tokens": _shown(cell.completion_tokens),
        "first token s": _shown(cell.wait_s),
        "total s": _shown(cell.total_s),
        "finish reason": cell.finish_reason,
        "error": cell.error,
    }
    if score is None:
        return row
    found = score.fidelity
    return row | {
        "badge": found.badge,
        "line pass": _shown(found.line_pass),
        "word pass": _shown(found.word_pass),
        "number": score.number,
        "correct": _shown(score.correct),
        "chrF": _shown(score.chrf),
        "chrF++": _shown(score.chrf_plus),
        "flags": " ".join(score.flags),
        "characters": _shown(score.characters),
        "tokens/s": _shown(cell.tokens_per_second),
        "characters/s": _shown(cell.characters_per_second),
    }


def _shown(value: Any) -> str:
    """Nothing for what is not known; "yes" or "no"; a number with up to four decimals."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(round(value, 4))
