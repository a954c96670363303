"""`show`: everything about one deployment, or about a model and its deployments.

Knows the order in which a person wants it. What each fact means is the catalog's, the selector's
and fit.py's.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from slm_backends import catalog, fit, selector, store
from slm_backends.catalog import Deployment, Model, Source
from slm_backends.cli_models import headline, rows
from slm_backends.terminal import WIDTH, megabytes

LABEL = 12  # columns of the names on the left


def show(wanted: str, tokens: int | None) -> int:
    """Print what is known of that deployment or model; `tokens` is a length of conversation whose
    memory is asked for."""
    known = catalog.load()
    if wanted in known.models:
        model = known.models[wanted]
        print(headline(model))
        _table(_of_model(model))
        own = [item for item in known.deployments.values() if item.model.id == wanted]
        if own:
            print("\n" + "\n".join(f"  {row}" for row in rows(own)))
        return 0
    deployment = known.deployment(wanted)
    print(f"{deployment.id}: {headline(deployment.model)}")
    _table(_of_deployment(deployment, tokens))
    print()
    _table(_of_model(deployment.model))
    return 0


def _of_deployment(deployment: Deployment, tokens: int | None) -> Iterator[tuple[str, str]]:
    state = selector.state(deployment)
    yield "runtime", deployment.runtime_name
    yield "state", state.word
    yield "next", _next(deployment, state)
    artefact = deployment.artefact
    precision = "" if deployment.precision in artefact else deployment.precision
    yield "artefact", ", ".join(filter(None, (artefact, precision)))
    if not deployment.local:
        yield "address", deployment.base_url
        yield "honours", ", ".join(deployment.sampling)
        return
    assert deployment.source is not None
    yield "comes from", _origin(deployment.source)
    if deployment.convert:
        yield "converted", f"here, once: {deployment.convert}"
    here = store.size(deployment)
    yield (
        "on disk",
        (
            f"{megabytes(here)} in {store.folder(deployment)}"
            if here
            else f"nothing yet; it would take {megabytes(deployment.size)}"
        ),
    )
    verdict = fit.fits(deployment, tokens)
    fits = "fits" if verdict.fits else "does not fit"
    free = (
        ""
        if verdict.fits_now or not verdict.fits
        else f", of which {fit.gigabytes(verdict.free)} are free now"
    )
    yield (
        "memory",
        (
            f"{verdict.need.arithmetic}: {fits} in the {fit.gigabytes(verdict.budget)} that models "
            f"may take here{free}"
        ),
    )
    yield "device", deployment.device or "found by trying"
    yield "needs", deployment.needs
    if deployment.sound_to:
        yield "sound to", f"{deployment.sound_to:,} tokens. {deployment.sound_note}"


def _of_model(model: Model) -> Iterator[tuple[str, str]]:
    yield "family", model.family
    yield "released", model.released
    yield "languages", ", ".join(model.languages)
    for limit in model.limits:
        yield "limit", limit
    for line in model.template.splitlines():
        yield "template", line
    yield "card", model.card
    for fact in model.facts:
        yield "facts from", fact


def _origin(source: Source) -> str:
    if source.wheel:
        return f"{source.file} in the wheel {source.wheel}"
    if source.path:
        return source.path
    inside = f", folder {source.folder}" if source.folder else ""
    return f"{source.repo} on the hub, revision {source.revision}{inside}"


def _next(deployment: Deployment, state: selector.State) -> str:
    if state.word in ("ready", "loaded"):
        return state.reason or f"python -m slm_backends chat {deployment.id}"
    return state.reason


def _table(facts: Iterator[tuple[str, str]]) -> None:
    before = ""
    for label, text in facts:
        if text:
            shown = "" if label == before else label
            before = label
            print(
                textwrap.fill(
                    text,
                    WIDTH,
                    initial_indent=f"  {shown:<{LABEL}}",
                    subsequent_indent=" " * (LABEL + 2),
                    break_on_hyphens=False,
                    break_long_words=False,
                )
            )
