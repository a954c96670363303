"""`show`: everything about one deployment, or about a model and its deployments.

Knows the order in which a person wants it. What each fact means is the catalog's, the selector's
and fit.py's.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from slm_backends import catalog, fit, selector, settings, store
from slm_backends.access import EVERYONE
from slm_backends.catalog import Deployment, Model, Source
from slm_backends.cli_models import headline, rows
from slm_backends.errors import SLMError
from slm_backends.providers import Provider
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
    yield "state", state.label
    yield "next", _next(deployment, state)
    artefact = deployment.artefact
    precision = "" if deployment.precision in artefact else deployment.precision
    yield "artefact", ", ".join(filter(None, (artefact, precision)))
    if deployment.provider is not None:
        yield from _of_server(deployment, deployment.provider)
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
    fits = "fits in part" if verdict.partly else "fits" if verdict.fits else "does not fit"
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


def _of_server(deployment: Deployment, provider: Provider) -> Iterator[tuple[str, str]]:
    yield "served as", deployment.served_as or deployment.model.id
    yield "address", _address(provider)
    yield "key", _where(provider.key) or "none needed"
    yield "honours", ", ".join(deployment.sampling)
    if deployment.price_in or deployment.price_out:
        prices = f"${deployment.price_in:g} in, ${deployment.price_out:g} out"
        yield "price", f"{prices}, for a million tokens"
    yield "retired", " ".join(filter(None, (deployment.retired, deployment.retired_source)))
    yield "provider", " ".join(filter(None, (provider.notice, provider.names)))
    checked = f", looked up {provider.checked}" if provider.checked else ""
    yield "source", f"{provider.source}{checked}" if provider.source else ""


def _address(provider: Provider) -> str:
    try:
        address = EVERYONE.connection(provider).base_url
    except SLMError as error:
        return error.message
    variable = _where(provider.address) if settings.source(provider.address) else provider.address
    if not address:
        return f"{variable} gives it, as in {provider.form}"
    return f"{address} ({variable})" if settings.source(provider.address) else address


def _where(variable: str) -> str:
    """A variable and where it is set; never what it holds."""
    if not variable:
        return ""
    source = settings.source(variable)
    return f"{variable}, from {source}" if source else f"{variable}, which is not set"


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
    if source.shipped:
        return "the playground itself"
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
