"""The shared sampler against transformers' own processors, and against arithmetic written out."""

from __future__ import annotations

import math
from collections import Counter

import numpy
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from slm_backends.chat import Sampling
from slm_backends.worker.engines.sampler import Sampler

DRAWS = 2_000
PLAIN = {"temperature": 1.0, "top_p": 1.0}


def row(size: int = 60, spread: float = 2.0, seed: int = 0) -> numpy.ndarray:
    random = numpy.random.default_rng(seed)
    return (random.standard_normal(size) * spread).astype(numpy.float32)


def sampler(prompt: tuple[int, ...] = (), top: int | None = None, **sampling: object) -> Sampler:
    return Sampler(Sampling(**{**PLAIN, **sampling}), prompt, top)  # type: ignore[arg-type]


def reference(logits: numpy.ndarray, prompt: tuple[int, ...] = (), **sampling: float):
    """Probabilities after transformers' processors, in transformers' order."""
    processors = LogitsProcessorList()
    if "repetition_penalty" in sampling:
        processors.append(RepetitionPenaltyLogitsProcessor(sampling["repetition_penalty"]))
    processors.append(TemperatureLogitsWarper(float(sampling.get("temperature", 1.0))))
    if "top_k" in sampling:
        processors.append(TopKLogitsWarper(int(sampling["top_k"])))
    if "top_p" in sampling:
        processors.append(TopPLogitsWarper(float(sampling["top_p"])))
    scores = processors(torch.tensor([list(prompt)]), torch.tensor(logits)[None])
    return torch.softmax(scores.double(), dim=-1)[0].numpy()


CASES = [
    {},
    {"temperature": 0.3},
    {"temperature": 2.0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 60},
    {"top_k": 1_000},
    {"top_p": 0.01},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"top_p": 0.999},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
    {"temperature": 2.0, "top_k": 5, "top_p": 0.99},
    {"repetition_penalty": 1.8},
    {"repetition_penalty": 0.5, "temperature": 0.8, "top_p": 0.9},
]


@pytest.mark.parametrize("spread", [0.5, 2.0, 15.0])
@pytest.mark.parametrize("sampling", CASES, ids=str)
def test_draws_are_distributed_as_transformers_would(
    sampling: dict[str, float], spread: float
) -> None:
    logits, prompt = row(spread=spread), (3, 4, 5, 5, 10)
    expected = reference(logits, prompt, **sampling)
    ours = sampler(prompt, seed=1, **sampling)
    fresh = "repetition_penalty" in sampling  # what was said would count
    drawn = Counter(
        (sampler(prompt, seed=seed, **sampling) if fresh else ours).pick(logits).id
        for seed in range(DRAWS)
    )
    assert all(expected[token] > 0 for token in drawn), "a token that was cut was drawn"
    for token, probability in enumerate(expected):
        # Five standard deviations; with fixed seeds it passes always or never.
        margin = 5 * math.sqrt(DRAWS * probability * (1 - probability)) + 1
        assert abs(drawn[token] - DRAWS * probability) <= margin, token


def test_a_large_vocabulary_is_cut_exactly() -> None:
    """Where the sampler looks at a few of the likeliest first: the whole nucleus, and no more."""
    for temperature in (0.3, 1.0, 2.0):
        for spread in (0.1, 1.0, 3.0):
            logits = row(10_000, spread)
            expected = reference(logits, temperature=temperature, top_p=0.9, top_k=400)
            ours = sampler(temperature=temperature, top_p=0.9, top_k=400, seed=1)
            drawn = {ours.pick(logits).id for _ in range(300)}
            allowed = set(numpy.flatnonzero(expected))
            assert drawn <= allowed
            surely = {token for token in allowed if 300 * expected[token] > 20}
            assert surely <= drawn


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = row()
    greedy = sampler(temperature=0, top_k=3, top_p=0.5)
    assert {greedy.pick(logits).id for _ in range(20)} == {int(logits.argmax())}


def test_equals_share_the_chance_also_at_the_edge_of_top_k() -> None:
    logits = numpy.zeros(6, dtype=numpy.float32)
    drawn = {sampler(top_k=2, seed=seed).pick(logits).id for seed in range(200)}
    assert drawn == set(range(6))


def test_a_seed_repeats_and_none_does_not() -> None:
    rows = [row(500, 1.0, seed) for seed in range(30)]

    def said(seed: int | None) -> list[int]:
        ours = sampler(temperature=1.5, top_p=0.99, seed=seed)
        return [ours.pick(logits).id for logits in rows]

    assert said(5) == said(5)
    assert said(5) != said(6)
    assert said(None) != said(None)


def test_presence_and_frequency_count_the_reply_alone() -> None:
    logits = numpy.array([1.0, 0.9, 0.0], dtype=numpy.float32)
    presence = sampler(prompt=(0, 0), temperature=0, presence_penalty=0.5)
    # 0 was in the prompt, which does not count; once said it falls to 0.5, once only.
    assert [presence.pick(logits).id for _ in range(4)] == [0, 1, 0, 0]
    frequency = sampler(prompt=(0, 0), temperature=0, frequency_penalty=0.3)
    # 1.0, 0.7, 0.4 and 0.9, 0.6 as they are said more often
    assert [frequency.pick(logits).id for _ in range(5)] == [0, 1, 0, 1, 0]
    wanted = sampler(temperature=0, presence_penalty=-2.0)
    assert [wanted.pick(logits).id for _ in range(3)] == [0, 0, 0]


def test_repetition_is_of_prompt_and_reply_and_knows_the_sign() -> None:
    logits = numpy.array([1.0, 0.9, -0.1], dtype=numpy.float32)
    ours = sampler(prompt=(0,), temperature=0, repetition_penalty=2.0)
    # The prompt's 0 stands at 0.5 from the start; 1 falls to 0.45 once it was said.
    assert [ours.pick(logits).id for _ in range(3)] == [1, 0, 0]
    negative = numpy.array([-1.0, -1.5], dtype=numpy.float32)
    assert sampler(prompt=(0,), temperature=0, repetition_penalty=2.0).pick(negative).id == 1


def test_logits_stay_as_they_were() -> None:
    logits = row()
    before = logits.copy()
    ours = sampler(
        prompt=(1, 2), top=5, repetition_penalty=1.5, presence_penalty=1.0, frequency_penalty=1.0
    )
    for _ in range(5):
        ours.pick(logits)
    assert (logits == before).all()


def test_logprobs_are_the_models_own() -> None:
    logits = row(1_000)
    expected = torch.log_softmax(torch.tensor(logits).double(), dim=-1).numpy()
    likeliest = numpy.argsort(-expected)[:5]
    ours = sampler((7,), 5, temperature=2.0, top_k=3, repetition_penalty=1.9, presence_penalty=2.0)
    for _ in range(10):
        token = ours.pick(logits)
        assert token.logprob == pytest.approx(expected[token.id], abs=1e-5)
        assert [place for place, _ in token.top] == likeliest.tolist()
        assert [value for _, value in token.top] == pytest.approx(expected[likeliest], abs=1e-5)


def test_logprobs_of_the_chosen_alone_or_not_at_all() -> None:
    token = sampler(top=0).pick(row())
    assert token.logprob is not None
    assert token.top == ()
    token = sampler().pick(row())
    assert token.logprob is None
    assert token.top == ()


def test_as_many_alternatives_as_there_are() -> None:
    token = sampler(top=20, temperature=0).pick(numpy.array([0.0, 1.0], dtype=numpy.float32))
    assert [place for place, _ in token.top] == [1, 0]
    assert math.exp(token.top[0][1]) + math.exp(token.top[1][1]) == pytest.approx(1)


def test_unlikely_tokens_have_a_logprob_too() -> None:
    """e^-200 is 0 in single precision, and its logarithm is -200 all the same."""
    token = sampler(top=3, temperature=0).pick(numpy.array([0, -200, -300], dtype=numpy.float32))
    assert token.top == ((0, 0.0), (1, -200.0), (2, -300.0))


def test_forbidden_tokens_are_neither_drawn_nor_named() -> None:
    logits = row()
    logits[::2] = -numpy.inf
    for sampling in ({}, {"temperature": 2.0}, {"top_k": 50}, {"top_p": 0.999}):
        for seed in range(200):
            token = sampler(top=40, seed=seed, **sampling).pick(logits)  # type: ignore[arg-type]
            assert token.id % 2 == 1
            assert len(token.top) == 30
            assert all(place % 2 == 1 for place, _ in token.top)


@pytest.mark.parametrize("wrong", [numpy.nan, numpy.inf])
@pytest.mark.parametrize("temperature", [0, 1])
def test_what_is_not_a_number_is_an_error(wrong: float, temperature: float) -> None:
    logits = row()
    logits[9] = wrong
    with pytest.raises(ValueError, match="not a number"):
        sampler(temperature=temperature).pick(logits)
    with pytest.raises(ValueError, match="not a number"):
        sampler(temperature=temperature).pick(numpy.full(4, -numpy.inf))


def test_half_precision_is_read_as_numbers() -> None:
    logits = row(50_000, 0.01).astype(numpy.float16)
    drawn = {sampler(seed=seed, top=1).pick(logits).id for seed in range(100)}
    assert len(drawn) > 90  # sums in half precision stop growing at 2,048


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_written_needs_numbers_too(wrong: float) -> None:
    logits = row()
    logits[5] = wrong
    writing = Sampler(Sampling(**PLAIN), (), 0, [3])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not a number"):
        writing.pick(logits)
