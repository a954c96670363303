"""Rotary positions of Phi-MoE in Transformers, with the factors for long texts where they belong.

The library (5.23) asks for the factors without saying how long the text is, so it keeps those for
short texts past the bound, where answers then drift; of the two scales it takes the right one. Its
Phi-3 does it rightly. Imports torch: only made for a model on it.
"""

from __future__ import annotations

from typing import Any

import torch


class LongRope(torch.nn.Module):
    """LongRoPE (arXiv:2402.13753, section 3.3): the frequency of pair i of a head of d numbers is
    1 / (factor_i x base^(2i/d)). A text of up to `original_max_position_embeddings` has the short
    factors and the short scale, a longer one the long ones at all of its positions."""

    def __init__(self, config: Any, device: Any) -> None:
        super().__init__()
        rope = config.rope_parameters
        size = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        pairs = torch.arange(0, size, 2, device=device, dtype=torch.float32)
        powers = rope["rope_theta"] ** (pairs / size)
        self._bound = int(rope["original_max_position_embeddings"])
        # No buffers: they would be cast to the weights' kind of number with the model.
        self._sets = [
            (1 / (torch.tensor(rope[f"{name}_factor"], device=device) * powers), scale)
            for name, scale in (("short", rope["short_mscale"]), ("long", rope["long_mscale"]))
        ]

    def forward(self, x: Any, position_ids: Any) -> tuple[Any, Any]:
        """(cosines, sines), [batch, tokens, head] both, in the kind of number of `x`. The highest
        of `position_ids`, [batch, tokens], says how long the text is."""
        long = int(position_ids.max()) >= self._bound
        frequencies, scale = self._sets[long]
        angles = position_ids[..., None].float() * frequencies.to(x.device)
        both = torch.cat((angles, angles), -1)
        return (both.cos() * scale).to(x.dtype), (both.sin() * scale).to(x.dtype)


def mend(model: Any, place: str) -> None:
    """Put it into a Phi-MoE that has two sets of factors, to be computed at `place`, which a model
    whose weights are on the disk does not know; any other model stays as it is."""
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    if config.model_type == "phimoe" and rope.get("rope_type") == "longrope":
        model.model.rotary_emb = LongRope(config, place)
