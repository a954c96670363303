"""The arithmetic of mixtures, against numbers worked out by hand and published ones."""

from __future__ import annotations

import random

import pytest

from slm_backends import catalog, fit
from slm_backends.catalog import Model
from slm_backends.errors import BadRequest
from slm_backends.moe import arithmetic

GB = 10**9
# 2 billion parameters are not of experts; 16 experts have half a billion each in all layers.
MIXTURE = Model(
    "mixture", "Mixture", family="one", parameters=10 * GB, active=3 * GB, experts=16, chosen=2,
    layers=32, kv_heads=8, head_size=128,
)  # fmt: skip


def dense(model_id: str, parameters: float, family: str = "other", **more: object) -> Model:
    return Model(model_id, model_id, family, int(parameters * GB), **more)  # type: ignore[arg-type]


def test_what_one_conversation_reads_is_what_works_on_a_token() -> None:
    assert arithmetic.parameters_read(MIXTURE) == 3 * GB
    assert arithmetic.parameters_read(dense("d", 7)) == 7 * GB


def test_a_batch_reads_more_experts_and_never_more_than_all() -> None:
    # Of two tokens the second meets each of 16 experts anew with 2/16: 2 + 2 x 14/16 = 3.75 of 16.
    assert arithmetic.distinct_experts(MIXTURE, 2) == pytest.approx(3.75)
    assert arithmetic.parameters_read(MIXTURE, 2) == pytest.approx(2 * GB + 3.75 * GB / 2)
    assert arithmetic.parameters_read(MIXTURE, 256) == pytest.approx(10 * GB)


def test_the_formula_is_what_throwing_dice_gives() -> None:
    chance = random.Random(5)
    met = [
        len({expert for _ in range(8) for expert in chance.sample(range(16), 2)})
        for _ in range(4_000)
    ]
    assert sum(met) / len(met) == pytest.approx(arithmetic.distinct_experts(MIXTURE, 8), rel=0.02)


def test_bytes_and_speed() -> None:
    found = arithmetic.cost(MIXTURE, 16, 50e9, context=1_000)
    assert found.hold == 20 * GB
    assert found.read == 6 * GB
    # Keys and values of 32 layers with 8 heads of 128 numbers, two bytes each.
    assert found.cache == 2 * 32 * 8 * 128 * 2 * 1_000
    assert found.speed == pytest.approx(50e9 / (6 * GB + found.cache))
    four = arithmetic.cost(MIXTURE, arithmetic.BITS["int4"], 50e9, context=0, batch=4)
    assert four.hold == 5.625 * GB
    assert four.cache == 0
    assert four.speed == pytest.approx(4 * 50e9 / four.read)
    assert arithmetic.cost(MIXTURE, 16).speed is None


def test_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "memory_budget", lambda: 6 * GB + fit.OVERHEAD)
    assert not arithmetic.cost(MIXTURE, 16, context=0).fits
    assert arithmetic.cost(MIXTURE, 4.5, context=0).fits
    assert not arithmetic.cost(MIXTURE, 4.5, context=8_192, batch=4).fits, "caches count too"


def test_rivals_are_near_and_of_the_family_where_there_is_one() -> None:
    near, kin = dense("near", 9.9), dense("kin", 8, "one")
    small, blind = dense("small", 3.1), dense("far", 90)
    sees = dense("sees", 10, "one", inputs=("text", "images"))
    found = arithmetic.rivals(MIXTURE, [MIXTURE, near, kin, small, blind, sees])
    assert found == [(kin, "0.80 x its total, 2.67 x its active")]
    found = arithmetic.rivals(MIXTURE, [MIXTURE, near, small, blind, sees])
    assert found == [(near, "0.99 x its total"), (small, "1.03 x its active")]
    assert arithmetic.rivals(MIXTURE, [MIXTURE, blind]) == []


def test_a_mixture_whose_active_parameters_nobody_stated_is_left_out() -> None:
    unknown = Model("x", "X", "one", 10 * GB, experts=16, chosen=2)
    assert arithmetic.rows([unknown, dense("near", 9.9)]) == ()


def test_a_mixture_all_of_whose_experts_are_chosen_reads_all() -> None:
    every = Model("x", "X", "one", 10 * GB, active=10 * GB, experts=4, chosen=4)
    assert arithmetic.parameters_read(every, 3) == 10 * GB


def test_every_mixture_of_the_catalog_has_a_rival() -> None:
    models = catalog.load().models
    found = arithmetic.rows(models.values(), 20e9)
    mixtures = [row.model.id for row in found if not row.rival_of]
    assert {"phi-3.5-moe-instruct", "phi-mini-moe-instruct", "phi-tiny-moe-instruct"} <= set(
        mixtures
    )
    assert [models[name].parameters for name in mixtures] == sorted(
        models[name].parameters for name in mixtures
    )
    assert {row.rival_of for row in found} - {""} == set(mixtures)
    moe = next(row for row in found if row.model.id == "phi-3.5-moe-instruct")
    assert moe.costs["bf16"].hold == pytest.approx(83.7e9, rel=0.01), "as large as its checkpoint"
    assert all(row.costs[name].speed for row in found for name in arithmetic.BITS)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"batch": 257}, {"context": -1}])
def test_no_batch_and_no_context(wrong: dict[str, int]) -> None:
    with pytest.raises(BadRequest, match="conversations"):
        arithmetic.rows([MIXTURE], **wrong)  # type: ignore[arg-type]


def test_memory_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "READ_SECONDS", 0.05)
    arithmetic.bandwidth.cache_clear()
    found = arithmetic.bandwidth()
    assert 1e8 < found < 1e13
    assert arithmetic.bandwidth() == found
    arithmetic.bandwidth.cache_clear()
