"""The sizes of phi-vision-nano, and the small files that say them to a runtime.

Knows the layout of Phi-3.5-vision's files. The architecture itself is in slm_backends.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recipes.tokenizer import SPECIAL
from slm_backends.worker.engines import phi3v

SIDE, PATCH, CROPS = 48, 8, 4  # a crop's side, a patch's, and how many crops a picture may have
ACROSS = SIDE // PATCH // 2  # tokens along a crop's side
CELLS = 2 * ACROSS  # tokens along a picture's side: every picture here has two by two crops
SLOTS = CELLS * (CELLS + 1) + 1 + ACROSS * (ACROSS + 1)  # tokens of a picture

_NOTHING, _END = SPECIAL.index("<|endoftext|>"), SPECIAL.index("<|end|>")


def config(vocabulary: int) -> dict[str, Any]:
    """config.json in the layout of Phi-3.5-vision's, small."""
    return {
        "architectures": ["Phi3VForCausalLM"],
        "model_type": "phi3_v",
        "vocab_size": vocabulary,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "bos_token_id": _NOTHING,
        "eos_token_id": _END,
        "pad_token_id": _NOTHING,
        "torch_dtype": "bfloat16",
        "embd_layer": {
            "embedding_cls": "image",
            "hd_transform_order": "sub_glb",
            "projection_cls": "mlp",
            "use_hd_transform": True,
            "with_learnable_separator": True,
        },
        "img_processor": {
            "name": "clip_vision_model",
            "num_img_tokens": ACROSS**2,
            "vision_config": {
                "hidden_size": 128,
                "intermediate_size": 384,
                "num_hidden_layers": 5,
                "num_attention_heads": 4,
                "image_size": SIDE,
                "patch_size": PATCH,
            },
        },
    }


def write_beside(folder: Path) -> None:
    """preprocessor_config.json and generation_config.json, into `folder`."""
    preprocessor = {
        "image_processor_type": "Phi3VImageProcessor",
        "num_crops": CROPS,
        "num_img_tokens": ACROSS**2,
        "image_mean": phi3v.MEAN,
        "image_std": phi3v.STD,
        "do_convert_rgb": True,
    }
    generation = {
        "bos_token_id": _NOTHING,
        "eos_token_id": [_END, _NOTHING],
        "pad_token_id": _NOTHING,
    }
    for name, content in (
        ("preprocessor_config.json", preprocessor),
        ("generation_config.json", generation),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
