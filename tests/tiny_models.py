"""Tiny random checkpoints of the real architectures, laid out as their publishers lay them out.

    write(model_id, folder, **config)  a Hugging Face repository of that model in `folder`, in
                                       milliseconds: config.json, generation_config.json,
                                       model.safetensors (float32) in the hub's own key layout, the
                                       tokenizer's files with the chat template. The same arguments
                                       give the same bytes. `config` replaces entries of config.json
                                       before the weights are made: sliding_window=64,
                                       num_hidden_layers=1, rope_scaling=None ...
    hugging_face(model_id)             such a folder, made once a test session: do not write to it
    onnx(model_id, precision="int4")   the official ONNX folder, by ONNX Runtime GenAI's builder;
                                       "fp32" for the same numbers as the checkpoint's
    mlx(model_id, bits=4)              the folder that mlx-lm's converter makes; 0: unquantised
    converted(kind, model_ids)         several at once; kind: "onnx-int4", "onnx-fp32", "mlx-4bit"
    MODELS                             model ids, as in the catalog; Mixtral is in none

The converters are the real ones, in a process of their own: 5-10 s for one model or for all of
them, once a test session. The builder does no mixture of experts, and mlx-lm's not Phi-tiny-MoE.
Which special tokens there are: tiny_tokenizers. Phi-3-small has a tokenizer only: no runtime here
has its architecture.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import json
import math
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
import tiny_tokenizers
from safetensors.numpy import save_file

Config = dict[str, Any]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "ORT_DISABLE_TELEMETRY": "1"}
MSCALE = 1.243163121016122  # of Phi-3.5-MoE


_converted: set[Path] = set()


@dataclass(frozen=True)
class Tiny:
    """`stops`: tokens in generation_config.json; `config`: what differs from its architecture."""

    architecture: str
    family: str
    stops: tuple[str, ...]
    config: Config = field(default_factory=dict)


def _longrope(factors: int, **more: Any) -> Config:
    """Short and long factors so different that the wrong ones change every token."""
    return {
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0 + 0.05 * n for n in range(factors)],
            "long_factor": [4.0 + 3.0 * n for n in range(factors)],
            **more,
        },
        "sliding_window": 262144,
    }


_ENDS = ("<|endoftext|>", "<|assistant|>", "<|end|>")
_GROUPED = {"num_key_value_heads": 2}

MODELS = {
    "phi-3-mini-4k-instruct": Tiny("phi3", "phi-3-mini", _ENDS, {"sliding_window": 2047}),
    "phi-3-mini-128k-instruct": Tiny("phi3", "phi-3-mini", _ENDS, _longrope(8)),
    "phi-3-medium-4k-instruct": Tiny(
        "phi3", "phi-3-medium", _ENDS, {**_GROUPED, "sliding_window": 2047}
    ),
    "phi-3-medium-128k-instruct": Tiny("phi3", "phi-3-medium", _ENDS, {**_GROUPED, **_longrope(8)}),
    "phi-3.5-mini-instruct": Tiny("phi3", "phi-3.5", _ENDS[::-1], _longrope(8)),
    "phi-tiny-moe-instruct": Tiny(
        "phimoe",
        "phi-3.5",
        _ENDS,
        {
            # Heads that are together half as wide as the hidden size, as in the real one.
            "head_dim": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "sliding_window": 2047,
        },
    ),
    "phi-3.5-moe-instruct": Tiny(
        "phimoe",
        "phi-3.5",
        _ENDS,
        _longrope(
            8, short_mscale=MSCALE, long_mscale=MSCALE, original_max_position_embeddings=4096
        ),
    ),
    "phi-4-mini-instruct": Tiny(
        "phi3",
        "phi-4-mini",
        ("<|end|>", "<|endoftext|>"),
        {
            **_longrope(24),
            # Three quarters of a head turn, and runtimes want a multiple of 16 of that.
            "hidden_size": 128,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "partial_rotary_factor": 0.75,
            "tie_word_embeddings": True,
        },
    ),
    "phi-4": Tiny(
        "phi3",
        "phi-4",
        ("<|endoftext|>", "<|im_end|>"),
        {
            **_GROUPED,
            "max_position_embeddings": 16384,
            "original_max_position_embeddings": 16384,
            "rope_theta": 250000,
        },
    ),
    "olmoe-1b-7b-0924-instruct": Tiny("olmoe", "olmoe", ()),
    "mixtral-8x7b-instruct": Tiny("mixtral", "phi-3.5", (), {"max_position_embeddings": 32768}),
    "smollm2-135m-instruct": Tiny(
        "llama",
        "smollm2",
        (),  # just the one that config.json has
        {
            "max_position_embeddings": 8192,
            "num_key_value_heads": 2,
            "rope_theta": 100000,
            "tie_word_embeddings": True,
        },
    ),
}

#: What each converter can do is done at once, for what takes the time is to start it.
CONVERTED = {
    "onnx": [name for name, tiny in MODELS.items() if tiny.architecture in ("phi3", "llama")],
    "mlx": [name for name, tiny in MODELS.items() if "head_dim" not in tiny.config],
}

_COMMON: Config = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 128,
    "max_position_embeddings": 4096,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.43.3",
    "use_cache": True,
}
ARCHITECTURES: dict[str, Config] = {
    "phi3": {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        # Names of code that the hub has beside the weights, which nothing here may run.
        "auto_map": {
            "AutoConfig": "configuration_phi3.Phi3Config",
            "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
        },
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "original_max_position_embeddings": 4096,
        "sliding_window": None,
    },
    "phimoe": {
        "architectures": ["PhiMoEForCausalLM"],
        "model_type": "phimoe",
        "auto_map": {
            "AutoConfig": "configuration_phimoe.PhiMoEConfig",
            "AutoModelForCausalLM": "modeling_phimoe.PhiMoEForCausalLM",
        },
        "attention_bias": True,
        "hidden_dropout": 0.0,
        "input_jitter_noise": 0.01,
        "intermediate_size": 64,
        "lm_head_bias": True,
        "num_experts_per_tok": 2,
        "num_key_value_heads": 2,
        "num_local_experts": 16,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.0,
        "router_jitter_noise": 0.01,
    },
    "olmoe": {
        "architectures": ["OlmoeForCausalLM"],
        "model_type": "olmoe",
        "clip_qkv": None,
        "intermediate_size": 32,
        "norm_topk_prob": False,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.01,
    },
    "mixtral": {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "intermediate_size": 64,
        "num_experts_per_tok": 2,
        "num_key_value_heads": 2,
        "num_local_experts": 8,
        "output_router_logits": False,
        "sliding_window": None,
    },
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "mlp_bias": False},
}


def write(model_id: str, folder: Path, **config: Any) -> Path:
    """The model's Hugging Face repository in `folder`, which is made."""
    tiny = MODELS[model_id]
    tiny_tokenizers.files(tiny.family, folder)
    numbers = tiny_tokenizers.ids(folder)
    family = tiny_tokenizers.FAMILIES[tiny.family]
    special = {
        "bos_token_id": numbers[family.bos],
        "eos_token_id": numbers[family.eos],
        "pad_token_id": numbers[family.eos],
    }
    whole = {
        **_COMMON,
        **ARCHITECTURES[tiny.architecture],
        **special,
        "vocab_size": tiny_tokenizers.size(tiny.family),
        **tiny.config,
        **config,
    }
    generation: Config = {"_from_model_config": True, **special}
    if tiny.stops:
        generation["eos_token_id"] = [numbers[token] for token in tiny.stops]
    _write(folder / "config.json", whole)
    _write(folder / "generation_config.json", generation)
    random = numpy.random.default_rng(zlib.crc32(model_id.encode()))
    weights = {
        name: _weight(name, shape, random, tied=whole["tie_word_embeddings"])
        for name, shape in _shapes(tiny.architecture, whole).items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@functools.cache
def hugging_face(model_id: str) -> Path:
    return write(model_id, session_folder() / "hugging_face" / model_id)


def onnx(model_id: str, precision: str = "int4") -> Path:
    return converted(f"onnx-{precision}", CONVERTED["onnx"])[model_id]


def mlx(model_id: str, bits: int = 4) -> Path:
    wanted = CONVERTED["mlx"] if bits == 4 else [model_id]  # other numbers are for one test
    return converted(f"mlx-{bits}bit", wanted)[model_id]


def converted(kind: str, model_ids: Iterable[str]) -> dict[str, Path]:
    """The folders of several models at once: what takes the time is to start the converter."""
    folders = {model_id: session_folder() / kind / model_id for model_id in model_ids}
    missing = [model_id for model_id, folder in folders.items() if folder not in _converted]
    if missing:
        pairs = [(str(hugging_face(model_id)), str(folders[model_id])) for model_id in missing]
        command = [sys.executable, __file__, kind, *itertools.chain(*pairs)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | OFFLINE, timeout=300
        )
        if done.returncode:
            raise RuntimeError(f"{kind} of {missing}\n{done.stdout}\n{done.stderr}")
    for model_id in missing:
        # Converters write the tokenizer anew, as their transformers does today; the folders that
        # are published are older and have the model's own files.
        (folders[model_id] / "chat_template.jinja").unlink(missing_ok=True)
        for name in TOKENIZER_FILES:
            shutil.copy(hugging_face(model_id) / name, folders[model_id] / name)
        _converted.add(folders[model_id])
    return folders


def _convert_to_onnx(source: str, target: str, precision: str) -> None:
    """For the CPU, as the builder's own command line makes it."""
    arguments = ["-i", source, "-o", target, "-p", precision, "-e", "cpu", "-c", f"{target}-cache"]
    with mock.patch.object(sys, "argv", ["builder", *arguments]):
        runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__", alter_sys=True)


def _convert_to_mlx(source: str, target: str, bits: int) -> None:
    from mlx_lm import convert

    Path(target).parent.mkdir(exist_ok=True)
    convert(source, target, quantize=bits > 0, q_bits=bits, q_group_size=32)


@functools.cache
def session_folder() -> Path:
    """Where all of that lies; it goes when the tests are through."""
    folder = Path(tempfile.mkdtemp(prefix="tiny-models-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _shapes(architecture: str, config: Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint's tensors, as the hub has them."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    width = config.get("head_dim", hidden // heads)
    asked, keys = width * heads, width * config["num_key_value_heads"]
    inner = config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        parts: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
            "self_attn.o_proj.weight": (hidden, asked),
        }
        if architecture == "phi3":
            parts["self_attn.qkv_proj.weight"] = (hidden + 2 * keys, hidden)
            parts["mlp.gate_up_proj.weight"] = (2 * inner, hidden)
            parts["mlp.down_proj.weight"] = (hidden, inner)
        else:
            for name, rows in (("q", asked), ("k", keys), ("v", keys)):
                parts[f"self_attn.{name}_proj.weight"] = (rows, hidden)
        if architecture == "llama":
            parts["mlp.gate_proj.weight"] = parts["mlp.up_proj.weight"] = (inner, hidden)
            parts["mlp.down_proj.weight"] = (hidden, inner)
        if architecture == "olmoe":
            parts["self_attn.q_norm.weight"], parts["self_attn.k_norm.weight"] = (asked,), (keys,)
            parts["mlp.gate.weight"] = (config["num_experts"], hidden)
            for expert in range(config["num_experts"]):
                place = f"mlp.experts.{expert}"
                parts[f"{place}.gate_proj.weight"] = (inner, hidden)
                parts[f"{place}.up_proj.weight"] = (inner, hidden)
                parts[f"{place}.down_proj.weight"] = (hidden, inner)
        if architecture in ("phimoe", "mixtral"):
            experts = config["num_local_experts"]
            parts["block_sparse_moe.gate.weight"] = (experts, hidden)
            for expert in range(experts):
                place = f"block_sparse_moe.experts.{expert}"
                parts[f"{place}.w1.weight"] = parts[f"{place}.w3.weight"] = (inner, hidden)
                parts[f"{place}.w2.weight"] = (hidden, inner)
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in parts.items()}
    if architecture == "phimoe":  # norms, attention and the head have a bias; the experts have none
        biased = [name for name in shapes if "norm" in name or "_proj" in name or "lm_head" in name]
        shapes |= {
            name.removesuffix("weight") + "bias": shapes[name][:1] for name in sorted(biased)
        }
    return shapes


def _weight(name: str, shape: tuple[int, ...], random: numpy.random.Generator, tied: bool) -> Any:
    """Random, and large enough that what a model says depends on where each word stands."""
    values = random.standard_normal(shape, dtype=numpy.float32)
    if name.endswith("bias"):
        return 0.1 * values
    if len(shape) == 1:
        return 1 + 0.1 * values
    if name == "model.embed_tokens.weight" and not tied:
        return values
    return values * numpy.float32(1.5 / math.sqrt(shape[1]))


def _write(file: Path, content: Config) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _kind, *_folders = sys.argv[1:]
    _runtime, _, _how = _kind.partition("-")
    for _source, _target in zip(_folders[::2], _folders[1::2], strict=True):
        if _runtime == "onnx":
            _convert_to_onnx(_source, _target, _how)
        else:
            _convert_to_mlx(_source, _target, int(_how.removesuffix("bit")))
