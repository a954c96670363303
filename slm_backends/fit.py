"""What a deployment takes of this computer's memory, with the arithmetic, and whether that fits.

Knows how weights and caches add up, runtime by runtime, and what models may take together. Does not
know what is loaded (selector.py), nor who waits for it (memory.py).
"""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil

from slm_backends import settings, store
from slm_backends.catalog import Deployment, Model
from slm_backends.errors import SLMError
from slm_backends.weights import is_one_file

OFFLOAD = "SLM_OFFLOAD"  # the setting that allows weights on the disk
DEFAULT_CONTEXT = 8_192  # tokens that a local worker holds at most, where a model can hold more
MEMORY_SHARE = 0.8  # of this computer's memory, for all workers together; SLM_MEMORY_GB sets it
OVERHEAD = 600_000_000  # bytes of a worker beside weights and cache: Python, the runtime, buffers
UNPACKED = {"": 2, "bfloat16": 2, "float16": 2, "float32": 4}  # precision -> bytes of a number
LEAST = 1 / 16  # of the weights in memory at least, where the others are on the disk: two layers
LOOKING = 300_000_000  # bytes more where it sees: features that are kept, a crop on its way through
KV_BYTES = 2  # a number of the cache in half precision, as most publishers state it


@dataclass(frozen=True)
class Need:
    """Bytes that a loaded worker takes with a cache for `context` tokens, and the sum in words.

    weights  those of the weights among them; 0 where they are not told apart
    """

    total: int
    context: int
    arithmetic: str
    weights: int = 0


@dataclass(frozen=True)
class Verdict:
    """Whether `need` fits: into `budget`, what all workers may take together, and into `free`,
    what no program uses now. Both in bytes.

    offload  weights for which there is no room may be read from the disk
    """

    need: Need
    budget: int
    free: int
    offload: bool = False

    @property
    def fits(self) -> bool:
        return self.need.total <= self.budget or self.partly

    @property
    def partly(self) -> bool:
        """Whether it fits because not all of its weights are in memory."""
        rest = self.need.total - self.need.weights
        least = rest + int(LEAST * self.need.weights)
        return self.offload and least <= self.budget < self.need.total

    @property
    def held(self) -> int:
        """Bytes that it takes when it is loaded."""
        return min(self.need.total, self.budget)

    @property
    def kept(self) -> int | None:
        """Bytes of its weights that are in memory, where that is not all of them; else None."""
        rest = self.need.total - self.need.weights
        return self.budget - rest if self.partly else None

    @property
    def fits_now(self) -> bool:
        """Without unloading another model or closing a program."""
        return self.fits and self.held <= self.free

    @property
    def word(self) -> str:
        if self.partly:
            return "partly on disk"
        return "fits" if self.fits else f"needs {gigabytes(self.need.total)}"

    @property
    def reason(self) -> str:
        """Why it can never be loaded here, or empty."""
        if self.fits:
            return ""
        return (
            f"needs {self.need.arithmetic}, and models may take {gigabytes(self.budget)} "
            "of memory together"
        )


def context(deployment: Deployment) -> int:
    """Tokens that a worker for this deployment is told to hold at most: what its model can, or
    SLM_CONTEXT where that is less."""
    own = os.environ.get("SLM_CONTEXT", "")
    try:
        limit = int(own) if own else DEFAULT_CONTEXT
    except ValueError:
        limit = 0
    if limit < 1:
        raise SLMError(
            f"SLM_CONTEXT must be a number of tokens, not {own!r}.", hint="Set it to 8192, say."
        )
    return min(deployment.model.context or limit, limit)


def need(deployment: Deployment, tokens: int | None = None) -> Need:
    """What a worker takes with one conversation of `tokens` (None: as long as it may be).

    Weights are counted as they lie on disk, or as the catalog says where they are not here; those
    of a graphics processor's deployment are counted too, as if its memory were the computer's.
    """
    held = tokens or context(deployment)
    if deployment.memory and held <= context(deployment):
        return Need(
            deployment.memory, held, f"{gigabytes(deployment.memory)}, measured with a full context"
        )
    weights = _weights(deployment)
    each = round(token_bytes(deployment))
    looking = LOOKING if deployment.images else 0
    total = weights + each * held + looking + OVERHEAD
    parts = [f"{gigabytes(weights)} weights"]
    if each:
        cache = f"({held:,} tokens x {each / 1024:,.0f} KiB)"
        parts.append(f"{gigabytes(each * held)} cache {cache}")
    if looking:
        parts.append(f"{gigabytes(looking)} to look at pictures")
    parts.append(f"{gigabytes(OVERHEAD)} process")
    unknown = "" if each else ", cache not known"
    return Need(total, held, f"{' + '.join(parts)} = {gigabytes(total)}{unknown}", weights)


def fits(deployment: Deployment, tokens: int | None = None) -> Verdict:
    """The verdict for `deployment` with one conversation of `tokens`, as in need()."""
    allowed = can_offload(deployment) and settings.flag(OFFLOAD, default=False)
    return Verdict(need(deployment, tokens), memory_budget(), free_memory(), allowed)


def can_offload(deployment: Deployment) -> bool:
    """Whether a part of its weights could be read from the disk: Transformers can, of models for
    text and from safetensors."""
    source = deployment.source
    packed = source is None or is_one_file(source)
    return deployment.runtime == "transformers" and not deployment.images and not packed


def token_bytes(deployment: Deployment) -> float:
    """Bytes of the key-value cache for one token on its runtime, 0 where the model's shape is not
    known: a key and a value for each layer and head."""
    return cache_numbers(deployment.model) * _number_bytes(deployment)


def cache_numbers(model: Model) -> int:
    """Numbers of the key-value cache for one token, 0 where the model's shape is not known."""
    return 2 * model.layers * model.kv_heads * model.head_size


def _number_bytes(deployment: Deployment) -> float:
    """Bytes of one number of the cache."""
    if deployment.runtime == "onnx":
        # Models built for the processor take and give float32; those for others, float16.
        return 4 if deployment.device in ("", "cpu") else KV_BYTES
    if deployment.runtime == "openvino":
        # 8 bits by default, and 8 bytes of scale and offset for 32 of them.
        return 1.25
    if deployment.runtime == "transformers":
        # A processor without bfloat16 computes in float32.
        on_processor = deployment.device in ("", "cpu")
        return 4 if on_processor and not _computes_bfloat16() else KV_BYTES
    return KV_BYTES


def _weights(deployment: Deployment) -> int:
    """Bytes of the weights in memory: as on disk, but in Transformers, where they are numbers of
    one size, whatever they were."""
    on_disk = store.size(deployment) or deployment.size
    if deployment.runtime != "transformers":
        return on_disk
    number = int(_number_bytes(deployment))
    if deployment.precision in UNPACKED:
        return on_disk * number // UNPACKED[deployment.precision]
    return deployment.model.parameters * number or on_disk


@functools.cache
def _computes_bfloat16() -> bool:
    try:
        return "bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux: Apple's processors do, of others we do not know
        return platform.machine() == "arm64"


# --- this computer --------------------------------------------------------------------------------


def memory_budget() -> int:
    """Bytes that all workers may take together."""
    own = os.environ.get("SLM_MEMORY_GB", "")
    try:
        budget = int(float(own) * 1e9) if own else int(MEMORY_SHARE * total_memory())
    except (ValueError, OverflowError):
        budget = -1
    if budget < 0:
        raise SLMError(
            f"SLM_MEMORY_GB must be a number, not {own!r}.", hint="Set it to 8, for example."
        )
    return budget


@functools.cache
def total_memory() -> int:
    """Bytes of memory in this computer."""
    return int(psutil.virtual_memory().total)


def free_memory() -> int:
    """Bytes that a program could take now without making others slow."""
    return int(psutil.virtual_memory().available)


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
