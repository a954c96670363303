"""Phi-MoE past the bound of its short factors: the formula, and whole texts on both sides of it."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy
import pytest
import tiny_models
import torch
from engine_talk import advance, assert_right, ids, reply, words
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.phi3.modeling_phi3 import Phi3Config, Phi3RotaryEmbedding

from slm_backends.chat import Sampling
from slm_backends.routing import Experts
from slm_backends.worker.engines import Fired, phimoe_rope
from slm_backends.worker.engines import transformers as module
from slm_backends.worker.engines.phimoe_rope import LongRope
from slm_backends.worker.engines.transformers import TransformersEngine

MODEL = "phi-3.5-moe-instruct"
BOUND = 4_096
CLOSE = 1e-3


def config() -> Any:
    return AutoConfig.from_pretrained(tiny_models.hugging_face(MODEL))


def by_hand(rope: dict[str, Any], size: int, length: int, position: int) -> list[float]:
    """The cosines of one position in a text of that length."""
    name = "long" if length > rope["original_max_position_embeddings"] else "short"
    angles = [
        position / (rope[f"{name}_factor"][pair] * rope["rope_theta"] ** (2 * pair / size))
        for pair in range(size // 2)
    ]
    return [rope[f"{name}_mscale"] * math.cos(angle) for angle in angles * 2]


@pytest.mark.parametrize("length", [1, 7, BOUND - 1, BOUND, BOUND + 1, 9_000])
def test_the_formula(length: int) -> None:
    rope = config().rope_parameters
    made = LongRope(config(), "cpu")
    cosines, sines = made(torch.zeros(1), torch.arange(length)[None])
    assert cosines.shape == sines.shape == (1, length, 16)
    for position in {0, length // 2, length - 1}:
        expected = by_hand(rope, 16, length, position)
        assert cosines[0, position].tolist() == pytest.approx(expected, abs=2e-3)
    together = cosines**2 + sines**2
    scale = rope["long_mscale" if length > BOUND else "short_mscale"]
    assert together == pytest.approx(torch.full_like(together, scale**2), abs=1e-4)


@pytest.mark.parametrize("length", [40, BOUND, BOUND + 1])
def test_the_frequencies_are_those_of_phi_3(length: int) -> None:
    """The library's Phi-3, which does it rightly, but for its scale."""
    mine = config()
    theirs = Phi3RotaryEmbedding(
        Phi3Config(
            hidden_size=64,
            num_attention_heads=4,
            max_position_embeddings=mine.max_position_embeddings,
            original_max_position_embeddings=BOUND,
            rope_parameters={
                name: value
                for name, value in mine.rope_parameters.items()
                if not name.endswith("mscale")
            },
        )
    )
    places = torch.arange(length)[None]
    cosines, _ = LongRope(mine, "cpu")(torch.zeros(1), places)
    expected, _ = theirs(torch.zeros(1), places)
    scales = cosines[0, 0, 0], expected[0, 0, 0]
    assert torch.allclose(cosines / scales[0], expected / scales[1], atol=1e-3)


def test_other_models_keep_theirs() -> None:
    for model_id in ("phi-3.5-mini-instruct", "smollm2-135m-instruct"):
        model = AutoModelForCausalLM.from_pretrained(tiny_models.hugging_face(model_id))
        before = model.model.rotary_emb
        phimoe_rope.mend(model, "cpu")
        assert model.model.rotary_emb is before


# --- whole texts ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_numbers", lambda torch, place: torch.float32)
        return module.load(
            tiny_models.hugging_face(MODEL), lambda fraction, step: None, context=8_192
        )


class Written(torch.nn.Module):
    """The rotary positions as `by_hand` writes them, for all places at once."""

    def forward(self, x: Any, position_ids: Any) -> tuple[Any, Any]:
        rope, length = config().rope_parameters, int(position_ids.max()) + 1
        name = "long" if length > BOUND else "short"
        powers = rope["rope_theta"] ** (numpy.arange(0, 16, 2) / 16)
        angles = position_ids[0, :, None].numpy() / (numpy.array(rope[f"{name}_factor"]) * powers)
        twice = torch.from_numpy(numpy.concatenate([angles, angles], -1))[None]
        scale = rope[f"{name}_mscale"]
        return (twice.cos() * scale).to(x.dtype), (twice.sin() * scale).to(x.dtype)


@functools.cache
def reference_model() -> Any:
    model = AutoModelForCausalLM.from_pretrained(
        tiny_models.hugging_face(MODEL), dtype=torch.float32
    ).eval()
    model.model.rotary_emb = Written()
    return model


def reference(tokens: list[int]) -> Any:
    with torch.inference_mode():
        return reference_model()(torch.tensor([tokens]), use_cache=False).logits[0, -1].numpy()


def test_a_text_grows_past_the_bound(engine: TransformersEngine) -> None:
    prompt = words(BOUND - 3)
    said, _ = reply(engine, prompt, 8, top=2)
    assert_right(reference, prompt, said, [0, 3, 4, 7], CLOSE)


def test_a_long_prompt_and_a_short_one_after_it(engine: TransformersEngine) -> None:
    for length in (BOUND + 40, 300):
        prompt = words(length, seed=length)
        said, _ = reply(engine, prompt, 3, top=2)
        assert_right(reference, prompt, said, [0, 2], CLOSE)


def test_what_is_told_of_a_long_text_is_of_its_tokens_alone(engine: TransformersEngine) -> None:
    """Where a text grows past the bound it is read anew, and told anew from its beginning."""
    prompt, wanted = words(BOUND - 2, seed=3), 5
    sampling = Sampling(max_tokens=wanted, temperature=0)
    engine.admit(1, prompt, sampling, experts=Experts())
    fired: list[Fired] = []
    said: list[int] = []
    while len(said) < wanted:
        for _, news in engine.step():
            assert not isinstance(news, Exception), news
            if isinstance(news, Fired):
                fired.append(news)
            elif isinstance(news, list):
                said += ids(news)
    engine.release(1)
    anew = max(number for number, part in enumerate(fired) if part.start == 0)
    assert anew > 0
    read = [token for part in fired[anew:] for token in part.ids]
    assert read == [*prompt, *said][:-1]
    chosen = numpy.frombuffer(b"".join(part.chosen for part in fired[anew:]), "<u2")
    with torch.inference_mode():
        made = reference_model()(
            torch.tensor([read]), output_router_logits=True, use_cache=False
        ).router_logits
    best = torch.stack([layer.argmax(-1) for layer in made], 1).numpy()
    assert (chosen.reshape(len(read), 2, 2)[:, :, 0] == best).mean() > 0.999


def test_two_texts_take_turns(engine: TransformersEngine) -> None:
    prompts = {1: words(BOUND + 5, seed=1), 2: words(40, seed=2)}
    for key, prompt in prompts.items():
        engine.admit(key, prompt, Sampling(max_tokens=40, temperature=0), 1)
    made = advance(engine, {1: 3, 2: 36})
    for key, prompt in prompts.items():
        assert_right(reference, prompt, made[key], [0, len(made[key]) - 1], CLOSE)
        engine.release(key)
