"""Which address a provider has, and with which key it is asked: the owner's, or a visitor's own.

    everyone = Access()                  # what the owner set: variables, or the file of secrets
    mine = Access()                      # one visitor: what they type is theirs alone
    mine.set_key(provider, "nvapi-...")
    mine.connection(provider)            # asked with that key; everyone's is still the owner's

A key of the owner goes to the owner's address and to no other: who types an address types the key
for it too, or asks without one. Knows no server and sends nothing. What a visitor typed lives in
this object, so it goes with their session.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn
from urllib.parse import urlsplit

from slm_backends import catalog, settings
from slm_backends.catalog import Catalog, Deployment, Model
from slm_backends.errors import BadRequest, Unauthorized
from slm_backends.hosts import is_this_computer
from slm_backends.providers import Provider, completed, own

MAX_KEY = 4_096  # characters; tokens of Entra ID have about 2,000
MAX_ADDRESS = 500
MAX_SERVERS = 20  # of one visitor
MAX_MODELS = 50  # of one server
#: dialect -> the provider that a visitor's server in that dialect is like
SPEAKERS = {"openai": "openai", "azure": "azure-inference", "ollama": "ollama"}
#: where clouds keep the credentials of a machine, beside the link-local addresses
METADATA = ("metadata.google.internal", "fd00:ec2::254", "100.100.100.200", "168.63.129.16")


class Secret:
    """A key. Its text is only had by asking for it, so that no log, `repr` or cache key has it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "[key]" if self._text else "[no key]"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(
            self._text.encode(), other._text.encode()
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not copied, nor written down")


@dataclass(frozen=True)
class Connection:
    """A provider as one caller reaches it.

    base_url  without a slash at its end; empty where nobody has given one
    own       a visitor typed a part of it
    given     the address came from a variable or a visitor: it is not the provider's own
    entra     a token of Entra ID takes the place of the key
    """

    provider: Provider
    base_url: str
    key: Secret
    own: bool = False
    given: bool = False
    entra: bool = False

    @property
    def ended(self) -> str:
        """The day on which the provider ended what would be reached, or empty."""
        return "" if self.given else self.provider.retired

    @property
    def missing(self) -> str:
        """What must be given before anybody can be asked, in words, or empty."""
        provider = self.provider
        wanted = []
        if not self.base_url:
            wanted.append(provider.address or "an address")
        optional = provider.key_optional and self.given
        if provider.key and not self.key and not self.entra and not optional:
            wanted.append(provider.key)
        return " and ".join(wanted)

    @property
    def configured(self) -> bool:
        """Whether somebody has set it up, so that it may be asked without being told to."""
        if self.missing or self.ended:
            return False
        return self.own or self.given or bool(self.key) or not self.provider.presumed


class Access:
    """What one visitor has typed; nothing, for everyone. Made and used by one session's thread."""

    def __init__(self) -> None:
        self._keys: dict[str, Secret] = {}
        self._addresses: dict[str, str] = {}
        self._added: dict[str, Provider] = {}
        self._deployments: dict[str, Deployment] = {}

    def connection(self, provider: Provider) -> Connection:
        """Raises Unauthorized or BadRequest where the owner has set what can be no key or no
        address."""
        place = provider.place
        typed_key = self._keys.get(place, Secret(""))
        typed_address = self._addresses.get(place, "")
        if typed_address:
            return Connection(provider, typed_address, typed_key, own=True, given=True)
        address = settings.value(provider.address) if provider.address else ""
        if address:
            address = checked_address(completed(provider, address), provider.address)
        key = typed_key
        if not key and provider.key:
            key = Secret(settings.value(provider.key))
            if key:
                check_key(key, provider)
        entra = bool(provider.scope) and not key and settings.value("SLM_ENTRA") == provider.id
        return Connection(
            provider,
            address or provider.base_url,
            key,
            own=bool(typed_key) or provider.id in self._added,
            given=bool(address),
            entra=entra,
        )

    def catalog(self) -> Catalog:
        """The catalog with what this visitor has added."""
        known = catalog.load()
        if not self._added and not self._deployments:
            return known
        return replace(
            known,
            providers={**known.providers, **self._added},
            models={
                **{item.model.id: item.model for item in self._deployments.values()},
                **known.models,
            },
            deployments={**known.deployments, **self._deployments},
        )

    def set_key(self, provider: Provider, text: str) -> None:
        """Take a key for this visitor. Empty: forget it. Raises Unauthorized for what can be
        none."""
        key = Secret(text.strip())
        del text  # so that no traceback has it
        if not key:
            self._keys.pop(provider.place, None)
            return
        check_key(key, provider)
        self._keys[provider.place] = key

    def set_address(self, provider: Provider, text: str) -> None:
        """Take an address for this visitor. Raises BadRequest for what can be none. Empty: forget
        it. A key that was typed for the address before is forgotten with it."""
        address = visitors_address(completed(provider, text)) if text.strip() else ""
        if address == self._addresses.get(provider.place, ""):
            return
        self._keys.pop(provider.place, None)
        if address:
            self._addresses[provider.place] = address
        else:
            self._addresses.pop(provider.place, None)

    def address(self, provider: Provider) -> str:
        """The address that this visitor typed, or empty."""
        return self._addresses.get(provider.place, "")

    def has_key(self, provider: Provider) -> bool:
        """Whether this visitor typed a key for it."""
        return provider.place in self._keys

    def add_server(self, text: str, key: str = "", *, dialect: str = "openai") -> Provider:
        """Take a server by its address; the provider that it is from now on for this visitor.

        The key is empty where it asks for none. Raises BadRequest or Unauthorized.
        """
        secret = Secret(key.strip())
        del key  # so that no traceback has it
        shipped = catalog.load().providers[SPEAKERS[dialect]]
        base_url = visitors_address(completed(shipped, text))
        host = urlsplit(base_url).netloc
        provider = replace(own(shipped, {"base_url": base_url}), id=_identifier(host), name=host)
        if secret:
            check_key(secret, provider)
        if provider.id not in self._added and len(self._added) >= MAX_SERVERS:
            raise BadRequest(f"{MAX_SERVERS} servers are the most that one session may add.")
        if provider.id in catalog.load().providers or provider.id in catalog.LOCAL_RUNTIMES:
            provider = replace(provider, id=f"my-{provider.id}")
        old = self._added.get(provider.id)
        if old is not None and old.base_url != provider.base_url:
            self.remove_server(old)
        if secret:
            self._keys[provider.place] = secret
        self._added[provider.id] = provider
        return provider

    def remove_server(self, provider: Provider) -> None:
        self._added.pop(provider.id, None)
        self._keys.pop(provider.place, None)
        self._deployments = {
            id: item for id, item in self._deployments.items() if item.runtime != provider.id
        }

    @property
    def added(self) -> Sequence[Provider]:
        """The servers that this visitor has added."""
        return list(self._added.values())

    def add_deployment(
        self, provider: Provider, served_as: str, model: Model | None = None
    ) -> Deployment:
        """A model of a server for this visitor, under the name that the server gives it.

        `model` is what the catalog knows of it, where it does.
        """
        if sum(item.runtime == provider.id for item in self._deployments.values()) >= MAX_MODELS:
            raise BadRequest(
                f"{MAX_MODELS} models of a server are the most that a session may add."
            )
        model = model or Model(_identifier(served_as), served_as)
        deployment_id = f"{model.id}@{provider.id}"
        other = self.catalog().deployments.get(deployment_id)
        if other is not None and (other.served_as or other.model.id) != served_as:
            deployment_id += f":{_identifier(served_as)}"
        others = (item for item in self.catalog().deployments.values() if item.model.id == model.id)
        deployment = Deployment(
            deployment_id,
            model,
            provider.id,
            provider=provider,
            served_as=served_as,
            images=max((item.images for item in others), default=0),
            sampling=provider.sampling,
            logprobs=provider.logprobs,
        )
        self._deployments[deployment.id] = deployment
        return deployment


def may_add_servers() -> bool:
    """Whether visitors may type addresses: the owner of a shared playground may say no, since the
    requests go out from the computer that serves it."""
    return settings.flag("SLM_VISITORS_ADD_SERVERS", default=True)


def exposed(address: str) -> bool:
    """Whether a key would travel there for others to read: unencrypted, to another computer."""
    parts = urlsplit(address)
    return parts.scheme == "http" and not is_this_computer(parts.hostname or "")


def check_key(key: Secret, provider: Provider) -> None:
    """Raise Unauthorized for what can be no key: it must fit into one line of HTTP."""
    if len(key.reveal()) > MAX_KEY:
        wrong = f"has more than {MAX_KEY:,} characters"
    elif not re.fullmatch(r"[\x21-\x7e]+", key.reveal()):
        wrong = "holds spaces, line breaks or other characters that no key has"
    else:
        return
    raise Unauthorized(
        f"The key for {provider.name} {wrong}.", hint="Copy it again, alone and whole."
    )


def checked_address(text: str, what: str = "That") -> str:
    """The address as it is used, without a slash at its end. Raises BadRequest; `what` names it in
    the error."""
    text = text.strip().rstrip("/")
    wrong = "An address looks like http://192.168.1.20:8000/v1."
    if len(text) > MAX_ADDRESS:
        raise BadRequest(f"The address has more than {MAX_ADDRESS} characters.", hint=wrong)
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("http", "https") or re.search(r"[\s\\<>\"'`]", text):
        raise BadRequest(f"{what} is no address of a server.", hint=wrong)
    if "@" in parts.netloc or "?" in text or "#" in text:
        raise BadRequest(
            f"{what} is an address with a user, a password or a query.",
            hint="Give the address alone, and the key on its own.",
        )
    return text


def visitors_address(text: str) -> str:
    """As checked_address, for what anybody may have typed: also raises BadRequest for an address
    of the network itself. What a name stands for is not looked up."""
    text = checked_address(text)
    if _of_the_network(urlsplit(text).hostname or ""):
        raise BadRequest(
            "Addresses of this kind belong to the network itself, where no model is served.",
            hint="An address looks like http://192.168.1.20:8000/v1.",
        )
    return text


def _of_the_network(host: str) -> bool:
    try:
        # Also as one number, or with parts left out: what connects understands those too.
        host = socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        host = host.rstrip(".").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in METADATA
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_link_local or address.is_unspecified or str(address) in METADATA


def _identifier(name: str) -> str:
    """A name as a part of an id."""
    return re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip("-.") or "server"


EVERYONE = Access()
