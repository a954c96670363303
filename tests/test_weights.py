"""What is taken of a repository, and what never."""

from __future__ import annotations

import pytest

from slm_backends import weights
from slm_backends.catalog import Deployment, Model, Source
from slm_backends.errors import CatalogError, FetchFailed

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


# --- models that take pictures --------------------------------------------------------------------


def choose_seeing(runtime: str, names: set[str]) -> set[str]:
    deployment = Deployment(
        id=f"v@{runtime}",
        model=Model(id="v", name="V", inputs=("text", "images")),
        runtime=runtime,
        source=Source(id="s", repo="o/v"),
    )
    return set(weights.choose(deployment, names, "o/v"))


TEXTS = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
#: runtime -> names as in a published folder: those that are taken, and those beside them
SEEING = {
    "transformers": (
        TEXTS
        | {"model.safetensors.index.json", "preprocessor_config.json", "chat_template.json"}
        | {"processor_config.json", "model-00001-of-00002.safetensors"}
        | {"model-00002-of-00002.safetensors"},
        {"modeling_phi3_v.py", "processing_phi3_v.py", "sample_inference.py", "README.md"},
    ),
    "onnx": (
        {f"phi-3.5-v-instruct-{part}.onnx" for part in ("embedding", "text", "vision")}
        | {f"phi-3.5-v-instruct-{part}.onnx.data" for part in ("embedding", "text", "vision")}
        | {"genai_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
        | {"special_tokens_map.json"},
        {"README.md", "configuration_phi3_v.py"},
    ),
    "openvino": (
        TEXTS
        | {"preprocessor_config.json", "chat_template.jinja"}
        | {
            f"openvino_{part}.{suffix}"
            for suffix in ("xml", "bin")
            for part in (
                "language_model", "text_embeddings_model", "vision_embeddings_model",
                "vision_projection_model", "tokenizer", "detokenizer",
            )
        },
        {"modeling_phi3_v.py", "README.md"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("runtime", SEEING)
def test_all_parts_of_a_model_that_sees_are_taken(runtime: str) -> None:
    taken, beside = SEEING[runtime]
    assert choose_seeing(runtime, taken | beside) == taken


@pytest.mark.parametrize(
    ("runtime", "gone"),
    [
        ("onnx", {"processor_config.json"}),
        ("openvino", {"openvino_vision_embeddings_model.xml"}),
        ("openvino", {"openvino_text_embeddings_model.bin"}),
        ("openvino", {"openvino_language_model.xml"}),
        ("transformers", {"preprocessor_config.json", "processor_config.json"}),
    ],
)
def test_a_model_that_sees_needs_its_eyes(runtime: str, gone: set[str]) -> None:
    taken, _ = SEEING[runtime]
    with pytest.raises(FetchFailed, match=min(gone)):
        choose_seeing(runtime, taken - gone)


def test_a_model_that_only_reads_is_chosen_as_before() -> None:
    """What is on disk already is told from what the catalog names by these patterns."""
    for runtime in weights.USUAL:
        reading = Deployment(
            f"m@{runtime}", Model("m", "M"), runtime, source=Source("s", repo="o/m")
        )
        assert weights.wanted(reading) == weights.USUAL[runtime]
        assert not set(weights.PICTURES) & set(weights.CHECKPOINT)
