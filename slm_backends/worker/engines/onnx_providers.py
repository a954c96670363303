"""Which of ONNX Runtime's execution providers computes a folder: found by making a token with it.

The runtime's own questions are not asked, since several of them say yes to everybody. Knows the
providers' names and packages, and genai_config.json; does not know what is computed afterwards.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_backends.errors import BadRequest, NotInstalled, SLMError


@dataclass(frozen=True)
class Provider:
    """`word` is what a person writes, `name` the runtime's, `label` what is shown.

    package  that brings it; `plugin` is its module where the runtime must be told of the library
    """

    word: str
    name: str
    label: str
    package: str
    plugin: str = ""


CPU = Provider("cpu", "cpu", "CPU", "onnxruntime-genai")
PROVIDERS = {
    provider.word: provider
    for provider in (
        Provider("cuda", "cuda", "CUDA", "onnxruntime-genai-cuda"),
        Provider("dml", "dml", "DirectML", "onnxruntime-genai-directml"),
        Provider("qnn", "qnn", "QNN", "onnxruntime-qnn", "onnxruntime_qnn"),
        Provider(
            "openvino", "OpenVINO", "OpenVINO", "onnxruntime-ep-openvino", "onnxruntime_ep_openvino"
        ),
        Provider("webgpu", "webgpu", "WebGPU", "onnxruntime-ep-webgpu", "onnxruntime_ep_webgpu"),
        CPU,
    )
}


def open_model(runtime: Any, folder: Path, device: str = "") -> tuple[Any, Provider]:
    """The folder's model on `device`, a word of PROVIDERS, and what it runs on.

    Without `device`, what the folder was made for comes first, then the others, the CPU last. A
    folder that names no provider was made for the CPU, and others would compute it in part or
    wrongly. Raises BadRequest for an unknown word, NotInstalled and SLMError for a device that
    does not work here; what was asked for is never replaced by another.
    """
    named = _named(folder)
    if device and device.lower() not in PROVIDERS:
        words = ", ".join(PROVIDERS)
        raise BadRequest(f"ONNX Runtime computes on {words}, not on {device}.", field="device")
    if device:
        wanted = [PROVIDERS[device.lower()]]
    else:
        others = [p for p in PROVIDERS.values() if p not in named and p is not CPU]
        wanted = [*named, *others, CPU] if named else [CPU]
    reasons = {}
    for provider in wanted:
        try:
            return _model(runtime, folder, provider, as_it_is=provider in named), provider
        except Exception as error:  # of the runtime or of a library that it loads
            reasons[provider] = _in_short(error)
    raise _error(reasons, wanted[0], named)


def _model(runtime: Any, folder: Path, provider: Provider, as_it_is: bool) -> Any:
    """The model, after it has made a token. `as_it_is`: with the options that the folder sets."""
    if provider.plugin and importlib.util.find_spec(provider.plugin):
        library = importlib.import_module(provider.plugin)
        runtime.register_execution_provider_library(
            library.get_ep_name(), library.get_library_path()
        )
    config = runtime.Config(str(folder))
    if not as_it_is:
        config.clear_providers()  # none is the CPU
        if provider is not CPU:
            config.append_provider(provider.name)
    model = runtime.Model(config)
    parameters = runtime.GeneratorParams(model)
    parameters.set_search_options(max_length=2, do_sample=False)
    generator = runtime.Generator(model, parameters)
    generator.append_tokens([0])
    generator.generate_next_token()
    return model


def _named(folder: Path) -> list[Provider]:
    """The providers that genai_config.json names, for the whole model or for a part of it."""
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    names = dict.fromkeys(_options(config))
    return [
        PROVIDERS.get(name.lower(), Provider(name.lower(), name, name, "onnxruntime-genai"))
        for name in names
    ]


def _options(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        for key, value in config.items():
            if key == "provider_options":
                yield from (name for option in value for name in option)
            else:
                yield from _options(value)
    elif isinstance(config, list):
        for value in config:
            yield from _options(value)


def _in_short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0].strip().rstrip(".") if lines else type(error).__name__)[:300]


def _error(reasons: dict[Provider, str], wanted: Provider, named: list[Provider]) -> SLMError:
    made_for = " and ".join(provider.label for provider in named)
    tried = "; ".join(f"{provider.label}: {reason}" for provider, reason in reasons.items())
    message = f"These weights do not run on {wanted.label} here ({tried})."
    if made_for and wanted not in named:
        return SLMError(
            f"{message} They were made for {made_for}.",
            hint=f"Use weights that were made for {wanted.label}, or leave the device empty.",
        )
    if not _installed(wanted.package):
        return NotInstalled(message, package=wanted.package)
    if wanted is CPU:
        hint = "Fetch the weights again; if that does not help, they need another device."
    else:
        hint = f"See that the driver of {wanted.label} is installed, or use weights for the CPU."
    return SLMError(message, hint=hint)


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
