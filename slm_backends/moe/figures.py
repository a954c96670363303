"""What a trace tells in numbers: how evenly its experts work, which work together, and how far the
loads of two texts lie apart.

A choice is one expert that worked on one token in one layer; a token makes k of them in each. Knows
traces and formulas. Draws nothing; what the numbers look like is charts.py's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy

from slm_backends.moe.trace import Array, Trace

MAX_BINS = 64  # of a flow: on a phone each is 4 pixels wide
MAX_CELLS = 4_096  # of a flow: mixtures with many experts have fewer bins, so that it stays light
FEWEST_BINS = 16

#: figure -> its formula and what it means, in one breath
FORMULAS: Mapping[str, str] = {
    "load": (
        "An expert's share of its layer's choices: choices that fell on it / (k x tokens). "
        "Even work would be 1 / experts."
    ),
    "max_over_mean": (
        "The busiest expert's load / the mean load: max(load) x experts. 1 is even work; "
        "experts / k is the most there can be, the same k experts for every token."
    ),
    "entropy": (
        "-sum(load x log(load)) / log(experts), of a layer's loads: 1 is even work; "
        "log(k) / log(experts), which is 0 for k = 1, the same k experts for every token."
    ),
    "unused": (
        "Experts on which none of the layer's choices fell. A short text leaves some unused in a "
        "well balanced mixture too."
    ),
    "pairs": (
        "Tokens on which both experts worked in the same layer / tokens; over all layers, the mean "
        "of that. The pairs of a token in a layer are k x (k - 1) / 2."
    ),
    "divergence": (
        "Jensen-Shannon divergence of two loads P and Q, in bits: H((P + Q) / 2) - (H(P) + H(Q)) "
        "/ 2, with H(P) = -sum(P x log2(P)). 0: the same loads; 1: no expert worked on both. Short "
        "texts lie apart by chance alone."
    ),
    "perplexity": (
        "exp(-mean log-probability of the tokens). As unsure as if it threw a fair die with that "
        "many sides at each token; 1 is certainty."
    ),
    "loss": (
        "-mean log-probability of the tokens that were taught in a step, in nats; exp(loss) is "
        "their perplexity."
    ),
    "weights": (
        "Mixing weight: what the model really multiplied an expert's output by. In a Phi mixture "
        "it is near 1 unless two experts are nearly tied, so the weights of a token need not add "
        "up to 1."
    ),
    "scores": (
        "Router's score: softmax over the router's raw logits of all experts of a layer. It says "
        "how the router ranked them, not how the model mixed them."
    ),
}


@dataclass(frozen=True)
class Balance:
    """How evenly the experts of a layer work: see FORMULAS. `unused` are experts' numbers."""

    layer: int
    max_over_mean: float
    entropy: float
    unused: tuple[int, ...]


@dataclass(frozen=True)
class Bin:
    """Tokens that follow each other, all of the same part: from place `begin` to before `end`."""

    part: Literal["prompt", "reply"]
    begin: int
    end: int
    text: str


def load(trace: Trace) -> Array:
    """The share of a layer's choices that fell on each expert: float64 [layers, experts]. Rows add
    up to 1; of no token they are 0."""
    choices = max(len(trace) * trace.k, 1)
    return _counted(trace.chosen, trace.experts) / choices


def balance(trace: Trace) -> tuple[Balance, ...]:
    """One a layer; of no token none."""
    if not len(trace):
        return ()
    loads = load(trace)
    # One expert alone has all of the work there is, which is even.
    entropies = _bits(loads) / math.log2(trace.experts) if trace.experts > 1 else _ones(loads)
    return tuple(
        Balance(
            layer,
            float(row.max() * trace.experts),
            float(entropy),
            tuple(int(expert) for expert in numpy.flatnonzero(row == 0)),
        )
        for layer, (row, entropy) in enumerate(zip(loads, entropies, strict=True))
    )


def pairs(trace: Trace, layer: int | None = None) -> Array:
    """On which share of the tokens two experts both worked in `layer`, or in all layers on average:
    float64 [experts, experts], symmetric, its diagonal 0. All of it is 0 where k is 1."""
    chosen = (trace.chosen if layer is None else trace.chosen[:, layer]).reshape(-1, trace.k)
    chosen = chosen.astype(numpy.int64)
    count = trace.experts
    found = numpy.zeros(count * count)
    for first, second in combinations(range(trace.k), 2):
        places = chosen[:, first] * count + chosen[:, second]
        found += numpy.bincount(places, minlength=count * count)
    square = found.reshape(count, count)
    return (square + square.T) / max(len(chosen), 1)


def divergence(first: Trace, second: Trace) -> Array:
    """How far the loads of two texts lie apart by layer, in bits: float64 [layers], 0 to 1.

    By J. Lin, "Divergence Measures Based on the Shannon Entropy", 1991. Raises ValueError for two
    mixtures of different shapes, and where one has no token.
    """
    check_alike(first, second)
    p, q = load(first), load(second)
    return numpy.clip(_bits((p + q) / 2) - (_bits(p) + _bits(q)) / 2, 0, 1)


def check_alike(first: Trace, second: Trace) -> None:
    """Raises ValueError where the loads of the two cannot be compared."""
    shapes = [(trace.layers, trace.experts) for trace in (first, second)]
    if shapes[0] != shapes[1]:
        told = " and ".join(f"{layers} layers with {experts} experts" for layers, experts in shapes)
        raise ValueError(f"Two mixtures of different shapes cannot be compared: {told}.")
    if not len(first) or not len(second):
        raise ValueError("A text of which no token was read cannot be compared.")


def perplexity(logprobs: Sequence[float]) -> float:
    """Of one text: exp(-mean of its tokens' natural log-probabilities), 1 or more; infinite where a
    token was impossible. Raises ValueError without a token."""
    if not logprobs:
        raise ValueError("A text without tokens has no perplexity.")
    try:
        return math.exp(-math.fsum(logprobs) / len(logprobs))
    except OverflowError:
        return math.inf


def flow(trace: Trace, layer: int | None = None) -> tuple[tuple[Bin, ...], Array]:
    """The trace in bins of tokens, and the share of each expert of a bin's choices in `layer`, or
    in all layers: float64 [bins, experts], rows add up to 1.

    A bin has 1, 2, 4, 8 ... tokens, as few as the limits allow, the last one of a part what is
    left: while a text grows, bins stay where they are until all of them are joined in pairs.
    """
    most = max(FEWEST_BINS, min(MAX_BINS, MAX_CELLS // trace.experts))
    size = 1
    while len(trace) > size * (most - 1):  # one more: both parts may end with a smaller bin
        size *= 2
    prompt, count = trace.prompt_tokens, len(trace)
    edges = [*range(0, prompt, size), *range(prompt, count, size), count]
    bins = tuple(
        Bin("prompt" if begin < prompt else "reply", begin, end, "".join(trace.tokens[begin:end]))
        for begin, end in zip(edges, edges[1:], strict=False)
    )
    chosen = trace.chosen if layer is None else trace.chosen[:, layer : layer + 1]
    found = numpy.zeros((len(bins), trace.experts))
    for number, one in enumerate(bins):
        inside = chosen[one.begin : one.end]
        found[number] = numpy.bincount(inside.ravel(), minlength=trace.experts) / inside.size
    return bins, found


def _counted(chosen: Array, experts: int) -> Array:
    """How many choices fell on each expert: [tokens, layers, k] -> int64 [layers, experts]."""
    layers = chosen.shape[1]
    places = chosen + (numpy.arange(layers) * experts)[:, None]
    counts = numpy.bincount(places.ravel(), minlength=layers * experts)
    return counts.reshape(layers, experts)


def _bits(loads: Array) -> Array:
    """Shannon's entropy of each row, in bits."""
    # log2(1) where there is nothing: its term is 0, as its limit is.
    return -(loads * numpy.log2(numpy.where(loads > 0, loads, 1))).sum(axis=1)


def _ones(loads: Array) -> Array:
    return numpy.ones(len(loads))
