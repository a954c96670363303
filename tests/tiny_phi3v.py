"""A tiny Phi-3.5-vision in the hub's layout, for the runtimes that convert it, and what it says.

    write(folder, text, eyes, **config)  a checkpoint in `folder`: the text part is that of
                                         tiny_models' checkpoint `text` with the same `config`, the
                                         other part random; `eyes` are entries of CLIP's config
    picture(seed, size)                  a picture of noise
    looked_at(model, picture, most)      its features, cut into so many crops at most
    reference(model, pieces, said)       logits after a prompt and a part of its reply, read at once

Everything is seeded: the same arguments give the same numbers.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import PIL.Image
import tiny_models
import torch
from safetensors.torch import load_file

from slm_backends import chat
from slm_backends.picture_tokens import SEVERAL_CROPS, SINGLE_CROPS
from slm_backends.worker import pieces as piece
from slm_backends.worker.engines import phi3v
from slm_backends.worker.pieces import Piece, Words

TEXT = "phi-3.5-mini-instruct"
EYES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}


def write(folder: Path, text: str = TEXT, eyes: dict[str, int] = EYES, **config: Any) -> Path:
    tiny_models.write(text, folder, **config)
    weights = load_file(folder / "model.safetensors")
    whole = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del whole["auto_map"]
    whole |= {
        "architectures": ["Phi3VForCausalLM"],
        "model_type": "phi3_v",
        "img_processor": {"name": "clip_vision_model", "vision_config": eyes},
    }
    model = phi3v.Phi3Vision(whole)
    model.language.load_state_dict(weights)
    random = numpy.random.default_rng(0)
    with torch.no_grad():
        for values in model.vision.parameters():
            scale = 0.3 if values.dim() < 2 else 2 / values.shape[-1] ** 0.5
            noise = random.standard_normal(values.shape, dtype=numpy.float32)
            values.copy_(scale * torch.from_numpy(noise))
    phi3v.save(model, folder)
    processor = {"image_processor_type": "Phi3VImageProcessor", "num_crops": SINGLE_CROPS}
    text = json.dumps(processor)
    (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")
    return folder


def picture(seed: int, size: tuple[int, int]) -> piece.Picture:
    noise = numpy.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype="uint8")
    file = io.BytesIO()
    PIL.Image.fromarray(noise).save(file, "PNG")
    return piece.picture(chat.Image(file.getvalue()), *size)


def reference(model: phi3v.Phi3Vision, pieces: Sequence[Piece], said: Sequence[int] = ()) -> Any:
    """One float32 number for each token of the vocabulary."""
    alone = sum(isinstance(part, piece.Picture) for part in pieces) == 1
    most = SINGLE_CROPS if alone else SEVERAL_CROPS
    tokens: list[int] = []
    features = [torch.empty(0, model.config["hidden_size"])]
    with torch.inference_mode():
        for part in pieces:
            if isinstance(part, Words):
                tokens += part.tokens
                continue
            features.append(looked_at(model, part, most))
            tokens += [-1] * len(features[-1])
        embedded = model.embed(torch.tensor([*tokens, *said]), torch.cat(features))
        logits = model.language(inputs_embeds=embedded[None], logits_to_keep=1).logits
    return logits[0, -1].numpy()


@functools.cache
@torch.inference_mode()
def looked_at(model: phi3v.Phi3Vision, picture: piece.Picture, most: int) -> torch.Tensor:
    image = PIL.Image.open(io.BytesIO(picture.data))
    crops, grid = phi3v.crops_of(image, most, model.side)
    return model.vision.arrange(model.vision.look(crops), grid)
