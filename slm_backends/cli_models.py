"""`list`, `fetch` and `remove`: which deployments there are, and weights that come and go.

Knows how they look on a terminal and in a file. What a state means is the selector's, what fits is
fit.py's, how weights arrive is the store's.
"""

from __future__ import annotations

import json
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from slm_backends import catalog, fit, selector, shipped_weights, store
from slm_backends.catalog import Deployment, Model
from slm_backends.errors import BadRequest
from slm_backends.fetching import Speedometer
from slm_backends.terminal import WIDTH, Status, count, duration, megabytes, say

BAR = 24  # characters of a progress bar
FULL_NOTES = 6  # lines of advice below a list at most; `show` has the rest
HERE = ("ready", "loaded")
PROBE_SECONDS = 20.0  # that servers have to answer, all at once


def show_list(
    *,
    as_json: bool,
    ready: bool,
    fitting: bool,
    family: str | None,
    runtime: str | None,
    probe: bool,
) -> int:
    """Print the deployments that all of these filters let through; with `probe`, after asking the
    servers that are set up."""
    known = list(catalog.load().deployments.values())
    _check_known("family", family, {item.model.family for item in known})
    _check_known("runtime", runtime, {item.runtime for item in known})
    if probe:
        selector.ask_servers(PROBE_SECONDS)
    states = {item.id: selector.state(item) for item in known}
    shown = [
        item
        for item in known
        if (not ready or states[item.id].word in HERE)
        and (not fitting or not item.local or fit.fits(item).fits)
        and (family is None or item.model.family.lower() == family.lower())
        and (runtime is None or item.runtime == runtime.lower())
    ]
    if as_json:
        entries = [_entry(item, states[item.id]) for item in shown]
        print(json.dumps(entries, indent=2, ensure_ascii=False))
        return 0
    if not shown:
        print(f"None of {len(known)} deployments is like that.")
        return 0
    width = max(len(item.id) for item in shown)
    for model in {item.model.id: item.model for item in shown}.values():
        print(headline(model))
        for item in shown:
            if item.model.id == model.id:
                print(f"  {_row(item, states[item.id], width)}")
        print()
    for note in _notes(shown, states):
        print(textwrap.fill(note, WIDTH, subsequent_indent="  ", break_on_hyphens=False))
    return 0


def headline(model: Model) -> str:
    facts = [
        f"{count(model.parameters)} parameters" if model.parameters else "",
        f"{count(model.active)} active" if model.active else "",
        f"context {model.context:,}" if model.context else "",
        " and ".join(model.inputs),
        model.licence,
    ]
    return f"{model.name} ({', '.join(filter(None, facts))})"


def rows(deployments: Sequence[Deployment]) -> list[str]:
    """A line for each: id, size on disk, state, and whether it fits."""
    width = max(len(item.id) for item in deployments)
    return [_row(item, selector.state(item), width) for item in deployments]


def _row(deployment: Deployment, state: selector.State, width: int) -> str:
    size = megabytes(size_of(deployment)) if deployment.local else "-"
    fits = fit.fits(deployment).word if deployment.local else ""
    return f"{deployment.id:<{width}}  {size:>8}  {state.label:<13}  {fits}".rstrip()


def _check_known(name: str, chosen: str | None, known: set[str]) -> None:
    if chosen is not None and chosen.lower() not in {item.lower() for item in known}:
        names = ", ".join(sorted(filter(None, known)))
        raise BadRequest(f"There is no {name} called {chosen!r}.", hint=f"Known are: {names}.")


def _notes(deployments: Sequence[Deployment], states: dict[str, selector.State]) -> list[str]:
    """What to do about those that cannot answer yet, a line for each remedy."""
    about: dict[str, int] = {}
    for item in deployments:
        state = states[item.id]
        if state.word in ("not installed", "not here", "needs key"):
            note = f"{state.word}: {state.reason}"
            about[note] = about.get(note, 0) + 1
    notes = [f"{note} ({number} of these)" for note, number in about.items()][:FULL_NOTES]
    return [
        *notes,
        "python -m slm_backends fetch ID brings one here, show ID tells everything about it.",
    ]


def size_of(deployment: Deployment) -> int:
    """Bytes on disk, or those that it would take."""
    return store.size(deployment) or deployment.size


def _entry(deployment: Deployment, state: selector.State) -> dict[str, Any]:
    model = deployment.model
    verdict = fit.fits(deployment) if deployment.local else None
    source = asdict(deployment.source) if deployment.source else {}
    return {
        "deployment": deployment.id,
        "model": model.id,
        "name": model.name,
        "family": model.family,
        "runtime": deployment.runtime,
        "runtime_name": deployment.runtime_name,
        "local": deployment.local,
        "artefact": deployment.artefact,
        "precision": deployment.precision,
        "inputs": list(model.inputs),
        "languages": list(model.languages),
        "parameters": model.parameters or None,
        "active_parameters": model.active or None,
        "context": model.context,
        "sound_to": deployment.sound_to or None,
        "sound_note": deployment.sound_note,
        "licence": model.licence,
        "source": {name: value for name, value in source.items() if value} or None,
        "device": deployment.device,
        "needs": deployment.needs,
        "size_bytes": size_of(deployment) if deployment.local else None,
        "need_bytes": verdict.need.total if verdict else None,
        "need_arithmetic": verdict.need.arithmetic if verdict else None,
        "need_context": verdict.need.context if verdict else None,
        "fits": verdict.fits if verdict else None,
        "fits_now": verdict.fits_now if verdict else None,
        "served_as": deployment.served_as or None,
        "key_variable": deployment.key or None,
        "retired": deployment.retired or None,
        "price_in": deployment.price_in or None,
        "price_out": deployment.price_out or None,
        "state": state.word,
        "label": state.label,
        "usable": state.usable,
        "reason": state.reason,
    }


# --- fetch and remove -----------------------------------------------------------------------------


def fetch(ids: Sequence[str]) -> int:
    """All of them, one after the other; a wrong id is found before the first download."""
    for deployment in _local(ids):
        if store.is_ready(deployment):
            print(f"{deployment.id} is here already ({megabytes(store.size(deployment))}).")
            continue
        print(_announcement(deployment), flush=True)
        begun = time.monotonic()
        try:
            _fetch_one(deployment)
        except KeyboardInterrupt:
            say("Stopped. What is here already is kept: the same command goes on from there.")
            raise
        took = duration(time.monotonic() - begun)
        print(f"{deployment.id} is ready ({megabytes(store.size(deployment))} in {took}).")
    return 0


def _local(ids: Sequence[str]) -> list[Deployment]:
    wanted = [catalog.load().deployment(item) for item in ids]
    for deployment in wanted:
        if not deployment.local:
            raise BadRequest(
                f"{deployment.id} runs on a server: it has no files here.", hint=deployment.start
            )
    return wanted


def _announcement(deployment: Deployment) -> str:
    """What a fetch is about to take: of the line, of the disk, and of memory later."""
    source = deployment.source
    download = (source.download or source.size) if source and not source.path else 0
    parts = [
        f"{megabytes(download)} to download" if download else "",
        f"{megabytes(deployment.size)} on disk" if deployment.size else "",
    ]
    verdict = fit.fits(deployment)
    memory = verdict.reason or f"fits in memory: {verdict.need.arithmetic}"
    return f"{deployment.id}: {', '.join(filter(None, [*parts, memory]))}."


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
        self._speed = Speedometer()

    def read(self, now: store.Progress) -> tuple[str, str]:
        speed, left = self._speed.read(now)
        filled = round(BAR * now.fraction)
        detail = f"[{'#' * filled}{'.' * (BAR - filled)}] {now.fraction:4.0%}"
        if now.unit == "bytes" and now.total:
            detail += f"  {now.done / 1e6:,.1f} of {megabytes(now.total)}"
            if speed:
                detail += f"  {speed / 1e6:.1f} MB/s"
            if left is not None:
                detail += f"  {duration(left)} left"
        elif now.total and now.total > 1:
            detail += f"  {now.done} of {now.total}"
        return f"{self._name}: {now.step}", detail


def remove(ids: Sequence[str], *, sure: bool) -> int:
    """Delete the files of these deployments, after a question on a terminal."""
    wanted = _local(ids)
    for deployment in wanted:
        shipped_weights.refuse_removal(deployment)
    here = [item for item in wanted if store.size(item)]
    for deployment in wanted:
        if deployment not in here:
            print(f"{deployment.id} is not on this computer.")
    if not here:
        return 0
    what = ", ".join(f"{item.id} ({megabytes(store.size(item))})" for item in here)
    if not sure:
        if not sys.stdin.isatty():
            raise BadRequest(
                f"This would delete {what}.", hint="Say --yes where nobody can be asked."
            )
        if input(f"Delete {what}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("Nothing was deleted.")
            return 1
    for deployment in here:
        freed = megabytes(store.size(deployment))
        store.remove(deployment)
        print(f"{deployment.id} is deleted ({freed}).")
    return 0
