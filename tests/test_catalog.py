"""The shipped catalog holds together; a mistake in one's own gives file, line and reason."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import pytest
import safetensors

from slm_backends import catalog, convert, store
from slm_backends.chat import MAX_IMAGES
from slm_backends.errors import CatalogError, NotFound
from slm_backends.picture_tokens import SIGHTS

OWN = """\
[models.tiny]
name = "Tiny"
parameters = 1_000

[deployments."tiny@openai"]
base_url = "http://127.0.0.1:9999/v1"
served_as = "tiny-q4"

[sources.tiny-hub]
repo = "someone/tiny"
revision = "0123456789abcdef0123456789abcdef01234567"
folder = "cuda/int4"

[deployments."tiny@onnx:cuda"]
source = "tiny-hub"
device = "cuda"
sound_to = 2_048
sound_note = "It repeats itself."
"""
WHEEL = """\
[sources.embedded]
wheel = "llm-tiny==1.0"
file = "llm_tiny/tiny.gguf"
sha256 = "%s"
size = 100
download = 90
""" % ("0123456789abcdef" * 4)
ONLY_ON_OLLAMA = (
    "moondream", "qwen2.5-vl-3b-instruct", "llava-phi-3-mini", "gemma-3-4b-it", "llava-1.6-7b",
    "llama-3.2-11b-vision-instruct",
)  # fmt: skip
PUBLISHERS = {"SmolVLM": "HuggingFaceTB", "OLMoE": "allenai"}
OURS = ("phi-vision-nano", "phi-moe-nano", "phi-dense-nano")  # they come with the playground
#: cache of one token in 16 bits, in KiB, as a table of the family's shapes has it
CACHE = {
    "smollm2-135m-instruct": 22.5,
    "phi-vision-nano": 3,
    "phi-moe-nano": 4.5,
    "phi-dense-nano": 4.5,
    "phi-3.5-mini-instruct": 384,
    "phi-3-mini-4k-instruct": 384,
    "phi-3-mini-128k-instruct": 384,
    "phi-3-small-8k-instruct": 128,
    "phi-3-small-128k-instruct": 128,
    "phi-3-medium-4k-instruct": 200,
    "phi-3-medium-128k-instruct": 200,
    "phi-tiny-moe-instruct": 64,
    "phi-mini-moe-instruct": 128,
    "phi-3.5-moe-instruct": 128,
    "olmoe-1b-7b-0924-instruct": 128,
    "phi-4-mini-instruct": 128,
    "phi-4": 200,
    "smolvlm-256m-instruct": 22.5,
    "phi-3.5-vision-instruct": 384,
    "phi-3-vision-128k-instruct": 384,
    "phi-4-multimodal-instruct": 128,
    **dict.fromkeys(ONLY_ON_OLLAMA, 0),  # which reckons by itself
}
#: first word of a precision -> bytes a parameter, without and with all their scales
WEIGHT = {
    "int4": (0.5, 0.9),
    "4-bit": (0.5, 0.6),
    "int8": (1.0, 1.05),
    "8-bit": (1.0, 1.1),
    "fp16": (1.99, 2.15),
    "bfloat16": (2.0, 2.05),
}
NEEDS = {"cuda": "an NVIDIA GPU", "dml": "Windows and a DirectX 12 GPU"}
PACKAGES = {"cuda": "onnxruntime-genai-cuda", "dml": "onnxruntime-genai-directml"}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "own.toml"
    file.write_text(OWN)
    monkeypatch.setenv("SLM_CATALOG", str(file))
    return file


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> catalog.Catalog:
    monkeypatch.delenv("SLM_CATALOG", raising=False)
    return catalog.load()


def test_embedded_model_has_two_deployments(shipped: catalog.Catalog) -> None:
    onnx = shipped.deployment("smollm2-135m-instruct@onnx")
    openvino = shipped.deployment("smollm2-135m-instruct@openvino")
    assert onnx.source is openvino.source is not None
    assert (onnx.local, onnx.runtime_name) == (True, "ONNX Runtime GenAI")
    assert openvino.label == "SmolLM2 135M Instruct · OpenVINO GenAI"
    assert onnx.model.context == 8192


def test_shipped_conversions_exist(shipped: catalog.Catalog) -> None:
    named = {deployment.convert for deployment in shipped.deployments.values()} - {""}
    assert named <= set(convert.KINDS)


def test_every_model_is_described(shipped: catalog.Catalog) -> None:
    assert list(CACHE) == list(shipped.models)  # the order on screen
    for model in shipped.models.values():
        assert all((model.family, model.context, model.limits, model.facts)), model.id
        assert "en" in model.languages
        assert model.released >= "2024-01"
        if model.id not in ONLY_ON_OLLAMA:
            assert model.licence in ("MIT", "Apache-2.0")
            assert model.template.count("{system}") == model.template.count("{user}") == 1
        if model.id not in OURS:  # their cards lie beside their weights
            assert model.card.startswith("https://huggingface.co/")
        assert all(fact.startswith("https://") for fact in model.facts)
        assert all(limit.endswith(".") for limit in model.limits)
        assert bool(model.active) == ("moe" in model.id)


@pytest.mark.parametrize("model_id", CACHE)
def test_shape_gives_the_known_size_of_the_cache(shipped: catalog.Catalog, model_id: str) -> None:
    model = shipped.models[model_id]
    keys_and_values = 2 * model.layers * model.kv_heads * model.head_size
    assert keys_and_values * 2 / 1024 == CACHE[model_id]


def test_every_model_has_a_deployment_and_every_source_is_used(shipped: catalog.Catalog) -> None:
    everywhere = shipped.deployments.values()
    assert {item.model.id for item in everywhere} == set(shipped.models)
    assert {item.source.id for item in everywhere if item.source} == set(shipped.sources)


def test_labels_tell_deployments_apart(shipped: catalog.Catalog) -> None:
    labels = [deployment.label for deployment in shipped.deployments.values()]
    assert len(set(labels)) == len(labels)
    assert "Phi-3.5 mini Instruct · ONNX Runtime GenAI, cuda" in labels
    assert "Phi-3.5 mini Instruct · ONNX Runtime GenAI" in labels


def test_a_repository_has_one_revision(shipped: catalog.Catalog) -> None:
    revisions: dict[str, str] = {}
    for source in shipped.sources.values():
        if source.repo:
            assert revisions.setdefault(source.repo, source.revision) == source.revision


def test_sources_suit_their_runtimes(shipped: catalog.Catalog) -> None:
    for item in shipped.deployments.values():
        if not item.local or item.source is None or not item.source.repo:
            continue
        owner, _, name = item.source.repo.partition("/")
        publisher = PUBLISHERS.get(item.model.family, "microsoft")
        owners = {"openvino": "OpenVINO", "mlx": "mlx-community"}
        if item.artefact.endswith("safetensors"):  # MLX reads what its publisher has, too
            owners = {}
        assert owner == owners.get(item.runtime, publisher), item.id
        assert item.model.id.removesuffix("-instruct") in name.lower(), item.id
        assert bool(item.source.folder) == (item.runtime == "onnx"), item.id  # holds several


def test_weights_are_as_large_as_their_precision_says(shipped: catalog.Catalog) -> None:
    for item in shipped.deployments.values():
        if item.source is None or not item.source.repo:
            continue
        least, most = WEIGHT[item.precision.partition(" ")[0]]
        if item.id == "phi-4-mini-instruct@onnx":
            least, most = (
                1.25,
                1.3,
            )  # a sixth of it is embeddings, which this build keeps in float32
        assert least <= item.size / item.model.parameters < most, item.id


def test_a_model_that_sees_is_never_deployed_blind(shipped: catalog.Catalog) -> None:
    for item in shipped.deployments.values():
        assert bool(item.images) == item.sees == ("images" in item.model.inputs), item.id
        assert item.images <= MAX_IMAGES, item.id
    seeing = [item for item in shipped.deployments.values() if item.sees]
    assert all(item.model.sight in ("", *SIGHTS) for item in seeing)
    assert all(item.model.sight for item in seeing if "phi-3" in item.model.id and item.local)
    # One after the other in the order of the pages that offer them, small ones first.
    sizes = [shipped.models[name].parameters for name in ONLY_ON_OLLAMA]
    assert sizes == sorted(sizes)


def test_what_comes_with_the_playground(shipped: catalog.Catalog) -> None:
    own = [item for item in shipped.deployments.values() if item.shipped]
    assert [item.id for item in own] == [f"{model_id}@transformers" for model_id in OURS]


@pytest.mark.parametrize("model_id", OURS)
def test_what_comes_with_the_playground_is_as_described(
    shipped: catalog.Catalog, model_id: str
) -> None:
    own = shipped.deployment(f"{model_id}@transformers")
    assert own.source == catalog.Source(model_id, shipped=model_id)
    assert store.is_ready(own)
    file = store.folder(own) / "model.safetensors"
    with safetensors.safe_open(file, framework="numpy") as weights:
        parts = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
        sizes = {name: math.prod(part.get_shape()) for name, part in parts.items()}
    assert own.model.parameters == sum(sizes.values())
    config = json.loads((store.folder(own) / "config.json").read_text())
    assert own.model.context == config["max_position_embeddings"]
    assert own.model.layers == config["num_hidden_layers"]
    assert own.model.kv_heads == config["num_key_value_heads"]
    assert own.model.experts == config.get("num_local_experts", 0)
    assert own.model.chosen == config.get("num_experts_per_tok", 0)
    experts = sum(size for name, size in sizes.items() if ".experts." in name)
    if experts:
        idle = experts * (own.model.experts - own.model.chosen) // own.model.experts
        assert own.model.active == own.model.parameters - idle


def test_what_a_deployment_needs_is_said(shipped: catalog.Catalog) -> None:
    for item in shipped.deployments.values():
        usual = "Apple silicon, or Linux with mlx[cpu]" if item.runtime == "mlx" else ""
        assert item.needs == NEEDS.get(item.device, usual), item.id
        assert item.package == PACKAGES.get(item.device, ""), item.id
        assert item.device in item.variant, item.id


def test_no_server_has_two_deployments_of_one_name(shipped: catalog.Catalog) -> None:
    named = [
        (item.runtime, item.served_as) for item in shipped.deployments.values() if not item.local
    ]
    assert len(set(named)) == len(named)
    assert all(served_as for _, served_as in named)


def test_runtimes_that_go_wrong_past_some_length_are_marked(shipped: catalog.Catalog) -> None:
    marked = {item.id: item.sound_to for item in shipped.deployments.values() if item.sound_to}
    assert "phi-3.5-moe-instruct@transformers" not in marked
    assert marked["phi-3.5-mini-instruct@openvino"] == 2000
    assert "phi-3.5-mini-instruct@transformers" not in marked
    for deployment_id, tokens in marked.items():
        item = shipped.deployments[deployment_id]
        assert item.sound_note.endswith("."), deployment_id
        assert tokens < (item.model.context or 0), deployment_id


def test_unknown_deployment_names_the_nearest(shipped: catalog.Catalog) -> None:
    with pytest.raises(NotFound) as caught:
        shipped.deployment("phi3.5-mini@onnx")
    assert "phi-3.5-mini-instruct@onnx" in caught.value.hint


def test_catalog_is_read_once(shipped: catalog.Catalog) -> None:
    assert catalog.load() is shipped


def test_own_catalog_adds(own: Path) -> None:
    both = catalog.load()
    assert "smollm2-135m-instruct@onnx" in both.deployments
    tiny = both.deployment("tiny@openai")
    assert (tiny.model.name, tiny.served_as, tiny.local) == ("Tiny", "tiny-q4", False)


def test_own_catalog_overrides(own: Path) -> None:
    own.write_text(
        '[deployments."phi-3-mini-4k-instruct@ollama"]\n'
        'base_url = "http://127.0.0.1:1234/v1"\nserved_as = "mine"\n'
    )
    assert catalog.load().deployment("phi-3-mini-4k-instruct@ollama").served_as == "mine"


def test_what_is_shipped_follows_an_overridden_model_and_source(own: Path) -> None:
    own.write_text(
        '[models."phi-3.5-mini-instruct"]\nname = "Mine"\n'
        '[sources."phi-3.5-mini-instruct-checkpoint"]\npath = "~/phi"\n'
    )
    both = catalog.load()
    changed = both.deployment("phi-3.5-mini-instruct@transformers")
    assert changed.label == "Mine · Transformers"
    assert changed.source is both.sources["phi-3.5-mini-instruct-checkpoint"]
    assert changed.source.path == "~/phi"
    assert both.deployment("phi-3.5-mini-instruct@ollama").model.name == "Mine"


def test_every_kind_of_source(own: Path) -> None:
    own.write_text(
        OWN + WHEEL + '[sources.folder]\npath = "~/models/tiny"\nfiles = ["tiny-Q4_0.gguf"]\n'
    )
    both = catalog.load()
    assert both.sources["embedded"].download == 90
    assert both.sources["folder"].files == ("tiny-Q4_0.gguf",)
    tiny = both.deployment("tiny@onnx:cuda")
    assert (tiny.variant, tiny.place) == ("cuda", "ONNX Runtime GenAI, cuda")
    assert tiny.source is both.sources["tiny-hub"]


def test_changed_file_is_read_again(own: Path) -> None:
    catalog.load()
    own.write_text(OWN.replace("tiny-q4", "tiny-q8"))
    os.utime(own, ns=(1, 1))  # whatever the clock's resolution
    assert catalog.load().deployment("tiny@openai").served_as == "tiny-q8"


def test_missing_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLM_CATALOG", str(tmp_path / "nowhere.toml"))
    with pytest.raises(CatalogError, match=r"does not exist: .*nowhere\.toml"):
        catalog.load()


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("parameters = 1_000", 'parameters = "many"', 3, "parameters must be a whole number"),
        ("parameters = 1_000", "parameters = -1", 3, "parameters must be a whole number"),
        ("parameters = 1_000", "parameters = true", 3, "parameters must be a whole number"),
        ("parameters = 1_000", 'languages = "en"', 3, "languages must be a list of strings"),
        ('name = "Tiny"', "name = 7", 2, "name must be a string"),
        ('name = "Tiny"', 'nome = "Tiny"', 2, "there is no field called 'nome'"),
        ('name = "Tiny"\n', "", 1, "name is missing"),
        ("tiny@openai", "tiny", 5, "must be model@runtime"),
        ("tiny@openai", "huge@openai", 5, "there is no model called 'huge'"),
        ("tiny@openai", "tiny@abacus", 5, "there is no runtime called 'abacus'; known are onnx"),
        ("tiny@openai", "tiny@onnx", 5, "a deployment on onnx needs a source"),
        ("http://", "ftp://", 6, "must start with http://"),
        ('base_url = "http://127.0.0.1:9999/v1"\n', "", 5, "needs a base_url"),
        ('served_as = "tiny-q4"', 'source = "moon"', 7, "there is no source called 'moon'"),
        ('served_as = "tiny-q4"', 'sampling = ["warmth"]', 7, "no sampling field called 'warmth'"),
        ("[models.tiny]", "[model.tiny]", 1, "there is no table called 'model'"),
        ("parameters = 1_000", 'languages = ["English"]', 3, "'English' is no code of a language"),
        ("parameters = 1_000", 'released = "May 2024"', 3, "released must be a year and a month"),
        ("parameters = 1_000", 'released = "2024-13"', 3, "released must be a year and a month"),
        ("parameters = 1_000", 'template = "{system}"', 3, "template must hold {user}"),
        ('name = "Tiny"', 'name = "T"\nactive = 2_000', 3, "active must not be more than"),
        ("tiny@openai", "tiny@openai:", 5, "must be model@runtime or model@runtime:variant"),
        ('served_as = "tiny-q4"', 'device = "cuda"', 7, "device does not go with a server"),
        ('served_as = "tiny-q4"', 'source = "tiny-hub"', 7, "source does not go with a server"),
        ('served_as = "tiny-q4"', 'logprobs = "yes"', 7, "logprobs must be true or false"),
        ('device = "cuda"', "logprobs = true", 16, "logprobs does not go with a runtime of this"),
        ("someone/tiny", "tiny", 10, "repo must be owner/name"),
        ('repo = "someone/tiny"', "", 9, "needs exactly one of wheel, repo, path and shipped"),
        ('repo = "someone/tiny"', 'path = "/tiny"', 11, "revision does not go with a path"),
        ("0123456789abcdef0123", "v1.0-", 11, "revision must be a commit's 40 hexadecimal"),
        ("cuda/int4", "../int4", 12, "'../int4' leaves the source"),
        ("cuda/int4", "cuda/..", 12, "'cuda/..' leaves the source"),
        ("cuda/int4", "/etc", 12, "'/etc' leaves the source"),
        ("cuda/int4", "~/models", 12, "'~/models' leaves the source"),
        ('"cuda/int4"', '"C:/models"', 12, "'C:/models' leaves the source"),
        ('folder = "cuda/int4"', "files = ['a\\b']", 12, "leaves the source, or is no path in it"),
        (
            'folder = "cuda/int4"',
            'path = "/tiny"',
            9,
            "needs exactly one of wheel, repo, path and shipped",
        ),
        ('folder = "cuda/int4"', 'sha256 = "0"', 12, "sha256 does not go with a repo"),
        ('source = "tiny-hub"', "source = 7", 15, "source must be a string"),
        ('source = "tiny-hub"', 'source = ["tiny-hub"]', 15, "source must be a string"),
        ('device = "cuda"', 'device = "gpu"', 16, "onnx has no device 'gpu', only cpu, cuda"),
        ('device = "cuda"', 'key = "KEY"', 16, "key does not go with a runtime of this computer"),
        ("sound_to = 2_048", "", 18, "sound_to and sound_note go together"),
        ('sound_note = "It repeats itself."', "", 17, "sound_to and sound_note go together"),
    ],
)
def test_mistake(own: Path, old: str, new: str, line: int, reason: str) -> None:
    assert old in OWN
    own.write_text(OWN.replace(old, new))
    with pytest.raises(CatalogError) as caught:
        catalog.load()
    message = str(caught.value)
    assert message.startswith(f"{own}, line {line}: ")
    assert reason in message


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ('file = "llm_tiny/tiny.gguf"', "", 1, "file is missing"),
        ("llm_tiny/", "llm_tiny/../../", 3, "leaves the source"),
        ("size = 100", "", 1, "size is missing"),
        ("llm-tiny==1.0", "llm-tiny", 2, "wheel must be name==version"),
        ("0123456789abcdef0123", "0123", 4, "sha256 must be 64 hexadecimal digits"),
        ("download = 90", 'revision = "main"', 6, "revision does not go with a wheel"),
    ],
)
def test_mistake_in_a_wheel(own: Path, old: str, new: str, line: int, reason: str) -> None:
    assert old in WHEEL
    own.write_text(WHEEL.replace(old, new, 1))
    with pytest.raises(CatalogError) as caught:
        catalog.load()
    message = str(caught.value)
    assert message.startswith(f"{own}, line {line}: ")
    assert reason in message


def test_a_folder_of_ones_own_is_named_from_the_root(own: Path) -> None:
    own.write_text('[sources.mine]\nfiles = ["a.gguf"]\npath = "models/a"\n')
    with pytest.raises(CatalogError, match=r"line 3: .*path must start with / or ~"):
        catalog.load()


def test_examples_of_the_readme_can_be_read(own: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    own.write_text("\n".join(re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)))
    mine = [item for item in catalog.load().deployments.values() if item.model.id == "my-model"]
    assert {item.runtime for item in mine} == {"openai", "onnx", "transformers", "openvino"}


def test_broken_toml_gives_the_line(own: Path) -> None:
    own.write_text("[models.tiny]\nname = \n")
    with pytest.raises(CatalogError, match=r"own\.toml: .*line 2"):
        catalog.load()
