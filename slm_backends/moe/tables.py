"""The numbers of each chart as the rows of a table, for those who cannot see the picture.

A row is a dictionary, its keys are the heads of the columns. Shares and divergences are rounded to
what anybody reads. Layers, experts and places count from 0, as they do in a model's files. Knows
figures.py's numbers. Draws nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slm_backends.moe import figures
from slm_backends.moe.trace import Trace

Rows = list[dict[str, Any]]
_DIGITS = 4


def heat_map(trace: Trace) -> Rows:
    """A row a layer: how evenly its experts work, and the share of each."""
    loads = figures.load(trace).round(_DIGITS).tolist()
    return [
        {
            "layer": balance.layer,
            "max / mean": round(balance.max_over_mean, 2),
            "entropy": round(balance.entropy, 3),
            "never used": ", ".join(map(str, balance.unused)),
            **_by_expert(loads[balance.layer]),
        }
        for balance in figures.balance(trace)
    ]


def flow(trace: Trace, layer: int | None = None) -> Rows:
    """A row for some tokens that follow each other: the share of each expert of their choices."""
    bins, shares = figures.flow(trace, layer)
    return [
        {"part": one.part, "tokens": places(one), "text": one.text, **_by_expert(row)}
        for one, row in zip(bins, shares.round(_DIGITS).tolist(), strict=True)
    ]


def pairs(trace: Trace, layer: int | None = None) -> Rows:
    """A row for two experts that worked on the same token, those that did so most often first."""
    found = figures.pairs(trace, layer)
    rows = [
        {
            "expert": int(first),
            "and expert": int(second),
            "share of tokens": round(float(found[first, second]), _DIGITS),
        }
        for first, second in zip(*found.nonzero(), strict=True)
        if first < second
    ]
    return sorted(rows, key=lambda row: -row["share of tokens"])


def shares(first: Trace, second: Trace, layer: int, names: tuple[str, str]) -> Rows:
    """A row an expert: its share of the choices of each text in `layer`."""
    figures.check_alike(first, second)
    loads = [figures.load(trace)[layer].round(_DIGITS).tolist() for trace in (first, second)]
    names = apart(names)
    return [
        {"expert": expert, f"share: {names[0]}": one, f"share: {names[1]}": other}
        for expert, (one, other) in enumerate(zip(*loads, strict=True))
    ]


def divergence(first: Trace, second: Trace) -> Rows:
    """A row a layer."""
    found = figures.divergence(first, second).round(_DIGITS).tolist()
    return [{"layer": layer, "divergence in bits": bits} for layer, bits in enumerate(found)]


def curves(losses: Mapping[str, Sequence[tuple[int, float]]]) -> Rows:
    """A row a step at which any of the models was measured; None where one was not."""
    by_name = {name: dict(curve) for name, curve in losses.items()}
    steps = sorted({step for curve in by_name.values() for step in curve})
    return [
        {"step": step, **{name: curve.get(step) for name, curve in by_name.items()}}
        for step in steps
    ]


def places(one: figures.Bin) -> str:
    """As a person counts them: from the first to the last."""
    last = one.end - 1
    return str(last) if one.begin == last else f"{one.begin} to {last}"


def apart(names: tuple[str, str]) -> tuple[str, str]:
    """Two texts of the same name are told apart by their order."""
    first, second = names
    return names if first != second else (f"{first} (first)", f"{second} (second)")


def _by_expert(row: Sequence[float]) -> dict[str, float]:
    return {f"expert {expert}": share for expert, share in enumerate(row)}
