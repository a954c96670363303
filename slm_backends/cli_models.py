"""`list` and `fetch`: which deployments there are, and bringing the weights of some of them here.

Knows how both look on a terminal and in a file. What a state means is the selector's, how weights
arrive is the store's.
"""

from __future__ import annotations

import json
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import Any

from slm_backends import catalog, selector, store
from slm_backends.catalog import Deployment, Model
from slm_backends.errors import BadRequest
from slm_backends.terminal import WIDTH, Status, duration, megabytes

BAR = 24  # characters of a progress bar


def show(*, as_json: bool) -> int:
    deployments = list(catalog.load().deployments.values())
    if as_json:
        print(json.dumps([_entry(item) for item in deployments], indent=2, ensure_ascii=False))
        return 0
    states = {item.id: selector.state(item) for item in deployments}
    id_width = max(len(item.id) for item in deployments)
    name_width = max(len(item.runtime_name) for item in deployments)
    for model in {item.model.id: item.model for item in deployments}.values():
        print(_headline(model))
        for item in deployments:
            if item.model.id == model.id:
                size = megabytes(_size(item)) if item.local else "-"
                print(
                    f"  {item.id:<{id_width}}  {item.runtime_name:<{name_width}}"
                    f"  {size:>8}  {states[item.id].word}"
                )
        print()
    for note in _notes(deployments, states):
        print(textwrap.fill(note, WIDTH, subsequent_indent="  ", break_on_hyphens=False))
    return 0


def _headline(model: Model) -> str:
    facts = [
        f"{_count(model.parameters)} parameters" if model.parameters else "",
        f"context {model.context:,}" if model.context else "",
        " and ".join(model.inputs),
        model.licence,
    ]
    return f"{model.name} ({', '.join(filter(None, facts))})"


def _count(number: int) -> str:
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.0f}M"


def _notes(deployments: Sequence[Deployment], states: dict[str, selector.State]) -> list[str]:
    """What to do about those that cannot answer yet, one line a remedy."""
    missing = [item.id for item in deployments if states[item.id].word == "fetchable"]
    notes = [f"To fetch: python -m slm_backends fetch {' '.join(missing)}"] if missing else []
    remedies: dict[str, list[str]] = {}
    for item in deployments:
        state = states[item.id]
        if state.reason and state.word != "fetchable":
            word = "not asked yet" if state.word == "unknown" else state.word
            remedies.setdefault(f"{word}. {state.reason}", []).append(item.id)
    return notes + [f"{', '.join(ids)}: {remedy}" for remedy, ids in remedies.items()]


def _size(deployment: Deployment) -> int:
    return store.size(deployment) or deployment.size


def _entry(deployment: Deployment) -> dict[str, Any]:
    state = selector.state(deployment)
    model = deployment.model
    return {
        "deployment": deployment.id,
        "model": model.id,
        "name": model.name,
        "runtime": deployment.runtime,
        "runtime_name": deployment.runtime_name,
        "local": deployment.local,
        "artefact": deployment.artefact,
        "inputs": list(model.inputs),
        "parameters": model.parameters or None,
        "context": model.context,
        "licence": model.licence,
        "size_bytes": _size(deployment) if deployment.local else None,
        "state": state.word,
        "usable": state.usable,
        "reason": state.reason,
    }


def fetch(ids: Sequence[str]) -> int:
    """All of them, one after the other; a wrong id is found before the first download."""
    wanted = [catalog.load().deployment(item) for item in ids]
    for deployment in wanted:
        if not deployment.local:
            raise BadRequest(
                f"{deployment.id} runs on a server: there is nothing to fetch.",
                hint=deployment.start,
            )
    for deployment in wanted:
        if store.is_ready(deployment):
            print(f"{deployment.id} is here already ({megabytes(store.size(deployment))}).")
            continue
        begun = time.monotonic()
        _fetch_one(deployment)
        took = duration(time.monotonic() - begun)
        print(f"{deployment.id} is ready ({megabytes(store.size(deployment))} in {took}).")
    return 0


def _fetch_one(deployment: Deployment) -> None:
    status = Status(sys.stdout)
    meter = _Meter(deployment.id)
    try:
        store.fetch(deployment, lambda now: status.show(*meter.read(now)))
    finally:
        status.clear()


class _Meter:
    """Turns the store's progress into words: the step, then bar, amount, speed and time left."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._step = ""
        self._begun = 0.0

    def read(self, now: store.Progress) -> tuple[str, str]:
        if now.step != self._step:
            self._step, self._begun = now.step, time.monotonic()
        filled = round(BAR * now.fraction)
        detail = f"[{'#' * filled}{'.' * (BAR - filled)}] {now.fraction:4.0%}"
        if now.unit == "bytes" and now.total:
            detail += f"  {now.done / 1e6:,.1f} of {megabytes(now.total)}"
            seconds = time.monotonic() - self._begun
            if now.done and seconds > 0.5:
                speed = now.done / seconds
                left = duration((now.total - now.done) / speed)
                detail += f"  {speed / 1e6:.1f} MB/s  {left} left"
        elif now.total and now.total > 1:
            detail += f"  {now.done} of {now.total}"
        return f"{self._name}: {now.step}", detail
