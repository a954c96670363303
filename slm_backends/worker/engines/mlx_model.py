"""A model of mlx-lm's made to compute what its authors say, and its key-value cache.

mlx-lm reads rotary factors from the names that transformers 4 wrote, turns longrope models by their
long factors also where the text is short, gives Phi-3 no sliding window, and takes the heads of a
Phi-MoE to be as wide as its hidden size allows. Imports MLX, so only the engine imports it, when it
is made.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models import phimoe
from mlx_lm.models.cache import KVCache, make_prompt_cache
from mlx_lm.models.rope_utils import SuScaledRoPE
from mlx_lm.utils import load_model

from slm_backends.errors import SLMError

#: Types whose attention has a window that mlx-lm's model does not know.
WINDOWED = ("phi3", "phimoe")


class Model:
    """The checkpoint in `folder`: config.json and model*.safetensors, quantised or not.

    context  tokens that it was made for
    bound    tokens up to which it uses its short rotary factors; 0: it has one set
    plain    whether a cache of it can be cut and copied
    """

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("model_file"):  # older versions of the library would run it
            raise SLMError(
                f"The model in {folder} brings its own code, {config['model_file']}, "
                "and code out of a model folder is never run.",
                hint="Pick a model of an architecture that mlx-lm itself knows.",
            )
        named = _old_names(config)
        self._net: Any
        self._net, _ = load_model(folder, model_config=named, **_own_classes(config | named))
        config |= named
        self.context = int(config["max_position_embeddings"])
        self._ropes = _two_ropes(self._net, config)
        self.bound = self._ropes[0].bound if self._ropes else 0
        window = config.get("sliding_window") if config["model_type"] in WINDOWED else None
        self._window = window if window and window < self.context else None
        self.plain = all(isinstance(layer, KVCache) for layer in self.cache().layers)

    def cache(self) -> Cache:
        """An empty one."""
        if self._window:
            return Cache([_Windowed(self._window) for _ in self._net.layers])
        return Cache(make_prompt_cache(self._net))

    def read(self, tokens: list[int], cache: Cache, *, far: bool) -> mx.array:
        """Read `tokens` after those in `cache`; the logits after the last of them, still
        to be computed.

        far  turned by the long rotary factors, where it has two sets
        """
        for rope in self._ropes:
            rope.far = far
        logits: mx.array = self._net(mx.array([tokens]), cache=cache.layers)[0, -1]
        return logits


class Cache:
    """Keys and values of one sequence, a part for each layer of the model."""

    def __init__(self, layers: list[Any]) -> None:
        self.layers = layers

    def compute(self) -> None:
        """Compute what was only noted so far: MLX puts everything off until it is needed."""
        mx.eval([layer.state for layer in self.layers])

    def cut(self, tokens: int) -> None:
        """Forget all but the first `tokens`."""
        for layer in self.layers:
            layer.trim(layer.offset - tokens)

    def copy(self, tokens: int) -> Cache:
        """A cache of its own with the first `tokens`."""
        made = Cache([copy.copy(layer) for layer in self.layers])
        for layer in made.layers:
            # Contiguous, or it would be a view that keeps the whole original in memory.
            layer.keys = mx.contiguous(layer.keys[..., :tokens, :])
            layer.values = mx.contiguous(layer.values[..., :tokens, :])
            layer.offset = tokens
        made.compute()
        return made


class _Windowed(KVCache):  # type: ignore[misc]
    """Keeps everything and lets attention see the last `window` tokens, itself among them."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self._window = window

    def make_mask(self, tokens: int, return_array: bool, window_size: int | None) -> Any:
        if self.offset + tokens <= self._window:
            return super().make_mask(tokens, return_array=return_array, window_size=None)
        return super().make_mask(tokens, return_array=return_array, window_size=self._window)


class _TwoRope(nn.Module):  # type: ignore[misc]
    """Longrope (arXiv:2402.13753) with its two sets of factors: a text of up to `bound` tokens is
    turned by the short ones, every position of a longer one by the long ones. `far` says which."""

    def __init__(self, dims: int, config: dict[str, Any]) -> None:
        super().__init__()
        rope = config["rope_scaling"]
        self.bound = int(config["original_max_position_embeddings"])
        self.far = False
        self._dims = dims
        stretch = rope.get("factor") or config["max_position_embeddings"] / self.bound
        usual = math.sqrt(1 + math.log(stretch) / math.log(self.bound)) if stretch > 1 else 1.0
        usual = rope.get("attention_factor") or usual
        theta = config.get("rope_theta", 10_000.0)
        lengths = theta ** (mx.arange(0, dims, 2, dtype=mx.float32) / dims)
        self._short, self._long = (
            (mx.array(rope[f"{name}_factor"]) * lengths, rope.get(f"{name}_mscale") or usual)
            for name in ("short", "long")
        )
        mx.eval(self._short[0], self._long[0])

    def __call__(self, x: mx.array, offset: int = 0) -> mx.array:
        lengths, scale = self._long if self.far else self._short
        x = x.at[..., : self._dims].multiply(scale)
        return mx.fast.rope(
            x, self._dims, traditional=False, base=None, scale=1.0, offset=offset, freqs=lengths
        )


def _own_classes(config: dict[str, Any]) -> dict[str, Any]:
    """What makes the library build a Phi-MoE whose heads are as wide as its configuration says: by
    itself it takes them to share the hidden size, of which those of Phi-tiny-MoE are half."""
    width = config.get("head_dim")
    if config["model_type"] != "phimoe":
        return {}
    if not config.get("rope_scaling") and not hasattr(phimoe, "sparsemixer"):
        raise SLMError(
            "This version of mlx-lm reads no Phi-MoE that is made for short texts only.",
            hint="Use Python 3.11 or newer, which has a newer mlx-lm, or another runtime.",
        )
    if not width:
        return {}

    def build(args: phimoe.ModelArgs) -> phimoe.Model:
        model = phimoe.Model(args)
        together = width * args.num_attention_heads
        for layer in model.layers:
            attention = phimoe.Attention(dataclasses.replace(args, hidden_size=together))
            for name in ("q_proj", "k_proj", "v_proj"):
                rows = getattr(attention, name).weight.shape[0]
                setattr(attention, name, nn.Linear(args.hidden_size, rows, bias=True))
            attention.o_proj = nn.Linear(together, args.hidden_size, bias=True)
            layer.self_attn = attention
        return model

    return {"get_model_classes": lambda config: (build, phimoe.ModelArgs)}


def _two_ropes(net: Any, config: dict[str, Any]) -> list[_TwoRope]:
    """Put one into each layer that has a longrope of the library's."""
    ropes = []
    for layer in net.layers:
        attention: Any = getattr(layer, "self_attn", None)
        old = getattr(attention, "rope", None)
        if isinstance(old, SuScaledRoPE):
            attention.rope = _TwoRope(old.dim, config)
            ropes.append(attention.rope)
    return ropes


def _old_names(config: dict[str, Any]) -> dict[str, Any]:
    """What transformers 5 writes as `rope_parameters`, under the names of transformers 4."""
    rope = config.get("rope_parameters") or {}
    named: dict[str, Any] = {
        name: rope[name]
        for name in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
        if name in rope
    }
    rope = config.get("rope_scaling") or rope
    kind = rope.get("type") or rope.get("rope_type") or "default"
    if kind != "default":
        named["rope_scaling"] = {**rope, "type": kind}
    return named
