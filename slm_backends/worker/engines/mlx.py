"""MLX with mlx-lm's models: Apple silicon's graphics processor, elsewhere the CPU, in turns.

A loop of our own around the model instead of the library's (turns.py), with the sampler that other
runtimes have too.

MLX puts off all work until a number is asked for, and then does it on the stream of the thread that
noted it down. So nothing is left undone when a call returns: one thread may load and another go on.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from slm_backends.chat import SAMPLING_FIELDS
from slm_backends.errors import SLMError
from slm_backends.worker.engines import Progress
from slm_backends.worker.engines.readings import Cache, Reading
from slm_backends.worker.engines.turns import Turns
from slm_backends.worker.stops import stop_ids

SAMPLING = SAMPLING_FIELDS
LOGPROBS = True
#: Tokens of a prompt that are read at once, by device. On Linux MLX multiplies matrices on one core
#: and without haste: a token takes as long in a piece of 8 as in one of 64, and 8 are a second.
PIECES = {"cpu": 8, "gpu": 256}
FREED = 256 * 2**20  # bytes that MLX may keep of what it has freed, to use again


def load(
    folder: Path, progress: Progress, *, device: str = "", context: int | None = None
) -> MlxEngine:
    return MlxEngine(folder, progress, device, context)


class MlxEngine(Turns):
    """A folder as mlx-lm's converter writes it, or a checkpoint of a type that mlx-lm knows."""

    def __init__(self, folder: Path, progress: Progress, device: str, context: int | None) -> None:
        progress(0.0, "starting MLX")
        import mlx.core as mx

        from slm_backends.worker.engines import mlx_model

        self._float32 = mx.float32
        versions = {name: importlib.metadata.version(name) for name in ("mlx-lm", "mlx")}
        self.version = f"mlx-lm {versions['mlx-lm']} (mlx {versions['mlx']})"
        place = _place(mx, device)
        mx.set_default_device(mx.Device(getattr(mx, place)))
        mx.set_cache_limit(FREED)
        self.device = place.upper()
        progress(0.3, "reading weights")
        model = mlx_model.Model(folder)
        self._model = model
        context = min(model.context, context or model.context)
        super().__init__(context, bound=model.bound, piece=PIECES[place], keeps=model.plain)
        self.eos = stop_ids(folder)
        progress(0.9, "warming up")
        self._forward(self._read_anew(1), [0], last=True)

    def _cache(self) -> Cache:
        return self._model.cache()

    def _forward(self, reading: Reading, tokens: list[int], *, last: bool) -> Any:
        import numpy

        cache: Any = reading.cache
        logits = self._model.read(tokens, cache, far=reading.far)
        cache.compute()  # without `last`, the output matrix has nothing to do
        return numpy.array(logits.astype(self._float32)) if last else None


def _place(mx: Any, asked: str) -> str:
    """ "cpu" or "gpu": the device that was asked for, or what MLX was made for here."""
    default = mx.default_device().type.name
    place = asked.lower() or default
    if place not in PIECES or not mx.is_available(getattr(mx, place)):
        raise SLMError(
            f"MLX finds no device {asked!r} on this computer.",
            hint=f"Pick a deployment without a device: it runs on the {default.upper()} here.",
        )
    return str(place)
