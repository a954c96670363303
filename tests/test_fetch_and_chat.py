"""`fetch`, then `chat`, as a person types them, for every runtime, with the shipped catalog.

Its ids, repositories, folders and commits are used as they are; a hub of our own hands out tiny
random checkpoints of the real architecture, laid out like the real repositories. Processes, HTTP,
conversions and runtimes are real; only what the weights say is not worth reading.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub_server
import numpy
import pytest
import tiny_models
import torch
from asking import PATIENCE
from command_line import slm
from hub_server import Hub
from safetensors.numpy import load, save
from transformers import AutoModelForCausalLM

from slm_backends import catalog, run, selector
from slm_backends.chat import ChatRequest, Message, Sampling
from slm_backends.errors import Unsupported
from slm_backends.moe.trace import trace
from slm_backends.routing import Experts

IR = Path(__file__).parent / "fixtures" / "openvino"
TOKENS = 5
OLMOE = "olmoe-1b-7b-0924-instruct"
#: A catalog of one's own with a mixture that the shipped one has not.
MIXTRAL = """
[models.mixtral-8x7b-instruct]
name = "Mixtral"
parameters = 46_702_792_704
experts = 8
chosen = 2

[sources.mixtral]
repo = "mistralai/Mixtral-8x7B-Instruct-v0.1"

[deployments."mixtral-8x7b-instruct@transformers"]
source = "mixtral"
"""
#: Between two scores, so that what the rounding of bfloat16 tips over is known from what is wrong.
CLOSE = 0.02

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
    converted = runtime == "mlx" and model_id != OLMOE  # MLX reads that as it is published
    return tiny_models.mlx(model_id) if converted else tiny_models.hugging_face(model_id)


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
    if wanted == "phi-3.5-moe-instruct@transformers":
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


# --- mixtures of experts --------------------------------------------------------------------------


@pytest.fixture
def at_home(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fetched and asked in this process finds the hub and a store of its own."""
    own = tmp_path / "catalog.toml"
    own.write_text(MIXTRAL)
    for name, value in (hub_server.environment(hub, tmp_path) | {"SLM_CATALOG": str(own)}).items():
        monkeypatch.setenv(name, value)


def asked(deployment_id: str, experts: Experts | None) -> run.Reply:
    sampling = Sampling(max_tokens=TOKENS, temperature=0)
    question = Message("user", "What is a small model?")
    started = run.start(
        selector.backend(deployment_id), ChatRequest((question,), sampling, 0, experts)
    )
    return started.wait(PATIENCE)


@functools.cache
def scores(model_id: str, read: tuple[int, ...], dtype: torch.dtype) -> Any:
    """Of a plain pass of the library over the whole text, [places, layers, experts]."""
    model = AutoModelForCausalLM.from_pretrained(tiny_models.hugging_face(model_id), dtype=dtype)
    with torch.inference_mode():
        made = model.eval()(torch.tensor([read]), output_router_logits=True, use_cache=False)
    return torch.stack([layer.float().softmax(-1) for layer in made.router_logits], 1).numpy()


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(
    ("model_id", "experts", "k"),
    [
        ("phi-tiny-moe-instruct", 16, 2),
        (OLMOE, 64, 8),
        ("mixtral-8x7b-instruct", 8, 2),
    ],
)
def test_a_fetched_mixture_tells_which_experts_worked(
    hub: Hub, model_id: str, experts: int, k: int
) -> None:
    wanted = f"{model_id}@transformers"
    publish(hub, wanted)
    fetched = slm("fetch", wanted)
    assert fetched.returncode == 0, fetched.stderr
    try:
        reply = asked(wanted, Experts())
        assert reply.error is None, reply.error
        found = trace(reply.routing, reply.prompt_tokens)
        about = selector.backend(wanted).about
    finally:
        selector.unload(wanted, force=True)
    assert found is not None
    assert found.scores is not None
    assert (found.experts, found.k) == (experts, k)
    assert len(found) == (reply.prompt_tokens or 0) + TOKENS - 1
    exact = "float32" in about.device
    expected = scores(model_id, found.ids, torch.float32 if exact else torch.bfloat16)
    assert numpy.abs(found.scores - expected).max() < (1e-3 if exact else CLOSE)
    # Those that worked are the k best ones, but for the rounding where two are alike.
    least = numpy.sort(expected, axis=2)[..., -k]
    worked = numpy.take_along_axis(expected, found.chosen.astype(int), axis=2)
    assert (worked > least[..., None] - CLOSE).all()
    assert all(len(set(layer)) == k for token in found.chosen.tolist() for layer in token)


@pytest.mark.usefixtures("at_home")
def test_mlx_answers_and_says_that_it_does_not_reveal_its_experts(hub: Hub) -> None:
    wanted = f"{OLMOE}@mlx"
    publish(hub, wanted)
    fetched = slm("fetch", wanted)
    assert fetched.returncode == 0, fetched.stderr
    try:
        assert not selector.backend(wanted).capabilities.routing
        refused = asked(wanted, Experts())
        assert isinstance(refused.error, Unsupported)
        answered = asked(wanted, None)
        assert answered.error is None
        assert answered.completion_tokens == TOKENS
        assert answered.routing == ()
    finally:
        selector.unload(wanted, force=True)
