"""Figures of traces, against values that were worked out on paper."""

from __future__ import annotations

import math

import numpy
import pytest
from mixtures import any_of, by_hand

from slm_backends.moe import figures

#: Four tokens, two of them the prompt's; in layer 0 all four experts work, in layer 1 only three.
#: Layer 0: 0 three times, 1 twice, 2 twice, 3 once, of 8. Layer 1: 0 four times, 1 three, 2 once.
FOUR = by_hand(
    [[[0, 1], [0, 1]], [[0, 2], [1, 0]], [[1, 3], [0, 1]], [[2, 0], [2, 0]]],
    experts=4,
    prompt_tokens=2,
)
NOTHING = FOUR.part(0, 0)
LOADS = [[3 / 8, 2 / 8, 2 / 8, 1 / 8], [4 / 8, 3 / 8, 1 / 8, 0]]


def test_load() -> None:
    assert figures.load(FOUR).tolist() == LOADS
    assert figures.load(FOUR.prompt).tolist() == [[2 / 4, 1 / 4, 1 / 4, 0], [2 / 4, 2 / 4, 0, 0]]
    assert figures.load(NOTHING).tolist() == [[0] * 4] * 2


def test_balance() -> None:
    first, second = figures.balance(FOUR)
    assert (first.layer, first.max_over_mean, first.unused) == (0, 1.5, ())
    assert (second.layer, second.max_over_mean, second.unused) == (1, 2.0, (3,))
    # 3/8 log2 8/3 + 2 x 1/4 x 2 + 1/8 x 3 = 1.905639, of log2 4 = 2
    assert first.entropy == pytest.approx(0.952820, abs=1e-6)
    # 1/2 x 1 + 3/8 log2 8/3 + 1/8 x 3 = 1.405639
    assert second.entropy == pytest.approx(0.702820, abs=1e-6)


def test_balance_at_its_ends() -> None:
    (even,) = figures.balance(by_hand([[[0, 1]], [[2, 3]]], 4, 2))
    assert (even.max_over_mean, even.entropy, even.unused) == (1, 1, ())
    (one,) = figures.balance(by_hand([[[2]], [[2]], [[2]]], 4, 3))
    assert (one.max_over_mean, one.entropy, one.unused) == (4, 0, (0, 1, 3))
    (alone,) = figures.balance(by_hand([[[0]]], 1, 1))
    assert (alone.max_over_mean, alone.entropy, alone.unused) == (1, 1, ())
    (same,) = figures.balance(by_hand([[[2, 0]], [[0, 2]]], 4, 2))
    assert (same.max_over_mean, same.entropy) == (4 / 2, math.log(2) / math.log(4)), "as it is told"
    assert figures.balance(NOTHING) == ()


def test_pairs_of_a_layer() -> None:
    assert figures.pairs(FOUR, 0).tolist() == [
        [0, 1 / 4, 2 / 4, 0],
        [1 / 4, 0, 0, 1 / 4],
        [2 / 4, 0, 0, 0],
        [0, 1 / 4, 0, 0],
    ]


def test_pairs_of_all_layers_are_the_mean_of_theirs() -> None:
    layers = [figures.pairs(FOUR, layer) for layer in range(2)]
    assert figures.pairs(FOUR).tolist() == (sum(layers) / 2).tolist()
    assert figures.pairs(FOUR)[0, 1] == 4 / 8, "once in layer 0, three times in layer 1"


def test_three_experts_are_three_pairs() -> None:
    found = figures.pairs(by_hand([[[4, 0, 2]]], 5, 1))
    assert sorted(map(tuple, numpy.argwhere(found).tolist())) == [
        (0, 2), (0, 4), (2, 0), (2, 4), (4, 0), (4, 2),
    ]  # fmt: skip


def test_one_expert_alone_has_no_pairs() -> None:
    assert not figures.pairs(by_hand([[[0]], [[1]]], 2, 2)).any()
    assert not figures.pairs(NOTHING).any()


def test_divergence() -> None:
    other = by_hand([[[0, 1], [2, 3]]], 4, 1)
    one = by_hand([[[0, 1], [0, 1]]], 4, 1)
    assert figures.divergence(one, other).tolist() == [0, 1], "the same, and nothing in common"
    half = by_hand([[[0, 2], [0, 1]]], 4, 1)
    # P = (1/2, 1/2, 0), Q = (1/2, 0, 1/2): H of the middle is 1.5 bits, of each of them 1.
    assert figures.divergence(one, half).tolist() == pytest.approx([0.5, 0])


def test_divergence_asks_neither_for_order_nor_for_length() -> None:
    first, second = any_of(40, 10, 6, 16, 2), any_of(7, 3, 6, 16, 2, seed=1)
    there, back = figures.divergence(first, second), figures.divergence(second, first)
    assert there == pytest.approx(back)
    assert (there > 0).all()
    assert (there < 1).all()


def test_divergence_of_more_and_fewer_experts_at_once() -> None:
    one = by_hand([[[0]], [[1]]], 4, 2)
    assert figures.divergence(one, by_hand([[[0, 1]]], 4, 1)).tolist() == [0]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (any_of(4, 2, 3, 4, 2), "different shapes .* 2 layers with 4 .* 3 layers with 4 experts"),
        (any_of(4, 2, 2, 8, 2), "different shapes"),
        (NOTHING, "no token"),
    ],
)
def test_what_cannot_be_compared(other: figures.Trace, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        figures.divergence(FOUR, other)


def test_perplexity() -> None:
    assert figures.perplexity([math.log(1 / 2), math.log(1 / 8)]) == pytest.approx(4)
    assert figures.perplexity([0.0]) == 1
    assert figures.perplexity([-9999.0]) == math.inf
    with pytest.raises(ValueError, match="no perplexity"):
        figures.perplexity([])


def test_flow_tells_prompt_and_reply_apart() -> None:
    bins, shares = figures.flow(FOUR)
    assert [(one.part, one.begin, one.end, one.text) for one in bins] == [
        ("prompt", 0, 1, " w0"),
        ("prompt", 1, 2, " w1"),
        ("reply", 2, 3, " w2"),
        ("reply", 3, 4, " w3"),
    ]
    assert shares.tolist() == [
        [1 / 2, 1 / 2, 0, 0],
        [2 / 4, 1 / 4, 1 / 4, 0],
        [1 / 4, 2 / 4, 0, 1 / 4],
        [2 / 4, 0, 2 / 4, 0],
    ]
    assert figures.flow(FOUR, 0)[1][2].tolist() == [0, 1 / 2, 0, 1 / 2]


@pytest.mark.parametrize("experts", [4, 64, 256])
@pytest.mark.parametrize(("tokens", "prompt"), [(1, 1), (65, 0), (130, 7), (2_000, 301)])
def test_flow_of_long_texts(tokens: int, prompt: int, experts: int) -> None:
    found = any_of(tokens, prompt, 2, experts, 2)
    bins, shares = figures.flow(found)
    assert len(bins) <= figures.MAX_BINS
    assert len(bins) * experts <= figures.MAX_CELLS
    edges = [one.begin for one in bins] + [bins[-1].end]
    assert edges == sorted(set(edges)), "without a gap, and none of them empty"
    assert (edges[0], edges[-1]) == (0, tokens)
    assert {one.part for one in bins} == {
        "prompt" if place < prompt else "reply" for place in range(tokens)
    }
    assert all(one.part == ("prompt" if one.end <= prompt else "reply") for one in bins)
    assert shares.sum(axis=1) == pytest.approx(1)
    sizes = numpy.array([one.end - one.begin for one in bins])
    assert (sizes @ shares / tokens).tolist() == pytest.approx(figures.load(found).mean(0).tolist())


def test_bins_stay_where_they_are_while_a_reply_grows() -> None:
    whole = any_of(60, 9, 2, 16, 2)
    earlier, _ = figures.flow(whole.part(0, 40))
    later, _ = figures.flow(whole)
    assert later[: len(earlier)] == earlier


def test_flow_of_nothing() -> None:
    bins, shares = figures.flow(NOTHING)
    assert bins == ()
    assert shares.shape == (0, 4)


def test_every_figure_says_its_formula() -> None:
    named = {field for field in figures.Balance.__dataclass_fields__ if field != "layer"}
    others = {"load", "pairs", "divergence", "perplexity", "loss", "weights", "scores"}
    assert named | others == set(figures.FORMULAS)
