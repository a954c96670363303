"""Phi-3-vision on Transformers: a tiny checkpoint of its layout, against one plain forward pass of
the same weights over everything that was asked and said."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import tiny_models
import tiny_phi3v
import torch
from engine_talk import words
from picture_talk import Answer, ask, followed

from slm_backends.chat import MAX_IMAGES, Image, Looking, Message, Sampling
from slm_backends.worker import engines
from slm_backends.worker.engines import phi3v
from slm_backends.worker.engines import transformers as module
from slm_backends.worker.engines.transformers_vision import VisionEngine
from slm_backends.worker.pieces import Piece, Words
from slm_backends.worker.text import ChatText

LOW = 256  # a bound between the factors that is soon reached
CLOSE = 1e-3  # of log-probabilities; what wrong factors or another picture give is 0.1 and more
WIDE = tiny_phi3v.picture(1, (300, 200))
HIGH = tiny_phi3v.picture(11, (90, 200))
ALONE, WIDE_CROPS, HIGH_CROPS = 13, 5, 3  # the first alone; both where there are several


def text(*tokens: int) -> Words:
    return Words("", tokens)


def load(folder: Path, **options: Any) -> VisionEngine:
    engine = engines.load("transformers", folder, lambda fraction, step: None, **options)
    assert isinstance(engine, VisionEngine)
    return engine


@functools.cache
def checkpoint(bound: int = 4_096) -> Path:
    """Its long factors begin behind `bound` tokens."""
    folder = tiny_models.session_folder() / f"phi3v-transformers-{bound}"
    return tiny_phi3v.write(folder, original_max_position_embeddings=bound)


@functools.cache
def model(bound: int = 4_096) -> phi3v.Phi3Vision:
    return phi3v.load(checkpoint(bound), torch.float32)


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32, whatever the processor can do: the reference is."""
    monkeypatch.setattr(module, "_numbers", lambda torch, place: torch.float32)


@pytest.fixture
def engine() -> VisionEngine:
    return load(checkpoint())


def check(answer: Answer, pieces: Sequence[Piece], bound: int = 4_096) -> None:
    """Each token's log-probability is the one of a forward pass over all before it."""
    for number, token in enumerate(answer.tokens):
        logits = torch.from_numpy(tiny_phi3v.reference(model(bound), pieces, answer.ids[:number]))
        expected = torch.log_softmax(logits, dim=-1)
        assert token.logprob == pytest.approx(float(expected[token.id]), abs=CLOSE), number
        assert token.id == int(expected.argmax())


ONE: list[Piece] = [text(*words(5)), WIDE, text(*words(140, 3))]
TWO: list[Piece] = [text(*words(5)), WIDE, text(*words(3, 1)), HIGH, text(*words(9, 2))]


def test_takes_pictures(engine: VisionEngine) -> None:
    assert engine.images == MAX_IMAGES
    assert "float32" in engine.device


@pytest.mark.parametrize("pieces", [ONE, TWO, [*TWO, WIDE]], ids=["one", "two", "again"])
def test_says_what_a_plain_forward_pass_says(engine: VisionEngine, pieces: list[Piece]) -> None:
    answer = ask(engine, pieces, 6, top=2)
    assert answer.cached == 0
    check(answer, pieces)


def test_reads_text_without_pictures_too(engine: VisionEngine) -> None:
    prompt = words(200)
    engine.admit(1, prompt, Sampling(max_tokens=4, temperature=0), 2)
    made = [token for _ in range(6) for _, news in engine.step() for token in news]  # type: ignore[union-attr]
    check(Answer(made[:4], [], 0), [text(*prompt)])


def test_other_pictures_and_another_order_say_something_else(engine: VisionEngine) -> None:
    first, mid, other = TWO[0], TWO[2], TWO[4]
    turned = [first, HIGH, mid, WIDE, other]
    one = ask(engine, TWO, 1, top=2).tokens[0]
    assert ask(engine, turned, 1, top=2).tokens[0].logprob != pytest.approx(one.logprob, abs=CLOSE)


def test_tells_of_each_crop_and_looks_once(engine: VisionEngine) -> None:
    answer = ask(engine, TWO)
    assert answer.looks == [
        *(Looking(1, 2, crop, WIDE_CROPS) for crop in range(1, WIDE_CROPS + 1)),
        *(Looking(2, 2, crop, HIGH_CROPS) for crop in range(1, HIGH_CROPS + 1)),
    ]
    assert len(ask(engine, ONE).looks) == ALONE  # alone it is cut into more, which is another look
    begun = [text(1), *TWO]
    again = ask(engine, begun)  # nothing was read of this prompt, but its pictures were seen
    assert (again.looks, again.cached) == ([], 0)


def test_a_second_question_pays_for_neither_pictures_nor_their_tokens(
    engine: VisionEngine,
) -> None:
    first = ask(engine, TWO)
    engine._eyes._seen.clear()  # what was seen is gone, what was read is not
    more = followed(TWO, first.ids, words(4, 9))
    second = ask(engine, more, 5, top=2)
    assert second.cached is not None
    assert second.cached >= len(engine.lay_out(TWO))
    assert second.looks == []
    check(second, more)


def test_may_be_stopped_between_crops_while_others_go_on(engine: VisionEngine) -> None:
    given = Sampling(max_tokens=20, temperature=0)
    engine.admit(1, words(4), given)
    engine.admit(2, engine.lay_out(ONE), given, None, ONE)
    spoken = looked = 0
    while looked < 2:
        for key, news in engine.step():
            looked += key == 2 and isinstance(news, Looking)
            spoken += key == 1 and bool(news)
    assert spoken == 2
    engine.release(2)
    assert all(key == 1 for key, _ in engine.step())
    engine.release(1)
    check(ask(engine, ONE, 3, top=2), ONE)


def test_conversations_with_pictures_in_turns_do_not_disturb_each_other(
    engine: VisionEngine,
) -> None:
    asked = {1: ONE, 2: TWO, 3: [text(*words(7)), HIGH, text(*words(5, 4))]}
    made: dict[int, list[Any]] = {key: [] for key in asked}
    for key, pieces in asked.items():
        given = Sampling(max_tokens=3, temperature=0)
        engine.admit(key, engine.lay_out(pieces), given, 2, pieces)
    while any(len(tokens) < 3 for tokens in made.values()):
        for key, news in engine.step():
            assert not isinstance(news, Exception), news
            made[key] += [] if isinstance(news, Looking) else news
    for key, pieces in asked.items():
        check(Answer(made[key][:3], [], 0), pieces)


@pytest.mark.parametrize(("bound", "beyond"), [(4_096, -3), (LOW, -3), (LOW, 0), (LOW, 2)])
def test_is_right_on_both_sides_of_the_bound_between_two_sets_of_factors(
    bound: int, beyond: int
) -> None:
    before: list[Piece] = [text(*words(5)), HIGH]
    engine = load(checkpoint(bound))
    rest = bound + beyond - len(engine.lay_out(before))
    pieces = [*before, text(*words(rest, 5))]
    check(ask(engine, pieces, 6, top=2), pieces, bound)


def test_the_other_factors_would_be_noticed() -> None:
    """So that the test before this one is one."""
    pieces: list[Piece] = [HIGH, text(*words(LOW, 5))]
    right, wrong = (tiny_phi3v.reference(model(bound), pieces) for bound in (LOW, 4_096))
    assert numpy.abs(right - wrong).max() > 100 * CLOSE


def test_what_grows_past_the_bound_looks_again_only_at_what_it_forgot() -> None:
    engine = load(checkpoint(LOW))
    before: list[Piece] = [text(*words(5)), HIGH]
    rest = LOW - 1 - len(engine.lay_out(before))
    pieces = [*before, text(*words(rest, 5))]
    first = ask(engine, pieces, 1)
    engine._eyes._seen.clear()
    more = followed(pieces, first.ids, ())
    second = ask(engine, more, 5, top=2)
    assert second.cached == LOW - 1
    assert [look.crop for look in second.looks] == list(range(1, second.looks[0].crops + 1))
    check(second, more, LOW)


def test_a_seed_repeats_itself(engine: VisionEngine) -> None:
    one, two = (ask(engine, ONE, 8, temperature=1.5, seed=7).ids for _ in range(2))
    assert one == two
    assert ask(engine, ONE, 8, temperature=1.5, seed=8).ids != one


@pytest.mark.parametrize(("crops", "alone", "several"), [(4, 5, 5), (1, 2, 2), (9, 7, 5)])
def test_the_checkpoint_says_how_many_crops_there_may_be(
    tmp_path: Path, crops: int, alone: int, several: int
) -> None:
    folder = Path(shutil.copytree(checkpoint(), tmp_path / "model"))
    (folder / "preprocessor_config.json").write_text(json.dumps({"num_crops": crops}))
    assert ask(load(folder), ONE, 1).looks[-1].crops == alone
    assert ask(load(folder), TWO, 1).looks[0].crops == several


def test_bfloat16_says_nearly_the_same(
    engine: VisionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_numbers", lambda torch, place: torch.bfloat16)
    rounded = load(checkpoint())
    assert "bfloat16" in rounded.device
    one, two = (ask(kind, TWO, 1, top=2).tokens[0] for kind in (engine, rounded))
    assert one.logprob == pytest.approx(two.logprob, abs=0.2)


def test_a_conversation_with_pictures_comes_from_its_template(engine: VisionEngine) -> None:
    images = tuple(Image(picture.data) for picture in (WIDE, HIGH))
    pieces = ChatText(checkpoint()).pieces([Message("user", "what colour is it?", images)])
    pictures = [part for part in pieces if not isinstance(part, Words)]
    assert [(part.width, part.height) for part in pictures] == [(300, 200), (90, 200)]
    check(ask(engine, pieces, 3, top=2), pieces)
