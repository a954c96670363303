"""The OpenVINO engine on tiny Phi-3 models in OpenVINO's own format, which fixtures/
make_openvino_ir.py has exported and asked transformers about."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import gguf
import pytest
import tiny_tokenizers
from engine_talk import advance, ids, reply, words
from fixtures import make_openvino_ir as fixture

from slm_backends import catalog, chat
from slm_backends.chat import Sampling
from slm_backends.errors import SLMError
from slm_backends.worker import engines
from slm_backends.worker.engines import Token
from slm_backends.worker.engines import openvino as module
from slm_backends.worker.engines.openvino import OpenVINOEngine

FIXED, LONGROPE = fixture.MODELS
BOUND = 4_096
BLOCK = 32
EXPECTED = json.loads((fixture.OUT / "expected.json").read_text(encoding="utf-8"))


def load(model_id: str = FIXED, **options: Any) -> OpenVINOEngine:
    return module.load(fixture.OUT / model_id, lambda fraction, step: None, **options)


@pytest.fixture(scope="module")
def loaded() -> dict[str, OpenVINOEngine]:
    return {model_id: load(model_id, context=8_192) for model_id in fixture.MODELS}


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step reads one block: the steps to a first token tell how much was read."""
    monkeypatch.setattr(module, "BATCHED_TOKENS", BLOCK)


def steps_to_first_token(engine: OpenVINOEngine, key: int) -> tuple[int, list[Token]]:
    for number in range(1, 1_000):
        for found, news in engine.step():
            assert not isinstance(news, Exception), news
            if found == key and news:
                return number, news
    raise AssertionError("no token")


# --- the same text as transformers ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_id", "case"),
    [(model_id, case) for model_id in fixture.MODELS for case in EXPECTED[model_id]],
    ids=lambda value: value if isinstance(value, str) else str(value["prompt"]),
)
def test_greedy_text_is_that_of_transformers(
    loaded: dict[str, OpenVINOEngine], model_id: str, case: dict[str, Any]
) -> None:
    prompt = fixture.prompt(case["prompt"], case["seed"])
    said, _ = reply(loaded[model_id], prompt, fixture.REPLY)
    sound = fixture.REPLY
    if model_id == LONGROPE:
        # The runtime reads a prompt in parts, and the exported model turns each by the factors for
        # its own length. Past the bound the two sets are mixed.
        sound = min(sound, max(0, BOUND + 1 - len(prompt)))
    assert ids(said)[:sound] == case["reply"][:sound]
    if sound < fixture.REPLY:
        assert ids(said) != case["reply"], "it is right by now: the catalog can say so"


def test_the_catalog_does_not_promise_more_of_longrope() -> None:
    found = [
        deployment
        for deployment in catalog.load().deployments.values()
        if deployment.runtime == "openvino" and deployment.model.context == 131_072
    ]
    assert found
    for deployment in found:
        assert 0 < deployment.sound_to <= BOUND, deployment.id


# --- loading --------------------------------------------------------------------------------------


def test_it_says_what_it_is(loaded: dict[str, OpenVINOEngine]) -> None:
    assert loaded[FIXED].context == BOUND
    assert loaded[LONGROPE].context == 8_192
    assert load(context=300).context == 300
    for model_id, engine in loaded.items():
        numbers = tiny_tokenizers.ids(fixture.OUT / model_id)
        assert engine.eos == {
            numbers[token] for token in ("<|endoftext|>", "<|assistant|>", "<|end|>")
        }
        assert engine.device == "CPU"
        assert engine.version.startswith("openvino-genai 20")
    assert not engines.gives_logprobs("openvino")
    assert engines.sampling_fields("openvino") == chat.SAMPLING_FIELDS


def test_a_device_is_taken_or_refused() -> None:
    assert load(device="cpu").device == "CPU"
    with pytest.raises(SLMError, match=r"no device 'GPU.7' on this computer, only .*CPU"):
        load(device="GPU.7")
    with pytest.raises(SLMError, match="not run on an NPU"):
        load(device="NPU")


def test_a_gguf_that_the_runtime_cannot_read_is_refused_by_name(tmp_path: Path) -> None:
    """The runtime itself would end with `unordered_map::at`."""
    folder = shutil.copytree(fixture.OUT / FIXED, tmp_path / "phi")
    writer = gguf.GGUFWriter(folder / "model.gguf", "phi3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(SLMError, match="'phi3', only of llama, qwen2, qwen3"):
        module.load(folder, lambda fraction, step: None)


# --- turns ----------------------------------------------------------------------------------------


def test_a_seed_repeats_whatever_was_read_before(loaded: dict[str, OpenVINOEngine]) -> None:
    prompt = words(300, seed=3)
    first, _ = reply(loaded[FIXED], prompt, 30, temperature=1, seed=5)
    again, cached = reply(loaded[FIXED], prompt, 30, temperature=1, seed=5)
    assert cached == 288
    assert again == first
    other, _ = reply(loaded[FIXED], prompt, 30, temperature=1, seed=6)
    assert other != first


@pytest.mark.usefixtures("small_steps")
def test_the_tenth_turn_reads_only_what_is_new() -> None:
    engine = load()
    text = words(50)
    for turn in range(10):
        key = turn + 1
        cached = engine.admit(key, text, Sampling(max_tokens=40, temperature=0))
        assert cached is not None
        steps, first = steps_to_first_token(engine, key)
        assert steps <= -(-(len(text) - cached) // BLOCK)  # of a part of a block nothing is said
        if turn:
            assert steps <= 3  # the end of the last reply and 40 new words, in blocks of 32
        said = first + advance(engine, {key: 39})[key]
        engine.release(key)
        text = [*text, *ids(said), *words(40, seed=turn)]
    assert len(text) > 700


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize(("context", "kept"), [(512, 15), (1_024, 50)])
def test_no_more_is_promised_than_the_runtime_has(context: int, kept: int) -> None:
    """Conversations that go on, begin alike, run together, are withdrawn and displace each other:
    what is said to be cached has really not been read again. And all are answered, also where they
    do not fit together: in a cache of a fixed size, some were not."""
    engine = load(context=context)
    chance = random.Random(4)
    texts = [words(chance.randint(5, 200), seed=number) for number in range(6)]
    keys = iter(range(1, 100_000))
    promised = 0
    for number in range(150):
        running = {}
        for _ in range(chance.randint(0, 6)):
            text = texts[chance.randrange(6)]
            if chance.random() < 0.3:
                text = [*text[: chance.randint(1, len(text))], *words(60, seed=number)]
            key = next(keys)
            engine.admit(key, text, Sampling(max_tokens=40, temperature=0))
            running[key] = chance.randint(0, 30)
        wanted = {key: count for key, count in running.items() if count}
        said = advance(engine, wanted) if wanted else {}
        for key in running:
            engine.release(key)
        place = chance.randrange(6)
        text = texts[place] if number % 9 else words(chance.randint(5, 200), seed=1_000 + number)
        key = next(keys)
        cached = engine.admit(key, text, Sampling(max_tokens=2, temperature=0))
        assert cached is not None
        steps, _ = steps_to_first_token(engine, key)
        assert steps <= -(-(len(text) - cached) // BLOCK), number
        engine.release(key)
        promised += cached > 0
        texts[place] = [*text, *ids(said.get(key, [])), *words(30, seed=2_000 + number)][
            : context - 100
        ]
    assert promised > kept


@pytest.mark.usefixtures("small_steps")
def test_of_two_conversations_the_later_one_stays() -> None:
    """By itself the runtime overwrites first what was never asked for again, however new it is."""
    engine = load(context=1_024)  # 32 blocks
    early, late, other = (words(count, seed=count) for count in (400, 420, 380))
    for prompt in (early, early, late, other):
        reply(engine, prompt, 2)
    assert engine.admit(9, [*late, 5], Sampling(max_tokens=1, temperature=0)) == 416
    assert steps_to_first_token(engine, 9)[0] == 1
    engine.release(9)


def test_prompts_that_do_not_fit_together_are_all_answered() -> None:
    """The cache grows for them."""
    engine = load(context=512)
    prompts = {key: words(450, seed=key) for key in range(1, module.MAX_ACTIVE + 1)}
    for key, prompt in prompts.items():
        engine.admit(key, prompt, Sampling(max_tokens=20, temperature=0))
    made = advance(engine, dict.fromkeys(prompts, 20))
    for key in prompts:
        engine.release(key)
    for key in (1, module.MAX_ACTIVE):
        assert ids(reply(load(context=512), prompts[key], 20)[0]) == ids(made[key])


def test_one_conversation_and_those_before_it_fit_into_what_is_there() -> None:
    engine = load(context=2_048)
    held = engine._pipeline.get_metrics().cache_size_in_bytes
    for seed in range(4):
        text = words(200, seed=seed)
        for _ in range(8):
            said, _ = reply(engine, text, 20)
            text = [*text, *ids(said), *words(180, seed=seed)]
    assert len(text) > 1_700
    assert engine._pipeline.get_metrics().cache_size_in_bytes == held
