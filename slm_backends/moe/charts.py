"""What a mixture does, as Vega-Lite specifications: maps of colour, bars and lines.

    charts.heat_map(trace)      layers x experts: how much of the work fell on each
    charts.flow(trace)          experts x tokens, in the order in which they were read
    charts.pairs(trace)         experts x experts: who works on the same tokens
    charts.shares(...), charts.divergence(...)      two texts beside each other
    charts.curves(losses)       how models learnt

A specification is a plain dictionary with its data in it, as wide as its container, with room for a
phone's 390 pixels; nothing in it says by colour alone what it says, tables.py has the same numbers.
There is no colour of text and background: they are the page's. Where there is nothing to draw, a
sentence says so. Asks no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from slm_backends.moe import figures, tables
from slm_backends.moe.trace import Array, Trace
from slm_backends.multilingual.drawing import BELOW, COLOURS, SCHEMA

Spec = dict[str, Any]
Rows = list[dict[str, Any]]

MAX_EXPERTS = 64  # side by side in pairs and bars: of more, those that worked most
_SCHEME = "viridis"  # in the order of lightness too, so that it can be read in grey
_SMALL = 11  # pixels of type
_MIDDLE = "#808080"  # seen on light and on dark
_TALL = 360  # pixels that rows share, as long as they are not too thin or too thick for it
_TEXT = 40  # characters of a bin's tokens that the pointer shows
_NOTHING = "No token has been read yet."
_ALONE = "One expert works on a token here, so there are no pairs."
_SHARE = ".1%"
_WORD = 6  # on a phone the word for a part takes one in so many of the pixels inside the axes


def heat_map(trace: Trace) -> Spec:
    """Each layer's load: see FORMULAS of figures.py."""
    if not len(trace):
        return _sentence(_NOTHING)
    loads = figures.load(trace)
    values = [
        {"layer": layer, "expert": expert, "share": share}
        for layer, row in enumerate(_rounded(loads))
        for expert, share in enumerate(row)
    ]
    return _map(
        values,
        "Share of each layer's choices that fell on an expert.",
        x=_band("expert"),
        y=_band("layer"),
        colour=_shade("share of its layer"),
        tooltip=[_told("layer"), _told("expert"), _told("share", "share of its layer", _SHARE)],
        rows=trace.layers,
    )


def flow(trace: Trace, layer: int | None = None) -> Spec:
    """Which experts worked, from token to token; in `layer`, or in all of them. A line stands
    between prompt and reply."""
    if not len(trace):
        return _sentence(_NOTHING)
    bins, shares = figures.flow(trace, layer)
    values = [
        {
            "begin": one.begin,
            "end": one.end,
            "part": one.part,
            "tokens": tables.places(one),
            "text": _shown(one.text),
            "expert": expert,
            "share": share,
        }
        for one, row in zip(bins, _rounded(shares), strict=True)
        for expert, share in enumerate(row)
    ]
    where = "all layers" if layer is None else f"layer {layer}"
    x = {
        "field": "begin",
        "type": "quantitative",
        "scale": {"domain": [0, len(trace)], "nice": False},
        "axis": _axis("token", grid=False, format=",d", tickCount=min(len(trace), 5)),
    }
    made = _map(
        values,
        f"Share of the choices in {where} that fell on an expert, from token to token.",
        x=x,
        y=_band("expert"),
        colour=_shade("share of the choices"),
        tooltip=[
            _told("part"),
            _told("tokens", "tokens" if bins[0].end - bins[0].begin > 1 else "token"),
            _told("text"),
            _told("expert"),
            _told("share", "share of the choices", _SHARE),
        ],
        rows=trace.experts,
    )
    made["encoding"]["x2"] = {"field": "end"}
    map_layer = {"mark": made.pop("mark"), "encoding": made.pop("encoding")}
    return made | {"layer": [map_layer, *_parts(trace)]}


def pairs(trace: Trace, layer: int | None = None) -> Spec:
    """How often two experts work on the same token, in `layer` or in all of them. Each pair is
    there once; of many experts, those that worked most often."""
    if not len(trace) or trace.k == 1:
        return _sentence(_NOTHING if not len(trace) else _ALONE)
    found = figures.pairs(trace, layer)
    kept = _busiest(found.sum(axis=0))
    values = [
        {"expert": first, "and": second, "share": share}
        for place, second in enumerate(kept)
        for first, share in zip(kept[:place], _rounded(found[second, kept[:place]]), strict=True)
    ]
    return _map(
        values,
        "Share of the tokens on which two experts both worked." + _left_out(trace.experts),
        x=_band("expert"),
        y=_band("and", "and expert"),
        colour=_shade("share of the tokens"),
        tooltip=[
            _told("expert"),
            _told("and", "and expert"),
            _told("share", "share of the tokens", ".2%"),
        ],
        rows=len(kept),
    )


def shares(first: Trace, second: Trace, layer: int, names: tuple[str, str]) -> Spec:
    """Each expert's share of the work on two texts in `layer`: two bars, the first text's above.
    Raises ValueError for mixtures of different shapes."""
    figures.check_alike(first, second)
    names = tables.apart(names)
    loads = [figures.load(trace)[layer] for trace in (first, second)]
    kept = _busiest(loads[0] + loads[1])
    values = [
        {"expert": expert, "text": name, "share": share}
        for name, load in zip(names, loads, strict=True)
        for expert, share in zip(kept, _rounded(load[kept]), strict=True)
    ]
    return {
        **_frame(
            f"Share of the choices in layer {layer} that fell on an expert, for two texts."
            + _left_out(first.experts),
            values,
        ),
        "height": {"step": max(_thick(len(kept)), 8) / 2, "for": "offset"},
        "mark": {"type": "bar"},
        "encoding": {
            "y": _band("expert", scale={"paddingInner": 0.25}),
            "yOffset": {"field": "text", "scale": {"domain": list(names)}},
            "x": {
                "field": "share",
                "type": "quantitative",
                "axis": _axis("share of the choices", format="%", tickCount=4),
            },
            "color": _names("text", names),
            "tooltip": [
                _told("text"),
                _told("expert"),
                _told("share", "share of the choices", _SHARE),
            ],
        },
    }


def divergence(first: Trace, second: Trace) -> Spec:
    """How far the loads of two texts lie apart: a bar a layer, from 0 to 1 bit. Raises ValueError
    for mixtures of different shapes."""
    found = figures.divergence(first, second)
    values = [{"layer": layer, "bits": bits} for layer, bits in enumerate(_rounded(found))]
    return {
        **_frame("Jensen-Shannon divergence of the loads of two texts, by layer.", values),
        "height": {"step": _thick(len(values))},
        "mark": {"type": "bar", "color": COLOURS[0]},
        "encoding": {
            "y": _band("layer"),
            "x": {
                "field": "bits",
                "type": "quantitative",
                "scale": {"domain": [0, 1]},
                "axis": _axis("divergence in bits", tickCount=5),
            },
            "tooltip": [_told("layer"), _told("bits", "divergence in bits", ".3f")],
        },
    }


def curves(losses: Mapping[str, Sequence[tuple[int, float]]]) -> Spec:
    """A line a model: its loss by training step, in nats a token. At most as many as COLOURS."""
    values = [
        {"model": name, "step": step, "loss": loss}
        for name, curve in losses.items()
        for step, loss in curve
    ]
    if not values:
        return _sentence("No training was kept.")
    names = list(losses)
    dashes = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]]
    return {
        **_frame("Loss of the training by step.", values),
        "height": 320,
        "mark": {"type": "line", "strokeWidth": 2},
        "encoding": {
            "x": {"field": "step", "type": "quantitative", "axis": _axis("step", tickCount=4)},
            "y": {
                "field": "loss",
                "type": "quantitative",
                "axis": _axis("loss, nats a token", tickCount=5),
            },
            "color": _names("model", names),
            "strokeDash": {
                "field": "model",
                "type": "nominal",
                "scale": {
                    "domain": names,
                    "range": [dashes[place % len(dashes)] for place in range(len(names))],
                },
            },
            "tooltip": [
                _told("model"),
                _told("step", form=","),
                _told("loss", "loss, nats a token", ".3f"),
            ],
        },
    }


# --- what the charts share ------------------------------------------------------------------------


def _frame(description: str, values: Rows) -> Spec:
    return {
        "$schema": SCHEMA,
        "description": description,
        "width": "container",
        "data": {"values": values},
    }


def _map(
    values: Rows,
    description: str,
    *,
    x: Spec,
    y: Spec,
    colour: Spec,
    tooltip: list[Spec],
    rows: int,
) -> Spec:
    return {
        **_frame(description, values),
        # By rows: a whole height would have to hold axes and legend too, where a page fits it in.
        "height": {"step": _thick(rows)},
        "mark": {"type": "rect"},
        "encoding": {"x": x, "y": y, "color": colour, "tooltip": tooltip},
    }


def _parts(trace: Trace) -> list[Spec]:
    """The words for prompt and reply above a flow, and the line between them."""
    between = trace.prompt_tokens
    begins = {"prompt": 0, "reply": between}
    if between == len(trace):
        del begins["reply"]
    elif between < len(trace) / _WORD:
        del begins["prompt"]
    words = [
        {
            "data": {"values": [{}]},  # of its own: once, and not once a cell
            "mark": {
                "type": "text",
                "text": word,
                "align": "left",
                "baseline": "bottom",
                "dx": 3,
                "dy": -3,
                "y": 0,
                "fontSize": _SMALL,
                "color": _MIDDLE,
            },
            "encoding": {"x": {"datum": place}},
        }
        for word, place in begins.items()
    ]
    line = {
        "data": {"values": [{}]},
        "mark": {"type": "rule", "strokeWidth": 2, "strokeDash": [4, 3], "color": "white"},
        "encoding": {"x": {"datum": between}},
    }
    return words if between in (0, len(trace)) else [*words, line]


def _sentence(text: str) -> Spec:
    return {
        **_frame(text, [{}]),
        "height": 40,
        "mark": {"type": "text", "text": text, "color": _MIDDLE, "fontSize": _SMALL + 2},
    }


def _band(field: str, title: str = "", **more: Any) -> Spec:
    form = {"labelOverlap": True, "labelSeparation": 1, "labelFontSize": _SMALL}
    axis = _axis(title or field, labelAngle=0, ticks=False, **form)
    return {"field": field, "type": "ordinal", "axis": axis, **more}


def _axis(title: str, **form: Any) -> Spec:
    return {"title": title, "titleFontSize": _SMALL, **form}


def _shade(title: str) -> Spec:
    """From nothing to the most there is."""
    return {
        "field": "share",
        "type": "quantitative",
        "scale": {"scheme": _SCHEME, "domainMin": 0},
        "legend": {
            **BELOW,
            "title": title,
            "titleFontSize": _SMALL,
            "format": "%",
            "tickCount": 4,
            "gradientLength": 160,
        },
    }


def _names(field: str, names: Sequence[str]) -> Spec:
    """A colour a name, in the order of names."""
    return {
        "field": field,
        "type": "nominal",
        "scale": {"domain": list(names), "range": list(COLOURS[: len(names)])},
        "legend": {
            **BELOW,
            "title": None,
            "columns": 1,
            "labelLimit": 300,
            "labelFontSize": _SMALL,
        },
    }


def _told(field: str, title: str = "", form: str = "") -> Spec:
    """A line of what is shown under the pointer."""
    return {"field": field, "title": title or field, **({"format": form} if form else {})}


def _thick(rows: int) -> int:
    """Pixels for each of so many rows."""
    return min(max(_TALL // rows, 3), 18)


def _busiest(work: Array) -> list[int]:
    """The numbers of the experts that are shown, in their order."""
    most = numpy.argsort(-work, kind="stable")[:MAX_EXPERTS]
    return sorted(int(expert) for expert in most)


def _left_out(experts: int) -> str:
    if experts <= MAX_EXPERTS:
        return ""
    return f" Of {experts} experts, the {MAX_EXPERTS} that worked most."


def _rounded(numbers: Array) -> Any:
    # Nobody sees more, and it is a third of the bytes.
    return numbers.round(5).tolist()


def _shown(text: str) -> str:
    text = text.replace("\n", "⏎")
    return text if len(text) <= _TEXT else text[:_TEXT] + "…"
