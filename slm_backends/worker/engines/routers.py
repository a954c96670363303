"""The routers of a mixture of experts in Transformers: what they decide, and how to limit it.

Knows the library's routers, modules whose forward gives (logits, mixing weights, chosen experts):
those of Phi-MoE, Mixtral, OLMoE and most others. Nothing is attached to a model but while a token
is read whose routing was asked for. Imports torch: only made for a model on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from slm_backends.errors import Unsupported
from slm_backends.routing import ALL_LAYERS, Experts
from slm_backends.worker.engines import Fired, Mixture

#: Phi-MoE weighs an expert among those whose logit is nearer to the best than this share of it.
#: From "GRIN: GRadient-INformed MoE" (arXiv:2409.12136); its models say 0.01 for half of it.
NEAR = 2


class Routers:
    """All routers of one model, layer by layer; `mixture` is None for a model without."""

    def __init__(self, model: Any) -> None:
        self._routers = [module for module in model.modules() if _is_router(module)]
        self._gates = [gate_of(router) for router in self._routers]
        self.mixture: Mixture | None = None
        if self._routers:
            first = self._routers[0]
            self.mixture = Mixture(len(self._routers), int(first.num_experts), int(first.top_k))

    @contextmanager
    def watched(self, experts: Experts) -> Iterator[Watch]:
        """Limit experts as asked, and note what the routers decide, until it is left."""
        if experts.cuts and None in self._gates:
            name = type(self._routers[0]).__name__
            raise Unsupported(f"Experts behind a {name} cannot be limited here.", field="experts")
        watch = Watch(len(self._routers), experts.k or self._routers[0].top_k)
        with ExitStack() as hooks:
            for layer, router in enumerate(self._routers):
                if experts.cuts:
                    off = [one for at, one in experts.off if at in (layer, ALL_LAYERS)]
                    limit = partial(_limited, self._gates[layer], watch.k, off)
                    hooks.callback(router.register_forward_hook(limit).remove)
                noted = partial(watch.note, layer)
                hooks.callback(router.register_forward_hook(noted).remove)
            yield watch


class Watch:
    """What the routers have decided since the last `take`."""

    def __init__(self, layers: int, k: int) -> None:
        self.k = k
        self._seen: list[tuple[Any, Any, Any]] = [()] * layers  # type: ignore[list-item]

    def note(self, layer: int, router: Any, given: Any, made: tuple[Any, Any, Any]) -> None:
        self._seen[layer] = made

    def take(self, start: int, ids: Sequence[int]) -> Fired:
        """Of the tokens `ids`, read last, the first of them at place `start`."""
        count = len(ids)  # a herald may have come after them
        # A layer each, together before anything else: a step of a small model takes few operations.
        logits, weights, chosen = (
            torch.stack(layers, 1)[:count].cpu() for layers in zip(*self._seen, strict=True)
        )
        return Fired(
            start,
            list(ids),
            self.k,
            chosen.numpy().astype("<u2").tobytes(),
            weights.float().numpy().astype("<f4").tobytes(),
            logits.float().softmax(-1).numpy().astype("<f2").tobytes(),
        )


def _is_router(module: Any) -> bool:
    return type(module).__name__.endswith("TopKRouter") and hasattr(module, "num_experts")


def _limited(
    gate: Any, k: int, off: list[int], router: Any, given: Any, made: tuple[Any, Any, Any]
) -> tuple[Any, Any, Any]:
    logits = made[0].clone()
    logits[:, off] = float("-inf")
    weights, chosen = gate(logits, k)
    return logits, weights.to(made[1].dtype), chosen


# --- from logits to experts, as each kind of router does it ---------------------------------------


def gate_of(router: Any) -> Any:
    """logits [tokens, experts], k -> (mixing weights, chosen experts), [tokens, k] both; None for
    a kind of router that is not known here."""
    name = type(router).__name__.removesuffix("TopKRouter")
    if name == "Phimoe":
        return partial(sparsemixer, near=NEAR * router.router_jitter_noise)
    if name in ("Mixtral", "Olmoe", "Qwen2Moe", "Qwen3Moe"):
        return partial(softmax, normed=getattr(router, "norm_topk_prob", True))
    return None


def sparsemixer(logits: Any, k: int, *, near: float) -> tuple[Any, Any]:
    """Phi-MoE's at inference (GRIN, arXiv:2409.12136): the best expert, weighed by a softmax over
    those whose logit is near it; then the same among the others, once for each of `k`."""
    left, weights, chosen = logits, [], []
    for _ in range(k):
        best, expert = left.max(-1, keepdim=True)
        scale = torch.maximum(logits.abs(), best)
        far = (best - logits) / scale > near
        weights.append(left.masked_fill(far, float("-inf")).softmax(-1).gather(-1, expert))
        chosen.append(expert)
        left = left.scatter(-1, expert, float("-inf"))
    return torch.cat(weights, -1), torch.cat(chosen, -1)


def softmax(logits: Any, k: int, *, normed: bool) -> tuple[Any, Any]:
    """Mixtral's and OLMoE's: a softmax over all experts, of which the `k` likeliest are taken;
    `normed`, their weights add up to 1."""
    weights, chosen = logits.float().softmax(-1).topk(k, -1)
    return (weights / weights.sum(-1, keepdim=True) if normed else weights), chosen
