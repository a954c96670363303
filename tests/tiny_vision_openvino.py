"""The published OpenVINO folder of Phi-3.5-vision, in tiny: four models and their settings.

    folder()      made once a test session from checkpoint(): do not write to it
    checkpoint()  the same model in the hub's layout

The language model is the one that optimum-intel exported for fixtures/make_openvino_ir.py, with
embeddings in the place of token ids, which is all that differs for a model that sees. The others
are converted here, with the names and the open sizes of the real ones. CLIP's size is the real one,
1,024, since OpenVINO GenAI takes no other; it has two layers.
"""

from __future__ import annotations

import functools
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy
import openvino
import tiny_models
import tiny_phi3v
import torch
from fixtures import make_openvino_ir
from openvino import opset13
from safetensors.numpy import load_file

from slm_backends.worker.engines import phi3v

EYES = tiny_phi3v.EYES | {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 2}


@functools.cache
def checkpoint() -> Path:
    folder = tiny_models.session_folder() / "phi3v-for-openvino"
    return tiny_phi3v.write(folder, eyes=EYES, **make_openvino_ir.SMALL)


@functools.cache
def folder() -> Path:
    out = tiny_models.session_folder() / "phi3v-openvino"
    out.mkdir()
    model = phi3v.load(checkpoint(), torch.float32)
    for name in (*tiny_models.TOKENIZER_FILES, "generation_config.json"):
        shutil.copy(checkpoint() / name, out / name)
    vision = model.vision
    separators = {"sub_GN": vision.sub_GN.tolist(), "glb_GN": vision.glb_GN.tolist()}
    _write(out / "config.json", model.config | separators)
    processor = {"num_crops": 16, "num_img_tokens": 144}
    _write(out / "preprocessor_config.json", {"image_mean": phi3v.MEAN, **processor})
    _save(_language_model(model.config["hidden_size"]), out, "language")
    _save(_text_embeddings(), out, "text_embeddings")
    side, merged = model.side, vision.glb_GN.shape[-1]
    pixels = torch.zeros(2, 3, side, side), openvino.PartialShape([-1, 3, -1, -1])
    _save(_converted(_Look(model), "pixel_values", *pixels), out, "vision_embeddings")
    features = torch.zeros(1, 5, merged), openvino.PartialShape([-1, -1, merged])
    _save(_converted(vision.img_projection, "input", *features), out, "vision_projection")
    return out


def _language_model(hidden: int) -> openvino.Model:
    file = make_openvino_ir.OUT / tiny_phi3v.TEXT / "openvino_model.xml"
    model = openvino.Core().read_model(file)
    ids = model.input("input_ids").get_node()
    embeddings = opset13.parameter([-1, -1, hidden], numpy.float32, name="inputs_embeds")
    embeddings.output(0).get_tensor().set_names({"inputs_embeds"})
    for reader in ids.output(0).get_target_inputs():
        if reader.get_node().get_type_name() == "ShapeOf":  # asks for the number of sequences
            reader.replace_source_output(embeddings.output(0))
        else:
            (lookup,) = reader.get_node().output(0).get_target_inputs()
            for after in lookup.get_node().output(0).get_target_inputs():
                after.replace_source_output(embeddings.output(0))
    model.remove_parameter(ids)
    model.add_parameters([embeddings])
    model.validate_nodes_and_infer_types()
    return model


def _text_embeddings() -> openvino.Model:
    table = load_file(checkpoint() / "model.safetensors")["model.embed_tokens.weight"]
    ids = opset13.parameter([-1, -1], numpy.int64, name="input")
    ids.output(0).get_tensor().set_names({"input"})
    rows = opset13.gather(opset13.constant(table), ids, opset13.constant(numpy.int32(0)))
    rows.output(0).get_tensor().set_names({"inputs_embeds"})
    return openvino.Model([rows], [ids], "text_embeddings")


class _Look(torch.nn.Module):
    def __init__(self, model: phi3v.Phi3Vision) -> None:
        super().__init__()
        self.vision = model.vision

    def forward(self, pixel_values: Any) -> Any:
        return self.vision.look(pixel_values)


def _converted(
    module: torch.nn.Module, name: str, example: torch.Tensor, shape: openvino.PartialShape
) -> openvino.Model:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(module, example_input=example, input=[(name, shape)])
    model.inputs[0].get_tensor().set_names({name})
    model.outputs[0].get_tensor().set_names({"last_hidden_state"})
    return model


def _save(model: openvino.Model, out: Path, part: str) -> None:
    openvino.save_model(model, out / f"openvino_{part}_model.xml", compress_to_fp16=False)


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content) + "\n", encoding="utf-8")
