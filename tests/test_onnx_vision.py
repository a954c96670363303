"""Phi-3-vision on ONNX Runtime: a tiny folder of the real layout, against torch on its weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest
import tiny_phi3v
import tiny_vision_onnx
import torch
from engine_talk import words
from picture_talk import Answer, ask, followed

from slm_backends.chat import MAX_IMAGES, Looking, Sampling
from slm_backends.errors import BadRequest, SLMError
from slm_backends.worker import engines
from slm_backends.worker.engines import phi3v
from slm_backends.worker.engines.onnx import OnnxEngine
from slm_backends.worker.engines.onnx_vision import OnnxVision
from slm_backends.worker.pieces import Picture, Piece, Words

CLOSE = 1e-3  # of log-probabilities; other pictures change them by 1 and more
SWITCH = 4_096
WIDE = tiny_phi3v.picture(1, (300, 200))
HIGH = tiny_phi3v.picture(2, (90, 200))
WIDE_CROPS, HIGH_CROPS = 5, 3  # where there are several; alone the first has 13


def load(folder: Path, **options: Any) -> OnnxEngine:
    engine = engines.load("onnx", folder, lambda fraction, step: None, **options)
    assert isinstance(engine, OnnxEngine)
    return engine


@pytest.fixture(scope="module")
def folder() -> Path:
    return tiny_vision_onnx.folder()


@pytest.fixture(scope="module")
def model() -> phi3v.Phi3Vision:
    return phi3v.load(tiny_vision_onnx.checkpoint(), torch.float32)


@pytest.fixture
def engine(folder: Path) -> OnnxEngine:
    return load(folder, context=8_192)


def text(*tokens: int) -> Words:
    return Words("", tokens)


def one() -> list[Piece]:
    return [text(1, 5, 6), WIDE, text(7, 8, 9)]


def two(first: Picture = WIDE, second: Picture = HIGH) -> list[Piece]:
    return [text(1, 5, 6), first, text(1, 7), second, text(8, 9)]


def assert_right(
    model: phi3v.Phi3Vision, pieces: Sequence[Piece], answer: Answer, places: Sequence[int]
) -> None:
    """At these places of a greedy reply, token and log-probability are torch's."""
    for place in places:
        logits = torch.from_numpy(tiny_phi3v.reference(model, pieces, answer.ids[:place]))
        logprobs = logits.log_softmax(-1)
        token = answer.tokens[place]
        assert token.logprob == pytest.approx(float(logprobs[token.id]), abs=CLOSE)
        assert token.logprob == pytest.approx(float(logprobs.max()), abs=CLOSE)


# --- what is said -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces",
    [one(), two(), two(HIGH, WIDE), two(WIDE, WIDE), [text(1, 5), WIDE, WIDE, text(9)]],
    ids=["one", "two", "turned", "twice", "no words between"],
)
def test_says_what_torch_says(
    engine: OnnxEngine, model: phi3v.Phi3Vision, pieces: list[Piece]
) -> None:
    answer = ask(engine, pieces, top=0)
    assert_right(model, pieces, answer, range(5))


def test_reads_text_alone(engine: OnnxEngine, model: phi3v.Phi3Vision) -> None:
    prompt = words(40)
    assert engine.admit(1, prompt, Sampling(max_tokens=1, temperature=0)) == 0
    said = []
    while not said:
        for _, news in engine.step():
            assert isinstance(news, list)
            said += news
    assert said[0].id == tiny_phi3v.reference(model, [text(*prompt)]).argmax()


def test_the_order_of_pictures_changes_what_is_said(engine: OnnxEngine) -> None:
    in_order, turned = ask(engine, two(), top=0), ask(engine, two(HIGH, WIDE), top=0)
    assert in_order.tokens[0].logprob != pytest.approx(turned.tokens[0].logprob, abs=100 * CLOSE)


def test_the_runtime_itself_says_the_same_of_the_folder(engine: OnnxEngine, folder: Path) -> None:
    """So these graphs are such as it expects, and ours is not a dialect of its own."""
    og = pytest.importorskip("onnxruntime_genai")
    model = og.Model(str(folder))
    crops, grid = phi3v.crops_of(_opened(WIDE), 16, 56)
    prompt = [token if token > 0 else -1 for token in engine.lay_out(one())]
    inputs = og.NamedTensors()
    inputs["input_ids"] = numpy.array([prompt], dtype=numpy.int32)
    inputs["pixel_values"] = crops[None].numpy()
    inputs["image_sizes"] = numpy.array([[56 * grid.rows, 56 * grid.columns]])
    inputs["num_image_tokens"] = numpy.array([prompt.count(-1)])
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + 5, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.set_inputs(inputs)
    said = []
    for _ in range(5):
        generator.generate_next_token()
        said.append(int(generator.get_next_tokens()[0]))
    assert ask(engine, one()).ids == said


def _opened(picture: Picture) -> Any:
    import io

    import PIL.Image

    return PIL.Image.open(io.BytesIO(picture.data))


@pytest.mark.parametrize("length", [SWITCH - 3, SWITCH, SWITCH + 40])
def test_is_right_on_both_sides_of_the_switch_of_rotary_factors(
    engine: OnnxEngine, model: phi3v.Phi3Vision, length: int
) -> None:
    pieces: list[Piece] = [text(1, *words(1_000)), WIDE, text(5), HIGH, text(9)]
    missing = length - len(engine.lay_out(pieces))
    pieces[-1] = text(*words(missing, seed=1), 9)
    answer = ask(engine, pieces, count=6, top=0)
    assert_right(model, pieces, answer, [0, 5])


def test_sampling_is_honoured(engine: OnnxEngine) -> None:
    warm = {"temperature": 1.5, "repetition_penalty": 1.3, "presence_penalty": 0.5}
    first, again, other = (ask(engine, one(), 8, seed=seed, **warm).ids for seed in (1, 1, 2))
    assert first == again != other


# --- looking ----------------------------------------------------------------------------------


def test_tells_of_each_part_of_each_picture(engine: OnnxEngine) -> None:
    looks = [Looking(1, 2, crop, WIDE_CROPS) for crop in (2, 4, 5)]
    looks += [Looking(2, 2, crop, HIGH_CROPS) for crop in (2, 3)]
    assert ask(engine, two()).looks == looks
    assert ask(engine, one()).looks[-1] == Looking(1, 1, 13, 13)  # alone it has other crops


def test_the_next_question_pays_for_nothing_again(
    engine: OnnxEngine, model: phi3v.Phi3Vision
) -> None:
    first = ask(engine, two())
    pieces = followed(two(), first.ids, (7, 8, 9))
    second = ask(engine, pieces, top=0)
    assert second.looks == []
    assert second.cached == len(engine.lay_out(two())) + len(first.ids) - 1
    assert_right(model, pieces, second, range(5))


def test_a_question_that_comes_again_is_read_from_where_parts_began(
    engine: OnnxEngine, model: phi3v.Phi3Vision
) -> None:
    """Its cache goes back, so what was said before must not count."""
    first, again = (ask(engine, one(), top=0) for _ in range(2))
    assert again.cached == 64 < len(engine.lay_out(one()))
    assert again.ids == first.ids
    assert_right(model, one(), again, range(5))


def test_a_further_picture_is_looked_at_and_the_first_seen_otherwise(
    engine: OnnxEngine, model: phi3v.Phi3Vision
) -> None:
    first = ask(engine, one())
    pieces: list[Piece] = [*followed(one(), first.ids, (7,)), HIGH, text(9)]
    second = ask(engine, pieces, top=0)
    assert {look.image for look in second.looks} == {1, 2}
    assert second.cached is not None and second.cached <= 3  # the words before the first
    assert_right(model, pieces, second, range(5))


def test_the_same_picture_in_another_conversation_is_seen_already(engine: OnnxEngine) -> None:
    ask(engine, one())
    other: list[Piece] = [text(1, 9, 9, 9), WIDE, text(5)]
    assert ask(engine, other).looks == []


def test_others_go_on_while_one_looks_and_it_can_be_stopped(engine: OnnxEngine) -> None:
    engine.admit(7, words(5), Sampling(max_tokens=100, temperature=0))
    engine.admit(8, engine.lay_out(two()), Sampling(temperature=0), None, two())
    said, looked = [], []
    while len(looked) < 2:
        for key, news in engine.step():
            (looked if key == 8 else said).append(news)
    engine.release(8)
    assert len(said) == 2 and all(isinstance(news, list) and news for news in said)
    assert {key for key, _ in engine.step()} == {7}
    engine.release(7)
    assert ask(engine, two()).looks[0] == Looking(1, 2, 2, WIDE_CROPS)  # half a look is none


def test_a_picture_that_cannot_be_decoded_ends_its_own_reply_alone(engine: OnnxEngine) -> None:
    broken = Picture(WIDE.data[:500], 300, 200, slot=-5)
    pieces: list[Piece] = [text(1), broken, text(9)]
    engine.admit(7, words(5), Sampling(max_tokens=100, temperature=0))
    engine.admit(8, engine.lay_out(pieces), Sampling(temperature=0), None, pieces)
    news = dict(engine.step())
    assert isinstance(news[8], Exception)
    assert isinstance(news[7], list)
    engine.release(8)
    engine.release(7)
    assert len(ask(engine, one()).tokens) == 5


def test_a_graph_that_wants_all_crops_is_given_them(
    folder: Path, tmp_path: Path, engine: OnnxEngine
) -> None:
    fixed = shutil.copytree(folder, tmp_path / "fixed")
    tiny_vision_onnx.vision(fixed / "vision.onnx", crops=17)
    whole = load(fixed)
    answer = ask(whole, two(), top=0)
    assert answer.looks == [Looking(1, 2, 5, WIDE_CROPS), Looking(2, 2, 3, HIGH_CROPS)]
    expected = ask(engine, two(), top=0)
    assert answer.ids == expected.ids
    assert answer.tokens[0].logprob == pytest.approx(expected.tokens[0].logprob, abs=CLOSE)


def test_a_graph_that_takes_halves_is_given_them(
    folder: Path, tmp_path: Path, engine: OnnxEngine
) -> None:
    """As the published one does, in front of graphs for text that take whole numbers."""
    halves = shutil.copytree(folder, tmp_path / "halves")
    model = onnx.load(halves / "vision.onnx")
    (pixels,) = [value for value in model.graph.input if value.name == "pixel_values"]
    (features,) = model.graph.output
    for node in model.graph.node:
        node.input[:] = ["full" if name == pixels.name else name for name in node.input]
        node.output[:] = ["seen" if name == features.name else name for name in node.output]
    for value in (pixels, features):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    cast = onnx.helper.make_node
    model.graph.node.insert(0, cast("Cast", [pixels.name], ["full"], to=onnx.TensorProto.FLOAT))
    model.graph.node.append(cast("Cast", ["seen"], [features.name], to=onnx.TensorProto.FLOAT16))
    onnx.save(model, halves / "vision.onnx")
    answer, expected = (ask(each, two(), 1, top=0).tokens[0] for each in (load(halves), engine))
    assert answer.id == expected.id
    assert answer.logprob == pytest.approx(expected.logprob, abs=20 * CLOSE)


# --- folders ----------------------------------------------------------------------------------


def test_says_what_computes(engine: OnnxEngine) -> None:
    assert engine.version.startswith("onnxruntime ")
    assert engine.device == "CPU"
    assert engine.images == MAX_IMAGES
    assert engine.context == 8_192


def test_does_not_run_elsewhere_than_asked(folder: Path) -> None:
    with pytest.raises(BadRequest, match="not on cuda"):
        load(folder, device="cuda")


def test_a_broken_graph_is_named(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    os.truncate(broken / "vision.onnx", 1_000)
    with pytest.raises(SLMError, match=r"cannot compute vision\.onnx on the CPU"):
        OnnxVision(broken)


def test_a_crop_takes_144_tokens_where_the_folder_does_not_say(
    folder: Path, tmp_path: Path
) -> None:
    silent = shutil.copytree(folder, tmp_path / "silent")
    (silent / "processor_config.json").write_text(json.dumps({"processor": {"transforms": []}}))
    laid_out = OnnxVision(silent).eyes.lay_out([WIDE])
    assert len(laid_out) == 13 * 144 + 1 + 4 * 12
