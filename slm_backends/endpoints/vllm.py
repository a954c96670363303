"""Which experts worked, as vLLM tells it when it was started with --enable-return-routed-experts.

Only of a reply that comes whole, and only numbers of experts: no weights, no scores. In vLLM 0.22
and later (vllm/entrypoints/openai, `routed_experts` of a choice) it is a NumPy file in base64,
whole numbers [tokens, layers, k], of prompt and reply but for the last token; in 0.21 nested lists,
where those of the prompt stand apart, as `prompt_routed_experts` of the answer, or are missing. It
may be told to leave out the beginning of a prompt that it had kept.
"""

from __future__ import annotations

import base64
import io
from typing import Any

from slm_backends.routing import Routed

MOST = 2**26  # numbers in an answer: 16,000 tokens of 64 layers with 64 choices


def routed(sent: Any, experts: int) -> Routed:
    """The Routed of a whole answer of the openai package, which has a `routed_experts`. Raises
    ValueError for what is none."""
    import numpy  # only who is told of experts waits for it

    choice = sent.choices[0]
    more, own = sent.model_extra or {}, choice.model_extra or {}
    parts = [
        _array(part) for part in (more.get("prompt_routed_experts"), own["routed_experts"]) if part
    ]
    found = numpy.concatenate(parts)
    if found.ndim != 3 or not found.size or found.min() < 0 or found.max() >= experts:
        raise ValueError("the experts in it are none of the model's")
    count, layers, k = found.shape
    read = sent.usage.total_tokens - 1 if sent.usage else count
    if count > read:
        raise ValueError("the experts in it are of more tokens than there are")
    start = read - count  # what is missing is missing at the beginning
    ids = [*(more.get("prompt_token_ids") or ()), *(own.get("token_ids") or ())]
    known = len(ids) == read + 1 and all(type(token) is int for token in ids)
    told = ids[start:read] if known else range(start, read)
    return Routed(
        start,
        tuple(told),
        # It sends no texts of single tokens.
        tuple(f"#{token}" for token in told) if known else ("?",) * count,
        layers,
        experts,
        k,
        found.astype("<u2").tobytes(),
    )


def _array(sent: Any) -> Any:
    import numpy

    if isinstance(sent, str):
        file = io.BytesIO(base64.b64decode(sent, validate=True))
        try:
            found = numpy.load(file, allow_pickle=False)
        except (EOFError, MemoryError, OSError) as error:  # cut, or its head promises too much
            raise ValueError("the experts in it cannot be read") from error
    else:
        found = numpy.array(sent)
    if found.dtype.kind not in "iu" or found.size > MOST:
        raise ValueError("the experts in it are no numbers, or too many")
    return found
