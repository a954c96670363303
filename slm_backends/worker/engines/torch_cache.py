"""A key-value cache for Transformers that grows in place and can be cut anywhere.

The library's own copies all keys and values for every token, and where attention has a sliding
window it forgets what a shorter prompt would need again. This one keeps everything: the model's
mask looks at the window. Imports torch, so only the engine imports it, when it is made.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers.cache_utils import DynamicLayer

ROOM = 256  # tokens that a new buffer has room for beyond its content, or a quarter of that


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """`keys` and `values`, [1, heads, tokens, size], are the filled parts of larger buffers."""

    keys: Any
    values: Any

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[..., :0, :], value_states[..., :0, :]
            self._buffers = self.keys, self.values
        filled = self.keys.shape[-2]
        total = filled + key_states.shape[-2]
        if total > self._buffers[0].shape[-2]:
            room = total + max(ROOM, total // 4)
            self._buffers = _larger(self.keys, room), _larger(self.values, room)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., filled:total, :] = new
        self.fill(total)
        return self.keys, self.values

    def fill(self, tokens: int) -> None:
        self.keys, self.values = (buffer[..., :tokens, :] for buffer in self._buffers)


class TorchCache(transformers.Cache):
    """The cache of one sequence."""

    layers: list[Any]

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_Layer)

    def cut(self, tokens: int) -> None:
        """Forget all but the first `tokens`."""
        for layer in self.layers:
            layer.fill(tokens)

    def copy(self, tokens: int) -> TorchCache:
        """A cache of its own with the first `tokens`."""
        made = TorchCache()
        for number, layer in enumerate(self.layers):
            made.update(layer.keys[..., :tokens, :], layer.values[..., :tokens, :], number)
        return made


def _larger(content: torch.Tensor, tokens: int) -> torch.Tensor:
    batch, heads, filled, size = content.shape
    buffer = content.new_empty(batch, heads, tokens, size)
    buffer[..., :filled, :] = content
    return buffer
