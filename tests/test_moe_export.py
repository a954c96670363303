"""A run's routing as a file and back: to the last bit, and with other programs' eyes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy
import pandas
import pyarrow
import pytest
from mixtures import any_of, by_hand, same
from pyarrow import parquet

from slm_backends.errors import BadRequest
from slm_backends.moe import export, figures
from slm_backends.moe.trace import Trace

Write = Callable[[Trace, dict[str, Any]], bytes]
BOTH: tuple[Write, ...] = (export.as_json, export.as_parquet)
FACTS = {
    "model": "phi-moe-nano",
    "revision": "0123abc",
    "prompt": 'Zähle "bis" 3:\n数到三 🎲',
    "sampling": {"temperature": 0, "seed": None},
}
NANO = any_of(40, 15, 6, 16, 2)
TOLD = by_hand([[[2, 0], [1, 3]], [[0, 1], [2, 1]], [[3, 0], [0, 2]]], 4, 2)


@pytest.mark.parametrize("write", BOTH)
@pytest.mark.parametrize(
    "trace",
    [
        NANO,
        TOLD,
        NANO.part(0, 1),
        NANO.prompt,
        NANO.part(0, 0),
        TOLD.part(0, 0),
        any_of(3, 0, 2, 300, 8),
        any_of(4, 2, 3, 8, 1),
        Trace(NANO.ids, NANO.tokens, 15, 16, NANO.chosen, NANO.weights, None),
        Trace(NANO.ids, NANO.tokens, 15, 16, NANO.chosen, None, NANO.scores),
    ],
    ids=[
        "all", "experts only", "one token", "prompt", "nothing", "nothing, experts only",
        "300 experts", "k is 1", "no scores", "no weights",
    ],
)  # fmt: skip
def test_what_is_read_is_what_was_written(write: Write, trace: Trace) -> None:
    found, facts = export.read(write(trace, FACTS))
    assert same(found, trace)
    assert facts == FACTS


@pytest.mark.parametrize("write", BOTH)
def test_numbers_at_the_ends_of_their_kinds(write: Write) -> None:
    weights = numpy.array([1e-45, 0.1, 1 / 3, 1.1754944e-38, 1.0000001, 3.4e38], "<f4")
    scores = numpy.array([6e-8, 6.1e-5, 0.9995, 1, 0, 0.33325], "<f2").astype("<f4")
    trace = Trace(
        (1, 2, 3), ("a", "", "\n"), 1, 2, TOLD.chosen[:, :1, 1:] % 2,
        weights[:3].reshape(3, 1, 1), scores.reshape(3, 1, 2),
    )  # fmt: skip
    assert same(export.read(write(trace, {}))[0], trace)
    other = Trace(trace.ids, trace.tokens, 1, 2, trace.chosen, weights[3:].reshape(3, 1, 1))
    assert same(export.read(write(other, {}))[0], other)


@pytest.mark.parametrize("write", BOTH)
def test_half_a_character_becomes_a_question_mark(write: Write) -> None:
    trace = Trace((1, 2, 3), ("a\ud800", "b", "c"), 2, 4, TOLD.chosen)
    found, facts = export.read(write(trace, {"prompt": "x\udc00"}))
    assert found.tokens == ("a?", "b", "c")
    assert facts == {"prompt": "x?"}


def test_json_has_names_that_read_by_themselves() -> None:
    found = json.loads(export.as_json(NANO, FACTS))
    assert found["facts"] == FACTS
    assert found["mixture"] == {"layers": 6, "experts": 16, "k": 2, "prompt_tokens": 15}
    assert len(found["tokens"]) == 40
    token = found["tokens"][15]
    assert token["part"] == "reply"
    assert (token["place"], token["id"], token["token"]) == (15, NANO.ids[15], " w15")
    layer = token["layers"][4]
    assert layer["experts"] == NANO.chosen[15, 4].tolist()
    assert layer["weights"] == pytest.approx(NANO.weights[15, 4].tolist())
    assert layer["scores"] == pytest.approx(NANO.scores[15, 4].tolist(), rel=1e-4)


def test_what_was_not_told_is_left_out() -> None:
    layer = json.loads(export.as_json(TOLD, {}))["tokens"][0]["layers"][0]
    assert layer == {"experts": [2, 0]}
    columns = parquet.read_table(io.BytesIO(export.as_parquet(TOLD, {}))).column_names
    assert columns == ["place", "part", "id", "token", "layer", "rank", "expert"]


def test_parquet_has_a_row_for_every_expert_that_worked() -> None:
    table = parquet.read_table(io.BytesIO(export.as_parquet(NANO, FACTS)))
    assert len(table) == 40 * 6 * 2
    rows = table.to_pylist()
    for place, layer, rank in [(0, 0, 0), (14, 5, 1), (15, 0, 0), (39, 3, 1)]:
        row = rows[(place * 6 + layer) * 2 + rank]
        expert = int(NANO.chosen[place, layer, rank])
        every = row.pop("scores")
        assert row == {
            "place": place,
            "part": "prompt" if place < 15 else "reply",
            "id": NANO.ids[place],
            "token": f" w{place}",
            "layer": layer,
            "rank": rank,
            "expert": expert,
            "weight": float(NANO.weights[place, layer, rank]),
            "score": float(NANO.scores[place, layer, expert]),
        }
        assert every == (NANO.scores[place, layer].tolist() if rank == 0 else None)


def test_pandas_finds_the_same_figures() -> None:
    rows = pandas.read_parquet(io.BytesIO(export.as_parquet(NANO, FACTS)))
    for layer, loads in enumerate(figures.load(NANO)):
        fell_on = rows[rows["layer"] == layer]["expert"].value_counts(normalize=True)
        assert loads == pytest.approx([fell_on.get(expert, 0) for expert in range(16)])
    assert rows.groupby(["place", "layer"]).size().unique().tolist() == [2]
    assert rows.groupby("part")["place"].nunique().to_dict() == {"prompt": 15, "reply": 25}
    firsts = rows[rows["rank"] == 0]
    every = numpy.stack(firsts["scores"].to_list())
    assert every.max(axis=1).tolist() == firsts["score"].tolist(), "the best expert comes first"
    assert every[range(len(firsts)), firsts["expert"]].tolist() == firsts["score"].tolist()


def test_parquet_is_the_smaller_one() -> None:
    large = any_of(300, 50, 8, 16, 2)
    assert len(export.as_parquet(large, {})) < len(export.as_json(large, {})) / 3


# --- files of others, and damaged ones ------------------------------------------------------------


def changed(change: Callable[[dict[str, Any]], Any]) -> bytes:
    found = json.loads(export.as_json(NANO, FACTS))
    change(found)
    return json.dumps(found).encode()


def table_of(change: Callable[[pyarrow.Table], pyarrow.Table]) -> bytes:
    table = parquet.read_table(io.BytesIO(export.as_parquet(NANO, FACTS)))
    made = io.BytesIO()
    parquet.write_table(change(table), made)
    return made.getvalue()


def with_column(name: str, values: Any) -> bytes:
    return table_of(lambda t: t.set_column(t.column_names.index(name), name, [values]))


def first_layer(found: dict[str, Any]) -> dict[str, Any]:
    layer: dict[str, Any] = found["tokens"][0]["layers"][0]
    return layer


ROWS = 40 * 6 * 2
FOREIGN = {
    "nothing": b"",
    "no JSON": b"\xff\xfe\x00",
    "another JSON": b'{"plan": 1}',
    "a list": b"[1, 2]",
    "a number": b"7",
    "very deep": b"[" * 100_000,
    "half a JSON": export.as_json(NANO, FACTS)[:5_000],
    "no tokens": changed(lambda found: found.pop("tokens")),
    "tokens of no list": changed(lambda found: found.update(tokens=7)),
    "no facts": changed(lambda found: found.pop("facts")),
    "facts of no kind": changed(lambda found: found.update(facts=7)),
    "a layer less": changed(lambda found: found["tokens"][3]["layers"].pop()),
    "a layer more": changed(lambda found: found["mixture"].update(layers=7)),
    "no layer": changed(lambda found: found["mixture"].update(layers=0)),
    "half a layer": changed(lambda found: found["mixture"].update(layers=5.5)),
    "a longer prompt": changed(lambda found: found["mixture"].update(prompt_tokens=41)),
    "an expert too many": changed(lambda found: first_layer(found).update(experts=[0, 16])),
    "an expert below": changed(lambda found: first_layer(found).update(experts=[0, -1])),
    "an expert and a half": changed(lambda found: first_layer(found).update(experts=[0, 1.5])),
    "an expert that is another in 16 bits": changed(
        lambda found: first_layer(found).update(experts=[0, 65_536 + 3])
    ),
    "a score past its kind": changed(lambda found: first_layer(found).update(scores=[1e6] * 16)),
    "tokens in another order": changed(lambda found: found["tokens"].reverse()),
    "a place of no kind": changed(lambda found: found["tokens"][0].update(place="0")),
    "experts in words": changed(lambda found: first_layer(found).update(experts=["a", "b"])),
    "a weight that is none": changed(
        lambda found: first_layer(found).update(weights=[0.5, float("nan")])
    ),
    "a token of no text": changed(lambda found: found["tokens"][0].update(token=None)),
    "a token of no number": changed(lambda found: found["tokens"][0].update(id="17")),
    "no Parquet": b"PAR1 and nothing more",
    "half a Parquet": export.as_parquet(NANO, FACTS)[:2_000],
    "another Parquet": table_of(lambda table: table.replace_schema_metadata({})),
    "rows in another order": table_of(lambda table: table.sort_by([("place", "descending")])),
    "rows by expert": table_of(lambda table: table.sort_by("expert")),
    "a place left out": with_column("place", pyarrow.array([None] * ROWS, "int32")),
    "rows left out": table_of(lambda table: table.slice(0, ROWS - 3)),
    "no expert": table_of(lambda table: table.drop_columns(["expert"])),
    "experts too many": with_column("expert", pyarrow.array([16] * ROWS, "uint16")),
    "experts of no kind": with_column("expert", pyarrow.array(["a"] * ROWS)),
    "experts left out": with_column("expert", pyarrow.array([None] * ROWS, "uint16")),
    "no scores": with_column("scores", pyarrow.nulls(ROWS, pyarrow.list_(pyarrow.float32()))),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_that_is_none_is_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(BadRequest, match="no exported routing, or it is damaged") as refused:
        export.read(FOREIGN[name])
    assert refused.value.hint
    assert refused.value.field == "file"


def test_a_file_of_another_version() -> None:
    with pytest.raises(BadRequest, match="another version") as refused:
        export.read(changed(lambda found: found.update(format=2)))
    assert refused.value.hint


def test_a_file_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    content = export.as_parquet(NANO, FACTS)
    monkeypatch.setattr(export, "MAX_ROWS", ROWS - 1)
    with pytest.raises(BadRequest, match="more than 479 rows"):
        export.read(content)
    monkeypatch.setattr(export, "MAX_BYTES", len(content) - 1)
    with pytest.raises(BadRequest, match="larger than"):
        export.read(content)


def test_every_byte_of_a_damaged_file_is_met_with_a_sentence_or_read() -> None:
    random = numpy.random.default_rng(0)
    for write in BOTH:
        whole = write(NANO.part(0, 4), FACTS)
        for _ in range(150):
            content = bytearray(whole)
            content[random.integers(len(content))] = random.integers(256)
            try:
                export.read(bytes(content))
            except BadRequest as refused:
                assert refused.message
