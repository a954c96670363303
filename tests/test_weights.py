"""What is taken of a repository, and what never."""

from __future__ import annotations

import pytest

from slm_backends import weights
from slm_backends.catalog import Deployment, Model, Source
from slm_backends.errors import CatalogError

CONFIGURATION = {"config.json", "tokenizer.json"}


def choose(runtime: str, names: set[str], **source: object) -> set[str]:
    deployment = Deployment(
        id=f"m@{runtime}",
        model=Model(id="m", name="M"),
        runtime=runtime,
        source=Source(id="s", repo="o/m", **source),  # type: ignore[arg-type]
    )
    return set(weights.choose(deployment, names, "o/m"))


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "model.PT", "a.pth", "a.pkl", "a.ckpt", "modeling.py", "a.so", "a.exe"],
)
def test_refused_by_name(name: str) -> None:
    assert weights.refusal(name, {name})


def test_openvinos_numbers_need_their_description() -> None:
    assert not weights.refusal("openvino_model.bin", {"openvino_model.xml"})
    assert weights.refusal("openvino_model.bin", {"other.xml"})
    assert weights.refusal("pytorch_model.bin", {"pytorch_model.xml"})


def test_one_format_of_several_is_taken() -> None:
    here = CONFIGURATION | {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    beside = {"consolidated.safetensors", "original/model.safetensors", "model.onnx", "tf_model.h5"}
    assert choose("transformers", here | beside) == here
    assert choose("mlx", CONFIGURATION | {"weights.00.safetensors"}) == CONFIGURATION | {
        "weights.00.safetensors"
    }


def test_a_gguf_comes_alone() -> None:
    names = {"a-q4.gguf", "b-q4.gguf", "config.json"}
    assert choose("openvino", names, files=("a-q4.gguf",)) == {"a-q4.gguf"}
    with pytest.raises(CatalogError, match="comes alone"):
        choose("openvino", names, files=("*-q4.gguf",))


def test_patterns_with_a_slash_look_into_folders() -> None:
    names = CONFIGURATION | {"model.safetensors", "templates/chat.jinja"}
    chosen = choose("mlx", names, files=("*.json", "*.safetensors", "templates/*.jinja"))
    assert chosen == names
