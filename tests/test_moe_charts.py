"""Charts of mixtures and the tables beside them: the same numbers, seen in a rendered picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import vl_convert
from mixtures import any_of, by_hand
from test_charts import marks, texts

from slm_backends.moe import charts, figures, tables
from slm_backends.moe.trace import Trace

PHONE = 260  # pixels inside the axes, on a phone of 390
NANO = any_of(60, 20, 6, 16, 2)
OTHER = any_of(30, 10, 6, 16, 2, seed=1)
NOTHING = NANO.part(0, 0)
LOSSES = {"mixture": [(0, 4.0), (100, 1.5), (200, 1.0)], "twin": [(0, 4.0), (200, 1.25)]}
ALL: dict[str, Callable[[], dict[str, Any]]] = {
    "heat map": lambda: charts.heat_map(NANO),
    "flow": lambda: charts.flow(NANO),
    "flow of a layer": lambda: charts.flow(NANO, 3),
    "pairs": lambda: charts.pairs(NANO),
    "pairs of a layer": lambda: charts.pairs(NANO, 3),
    "shares": lambda: charts.shares(NANO, OTHER, 2, ("English", "Deutsch")),
    "divergence": lambda: charts.divergence(NANO, OTHER),
    "curves": lambda: charts.curves(LOSSES),
}


def svg(spec: dict[str, Any], width: int = PHONE) -> str:
    """As the browser draws it. A specification that Vega-Lite does not take raises ValueError."""
    return vl_convert.vegalite_to_svg(spec | {"width": width}, allowed_base_urls=[])


def values(spec: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = spec["data"]["values"]
    return found


def encodings(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [one["encoding"] for one in [spec, *spec.get("layer", [])] if "encoding" in one]


@pytest.mark.parametrize("name", ALL)
def test_a_chart_is_as_wide_as_its_place_and_reads_its_data_by_itself(name: str) -> None:
    spec = ALL[name]()
    assert spec["width"] == "container"
    assert json.loads(json.dumps(spec, allow_nan=False)) == spec
    assert "url" not in json.dumps(spec["data"])
    assert spec["description"]


@pytest.mark.parametrize("name", ALL)
def test_what_a_colour_says_is_also_told_in_words(name: str) -> None:
    for encoding in encodings(ALL[name]()):
        if "color" in encoding:
            assert encoding["color"]["field"] in [told["field"] for told in encoding["tooltip"]]


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("heat map", 6 * 16),
        ("flow", 60 * 16),
        ("flow of a layer", 60 * 16),
        ("pairs", 16 * 15 // 2),
        ("pairs of a layer", 16 * 15 // 2),
        ("shares", 2 * 16),
        ("divergence", 6),
        ("curves", 2),
    ],
)
def test_a_mark_for_every_number(name: str, cells: int) -> None:
    spec = ALL[name]()
    kind = (spec if "mark" in spec else spec["layer"][0])["mark"]["type"]
    assert marks(svg(spec), "rect" if kind == "bar" else kind) == cells


@pytest.mark.parametrize("name", ALL)
def test_axes_are_named_and_every_expert_and_layer_can_be_read_on_a_phone(name: str) -> None:
    spec = ALL[name]()
    seen = texts(svg(spec))
    for encoding in encodings(spec):
        for axis in ("x", "y"):
            if "axis" in encoding.get(axis, {}):
                assert encoding[axis]["axis"]["title"] in seen
            if encoding.get(axis, {}).get("type") == "ordinal":
                assert {str(value[encoding[axis]["field"]]) for value in values(spec)} <= set(seen)


def test_maps_show_the_loads() -> None:
    loads = figures.load(NANO)
    for value in values(charts.heat_map(NANO)):
        assert value["share"] == pytest.approx(loads[value["layer"], value["expert"]], abs=1e-5)


def test_maps_are_of_a_colour_scale_that_is_told_apart_by_lightness_and_begins_at_nothing() -> None:
    for name in ("heat map", "flow", "pairs"):
        (colour,) = (one["color"] for one in encodings(ALL[name]()) if "color" in one)
        assert colour["scale"] == {"scheme": "viridis", "domainMin": 0}


def test_a_flow_tells_prompt_and_reply_apart() -> None:
    picture = svg(charts.flow(NANO))
    assert {"prompt", "reply"} <= set(texts(picture))
    assert marks(picture, "rule") == 1
    parts = [(value["begin"] < 20, value["part"]) for value in values(charts.flow(NANO))]
    assert set(parts) == {(True, "prompt"), (False, "reply")}


def test_a_flow_of_a_prompt_alone_has_no_line() -> None:
    picture = svg(charts.flow(NANO.prompt))
    assert "prompt" in texts(picture)
    assert "reply" not in texts(picture)
    assert marks(picture, "rule") == 0


def test_a_flow_shows_what_was_read() -> None:
    trace = by_hand([[[0, 1]]] * 200, 4, 100)
    told = values(charts.flow(trace))[0]
    assert (told["tokens"], told["text"]) == ("0 to 3", " w0 w1 w2 w3")
    lines = Trace(trace.ids, ("a\n" * 30,) * 200, 100, 4, trace.chosen)
    assert values(charts.flow(lines))[0]["text"] == "a⏎" * 20 + "…"


def test_one_token() -> None:
    one = NANO.part(0, 1)
    assert marks(svg(charts.heat_map(one)), "rect") == 6 * 16
    assert marks(svg(charts.flow(one)), "rect") == 16
    assert marks(svg(charts.pairs(one)), "rect") == 16 * 15 // 2


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (charts.heat_map(NOTHING), "No token"),
        (charts.flow(NOTHING), "No token"),
        (charts.pairs(NOTHING), "No token"),
        (charts.pairs(any_of(5, 2, 2, 16, 1)), "no pairs"),
        (charts.curves({}), "No training"),
    ],
)
def test_where_there_is_nothing_to_draw_a_sentence_says_so(
    spec: dict[str, Any], sentence: str
) -> None:
    (seen,) = texts(svg(spec))
    assert sentence in seen
    assert spec["description"] == seen


@pytest.mark.parametrize(("layers", "experts", "k"), [(48, 64, 8), (48, 256, 8)])
def test_large_mixtures_stay_light(layers: int, experts: int, k: int) -> None:
    large, other = any_of(300, 50, layers, experts, k), any_of(9, 5, layers, experts, k, seed=1)
    assert len(values(charts.heat_map(large))) == layers * experts
    assert len(values(charts.flow(large))) <= figures.MAX_CELLS
    shown = charts.MAX_EXPERTS
    found = charts.pairs(large)
    assert len(values(found)) == shown * (shown - 1) // 2
    bars = charts.shares(large, other, 7, ("one", "other"))
    assert len(values(bars)) == 2 * shown
    for spec in (found, bars):
        assert (f"Of {experts} experts" in spec["description"]) == (experts > shown)
    assert charts.heat_map(large)["height"]["step"] * layers < 400
    assert charts.flow(large)["height"]["step"] * experts < 800


def test_of_many_experts_those_that_worked_most_are_shown() -> None:
    trace = by_hand([[[99, 7]], [[99, 7]], [[3, 8]]], 100, 3)
    shown = {value["expert"] for value in values(charts.shares(trace, trace, 0, ("a", "b")))}
    assert {3, 7, 8, 99} <= shown


def test_texts_of_the_same_name_are_told_apart() -> None:
    bars = charts.shares(NANO, OTHER, 0, ("English", "English"))
    assert {value["text"] for value in values(bars)} == {"English (first)", "English (second)"}
    assert len(values(bars)) == 2 * 16
    row = tables.shares(NANO, OTHER, 0, ("English", "English"))[0]
    assert list(row) == ["expert", "share: English (first)", "share: English (second)"]


def test_what_cannot_be_compared_is_not_drawn() -> None:
    other = any_of(5, 2, 6, 8, 2)
    for draw in (charts.divergence, tables.divergence):
        with pytest.raises(ValueError, match="different shapes"):
            draw(NANO, other)
    for side_by_side in (charts.shares, tables.shares):
        with pytest.raises(ValueError, match="different shapes"):
            side_by_side(NANO, other, 0, ("a", "b"))


# --- tables ---------------------------------------------------------------------------------------


def test_the_table_of_a_heat_map() -> None:
    trace = by_hand([[[0, 1]], [[0, 2]]], 4, 1)
    assert tables.heat_map(trace) == [
        {
            "layer": 0,
            "max / mean": 2.0,
            "entropy": 0.75,
            "never used": "3",
            "expert 0": 0.5,
            "expert 1": 0.25,
            "expert 2": 0.25,
            "expert 3": 0.0,
        }
    ]
    assert tables.heat_map(NOTHING) == []


def test_the_table_of_a_flow() -> None:
    first, second = tables.flow(by_hand([[[0]], [[1]]], 2, 1))
    told = {"part": "prompt", "tokens": "0", "text": " w0", "expert 0": 1.0, "expert 1": 0.0}
    assert first == told
    assert (second["part"], second["tokens"], second["expert 1"]) == ("reply", "1", 1.0)


def test_the_table_of_pairs_has_the_most_frequent_first() -> None:
    trace = by_hand([[[1, 0]], [[2, 0]], [[0, 2]], [[2, 0]]], 4, 1)
    assert tables.pairs(trace, 0) == [
        {"expert": 0, "and expert": 2, "share of tokens": 0.75},
        {"expert": 0, "and expert": 1, "share of tokens": 0.25},
    ]


def test_tables_of_two_texts() -> None:
    one, other = by_hand([[[0, 1]]], 3, 1), by_hand([[[0, 2]]], 3, 1)
    assert tables.shares(one, other, 0, ("here", "there")) == [
        {"expert": 0, "share: here": 0.5, "share: there": 0.5},
        {"expert": 1, "share: here": 0.5, "share: there": 0.0},
        {"expert": 2, "share: here": 0.0, "share: there": 0.5},
    ]
    assert tables.divergence(one, other) == [{"layer": 0, "divergence in bits": 0.5}]


def test_the_table_of_curves() -> None:
    assert tables.curves(LOSSES) == [
        {"step": 0, "mixture": 4.0, "twin": 4.0},
        {"step": 100, "mixture": 1.5, "twin": None},
        {"step": 200, "mixture": 1.0, "twin": 1.25},
    ]
