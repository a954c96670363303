"""The published ONNX folder of Phi-3.5-vision, in tiny: three graphs, and the runtime's settings.

    folder()           made once a test session from checkpoint(): do not write to it
    checkpoint()       the same model in the hub's layout
    vision(file, ...)  the graph that looks at pictures, alone

The graph for text is made by ONNX Runtime GenAI's builder. The one that looks is exported as its
publisher did, by tracing, with the names and the open sizes of the real one; `crops` fixes how many
it takes. The one that embeds puts pictures' features in negative places, as theirs does. What comes
out is a folder that the runtime itself can run.
"""

from __future__ import annotations

import functools
import json
import os
import runpy
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import onnx
import tiny_models
import tiny_phi3v
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from slm_backends.worker.engines import phi3v

TOKENS = 4  # of a crop: 56 pixels are 4 patches across, and 2 x 2 of them one token
PARTS = {
    "embedding": {
        "filename": "embedding.onnx",
        "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
        "outputs": {"inputs_embeds": "inputs_embeds"},
    },
    "vision": {
        "filename": "vision.onnx",
        "inputs": {"pixel_values": "pixel_values", "image_sizes": "image_sizes"},
        "outputs": {"image_features": "image_features"},
    },
}


@functools.cache
def checkpoint() -> Path:
    return tiny_phi3v.write(tiny_models.session_folder() / "phi3v")


@functools.cache
def folder() -> Path:
    out = tiny_models.session_folder() / "phi3v-onnx"
    _text(out)
    vision(out / "vision.onnx")
    _embedding(out / "embedding.onnx")
    settings = json.loads((out / "genai_config.json").read_text(encoding="utf-8"))
    settings["model"] |= PARTS
    _write(out / "genai_config.json", settings)
    attributes = {"num_crops": 16, "num_img_tokens": TOKENS}
    steps = [
        ("decode_image", "DecodeImage", {"attrs": {"color_space": "BGR"}}),
        ("convert_to_rgb", "ConvertRGB", {}),
        ("phi3_image_transform", "Phi3ImageTransform", {"attrs": attributes}),
    ]
    domain = "com.microsoft.extensions"
    transforms = [
        {"operation": {"name": name, "domain": domain, "type": kind, **more}}
        for name, kind, more in steps
    ]
    processor = {"name": "image_processing", "transforms": transforms}
    _write(out / "processor_config.json", {"processor": processor})
    return out


def _text(out: Path) -> None:
    source = tiny_models.write(tiny_phi3v.TEXT, out.with_name("phi3v-text"))
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    _write(source / "config.json", config | {"architectures": ["Phi3VForCausalLM"]})
    arguments = ["-i", source, "-o", out, "-p", "fp32", "-e", "cpu", "-c", f"{out}-cache"]
    options = ["--extra_options", "exclude_embeds=true", "filename=text.onnx"]
    command = ["builder", *map(str, arguments), *options]
    with (
        mock.patch.object(sys, "argv", command),
        mock.patch.dict(os.environ, tiny_models.OFFLINE),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__", alter_sys=True)
    (out / "chat_template.jinja").unlink(missing_ok=True)
    for name in tiny_models.TOKENIZER_FILES:
        shutil.copy(source / name, out / name)


class _Vision(torch.nn.Module):
    """One picture; sizes are traced, so that the graph takes any."""

    def __init__(self, model: phi3v.Phi3Vision) -> None:
        super().__init__()
        self.vision = model.vision

    def forward(self, pixel_values: Any, image_sizes: Any) -> Any:
        vision = self.vision
        rows, columns = image_sizes[0, 0] // vision.side, image_sizes[0, 1] // vision.side
        seen = vision.look(pixel_values[0])
        grid = vision._rows(seen[1 : 1 + rows * columns], rows, columns)
        return vision.img_projection(
            torch.cat([grid, vision.glb_GN[0], vision._rows(seen[:1], 1, 1)])
        )


def vision(file: Path, crops: int | None = None) -> Path:
    model = phi3v.load(checkpoint(), torch.float32)
    side = model.side
    pixels = torch.randn(1, crops or 7, 3, side, side)
    open_sizes = {
        "pixel_values": {0: "num_images"} if crops else {0: "num_images", 1: "max_num_crops"},
        "image_sizes": {0: "num_images"},
        "image_features": {0: "num_image_tokens"},
    }
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing is not what the exporter does first today
        torch.onnx.export(
            _Vision(model),
            (pixels, torch.tensor([[2 * side, 3 * side]])),
            file,
            input_names=["pixel_values", "image_sizes"],
            output_names=["image_features"],
            dynamic_axes=open_sizes,
            opset_version=17,
            dynamo=False,
        )
    return file


def _embedding(file: Path) -> None:
    table = load_file(checkpoint() / "model.safetensors")["model.embed_tokens.weight"]
    hidden = table.shape[1]
    nodes = [
        helper.make_node("Less", ["input_ids", "zero"], ["is_place"]),
        helper.make_node("Max", ["input_ids", "zero"], ["words"]),
        helper.make_node("Gather", ["table", "words"], ["embedded"]),
        helper.make_node("NonZero", ["is_place"], ["by_axis"]),
        helper.make_node("Transpose", ["by_axis"], ["places"], perm=[1, 0]),
        helper.make_node("ScatterND", ["embedded", "places", "image_features"], ["inputs_embeds"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "embedding",
        [
            value("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
            value("image_features", TensorProto.FLOAT, ["num_image_tokens", hidden]),
        ],
        [value("inputs_embeds", TensorProto.FLOAT, ["batch_size", "sequence_length", hidden])],
        [numpy_helper.from_array(table, "table"), helper.make_tensor("zero", 7, [], [0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, file)


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
