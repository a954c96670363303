"""The Transformers engine alone: tiny random models of the real architectures, and the library's
own plain forward pass and `generate` as the reference."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import tiny_models
import torch
from transformers import AutoModelForCausalLM

from slm_backends.chat import Sampling
from slm_backends.errors import SLMError
from slm_backends.worker.engines import Token
from slm_backends.worker.engines import transformers as module
from slm_backends.worker.engines.transformers import PIECE, TransformersEngine

WINDOW, LONGROPE = "phi-3-mini-4k-instruct", "phi-3.5-mini-instruct"
BOUND = 4_096
CLOSE = 1e-3  # of log-probabilities; what wrong factors or a wrong window give is 0.1 and more


def load(folder: Path, **options: Any) -> TransformersEngine:
    return module.load(folder, lambda fraction, step: None, **options)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32, whatever the processor can do: the reference is."""
    monkeypatch.setattr(module, "_numbers", lambda torch, place: torch.float32)


@pytest.fixture
def rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16, where every other way to compute something gives another number."""
    monkeypatch.setattr(module, "_numbers", lambda torch, place: torch.bfloat16)


@functools.cache
def reference(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def words(count: int, seed: int = 0) -> list[int]:
    """Token ids that are plain words."""
    return [int(token) for token in numpy.random.default_rng(seed).integers(3, 400, count)]


def advance(engine: TransformersEngine, wanted: dict[int, int]) -> dict[int, list[Token]]:
    """Step until every sequence has its number of tokens."""
    made: dict[int, list[Token]] = {key: [] for key in wanted}
    while any(len(made[key]) < wanted[key] for key in wanted):
        for key, news in engine.step():
            assert not isinstance(news, Exception), news
            made[key] += news
    return {key: tokens[: wanted[key]] for key, tokens in made.items()}


def reply(
    engine: TransformersEngine, prompt: list[int], count: int = 12, **sampling: Any
) -> tuple[list[Token], int | None]:
    """The reply's tokens, and how many of the prompt were not computed again."""
    given = Sampling(**{"max_tokens": count, "temperature": 0, **sampling})
    cached = engine.admit(1, prompt, given, top_logprobs=3)
    tokens = advance(engine, {1: count})[1]
    engine.release(1)
    return tokens, cached


def ids(tokens: list[Token]) -> list[int]:
    return [token.id for token in tokens]


def assert_right(folder: Path, prompt: list[int], said: list[Token]) -> None:
    """Each token and log-probability is what reading everything before it at once gives."""
    rows = {}
    for place in range(len(said)):
        before = [*prompt, *ids(said[:place])]
        if len(before) <= BOUND or place == len(said) - 1:
            with torch.inference_mode():
                logits = reference(folder)(torch.tensor([before])).logits[0]
            rows[place] = torch.log_softmax(logits[-1], -1).numpy()
    assert rows
    for place, row in rows.items():
        token = said[place]
        assert token.logprob == pytest.approx(float(row[token.id]), abs=CLOSE)
        assert row[token.id] == pytest.approx(row.max(), abs=CLOSE)
        for other, logprob in token.top:
            assert logprob == pytest.approx(float(row[other]), abs=CLOSE)


# --- the same numbers as the library ------------------------------------------------------------


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("model_id", tiny_models.MODELS)
def test_every_architecture_says_what_the_library_computes(model_id: str) -> None:
    folder = tiny_models.hugging_face(model_id)
    engine = load(folder)
    prompt = words(PIECE + 30)
    said, cached = reply(engine, prompt)
    assert cached == 0
    assert_right(folder, prompt, said)
    longer = [*prompt, *ids(said), *words(20, seed=1)]
    after, cached = reply(engine, longer)
    assert cached == len(prompt) + len(said) - 1  # the last token was said, not read
    assert_right(folder, longer, after)


@pytest.mark.usefixtures("exact")
def test_greedy_text_is_that_of_generate() -> None:
    folder = tiny_models.hugging_face(WINDOW)
    prompt = words(200, seed=2)
    made = reference(folder).generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=40,
        min_new_tokens=40,
        do_sample=False,
        pad_token_id=0,
    )
    engine = load(folder)
    said, _ = reply(engine, prompt, 40)
    # generate() leaves out end tokens where it must go on; up to the first one they agree.
    ours = ids(said)
    upto = next((place for place, token in enumerate(ours) if token in engine.eos), 40)
    assert upto > 3
    assert ours[:upto] == made[0, len(prompt) : len(prompt) + upto].tolist()


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("model_id", [WINDOW, "phi-tiny-moe-instruct"])
def test_a_sliding_window_stays_right_when_what_was_read_is_used_again(
    model_id: str, tmp_path: Path
) -> None:
    folder = tiny_models.write(model_id, tmp_path / "window", sliding_window=40)
    engine = load(folder)
    prompt = words(2 * PIECE + 50)
    said, _ = reply(engine, prompt, 60)
    assert_right(folder, prompt, said)
    turns = {
        "goes on": ([*prompt, *ids(said), *words(9, seed=1)], len(prompt) + 59),
        "was changed far before the window": ([*prompt[:200], *words(20, seed=2)], PIECE),
        "comes again": (prompt, 2 * PIECE),
    }
    for turn, (asked, expected) in turns.items():
        again, cached = reply(engine, asked, 45)
        if turn != "comes again":  # the turn before it has taken what was read
            assert cached == expected, turn
        assert_right(folder, asked, again)
        fresh, cached = reply(load(folder), asked, 45)
        assert cached == 0
        assert ids(again) == ids(fresh), turn


# --- two sets of rotary factors -----------------------------------------------------------------


@pytest.mark.usefixtures("exact")
def test_a_conversation_crosses_the_bound_and_goes_on() -> None:
    folder = tiny_models.hugging_face(LONGROPE)
    engine = load(folder, context=8_192)
    prompt = words(BOUND - 6)
    near, _ = reply(engine, prompt[:-300], 4)
    assert_right(folder, prompt[:-300], near)
    said, cached = reply(engine, prompt)
    assert cached == len(prompt) - 300
    assert_right(folder, prompt, said)
    beyond = [*prompt, *ids(said), *words(30, seed=1)]
    after, cached = reply(engine, beyond, 3)
    assert cached == len(prompt) + len(said) - 1  # it had been read again with the long factors
    assert_right(folder, beyond, after)
    back, cached = reply(engine, prompt[:200], 3)
    assert cached == 0  # the long factors are not those of a short text
    assert_right(folder, prompt[:200], back)


@pytest.mark.usefixtures("exact")
def test_long_and_short_texts_take_turns() -> None:
    folder = tiny_models.hugging_face(LONGROPE)
    engine = load(folder)
    prompts = {1: words(BOUND + 5, seed=1), 2: words(40, seed=2)}
    for key, prompt in prompts.items():
        engine.admit(key, prompt, Sampling(max_tokens=40, temperature=0), 3)
    made = advance(engine, {1: 3, 2: 36})
    for key, prompt in prompts.items():
        assert_right(folder, prompt, made[key])


# --- what repeats -------------------------------------------------------------------------------


@pytest.mark.usefixtures("rounding")
def test_a_seed_repeats_to_the_last_bit_whatever_was_read_before() -> None:
    folder = tiny_models.hugging_face(WINDOW)
    prompt = words(2 * PIECE + 30)
    first, _ = reply(load(folder), prompt, 30, temperature=1, seed=5)
    turn = [*prompt, *ids(first), *words(20, seed=1)]
    cold, _ = reply(load(folder), turn, 30, temperature=1, seed=6)
    warm = load(folder)
    reply(warm, [*prompt[:100], 7], 30, temperature=1)
    assert reply(warm, prompt, 30, temperature=1, seed=5) == (first, 0)
    assert reply(warm, turn, 30, temperature=1, seed=6) == (cold, 2 * PIECE)
    assert reply(warm, turn, 30, temperature=1, seed=6) == (cold, 2 * PIECE)
    other, _ = reply(warm, turn, 30, temperature=1, seed=7)
    assert ids(other) != ids(cold)


@pytest.mark.usefixtures("rounding")
def test_without_a_seed_a_turn_that_is_asked_again_is_answered_the_same() -> None:
    engine = load(tiny_models.hugging_face(WINDOW))
    prompt = words(PIECE + 30)
    said, _ = reply(engine, prompt)
    assert reply(engine, prompt) == (said, PIECE)
    turn = [*prompt, *ids(said), *words(20, seed=1)]
    after, cached = reply(engine, turn)
    assert cached == len(prompt) + len(said) - 1
    assert reply(engine, turn) == (after, cached)


# --- several sequences --------------------------------------------------------------------------


@pytest.fixture
def engine(exact: None) -> Iterator[TransformersEngine]:
    yield load(tiny_models.hugging_face(WINDOW))


def test_one_alone_says_the_same_as_among_others(engine: TransformersEngine) -> None:
    prompts = {key: words(30 * key, seed=key) for key in range(1, 9)}
    alone = {key: reply(engine, prompt)[0] for key, prompt in prompts.items()}
    for key, prompt in prompts.items():
        engine.admit(key, prompt, Sampling(max_tokens=12, temperature=0), 3)
    together = advance(engine, dict.fromkeys(prompts, 12))
    assert {key: ids(tokens) for key, tokens in together.items()} == {
        key: ids(tokens) for key, tokens in alone.items()
    }


def test_a_long_prompt_is_read_between_the_others_tokens(engine: TransformersEngine) -> None:
    engine.admit(1, words(30), Sampling(max_tokens=100, temperature=0))
    engine.admit(2, words(10 * PIECE, seed=1), Sampling(max_tokens=1, temperature=0))
    heard = 0
    for _ in range(9):
        news = dict(engine.step())
        assert news[2] == []
        heard += len(news[1])  # type: ignore[arg-type]
    assert heard == 9
    engine.release(2)  # before its prompt is read: what was read of it is of use
    cached = engine.admit(2, words(10 * PIECE, seed=1), Sampling(max_tokens=1, temperature=0))
    assert cached == 8 * PIECE


def test_an_error_ends_one_and_is_not_kept(engine: TransformersEngine) -> None:
    vocabulary = tiny_models.tiny_tokenizers.size("phi-3-mini")
    engine.admit(1, words(30), Sampling(max_tokens=9, temperature=0))
    engine.admit(2, [*words(PIECE, seed=1), vocabulary + 9], Sampling(temperature=0))
    failed: list[Exception] = []
    said = 0
    for _ in range(3):
        for key, news in engine.step():
            if isinstance(news, Exception):
                assert key == 2
                failed.append(news)
                engine.release(key)
            elif key == 1:
                said += len(news)
    assert len(failed) == 1
    assert said == 3
    _, cached = reply(engine, [*words(PIECE, seed=1), 5, 5])
    assert cached == 0


def test_two_conversations_that_begin_alike_both_go_on(engine: TransformersEngine) -> None:
    folder = tiny_models.hugging_face(WINDOW)
    long = words(6 * PIECE)
    said, _ = reply(engine, long)
    other = [*long[: PIECE + 50], *words(30, seed=1)]
    branch, cached = reply(engine, other)
    assert cached == PIECE
    assert_right(folder, other, branch)
    further = [*long, *ids(said), *words(5, seed=2)]
    after, cached = reply(engine, further)
    assert cached == len(long) + len(said) - 1  # the other has taken a copy
    assert_right(folder, further, after)


def test_what_is_kept_has_the_tokens_of_one_context_at_most(exact: None) -> None:
    engine = load(tiny_models.hugging_face(WINDOW), context=500)
    assert engine.context == 500
    prompts = [words(2 * PIECE, seed=seed) for seed in range(3)]
    for prompt in prompts:
        reply(engine, prompt, 2)
    # Two do not fit beside each other: only the last one is there.
    assert [reply(engine, [*prompt, 9], 2)[1] for prompt in reversed(prompts)] == [256, 0, 0]


# --- loading ------------------------------------------------------------------------------------


def test_it_says_what_it_is_and_how_far_the_load_is() -> None:
    told: list[tuple[float, str]] = []
    engine = module.load(
        tiny_models.hugging_face(LONGROPE), lambda fraction, step: told.append((fraction, step))
    )
    assert [fraction for fraction, _ in told] == sorted({fraction for fraction, _ in told})
    assert all(0 <= fraction < 1 and step for fraction, step in told)
    assert engine.version.startswith("transformers ")
    place, _, numbers = engine.device.partition(", ")
    assert place == ("CPU" if not torch.accelerator.is_available() else place.upper())
    assert numbers in ("bfloat16", "float32")
    assert engine.context == 131_072
    assert len(engine.eos) == 3


@pytest.mark.parametrize(
    ("able", "numbers"),
    [("avx512_bf16", "bfloat16"), ("amx_bf16", "bfloat16"), ("bf16", "bfloat16"), ("", "float32")],
)
def test_bfloat16_only_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, able: str, numbers: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, able: True})
    engine = load(tiny_models.hugging_face(WINDOW), device="cpu")
    assert engine.device == f"CPU, {numbers}"
    assert len(reply(engine, words(20), 3)[0]) == 3


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(SLMError, match="no device 'tpu'") as caught:
        load(tiny_models.hugging_face(WINDOW), device="tpu")
    assert "cpu" in caught.value.message


def test_code_in_the_folder_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_models.hugging_face(WINDOW), folder)
    for name in ("modeling_phi3.py", "configuration_phi3.py"):
        (folder / name).write_text("raise SystemExit('remote code ran')\n")
    assert len(reply(load(folder), words(20), 3)[0]) == 3


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_models.hugging_face(WINDOW), folder)
    (folder / "model.safetensors").unlink()
    torch.save(
        reference(tiny_models.hugging_face(WINDOW)).state_dict(), folder / "pytorch_model.bin"
    )
    with pytest.raises(OSError, match="safetensors"):
        load(folder)
