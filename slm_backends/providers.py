"""Who serves models to others: addresses, keys and dialects, as data.

Knows what a provider's entry in a catalog file may say. Does not know the values of keys, nor
whether anybody answers.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from slm_backends import entries
from slm_backends.chat import SAMPLING_FIELDS

#: In which a server is spoken to; the modules in endpoints/ of these names.
DIALECTS = ("openai", "azure", "ollama")
#: How a key travels: as `Authorization: Bearer`, or in Azure's own header.
AUTHS = ("bearer", "api-key")
#: of a deployment's entry, but written into its copy of the provider
DEPLOYMENT_FIELDS = {"base_url", "key", "auth"}
#: what was said of one address, and of no other
_NOT_SAID: dict[str, Any] = {"presumed": False, "retired": ""}


@dataclass(frozen=True)
class Provider:
    """Who serves models: where, how it knows its callers, and how it is spoken to.

    dialect      openai, azure (its model-inference route) or ollama
    base_url     where; empty where every owner has an address of their own
    presumed     whether that is only where it usually is: nobody has said that it runs
    address      variable that gives the owner's base URL, instead of the above
    form         what such an address looks like
    port         of an address that is given without a scheme and without a port
    path         what follows the host in an address that is given without it
    key          variable that holds the owner's key; empty where none is needed
    auth         how the key travels: bearer or api-key
    key_optional whether a server at an address of one's own may do without the key
    scope        of Entra ID, where a token of it may take the place of a key; else empty
    lists        whether its list of models names those that answer, and no others
    names        what it calls models, a sentence
    sampling     fields of Sampling that its deployments honour, where they do not say
    logprobs     whether it gives log-probabilities as in OpenAI's API
    inline_images  whether pictures may have to go into the text, as NVIDIA's older route wants them
    start        what to tell a person when it does not answer
    notice       what to know before using it, in sentences
    instead      ids of providers to go to where this one has ended
    retired      the day it ended, as in 2026-07-30, or empty
    source       address of a page that says so, or that describes it
    checked      the day on which this was last gone over
    """

    id: str
    name: str
    dialect: str = "openai"
    base_url: str = ""
    presumed: bool = False
    address: str = ""
    form: str = ""
    port: int = 0
    path: str = ""
    key: str = ""
    auth: str = "bearer"
    key_optional: bool = False
    scope: str = ""
    lists: bool = True
    names: str = ""
    sampling: tuple[str, ...] = ("max_tokens", "temperature", "top_p", "stop")
    logprobs: bool = False
    inline_images: bool = False
    start: str = ""
    notice: str = ""
    instead: tuple[str, ...] = ()
    retired: str = ""
    source: str = ""
    checked: str = ""

    @property
    def place(self) -> str:
        """What tells two servers apart: the id alone, or with an address that is not the
        provider's."""
        return f"{self.id} {self.base_url}".strip()


def read(
    entry_id: str, entry: dict[str, Any], shipped: Provider | None, taken: Collection[str]
) -> Provider:
    """The provider of that entry; one under the id of `shipped` changes only the fields it names.

    Raises Mistake, also for an id that is `taken`.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", entry_id) or entry_id in taken:
        raise entries.Mistake(
            "a provider's id must be small letters, digits, '-', '.' or '_', and no runtime's"
        )
    given = {"id", *entry}
    known = vars(shipped) if shipped else {}
    if "base_url" in entry:
        known = known | _NOT_SAID
    known = {key: value for key, value in known.items() if key not in given}
    provider = entries.make(Provider, entry_id, entry, **known)
    if provider.dialect not in DIALECTS:
        raise entries.Mistake(f"dialect must be one of {', '.join(DIALECTS)}", "dialect")
    if provider.auth not in AUTHS:
        raise entries.Mistake(f"auth must be one of {', '.join(AUTHS)}", "auth")
    if provider.path and not re.fullmatch(r"(/[\w.-]+)+", provider.path):
        raise entries.Mistake("path must look like /openai/v1", "path")
    for key, day in (("retired", provider.retired), ("checked", provider.checked)):
        check_day(key, day)
    check_sampling(provider.sampling)
    return replace(provider, base_url=_checked(provider, provider.base_url))


def own(provider: Provider, entry: dict[str, Any]) -> Provider:
    """The provider with what a deployment's entry says of a server of its own; that is taken out
    of the entry. Raises Mistake."""
    given = {
        key: entries.typed(key, entry.pop(key), "str")
        for key in sorted(DEPLOYMENT_FIELDS & entry.keys())
    }
    if "base_url" in given:
        # The provider's variables belong to the provider's server, not to this one.
        provider = replace(provider, address="", key="", **_NOT_SAID)
        given["base_url"] = _checked(provider, given["base_url"])
    elif not (provider.base_url or provider.address):
        raise entries.Mistake("it needs a base_url: its provider has none")
    if given.get("auth", provider.auth) not in AUTHS:
        raise entries.Mistake(f"auth must be one of {', '.join(AUTHS)}", "auth")
    return replace(provider, **given)


def completed(provider: Provider, address: str) -> str:
    """An address as it is used: without a slash at its end, with the parts that all of the
    provider's have and that people leave out."""
    address = address.strip().rstrip("/")
    # Ollama's own variable may hold a host alone, or a port.
    short = re.match(r"(\[[^\]]*\]|[\w.-]*)(?::(\d+))?(?=/|$)", address)
    if provider.port and short and address:
        host, port = short[1] or "127.0.0.1", short[2] or provider.port
        address = f"http://{host}:{port}{address[short.end() :]}"
    # It is where a server listens, but on some systems nobody can be reached there.
    address = re.sub(r"(?<=//)(0\.0\.0\.0|\[::\])(?=[:/]|$)", "127.0.0.1", address)
    if provider.path and re.fullmatch(r"https?://[^/]+", address):
        address += provider.path
    return address


def _checked(provider: Provider, base_url: str) -> str:
    if not base_url:
        return base_url
    if not re.match(r"https?://[^\s/]", base_url):
        raise entries.Mistake("base_url must start with http:// or https://", "base_url")
    if re.search(r"[?#]|//[^/]*@", base_url):
        raise entries.Mistake(
            "base_url must hold no user, password or query: name a variable with the key",
            "base_url",
        )
    return completed(provider, base_url)


def check_day(key: str, day: str) -> None:
    if day and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])", day):
        raise entries.Mistake(f"{key} must be a day, as in 2026-07-30", key)


def check_sampling(names: tuple[str, ...]) -> None:
    for name in names:
        if name not in SAMPLING_FIELDS:
            raise entries.Mistake(f"there is no sampling field called {name!r}", "sampling")
