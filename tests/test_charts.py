"""Charts of a comparison: which numbers they show, and what a reader of the picture sees."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import many_tongues
import pytest
import vl_convert
from many_tongues import FIRST, SECOND
from PIL import Image

from slm_backends.multilingual import charts, drawing
from slm_backends.multilingual.drawing import COLOURS, Chart
from slm_backends.multilingual.plan import MAX_DEPLOYMENTS, Plan
from slm_backends.multilingual.premium import Cost, Counts
from slm_backends.multilingual.results import Results

PHONE = 200  # pixels inside the axes, on a phone
ALL = charts.drawn(many_tongues.results())
SOLVED = charts.drawn(many_tongues.asked(8))


def named(name: str, drawn: tuple[Chart, ...] = ALL) -> Chart:
    return next(chart for chart in drawn if chart.name == name)


def values(chart: Chart) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chart.spec["data"]["values"]
    return found


def svg(chart: Chart, width: int = PHONE) -> str:
    return vl_convert.vegalite_to_svg(chart.spec | {"width": width}, allowed_base_urls=[])


def texts(picture: str) -> list[str]:
    """What stands in a picture to be read."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture)


def marks(picture: str, kind: str) -> int:
    """How many there are of a kind, axes and legends aside."""
    groups = ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}g")
    found = [one for one in groups if one.get("class", "").startswith(f"mark-{kind} role-mark")]
    return sum(len(group) for group in found)


def test_there_is_a_chart_of_all_that_was_measured() -> None:
    assert [chart.name for chart in ALL] == [
        "fidelity",
        "usable",
        "sent-premium",
        "correct",
        "chrf",
        "characters-per-second",
        "tokens-per-second",
        "first-token",
    ]


def test_nothing_is_drawn_of_nothing() -> None:
    assert charts.drawn(Results(many_tongues.results().plan)) == ()


def test_without_references_and_answers_neither_is_drawn() -> None:
    results = many_tongues.results()
    plain = tuple(replace(q, reference="", answer="") for q in results.plan.questions)
    results.plan = replace(results.plan, questions=plain)
    names = {chart.name for chart in charts.drawn(results)}
    assert "fidelity" in names
    assert not names & {"chrf", "correct"}


def test_bars_are_shares_of_whole_replies() -> None:
    shares = {
        (value["row"], value["part"]): (value["share"], value["replies"])
        for value in values(named("fidelity"))
    }
    assert shares["German (de) · 1", "English"] == (1.0, 1)
    assert shares["German (de) · 2", "right language"] == (1.0, 1)
    assert shares["Arabic (ar) · 1", "right language"] == (1.0, 2)
    assert shares["Arabic (ar) · 2", "English"] == (1.0, 1)
    assert not [row for row, _ in shares if row == "Chinese (zh) · 2"]  # it failed


def test_parts_of_a_bar_stand_in_one_order() -> None:
    results = many_tongues.results()
    key = "ask/sum/ar", FIRST
    results.cells[key] = replace(results.cells[key], text=many_tongues.ENGLISH)
    bars = re.findall(r'<path aria-label="([^"]*)"', svg(named("fidelity", charts.drawn(results))))
    parts = [bar for bar in bars if "row: Arabic (ar) · 1" in bar]
    assert len(parts) == 2
    by_order = sorted(parts, key=lambda bar: int(re.search(r"order: (\d)", bar)[1]))  # type: ignore[index]
    assert ["right language" in bar for bar in by_order] == [True, False]
    assert {value["share"] for value in values(named("fidelity", charts.drawn(results)))} == {
        1,
        0.5,
    }


def test_speeds_and_waits_are_medians() -> None:
    # 21 tokens in 2 s, the first of them at its beginning.
    assert {value["value"] for value in values(named("tokens-per-second"))} == {10.0}
    assert {value["value"] for value in values(named("first-token"))} == {0.25}
    speeds = values(named("characters-per-second"))
    chinese = [value for value in speeds if value["language"] == "Chinese (zh)"]
    assert [value["value"] for value in chinese] == [len(many_tongues.CHINESE) / 2]


def test_right_numbers_are_of_all_replies() -> None:
    (half, whole) = values(named("correct", SOLVED))
    assert (half["deployment"], half["value"], half["prompts"]) == ("2 b", 0.5, 8)
    assert half["low"] < 0.5 < half["high"]
    assert (whole["deployment"], whole["value"], whole["low"], whole["high"]) == ("3 c", 1, 1, 1)


def test_an_interval_of_few_prompts_is_not_drawn() -> None:
    few = svg(named("correct", charts.drawn(many_tongues.asked(7))))
    enough = svg(named("correct", SOLVED))
    assert (marks(enough, "rule"), marks(enough, "symbol")) == (2, 2)
    assert (marks(few, "rule"), marks(few, "symbol")) == (0, 2)


def test_a_deployment_has_its_colour_in_every_chart() -> None:
    """Also where one before it has nothing to show."""
    for chart in SOLVED[1:]:
        scale = (chart.spec.get("encoding") or chart.spec["layer"][0]["encoding"])["color"]["scale"]
        assert scale == {"domain": ["2 b", "3 c"], "range": [COLOURS[1], COLOURS[2]]}
    assert len(set(COLOURS)) == len(COLOURS) == MAX_DEPLOYMENTS


def cost(language: str, premium: float) -> Cost:
    return Cost(language, {"ask/rain": 10}, int(100 * premium), 300, premium, None)


def test_deployments_with_one_tokenizer_share_a_bar() -> None:
    results = many_tongues.results()
    costs = {code: cost(code, premium) for code, premium in (("en", 1.0), ("ar", 3.5), ("sw", 2.0))}
    shared = tuple(Counts(name, "same", 32_064, 4_096, costs) for name in (SECOND, FIRST))
    drawn = charts.drawn(results, shared)
    assert [
        (value["language"], value["deployment"], value["value"])
        for value in values(named("token-premium", drawn))
    ] == [
        ("English (en)", f"2 = 1 {FIRST}", 1.0),
        ("Arabic (ar)", f"2 = 1 {FIRST}", 3.5),
    ]
    assert "sent-premium" not in [chart.name for chart in drawn]  # it is known better
    apart = (shared[0], replace(shared[1], tokenizer="other"))
    assert len(values(named("token-premium", charts.drawn(results, apart)))) == 4


def test_english_is_a_line_of_its_own() -> None:
    found = values(named("sent-premium"))
    arabic = [value["value"] for value in found if value["language"] == "Arabic (ar)"]
    assert arabic == [4.0, 1.0]
    assert marks(svg(named("sent-premium")), "rule") == 1


@pytest.mark.parametrize("chart", (*ALL, named("correct", SOLVED)), ids=lambda chart: chart.name)
def test_a_chart_is_valid_and_can_be_read_on_a_phone(chart: Chart) -> None:
    assert json.loads(json.dumps(chart.spec, allow_nan=False)) == chart.spec
    assert vl_convert.vegalite_to_vega(chart.spec)["marks"]
    picture = svg(chart)
    read = texts(picture)
    assert chart.title in read
    assert not [text for text in read if "…" in text]
    told = f"{chart.title}. {chart.caption}"
    assert chart.spec["description"] == told
    assert len(re.findall(r'aria-label="X-axis titled', picture)) == 1
    assert all(text.replace("·", "").isascii() for text in read)


@pytest.mark.parametrize("chart", ALL, ids=lambda chart: chart.name)
def test_a_chart_leaves_text_and_background_to_the_page(chart: Chart) -> None:
    assert not chart.spec.keys() & {"background", "config"}
    assert chart.spec["width"] == "container"
    assert "labelColor" not in json.dumps(chart.spec)


def test_pictures_are_pictures_and_differ() -> None:
    pictures = [drawing.png(chart) for chart in ALL]
    assert len(set(pictures)) == len(pictures)
    for picture in pictures:
        assert len(picture) > 1_000
        opened = Image.open(io.BytesIO(picture))
        assert opened.format == "PNG"
        assert opened.width > drawing.FILE_WIDTH * drawing.FILE_SCALE
        assert opened.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        assert len(opened.convert("RGB").getcolors(1 << 20) or ()) > 5


def test_a_picture_loads_nothing() -> None:
    spec = ALL[0].spec | {"data": {"url": "http://127.0.0.1:9/values.json"}}
    with pytest.raises(ValueError, match="not allowed"):
        drawing.png(replace(ALL[0], spec=spec))


def test_names_from_a_file_are_only_text() -> None:
    results = many_tongues.results()
    names = ("datum['x']</text><image href='http://evil.example'/>", 'signal: "1"' + "n" * 200)
    cells = [
        replace(cell, deployment=name)
        for old, name in zip((FIRST, SECOND), names, strict=True)
        for cell in results.cells.values()
        if cell.deployment == old
    ]
    plan = Plan("ask", names, results.plan.questions)
    drawn = charts.drawn(Results(plan, {cell.key: cell for cell in cells}))
    assert len(drawn) == len(ALL)
    for chart in drawn:
        picture = svg(chart)
        assert "<image" not in picture
        assert "1 datum['x']&lt;/text&gt;" in picture or "1 datum['x']&lt;/text>" in picture
        assert all(len(text) < 120 for text in texts(picture))


def test_one_deployment_needs_no_number() -> None:
    results = many_tongues.results()
    alone = Results(replace(results.plan, deployments=(FIRST,)), results.cells)
    chart = named("fidelity", charts.drawn(alone))
    assert chart.spec["encoding"]["x"]["axis"]["title"] == ["share of replies", FIRST]
    assert {value["row"] for value in values(chart)} == {
        value["language"] for value in values(chart)
    }
