"""What a mixture of experts costs: bytes to hold, bytes to read for a token, and how fast that is.

Knows sizes from the catalog and formulas, and measures how fast this computer's memory is read. The
speeds are bounds: they leave out computing, which may take longer than reading does, the reading of
a prompt, and what a runtime does beside. A model so small that a processor's caches hold it may be
faster. Knows no runtime and loads no model.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy
import psutil

from slm_backends import fit
from slm_backends.catalog import Model
from slm_backends.errors import BadRequest

#: precision -> bits of a weight. Of int4: blocks of 32 weights of 4 bits with a scale of 16, as in
#: the q4_0 of ggml, 18 bytes for 32 weights; ONNX Runtime's with blocks of 32 takes as much.
BITS: Mapping[str, float] = {"bf16": 16.0, "int4": 4.5}
CACHE_BYTES = 2  # a number of the key-value cache in half precision
FARTHEST = 3.0  # a rival has at most so many times the parameters, or so many times fewer
CONTEXT, BATCH = 1_024, 1  # tokens, conversations
MAX_BATCH = 256

READ_BYTES = 256 * 2**20  # far more than the caches of a desktop or a laptop hold
READ_SECONDS = 1.0


@dataclass(frozen=True)
class Cost:
    """A model in one precision.

    hold   bytes of its weights, all of which must be in memory
    read   bytes of weights that are read for one step, which gives every conversation a token
    cache  bytes of the key-value caches of all conversations, read for that step too
    fits   whether weights, caches and a process fit into what models may take here
    speed  tokens a second of all conversations together, at most; None without a bandwidth
    """

    hold: int
    read: int
    cache: int
    fits: bool
    speed: float | None


@dataclass(frozen=True)
class Row:
    """`rival_of` is empty for a mixture, and names it for a model without experts beside it; `why`
    says how large it is beside that, as `rivals` does. `costs` by precision."""

    model: Model
    rival_of: str
    why: str
    costs: Mapping[str, Cost]


def rows(
    models: Iterable[Model],
    bandwidth: float | None = None,
    *,
    context: int = CONTEXT,
    batch: int = BATCH,
) -> tuple[Row, ...]:
    """Every mixture among `models` whose active parameters are known, the smallest first, each with
    its rivals.

    bandwidth  bytes a second, as `bandwidth()` measures them
    context    tokens of each conversation
    batch      conversations that are answered together

    Raises BadRequest for a context or a batch that is none.
    """
    if context < 0 or not 1 <= batch <= MAX_BATCH:
        raise BadRequest(
            f"A batch has 1 to {MAX_BATCH} conversations, of 0 tokens or more.", field="batch"
        )
    every = [model for model in models if model.parameters]
    mixtures = [model for model in every if model.experts and model.active]
    found: list[Row] = []
    for mixture in sorted(mixtures, key=lambda model: model.parameters):
        chosen = [
            (mixture, "", ""),
            *((rival, mixture.id, why) for rival, why in rivals(mixture, every)),
        ]
        for model, of, why in chosen:
            costs = {
                precision: cost(model, bits, bandwidth, context=context, batch=batch)
                for precision, bits in BITS.items()
            }
            found.append(Row(model, of, why, costs))
    return tuple(found)


def rivals(mixture: Model, models: Iterable[Model]) -> list[tuple[Model, str]]:
    """Models without experts that are nearest to the mixture's size in all, and to what of it works
    on a token: the nearest of its own family, else the nearest; none that is FARTHEST off.

    Each with how large it is beside what it was chosen by, as in "0.35 x its total".
    """
    dense = [
        model
        for model in models
        if not model.experts and model.parameters and model.inputs == ("text",)
    ]
    found: dict[Model, str] = {}
    for size, name in ((mixture.parameters, "total"), (mixture.active, "active")):
        near = [model for model in dense if _ratio(model.parameters, size) <= FARTHEST]
        kin = [model for model in near if model.family == mixture.family]
        best = min(kin or near, key=lambda model: _ratio(model.parameters, size), default=None)
        if best is not None:
            why = f"{best.parameters / size:.2f} x its {name}"
            found[best] = f"{found[best]}, {why}" if best in found else why
    return list(found.items())


def _ratio(first: int, second: int) -> float:
    return max(first, second) / min(first, second)


def cost(
    model: Model,
    bits: float,
    bandwidth: float | None = None,
    *,
    context: int = CONTEXT,
    batch: int = BATCH,
) -> Cost:
    """What the model takes with weights of so many bits. Where the shape of its cache is not known,
    that is left out."""
    hold = round(model.parameters * bits / 8)
    read = round(parameters_read(model, batch) * bits / 8)
    cache = fit.cache_numbers(model) * CACHE_BYTES * context * batch
    return Cost(
        hold,
        read,
        cache,
        hold + cache + fit.OVERHEAD <= fit.memory_budget(),
        batch * bandwidth / (read + cache) if bandwidth else None,
    )


def parameters_read(model: Model, batch: int = BATCH) -> float:
    """How many parameters one step for `batch` conversations reads, each once: all but those of
    the experts that work on none of its tokens."""
    idle = model.experts - model.chosen  # of each layer, when one token is read
    if idle <= 0:
        return float(model.parameters)
    one = (model.parameters - model.active) / idle  # an expert of each layer, together
    return model.parameters - one * (model.experts - distinct_experts(model, batch))


def distinct_experts(model: Model, batch: int) -> float:
    """How many different experts of a layer work in one step for `batch` conversations.

    Of E experts, k for each token, B tokens meet E (1 - (1 - k/E)^B) different ones on average,
    where the load is even and the tokens have nothing to do with each other.
    """
    return float(model.experts * (1 - (1 - model.chosen / model.experts) ** batch))


@functools.cache
def bandwidth() -> float:
    """Bytes a second that are read from this computer's memory: whole numbers are summed, 256 MiB
    of them by a thread for each core, the best of several passes in about a second. Measured once
    in a process."""
    threads = psutil.cpu_count(logical=False) or 1
    # Of whole numbers, as those of 32 bits with a point are summed slower than they are read.
    parts = numpy.array_split(numpy.ones(READ_BYTES // 8, dtype=numpy.int64), threads)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        until = time.perf_counter() + READ_SECONDS
        while not best or time.perf_counter() < until:
            begun = time.perf_counter()
            list(pool.map(numpy.sum, parts))
            best = max(best, READ_BYTES / (time.perf_counter() - begun))
    return best
