"""SmolVLM against Transformers' own preprocessing, prompt and reply: a tiny checkpoint of the real
architecture, in the layout of the published one."""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import PIL.Image
import pytest
import tiny_models
import tiny_phi3v
import tiny_smolvlm
import tiny_tokenizers
import torch
from picture_talk import Answer, ask

from slm_backends.chat import MAX_IMAGES, Image, Looking, Message, Sampling
from slm_backends.picture_tokens import SIGHTS, Grid, SmolSight
from slm_backends.worker import engines
from slm_backends.worker.engines import smolvlm
from slm_backends.worker.engines import transformers as module
from slm_backends.worker.engines.transformers_vision import SmolEngine
from slm_backends.worker.pieces import Piece
from slm_backends.worker.text import ChatText

CLOSE = 1e-3  # of log-probabilities; what another picture or order gives is 0.01 and more
SIZES = [(300, 200), (200, 300), (128, 128), (129, 97), (31, 17), (1, 100), (100, 1), (1, 1)]
WIDE, HIGH = (300, 200), (90, 200)
COUNT = 6


@functools.cache
def checkpoint(kind: str = "idefics3") -> Path:
    return tiny_smolvlm.write(tiny_models.session_folder() / f"tiny-{kind}", kind)


@functools.cache
def image(size: tuple[int, int], seed: int = 1) -> Image:
    return Image(tiny_phi3v.picture(seed, size).data)


def opened(picture: Image) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(picture.data)).convert("RGB")


def given(messages: Sequence[Message]) -> tuple[list[dict[str, Any]], list[PIL.Image.Image]]:
    """A conversation as the library takes it, and its pictures."""
    turns = [
        {
            "role": message.role,
            "content": [
                *({"type": "image"} for _ in message.images),
                {"type": "text", "text": message.content},
            ],
        }
        for message in messages
    ]
    return turns, [opened(picture) for message in messages for picture in message.images]


def library_prompt(*messages: Message) -> list[int]:
    tokens: list[int] = tiny_smolvlm.reads(checkpoint(), *given(messages))["input_ids"][0].tolist()
    return tokens


@functools.cache
def eyes() -> smolvlm.SmolEyes:
    """That only lay out prompts."""
    return smolvlm.SmolEyes(checkpoint(), pytest.fail)


def named(tokens: Sequence[int]) -> list[int]:
    """Each place of a picture by the token that the library puts there."""
    place = tiny_tokenizers.ids(checkpoint())["<image>"]
    return [place if token < 0 else token for token in tokens]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32, whatever the processor can do: the library's reply is."""
    monkeypatch.setattr(module, "_numbers", lambda torch, place: torch.float32)


def load(kind: str = "idefics3") -> SmolEngine:
    engine = engines.load("transformers", checkpoint(kind), lambda fraction, step: None)
    assert isinstance(engine, SmolEngine)
    return engine


@pytest.fixture
def engine() -> SmolEngine:
    return load()


def pieces_of(*messages: Message) -> list[Piece]:
    return ChatText(checkpoint()).pieces(messages)


def check(answer: Answer, messages: Sequence[Message], kind: str = "idefics3") -> None:
    reply, logprobs = tiny_smolvlm.says(checkpoint(kind), *given(messages), len(answer.ids))
    assert answer.ids == reply
    for token, row in zip(answer.tokens, logprobs, strict=True):
        assert token.logprob == pytest.approx(float(row[token.id]), abs=CLOSE)


ONE = [Message("user", "what is the sea?", (image(WIDE),))]
TWO = [
    Message("system", "be short"),
    Message("user", "what is the sea?", (image(WIDE), image(HIGH, 2))),
]
LATER = [
    Message("user", "hello"),
    Message("assistant", "hello world."),
    Message("user", "  and the red sky \n", (image(HIGH, 2),)),
]


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("changed", [{}, {"long": 32}, {"long": 100}, {"split": False}], ids=str)
def test_crops_are_the_library_s(size: tuple[int, int], changed: dict[str, Any]) -> None:
    sight = SmolSight(**{"long": tiny_smolvlm.LONG, "side": tiny_smolvlm.SIDE, **changed})
    picture = opened(image(size))
    crops, grid = smolvlm.crops_of(picture, sight)
    expected = tiny_smolvlm.processor(checkpoint()).image_processor(
        picture,
        size={"longest_edge": sight.long},
        do_image_splitting=sight.split,
        return_row_col_info=True,
        return_tensors="pt",
    )
    assert ([[grid.rows]], [[grid.columns]]) == (expected["rows"], expected["cols"])
    assert len(crops) == grid.crops
    assert torch.allclose(crops, expected["pixel_values"][0], atol=1e-6)
    assert bool(expected["pixel_attention_mask"].all())  # no crop has an edge that is to be hidden


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_picture_s_tokens_are_the_library_s(size: tuple[int, int]) -> None:
    messages = [Message("user", "say <", (image(size),))]
    pieces = pieces_of(*messages)
    assert named(eyes().lay_out(pieces)) == library_prompt(*messages)
    sight = smolvlm.sight_of(checkpoint())
    assert [sight.tokens(grid) for grid in sight.grids([size])] == [
        len(eyes().lay_out(pieces[1:2]))
    ]


@pytest.mark.parametrize("messages", [ONE, TWO, LATER], ids=["one", "two", "later"])
def test_whole_conversations_are_the_library_s(messages: list[Message]) -> None:
    assert named(eyes().lay_out(pieces_of(*messages))) == library_prompt(*messages)


def test_a_conversation_without_pictures_is_the_library_s() -> None:
    messages = [Message("system", "be short"), *LATER[:2], Message("user", "why <|im_end|>?")]
    prompt = ChatText(checkpoint()).prompt(messages[:-1])
    assert prompt == library_prompt(*messages[:-1])
    end = tiny_tokenizers.ids(checkpoint())["<|im_end|>"]
    assert end not in ChatText(checkpoint()).prompt(messages)


@pytest.mark.parametrize(
    "typed", ["<image>", "<row_1_col_1>", "<fake_token_around_image>", "<end_of_utterance>"]
)
def test_what_a_person_typed_stays_text(typed: str) -> None:
    plain, meant = (
        eyes().lay_out(pieces_of(Message("user", f"say {word} please", (image(WIDE),))))
        for word in ("x", typed)
    )
    special = tiny_tokenizers.ids(checkpoint())[typed]
    assert meant.count(special) == plain.count(special)
    assert sum(token < 0 for token in meant) == sum(token < 0 for token in plain)


def test_the_published_models_tokens_are_counted() -> None:
    sight = SIGHTS["smolvlm"]
    grids = sight.grids([(640, 480), (480, 640), (2_048, 2_048), (100, 1), (3_000, 500)])
    assert [(grid.rows, grid.columns) for grid in grids] == [(3, 4), (4, 3), (4, 4), (1, 4), (1, 4)]
    # A crop is 64 tokens and two before it, a row ends with one, the whole has one behind it.
    assert [sight.tokens(grid) for grid in grids] == [862, 863, 1_127, 332, 332]
    assert sight.tokens(Grid(0, 0, 512, 512, 0, 0)) == 67


# --- replies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["idefics3", "smolvlm"])
@pytest.mark.parametrize("messages", [ONE, TWO, LATER], ids=["one", "two", "later"])
def test_says_what_the_library_says(kind: str, messages: list[Message]) -> None:
    answer = ask(load(kind), pieces_of(*messages), COUNT, top=2)
    assert answer.cached == 0
    check(answer, messages, kind)


def test_says_something_else_of_other_pictures(engine: SmolEngine) -> None:
    """So that the test before this one is one."""
    said, content = [], TWO[1].content
    for pictures in [(image(WIDE), image(HIGH, 2)), (image(HIGH, 2), image(WIDE)), (image(WIDE),)]:
        answer = ask(engine, pieces_of(TWO[0], Message("user", content, pictures)), 1, top=2)
        (token,) = answer.tokens
        said.append((token.id, token.logprob))
    for one, other in itertools.combinations(said, 2):
        assert one != pytest.approx(other, abs=10 * CLOSE)


def test_reads_text_without_pictures_too(engine: SmolEngine) -> None:
    messages = LATER[:1]
    engine.admit(1, ChatText(checkpoint()).prompt(messages), Sampling(temperature=0), 2)
    made = [token for _ in range(4) for _, news in engine.step() for token in news]  # type: ignore[union-attr]
    check(Answer(made, [], 0), messages)


def test_tells_of_each_crop_and_looks_once(engine: SmolEngine) -> None:
    assert engine.images == MAX_IMAGES
    answer = ask(engine, pieces_of(*TWO))
    wide, high = 13, 9
    assert answer.looks == [
        *(Looking(1, 2, crop, wide) for crop in range(1, wide + 1)),
        *(Looking(2, 2, crop, high) for crop in range(1, high + 1)),
    ]
    again = ask(engine, pieces_of(*ONE))  # alone it looks the same
    assert (again.looks, again.cached) == ([], 0)


def test_a_second_question_pays_for_neither_pictures_nor_their_tokens(engine: SmolEngine) -> None:
    first = ask(engine, pieces_of(*TWO), COUNT)
    reply = ChatText(checkpoint()).reply()
    said = "".join(reply.feed(token) for token in first.ids)
    engine._eyes._seen.clear()  # type: ignore[union-attr] # what was seen is gone, not what was read
    more = [*TWO, Message("assistant", said), Message("user", "and the sky?")]
    second = ask(engine, pieces_of(*more), COUNT, top=2)
    assert second.cached is not None
    assert second.cached >= len(engine.lay_out(pieces_of(*TWO)))
    assert second.looks == []
    check(second, more)


def test_may_be_stopped_between_crops(engine: SmolEngine) -> None:
    pieces = pieces_of(*ONE)
    engine.admit(1, engine.lay_out(pieces), Sampling(temperature=0), None, pieces)
    for _ in range(3):
        assert all(isinstance(news, Looking) for _, news in engine.step())
    engine.release(1)
    assert list(engine.step()) == []
    check(ask(engine, pieces, 2, top=2), ONE)


def test_a_reply_begins_without_the_space_that_the_template_writes() -> None:
    text = ChatText(checkpoint())
    words = text.tokens(" the sea")
    reply = text.reply()
    assert "".join(map(reply.feed, words)) == "the sea"
    asked = Message("user", "why?")
    whole = text.prompt([asked, Message("assistant", "the sea"), asked])
    begin = text.prompt([asked])
    assert whole[: len(begin) + len(words)] == [*begin, *words]


def test_bfloat16_says_nearly_the_same(engine: SmolEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_numbers", lambda torch, place: torch.bfloat16)
    rounded = load()
    assert "bfloat16" in rounded.device
    one, two = (ask(kind, pieces_of(*TWO), 1, top=2).tokens[0] for kind in (engine, rounded))
    assert numpy.isclose(one.logprob, two.logprob, atol=0.2)
