"""`fetch`, then `chat`, as a person types them, for every runtime, with the shipped catalog.

Its ids, repositories, folders and commits are used as they are; a hub of our own hands out tiny
random checkpoints of the real architecture, laid out like the real repositories. Processes, HTTP,
conversions and runtimes are real; only what the weights say is not worth reading.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub_server
import pytest
import tiny_models
from command_line import slm
from hub_server import Hub
from safetensors.numpy import load, save

from slm_backends import catalog

IR = Path(__file__).parent / "fixtures" / "openvino"
TOKENS = 5

#: What repositories hold beside what is needed.
BESIDE: dict[str, bytes] = {
    ".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
    "LICENSE": b"MIT",
    "README.md": b"# Phi",
    "configuration_phi3.py": b"raise SystemExit('remote code ran')",
    "modeling_phi3.py": b"raise SystemExit('remote code ran')",
    "pytorch_model.bin": b"\x80\x04 a pickle",
    "tokenizer.model": b"SentencePiece",
}


def made(runtime: str, model_id: str) -> Path:
    """The files of a deployment, as the runtime wants them."""
    if runtime == "openvino":
        return IR / model_id
    if runtime == "onnx":
        return tiny_models.onnx(model_id)
    return tiny_models.mlx(model_id) if runtime == "mlx" else tiny_models.hugging_face(model_id)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with hub_server.serving_hub() as hub:
        yield hub


def publish(hub: Hub, deployment_id: str) -> None:
    """A repository in the layout of the one that the catalog names."""
    deployment = catalog.load().deployment(deployment_id)
    source = deployment.source
    assert source is not None and source.repo
    hub.add(source.repo, BESIDE)
    hub.add_folder(source.repo, made(deployment.runtime, deployment.model.id), source.folder)
    if source.folder:
        other = "gpu/gpu-int4-awq-block-128/model.onnx.data"
        hub.repositories[source.repo][other] = hub_server.File(b"for another device", other)


def chat(deployment_id: str, environment: dict[str, str]) -> dict[str, Any]:
    options = ["--max-tokens", str(TOKENS), "--temperature", "0", "--json"]
    answered = slm("chat", deployment_id, "What is a small model?", *options, env=environment)
    assert answered.returncode == 0, answered.stderr
    return dict(json.loads(answered.stdout))


def in_parts(hub: Hub, repo: str) -> None:
    """Put the weights into two files with an index, as repositories of large models have them."""
    files = hub.repositories[repo]
    whole = load(files.pop("model.safetensors").content)
    names = sorted(whole)
    index: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        name = f"model-{number:05}-of-00002.safetensors"
        content = save({key: whole[key] for key in part}, metadata={"format": "pt"})
        files[name] = hub_server.File(content, name)
        index |= dict.fromkeys(part, name)
    name = "model.safetensors.index.json"
    described = json.dumps({"metadata": {"total_size": 0}, "weight_map": index})
    files[name] = hub_server.File(described.encode(), name)


@pytest.mark.parametrize(
    "wanted",
    [
        "phi-3.5-mini-instruct@onnx",
        "phi-3.5-mini-instruct@openvino",
        "phi-3.5-mini-instruct@transformers",
        "phi-3.5-mini-instruct@mlx",
        "phi-3.5-moe-instruct@transformers",
    ],
)
def test_fetch_then_chat(hub: Hub, tmp_path: Path, wanted: str) -> None:
    publish(hub, wanted)
    source = catalog.load().deployment(wanted).source
    assert source is not None
    if "moe" in wanted:
        in_parts(hub, source.repo)
    environment = hub_server.environment(hub, tmp_path)
    fetched = slm("fetch", wanted, env=environment)
    assert fetched.returncode == 0, fetched.stderr
    assert f"{wanted} is ready" in fetched.stdout
    assert hub.listed[-1] == f"{source.repo} {source.revision}"
    here = {file.name for file in (tmp_path / "home" / "models" / wanted).iterdir()}
    assert not here & set(BESIDE)
    answer = chat(wanted, environment)
    assert answer["deployment"] == wanted
    assert answer["usage"]["completion_tokens"] == TOKENS


def test_checkpoint_is_converted_then_answers(hub: Hub, tmp_path: Path) -> None:
    """A deployment of the user's own: Phi-3-medium as int4 ONNX, made on this computer."""
    hub.add("microsoft/Phi-3-medium-4k-instruct", BESIDE)
    checkpoint = tiny_models.hugging_face("phi-3-medium-4k-instruct")
    hub.add_folder("microsoft/Phi-3-medium-4k-instruct", checkpoint)
    own = tmp_path / "catalog.toml"
    own.write_text(
        '[sources.medium]\nrepo = "microsoft/Phi-3-medium-4k-instruct"\n'
        '[deployments."phi-3-medium-4k-instruct@onnx:own"]\n'
        'source = "medium"\nconvert = "onnx-int4"\n'
    )
    environment = hub_server.environment(hub, tmp_path) | {"SLM_CATALOG": str(own)}
    wanted = "phi-3-medium-4k-instruct@onnx:own"
    fetched = slm("fetch", wanted, env=environment)
    assert fetched.returncode == 0, fetched.stderr
    assert chat(wanted, environment)["deployment"] == wanted
