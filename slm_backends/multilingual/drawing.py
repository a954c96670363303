"""Charts as Vega-Lite specifications: bars and intervals by language and deployment, and pictures.

A specification is a plain dictionary with its data in it. A row is a language, written in English
so that any font will do, and in it each deployment has its place and colour. There is no axis for
two units, and no colour of text and background: they are the page's. Knows no results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slm_backends.multilingual.languages import LANGUAGES
from slm_backends.multilingual.noise import FEWEST

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
FILE_WIDTH = 640  # pixels of the part inside the axes
FILE_SCALE = 2.0

#: Okabe and Ito's colours, which colour-blind people can tell apart; grey in place of their black,
#: which a dark page would hide.
COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#D55E00",
    "#56B4E9",
    "#999999",
    "#F0E442",
)
#: Close under the axis: Streamlit's theme puts much empty space around a legend.
BELOW = {"orient": "bottom", "padding": 0, "offset": 4}
_BAND = 17  # pixels for a bar
_SMALL = 11  # pixels of type with which the longest id of the catalog fits on a phone
_MIDDLE = "#808080"  # seen on light and on dark

Value = dict[str, Any]  # a mark: "language", a code, "deployment", a name, and numbers


@dataclass(frozen=True)
class Frame:
    """What a chart has beside its numbers. `unit` stands at its axis; `languages` are codes, and
    `deployments` names, in their order: at most as many as COLOURS."""

    name: str
    title: str
    unit: str
    caption: str
    languages: Sequence[str]
    deployments: Sequence[str]


@dataclass(frozen=True)
class Chart:
    """`name` is fit for a file; `caption` says how the numbers were got. The specification's width
    is that of its container."""

    name: str
    title: str
    caption: str
    spec: dict[str, Any]


def png(chart: Chart) -> bytes:
    """The chart as a picture. The first in a process takes the second or two in which the
    JavaScript engine starts."""
    import vl_convert  # 33 MB that only pictures need

    return vl_convert.vegalite_to_png(
        chart.spec | {"width": FILE_WIDTH, "background": "white"},
        scale=FILE_SCALE,
        allowed_base_urls=[],  # a specification holds its data; nothing is ever loaded
    )


def language_name(code: str) -> str:
    return f"{LANGUAGES[code].name} ({code})"


def stacked(
    frame: Frame, values: Sequence[Value], parts: Mapping[str, tuple[str, str]]
) -> Chart | None:
    """A bar for each language and deployment, of `parts`: a name -> its words and its colour. A
    value has "part", "share" of the whole bar and "replies". None without values."""
    numbers = {name: number for number, name in enumerate(frame.deployments, 1)}
    order = list(parts)
    kept = [
        value
        | {
            "language": language_name(value["language"]),
            "row": _row(value, numbers),
            "order": order.index(value["part"]),
            "part": parts[value["part"]][0],
        }
        for value in values
    ]
    words, colours = zip(*parts.values(), strict=True)
    scale = {"domain": [0, 1]}
    encoding = {
        "y": _rows(list(dict.fromkeys(value["row"] for value in kept)), "row"),
        "x": {
            "field": "share",
            "type": "quantitative",
            "stack": "zero",
            "scale": scale,
            # The legend has the parts, so the deployments are named here, in the page's colour.
            "axis": _axis([frame.unit, *frame.deployments], format="%"),
        },
        "color": _colour("part", words, colours, columns=2),
        "order": {"field": "order"},
        "tooltip": [
            _told("language"),
            _told("deployment"),
            _told("part", "reply"),
            _told("replies", format=","),
            _told("share", format=".0%"),
        ],
    }
    return _chart(frame, kept, {"mark": {"type": "bar"}, "encoding": encoding})


def bars(frame: Frame, values: Sequence[Value], *, line: float | None = None) -> Chart | None:
    """A bar for each "value", and a line across all of them. None without values."""
    kept, places = _placed(frame, values)
    tooltip = [_told("language"), _told("deployment"), _told("value", frame.unit, format=",.3~r")]
    marks = {
        "mark": {"type": "bar"},
        "encoding": {**places, "x": _x(frame.unit), "tooltip": tooltip},
    }
    if line is None:
        return _chart(frame, kept, marks)
    across = {
        "data": {"values": [{}]},  # of its own: once, and not once a bar
        "mark": {"type": "rule", "strokeWidth": 2, "color": _MIDDLE},
        "encoding": {"x": {"datum": line}},
    }
    return _chart(frame, kept, {"layer": [marks, across]})


def intervals(frame: Frame, values: Sequence[Value], *, top: float) -> Chart | None:
    """A point for each "value" with a line from "low" to "high" where "prompts" are enough for one,
    on an axis from 0 to `top`; to 1 it is in percent. None without values."""
    kept, places = _placed(frame, values)
    form = ".0%" if top == 1 else ".1f"
    x = _x(frame.unit, top=top)
    layers = [
        {
            "transform": [{"filter": f"datum.prompts >= {FEWEST}"}],
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": {"x": x | {"field": "low"}, "x2": {"field": "high"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
            "encoding": {"x": x},
        },
    ]
    tooltip = [
        _told("language"),
        _told("deployment"),
        _told("value", frame.unit, format=form),
        _told("low", "from", format=form),
        _told("high", "to", format=form),
        _told("prompts"),
    ]
    return _chart(frame, kept, {"layer": layers, "encoding": {**places, "tooltip": tooltip}})


def _row(value: Value, numbers: Mapping[str, int]) -> str:
    number = f" · {numbers[value['deployment']]}" if len(numbers) > 1 else ""
    return language_name(value["language"]) + number


def _placed(frame: Frame, values: Sequence[Value]) -> tuple[list[Value], dict[str, Any]]:
    """The values under the names of their languages, and where their marks are: a row a language,
    in it a place and a colour a deployment."""
    kept = [value for value in values if value["language"] in frame.languages]
    languages = [code for code in frame.languages if any(v["language"] == code for v in kept)]
    # Of those that have a mark, each in the colour that it has in all charts.
    colours = {
        name: colour
        for name, colour in zip(frame.deployments, COLOURS, strict=False)
        if any(value["deployment"] == name for value in kept)
    }
    named = [value | {"language": language_name(value["language"])} for value in kept]
    return named, {
        "y": _rows(list(map(language_name, languages)), "language"),
        "yOffset": {"field": "deployment", "scale": {"domain": list(colours)}},
        "color": _colour("deployment", list(colours), list(colours.values()), columns=1),
    }


def _chart(frame: Frame, values: Sequence[Value], marks: dict[str, Any]) -> Chart | None:
    if not values:
        return None
    spec = {
        "$schema": SCHEMA,
        "title": {"text": frame.title, "anchor": "start", "frame": "bounds"},
        "description": f"{frame.title}. {frame.caption}",
        "width": "container",
        "height": {"step": _BAND},
        "data": {"values": list(values)},
        **marks,
    }
    return Chart(frame.name, frame.title, frame.caption, spec)


def _rows(labels: Sequence[str], field: str) -> dict[str, Any]:
    return {
        "field": field,
        "type": "nominal",
        "sort": None,
        "scale": {"domain": list(labels), "paddingInner": 0.25},
        "axis": {"title": None, "labelLimit": 0, "labelOverlap": False, "ticks": False},
    }


def _x(unit: str, *, top: float | None = None) -> dict[str, Any]:
    scale = {"zero": True} if top is None else {"domain": [0, top]}
    axis = _axis([unit], **({"format": "%"} if top == 1 else {}))
    return {"field": "value", "type": "quantitative", "scale": scale, "axis": axis}


def _axis(title: Sequence[str], **form: str) -> dict[str, Any]:
    """`title` by lines."""
    return {"title": list(title), "titleFontSize": _SMALL, "tickCount": 5, **form}


def _colour(
    field: str, domain: Sequence[str], colours: Sequence[str], *, columns: int
) -> dict[str, Any]:
    return {
        "field": field,
        "type": "nominal",
        "scale": {"domain": list(domain), "range": list(colours)},
        "legend": {
            **BELOW,
            "title": None,
            "columns": columns,
            "labelLimit": 0,
            "labelFontSize": _SMALL,
        },
    }


def _told(field: str, title: str = "", **form: str) -> dict[str, str]:
    """A line of what is shown under the pointer."""
    return {"field": field, "title": title or field, **form}
