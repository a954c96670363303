"""What a deployment takes of this computer's memory, with the arithmetic.

Knows how weights and caches add up. Does not know what is loaded (selector.py) nor what is on disk
(store.py).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from slm_backends.catalog import Deployment
from slm_backends.errors import SLMError

DEFAULT_CONTEXT = 8_192  # tokens that a local worker holds at most, where a model can hold more
OVERHEAD = 600_000_000  # bytes of a worker beside weights and cache: Python, the runtime, buffers
KV_BYTES = 2  # a number of the cache: half precision


@dataclass(frozen=True)
class Need:
    """Bytes that a loaded worker takes, and the sum in words."""

    total: int
    context: int
    arithmetic: str


def context(deployment: Deployment) -> int | None:
    """Tokens that a worker for this deployment holds: the model's, or SLM_CONTEXT if that is less.

    None where the model's is not known.
    """
    own = os.environ.get("SLM_CONTEXT", "")
    try:
        limit = int(own) if own else DEFAULT_CONTEXT
    except ValueError:
        limit = 0
    if limit < 1:
        raise SLMError(
            f"SLM_CONTEXT must be a number of tokens, not {own!r}.", hint="Set it to 8192, say."
        )
    known = deployment.model.context
    return None if known is None else min(known, limit)


def need(deployment: Deployment, tokens: int | None = None) -> Need:
    """What a worker takes with a cache for `tokens` (None: all that it holds)."""
    held = tokens or context(deployment) or DEFAULT_CONTEXT
    if deployment.memory:
        return Need(deployment.memory, held, "measured with a full context")
    model = deployment.model
    cache = 2 * model.layers * model.kv_heads * model.head_size * KV_BYTES * held
    return Need(
        deployment.size + cache + OVERHEAD,
        held,
        f"weights {deployment.size / 1e9:.1f} GB + cache {cache / 1e9:.1f} GB for {held:,} tokens "
        f"+ {OVERHEAD / 1e9:.1f} GB for the process",
    )
