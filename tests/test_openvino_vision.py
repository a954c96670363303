"""Phi-3-vision on OpenVINO: a tiny folder of the real layout, against torch on its weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_phi3v
import tiny_vision_openvino
import torch
from engine_talk import words
from picture_talk import ask, followed

from slm_backends.chat import MAX_IMAGES, Looking, Sampling
from slm_backends.errors import SLMError, Unsupported
from slm_backends.worker import engines
from slm_backends.worker.engines import openvino as module
from slm_backends.worker.engines import phi3v
from slm_backends.worker.engines.openvino import OpenVINOEngine
from slm_backends.worker.pieces import Picture, Piece, Words

#: The runtime keeps keys and values in 8 bits, so that of two tokens this near either may be said.
NEAR = 0.05
BLOCK = 32
WIDE = tiny_phi3v.picture(1, (300, 200))
HIGH = tiny_phi3v.picture(11, (90, 200))
WIDE_CROPS, HIGH_CROPS = 5, 3  # where there are several; alone the first has 13


def load(folder: Path, **options: Any) -> OpenVINOEngine:
    engine = engines.load("openvino", folder, lambda fraction, step: None, **options)
    assert isinstance(engine, OpenVINOEngine)
    return engine


@pytest.fixture(scope="module")
def folder() -> Path:
    return tiny_vision_openvino.folder()


@pytest.fixture(scope="module")
def model() -> phi3v.Phi3Vision:
    return phi3v.load(tiny_vision_openvino.checkpoint(), torch.float32)


@pytest.fixture(scope="module")
def engine(folder: Path) -> OpenVINOEngine:
    """For tests that do not ask what was seen or read before."""
    return load(folder, context=1_024)


@pytest.fixture
def fresh(folder: Path) -> OpenVINOEngine:
    return load(folder, context=1_024)


def text(*tokens: int) -> Words:
    return Words("", tokens)


def one() -> list[Piece]:
    return [text(1, 5, 6), WIDE, text(7, 8, 9)]


def two(first: Picture = WIDE, second: Picture = HIGH) -> list[Piece]:
    return [text(1, 5, 6), first, text(1, 7), second, text(8, 11)]


def assert_right(model: phi3v.Phi3Vision, pieces: Sequence[Piece], said: Sequence[int]) -> None:
    """Each token of a greedy reply is torch's likeliest."""
    for place, token in enumerate(said):
        logits = tiny_phi3v.reference(model, pieces, said[:place])
        assert logits[token] == pytest.approx(logits.max(), abs=NEAR)


# --- what is said -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces",
    [one(), two(), two(HIGH, WIDE), [text(1, 5), WIDE, WIDE, text(9)]],
    ids=["one", "two", "turned", "no words between"],
)
def test_says_what_torch_says(
    engine: OpenVINOEngine, model: phi3v.Phi3Vision, pieces: list[Piece]
) -> None:
    assert_right(model, pieces, ask(engine, pieces, 8).ids)


@pytest.mark.parametrize("picture", [WIDE, HIGH], ids=["wide", "high"])
def test_sees_what_torch_sees(
    engine: OpenVINOEngine, model: phi3v.Phi3Vision, picture: Picture
) -> None:
    vision = engine._vision
    vision.eyes.hold(9, [picture])
    seen = vision.embeddings(engine.lay_out([picture]))[0]
    vision.eyes.release(9)
    expected = tiny_phi3v.looked_at(model, picture, 16).numpy()
    # The runtime computes in bfloat16 where the processor can.
    assert abs(seen - expected).mean() < 0.02 * expected.std()


def test_reads_text_alone(engine: OpenVINOEngine, model: phi3v.Phi3Vision) -> None:
    pieces = [text(*words(300))]
    assert_right(model, pieces, ask(engine, pieces, 8).ids)


def test_the_order_of_pictures_changes_what_is_said(engine: OpenVINOEngine) -> None:
    assert ask(engine, two(), 1).ids != ask(engine, two(HIGH, WIDE), 1).ids


def test_sampling_is_honoured(engine: OpenVINOEngine) -> None:
    ask(engine, two())  # what is seen and read by then shall not matter
    warm = {"temperature": 1.5, "presence_penalty": 0.5, "top_k": 40}
    first, again, other = (ask(engine, two(), 8, seed=seed, **warm).ids for seed in (1, 1, 2))
    assert first == again != other


def test_a_penalty_that_the_runtime_would_drop_is_refused(engine: OpenVINOEngine) -> None:
    """It knows no tokens of a prompt that is made of embeddings."""
    with pytest.raises(Unsupported, match="repetition_penalty"):
        ask(engine, one(), repetition_penalty=1.2)
    assert len(ask(engine, one()).ids) == 5


# --- looking ----------------------------------------------------------------------------------


def test_tells_of_each_crop_of_each_picture(fresh: OpenVINOEngine) -> None:
    looks = [Looking(1, 2, crop, WIDE_CROPS) for crop in range(1, WIDE_CROPS + 1)]
    looks += [Looking(2, 2, crop, HIGH_CROPS) for crop in range(1, HIGH_CROPS + 1)]
    answer = ask(fresh, two())
    assert answer.looks == looks
    assert answer.cached is None
    assert ask(fresh, one()).looks[-1] == Looking(1, 1, 13, 13)  # alone it has other crops


def test_the_next_question_pays_for_nothing_again(
    folder: Path, model: phi3v.Phi3Vision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step reads one block here: the steps to a first token tell how much was read."""
    monkeypatch.setattr(module, "BATCHED_TOKENS", BLOCK)
    engine = load(folder, context=1_024)
    first = ask(engine, two(), 12)
    pieces = followed(two(), first.ids, words(20))
    prompt = engine.lay_out(pieces)
    cached = engine.admit(2, prompt, Sampling(max_tokens=8, temperature=0), None, pieces)
    assert cached == len(engine.lay_out(two())) // BLOCK * BLOCK + BLOCK == 64
    steps, said = 0, []
    while len(said) < 8:
        steps += not said
        for _, news in engine.step():
            assert isinstance(news, list)  # and nothing is looked at
            said += [token.id for token in news]
    assert steps <= -(-(len(prompt) - cached) // BLOCK)
    assert_right(model, pieces, said)
    engine.release(2)


def test_a_further_picture_is_looked_at_and_the_first_seen_otherwise(
    fresh: OpenVINOEngine, model: phi3v.Phi3Vision
) -> None:
    first = ask(fresh, one())
    pieces: list[Piece] = [*followed(one(), first.ids, (7,)), HIGH, text(9)]
    second = ask(fresh, pieces)
    assert {look.image for look in second.looks} == {1, 2}
    assert_right(model, pieces, second.ids)


def test_others_go_on_while_one_looks_and_it_can_be_stopped(fresh: OpenVINOEngine) -> None:
    fresh.admit(7, words(5), Sampling(max_tokens=100, temperature=0))
    fresh.admit(8, fresh.lay_out(two()), Sampling(temperature=0), None, two())
    said, looked = [], []
    while len(looked) < 3:
        for key, news in fresh.step():
            (looked if key == 8 else said).append(news)
    fresh.release(8)
    assert len(said) == 3 and all(isinstance(news, list) and news for news in said)
    assert {key for key, _ in fresh.step()} == {7}
    fresh.release(7)
    assert ask(fresh, two()).looks[0] == Looking(1, 2, 1, WIDE_CROPS)  # half a look is none


def test_a_reply_can_be_stopped(engine: OpenVINOEngine) -> None:
    whole = ask(engine, two(), 30).ids
    assert ask(engine, two(), 3, max_tokens=30).ids == whole[:3]
    assert not engine._pipeline.has_non_finished_requests()
    assert ask(engine, two(), 30).ids == whole


def test_a_picture_that_cannot_be_decoded_ends_its_own_reply_alone(
    engine: OpenVINOEngine,
) -> None:
    broken = Picture(WIDE.data[:500], 300, 200, slot=-5)
    pieces: list[Piece] = [text(1), broken, text(9)]
    engine.admit(7, words(5), Sampling(max_tokens=100, temperature=0))
    engine.admit(8, engine.lay_out(pieces), Sampling(temperature=0), None, pieces)
    news = dict(engine.step())
    assert isinstance(news[8], Exception)
    assert isinstance(news[7], list) and news[7]
    engine.release(8)
    engine.release(7)
    assert len(ask(engine, one()).ids) == 5


# --- folders ----------------------------------------------------------------------------------


def test_says_what_computes(engine: OpenVINOEngine) -> None:
    assert engine.device == "CPU"
    assert engine.images == MAX_IMAGES
    assert engine.context == 1_024


def test_another_architecture_that_sees_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    (other / "config.json").write_text(json.dumps(config | {"model_type": "llava"}))
    with pytest.raises(SLMError, match="OpenVINO runs phi3_v here, not llava"):
        load(other)
