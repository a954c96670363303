"""A server that somebody adds by its address: where on it models are listed, which of the catalog's
models its names mean, and the lines that would keep it.

    provider, health = find(access, "http://gpu-box:8000")
    added = access.add_deployment(provider, name, model_for(name, access))
    print(toml(provider, [added]))

Asks that server alone, through the selector. Knows no page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from slm_backends import catalog, prompt_file, selector
from slm_backends.access import Access, visitors_address
from slm_backends.catalog import Deployment, Model
from slm_backends.errors import NotFound
from slm_backends.health import Health
from slm_backends.providers import Provider

#: Of what a probe found at an address: the further on, the likelier it is the right one.
LIKELY = ("not reachable", "unknown", "retired", "needs key", "rate limited", "ready")


def find(
    access: Access,
    address: str,
    key: str = "",
    wait: Callable[[Future[Health]], Health] = Future.result,
) -> tuple[Provider, Health]:
    """Add a server for this visitor and ask it for its models, at the address as it is and, where
    that does not list any, with /v1 behind it. (the server, what is known of it).

    A server that is not reachable is not added. `wait` waits for an answer. Raises BadRequest or
    Unauthorized for what can be no address or no key.
    """
    address = visitors_address(address)
    places = [address] if re.search(r"/v\d+$", address) else [address, f"{address}/v1"]
    known = [item.base_url for item in access.added if item.base_url in places]
    best: tuple[Provider, Health] | None = None
    for place in known or places:
        provider = access.add_server(place, key)
        health = wait(selector.probe(provider, access))
        if best is None or LIKELY.index(health.word) >= LIKELY.index(best[1].word):
            best = provider, health
        if health.word in ("ready", "not reachable"):
            break
    assert best is not None
    provider, health = best
    if health.word == "not reachable":
        access.remove_server(provider)
    elif provider not in access.added:
        access.add_server(provider.base_url, key)
    return provider, health


def model_for(name: str, access: Access) -> Model | None:
    """The catalog's model that a server means by that name, None where it is not known."""
    known = access.catalog()
    try:
        return known.deployments[prompt_file.deployments_for(name, known, access)[0]].model
    except NotFound:
        return None


def toml(provider: Provider, deployments: Sequence[Deployment], *, with_key: bool = False) -> str:
    """What a catalog file would say of them. `with_key` names a variable for the key of a server
    that is not in the shipped catalog; no key is ever part of it."""
    shipped = catalog.load()
    lines = []
    if provider.id not in shipped.providers:
        lines += [f"[providers.{_text(provider.id)}]", f"name = {_text(provider.name)}"]
        lines += [f"base_url = {_text(provider.base_url)}"]
        if with_key:
            variable = re.sub(r"[^A-Z0-9]+", "_", f"SLM_KEY_{provider.id}".upper())
            lines += [f"key = {_text(variable)}  # the variable that holds it"]
        lines += [""]
    models = {item.model.id: item.model for item in deployments}
    for model in models.values():
        if model.id not in shipped.models:
            lines += [f"[models.{_text(model.id)}]", f"name = {_text(model.name)}", ""]
    for item in deployments:
        lines += [f"[deployments.{_text(item.id)}]", f"served_as = {_text(item.served_as)}"]
        lines += [f"images = {item.images}", ""] if item.images else [""]
    return "\n".join(lines).strip() + "\n"


def _text(value: str) -> str:
    """As TOML writes it, which for all that may stand in here is as JSON does."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
