"""Which experts worked: recorded while tiny models of the real architectures answer, against a
plain forward pass over the whole text and the routers' formulas written down once more."""

from __future__ import annotations

import functools
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest
import tiny_models
import torch
from engine_talk import ids, words
from transformers import (
    AutoModelForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
)

from slm_backends.chat import Sampling
from slm_backends.routing import ALL_LAYERS, Experts
from slm_backends.worker.engines import Fired, Token
from slm_backends.worker.engines import transformers as module
from slm_backends.worker.engines.transformers import PIECE, TransformersEngine
from slm_backends.worker.scheduler import joined

PHI = "phi-3.5-moe-instruct"
KINDS = ("phimoe", "mixtral", "olmoe")


class Told(NamedTuple):
    """A reply's tokens and what was told of its experts, [places, layers, ...]."""

    tokens: list[Token]
    read: list[int]
    chosen: Any
    weights: Any
    scores: Any


@functools.cache
def folder(kind: str) -> Path:
    if kind == "phimoe":
        return tiny_models.hugging_face(PHI)
    here = tiny_models.session_folder() / "mixtures" / kind
    shape = {
        "vocab_size": 544, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    }  # fmt: skip
    torch.manual_seed(7)
    made: Any
    if kind == "mixtral":
        made = MixtralForCausalLM(MixtralConfig(**shape, num_local_experts=8))
    else:
        made = OlmoeForCausalLM(OlmoeConfig(**shape, num_experts=16, num_experts_per_tok=4))
    for name, parameter in made.named_parameters():
        if "gate.weight" in name:  # as it is made, a tiny router hardly decides
            torch.nn.init.normal_(parameter, std=0.5)
    made.save_pretrained(here)
    for file in tiny_models.hugging_face(PHI).glob("tokenizer*"):
        shutil.copy(file, here)
    return here


@functools.cache
def engine(kind: str) -> TransformersEngine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_numbers", lambda torch, place: torch.float32)
        return module.load(folder(kind), lambda fraction, step: None)


def told(
    kind: str,
    prompt: list[int],
    count: int,
    experts: Experts,
    written: Sequence[int] = (),
) -> Told:
    model = engine(kind)
    assert model.mixture is not None
    sampling = Sampling(max_tokens=count, temperature=0)
    model.admit(1, prompt, sampling, 0, experts=experts, written=written)
    tokens: list[Token] = []
    fired: list[Fired] = []
    try:
        while len(tokens) < count:
            for _, news in model.step():
                if isinstance(news, Exception):
                    raise news
                if isinstance(news, Fired):
                    fired.append(news)
                elif isinstance(news, list):
                    tokens += news
    finally:
        model.release(1)
    read = [token for part in fired for token in part.ids]
    assert [part.start for part in fired] == [
        sum(len(part.ids) for part in fired[:number]) for number in range(len(fired))
    ]
    layers, experts_of_layer, k = model.mixture
    shape = (len(read), layers, experts.k or k)
    return Told(
        tokens,
        read,
        numpy.frombuffer(b"".join(part.chosen for part in fired), "<u2").reshape(shape),
        numpy.frombuffer(b"".join(part.weights for part in fired), "<f4").reshape(shape),
        numpy.frombuffer(b"".join(part.scores for part in fired), "<f2").reshape(
            len(read), layers, experts_of_layer
        ),
    )


@functools.cache
def logits(kind: str, read: tuple[int, ...]) -> Any:
    """The routers' logits of the whole text, read at once by the library: [places, layers, n]."""
    model = AutoModelForCausalLM.from_pretrained(folder(kind), dtype=torch.float32).eval()
    with torch.inference_mode():
        made = model(torch.tensor([read]), output_router_logits=True, use_cache=False)
    return torch.stack([layer.float() for layer in made.router_logits], 1).numpy()


def by_hand(kind: str, row: Any, k: int) -> tuple[list[int], list[float]]:
    """The formulas of the three routers for one token in one layer, number by number."""
    order = sorted(range(len(row)), key=lambda expert: -row[expert])[:k]
    if kind != "phimoe":
        total = sum(math.exp(value) for value in row)
        weights = [math.exp(row[expert]) / total for expert in order]
        share = sum(weights) if kind == "mixtral" else 1.0
        return order, [weight / share for weight in weights]
    weights = []
    left = set(range(len(row)))
    for best in order:
        near = [
            other
            for other in left
            if (row[best] - row[other]) / max(abs(row[other]), row[best]) <= 2 * 0.01
        ]
        weights.append(1 / sum(math.exp(row[other] - row[best]) for other in near))
        left.remove(best)
    return order, weights


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_told_is_what_a_pass_over_the_whole_text_decides(kind: str) -> None:
    prompt = words(PIECE + 40)
    found = told(kind, prompt, 12, Experts())
    assert found.read == [*prompt, *ids(found.tokens)][:-1]
    decided = logits(kind, tuple(found.read))
    for place in range(len(found.read)):
        for layer in range(decided.shape[1]):
            row = decided[place, layer].astype(float)
            chosen, weights = by_hand(kind, row, found.chosen.shape[2])
            assert found.chosen[place, layer].tolist() == chosen, (place, layer)
            assert found.weights[place, layer] == pytest.approx(weights, abs=1e-4)
            scores = numpy.exp(row - row.max())
            assert found.scores[place, layer] == pytest.approx(scores / scores.sum(), abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_to_be_told_changes_no_token(kind: str) -> None:
    prompt = words(60)
    model = engine(kind)
    assert model.admit(1, prompt, Sampling(max_tokens=12, temperature=0)) is not None
    plain: list[Token] = []
    while len(plain) < 12:
        for _, news in model.step():
            assert not isinstance(news, Fired), "nothing is told that nobody asked for"
            assert isinstance(news, list)
            plain += news
    model.release(1)
    found = told(kind, prompt, 12, Experts())
    assert ids(found.tokens) == ids(plain)
    assert len(found.read) == len(prompt) + 11, "also what another reply has read before"


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_as_it_was_made_for_change_nothing(kind: str) -> None:
    free = told(kind, words(30), 6, Experts())
    asked = told(kind, words(30), 6, Experts(k=free.chosen.shape[2]))
    assert ids(asked.tokens) == ids(free.tokens)
    assert asked.chosen.tolist() == free.chosen.tolist()
    assert asked.weights == pytest.approx(free.weights, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 3, 5])
def test_more_and_fewer_experts(kind: str, k: int) -> None:
    found = told(kind, words(30), 4, Experts(k=k))
    assert found.chosen.shape[2] == k
    # In the first layer nothing has changed before the router: it decides as the formula does.
    first = logits(kind, tuple(found.read))[:, 0]
    for place, row in enumerate(first.astype(float)):
        chosen, weights = by_hand(kind, row, k)
        assert found.chosen[place, 0].tolist() == chosen
        assert found.weights[place, 0] == pytest.approx(weights, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_expert_that_is_off_never_works(kind: str) -> None:
    free = told(kind, words(60), 4, Experts())
    busiest = int(numpy.bincount(free.chosen[:, 1].ravel()).argmax())
    off = told(kind, words(60), 4, Experts(off=((1, busiest),)))
    assert busiest not in off.chosen[:, 1]
    assert off.scores[:, 1, busiest].max() == 0
    assert (off.chosen[:, 0] == free.chosen[:, 0])[: len(words(60))].all()
    everywhere = told(kind, words(60), 4, Experts(off=((ALL_LAYERS, busiest),)))
    assert busiest not in everywhere.chosen
    assert told(kind, words(60), 4, Experts()).chosen.tolist() == free.chosen.tolist(), "it is back"


def test_what_is_written_is_said_with_its_probability() -> None:
    prompt, text = words(20), words(8, seed=1)
    found = told("phimoe", prompt, 8, Experts(), text)
    assert ids(found.tokens) == text
    model = AutoModelForCausalLM.from_pretrained(folder("phimoe"), dtype=torch.float32).eval()
    with torch.inference_mode():
        row = model(torch.tensor([prompt + text])).logits[0].log_softmax(-1)
    for place, token in enumerate(found.tokens):
        expected = float(row[len(prompt) + place - 1, token.id])
        assert token.logprob == pytest.approx(expected, abs=1e-3)


def test_a_model_without_experts_has_no_mixture() -> None:
    dense = module.load(tiny_models.hugging_face("phi-3-mini-4k-instruct"), lambda *_: None)
    assert dense.mixture is None


# --- side by side ---------------------------------------------------------------------------------


def together(kind: str, asked: dict[int, tuple[list[int], Experts | None]], count: int) -> Any:
    """The replies of several sequences that are advanced in turns: tokens, what fired, by key."""
    model = engine(kind)
    tokens: dict[int, list[Token]] = {key: [] for key in asked}
    fired: dict[int, list[Fired]] = {key: [] for key in asked}
    for key, (prompt, experts) in asked.items():
        sampling = Sampling(max_tokens=count, temperature=0, seed=1)
        model.admit(key, prompt, sampling, 0, experts=experts)
    while any(len(made) < count for made in tokens.values()):
        for key, news in model.step():
            assert not isinstance(news, Exception), news
            if isinstance(news, Fired):
                fired[key].append(news)
            elif isinstance(news, list):
                tokens[key] += news
                if len(tokens[key]) == count:
                    model.release(key)
    return tokens, {key: joined(parts) for key, parts in fired.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_touches_nobody_beside_it_and_nobody_after_it(kind: str) -> None:
    prompt = words(PIECE + 20, seed=3)
    other = [*prompt[:PIECE], *words(30, seed=4)]
    off = Experts(k=1, off=((ALL_LAYERS, 0),))
    alone = {
        key: together(kind, {1: asked}, 6)
        for key, asked in enumerate([(prompt, None), (prompt, Experts()), (other, off)], 1)
    }
    tokens, fired = together(
        kind, {1: (prompt, None), 2: (prompt, Experts()), 3: (other, off), 4: (prompt, None)}, 6
    )
    for key, (said, worked) in alone.items():
        assert tokens[key] == said[1], "to the last digit of each log-probability"
        assert fired[key] == worked[1]
    assert tokens[4] == tokens[1] == tokens[2]
    assert fired[4] == fired[1] == []
    assert [part.k for part in fired[3]] == [1]
    after = together(kind, {1: (prompt, None), 2: (prompt, Experts())}, 6)
    assert after[0][1] == tokens[1]
    assert after[1][2] == fired[2]


def test_what_was_kept_of_a_prompt_was_read_without_limits() -> None:
    model = engine("phimoe")
    prompt = words(PIECE + 9, seed=8)
    sampling = Sampling(max_tokens=2, temperature=0)
    for experts, kept in ((Experts(k=1), 0), (Experts(off=((0, 1),)), 0), (Experts(), PIECE)):
        model.admit(1, prompt, sampling, experts=experts)
        for _ in range(4):
            list(model.step())
        model.release(1)
        assert model.admit(2, prompt, sampling) == kept
        model.release(2)


def test_who_is_released_in_the_middle_leaves_the_model_as_it_was() -> None:
    prompt = words(2 * PIECE, seed=9)
    before = together("phimoe", {1: (prompt, Experts())}, 4)
    model = engine("phimoe")
    model.admit(1, prompt, Sampling(max_tokens=4), experts=Experts(k=1))
    for key, news in model.step():
        assert isinstance(news, Fired)
        model.release(key)
        break
    assert not any(module._forward_hooks for module in model._model.modules())
    assert together("phimoe", {1: (prompt, Experts())}, 4) == before
