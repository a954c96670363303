"""The ONNX engine alone: what it keeps between turns, where it computes, long texts, logits.

Tiny random models of the real architectures, in float32, so that transformers' numbers are the
reference; the embedded model where only real weights would show it.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy
import onnx
import pytest
import tiny_models
import torch
from transformers import Phi3ForCausalLM

from slm_backends import catalog, store
from slm_backends.chat import SAMPLING_FIELDS, Sampling
from slm_backends.errors import BadRequest, NotInstalled, SLMError
from slm_backends.worker.engines import Token, onnx_cache, onnx_providers
from slm_backends.worker.engines import onnx as onnx_engine
from slm_backends.worker.engines.onnx import OnnxEngine

SHORT, LONG = "phi-3-mini-4k-instruct", "phi-3.5-mini-instruct"
SWITCH = 4_096
CLOSE = 1e-3  # of logits that are around 1; what the wrong factors give is 1 or more


def load(folder: Path, device: str = "", context: int | None = None) -> OnnxEngine:
    return onnx_engine.load(folder, lambda fraction, step: None, device=device, context=context)


@functools.cache
def folder(model_id: str) -> Path:
    return tiny_models.onnx(model_id, "fp32")


@functools.cache
def reference(model_id: str) -> Phi3ForCausalLM:
    return Phi3ForCausalLM.from_pretrained(tiny_models.hugging_face(model_id)).eval()


@pytest.fixture
def engine() -> OnnxEngine:
    return load(folder(SHORT))


@pytest.fixture
def long_engine() -> OnnxEngine:
    return load(folder(LONG), context=8_192)


def words(count: int, seed: int = 0) -> list[int]:
    """Token ids that are plain words."""
    return numpy.random.default_rng(seed).integers(3, 500, count).tolist()


def tokens(engine: OnnxEngine, key: int, count: int) -> list[Token]:
    """The next tokens of one sequence while all advance."""
    said: list[Token] = []
    while len(said) < count:
        for other, new in engine.step():
            if isinstance(new, Exception):
                raise new
            if other == key:
                said += new
    return said


def reply(
    engine: OnnxEngine, prompt: list[int], count: int = 12, **sampling: object
) -> tuple[list[int], int]:
    """The ids of a whole reply, and how much of the prompt was not read again."""
    asked = Sampling(**{"max_tokens": count, "temperature": 0, **sampling})  # type: ignore[arg-type]
    cached = engine.admit(0, prompt, asked)
    said = [token.id for token in tokens(engine, 0, count)]
    engine.release(0)
    assert cached is not None
    return said, cached


def expected_logits(model_id: str, prompt: list[int]) -> numpy.ndarray:
    """Of the token after `prompt`, by transformers, which reads it in one piece."""
    with torch.no_grad():
        output = reference(model_id)(torch.tensor([prompt]), use_cache=False, logits_to_keep=1)
    return output.logits[0, -1].numpy()


def logits(engine: OnnxEngine, key: int = 0) -> numpy.ndarray:
    return engine._sequences[key].cache.logits()


# --- sampling ----------------------------------------------------------------------------------


def test_all_sampling_is_honoured_and_log_probabilities_are_the_models() -> None:
    assert onnx_engine.SAMPLING == SAMPLING_FIELDS
    assert onnx_engine.LOGPROBS
    engine = load(folder(SHORT))
    prompt = words(50)
    engine.admit(1, prompt, Sampling(max_tokens=3, temperature=1.0, seed=1), top_logprobs=4)
    for token in tokens(engine, 1, 3):
        logprobs = torch.log_softmax(torch.tensor(expected_logits(SHORT, prompt)), dim=-1)
        best = torch.topk(logprobs, 4)
        assert token.logprob == pytest.approx(float(logprobs[token.id]), abs=CLOSE)
        assert [place for place, _ in token.top] == best.indices.tolist()
        assert [value for _, value in token.top] == pytest.approx(best.values.tolist(), abs=CLOSE)
        prompt = [*prompt, token.id]


def test_what_the_folder_asks_of_sampling_does_not_count(tmp_path: Path) -> None:
    """genai_config.json has defaults for the runtime's own sampling, which is not used."""
    other = copy(folder(SHORT), tmp_path)
    edit(other, search={"repetition_penalty": 1.9, "min_length": 40, "do_sample": True})
    assert reply(load(other), words(40), 30) == reply(load(folder(SHORT)), words(40), 30)


def test_a_column_without_a_token_is_a_token_without_text(
    engine: OnnxEngine, tmp_path: Path
) -> None:
    from slm_backends.worker.text import ChatText

    columns = len(logits_of(engine, words(4)))
    assert ChatText(folder(SHORT)).reply().feed(columns + 5) == ""


def logits_of(engine: OnnxEngine, prompt: list[int]) -> numpy.ndarray:
    engine.admit(0, prompt, Sampling(max_tokens=1))
    tokens(engine, 0, 1)
    found = logits(engine)
    engine.release(0)
    return found


@pytest.mark.parametrize("length", [2, 31, 32, 33, 64, 65, 200])
@pytest.mark.parametrize("ends", [0, 1, 3, 40])
def test_tokens_that_are_also_padding_are_read_like_others(
    engine: OnnxEngine, length: int, ends: int
) -> None:
    """The runtime takes the logits of the last token that is not padding, or of none at all."""
    padding = json.loads((folder(SHORT) / "genai_config.json").read_text())["model"]["pad_token_id"]
    prompt = [*words(length), *[padding] * ends]
    assert abs(logits_of(engine, prompt) - expected_logits(SHORT, prompt)).max() < CLOSE


def test_all_padding_is_read_as_well(engine: OnnxEngine) -> None:
    prompt = [engine._caches._traits.padding] * 50
    assert abs(logits_of(engine, prompt) - expected_logits(SHORT, prompt)).max() < CLOSE


def test_a_device_that_cannot_append_says_the_same(
    engine: OnnxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DirectML's way, on the CPU: the prompt in one piece, then every token forced."""
    monkeypatch.setattr(OnnxEngine, "_can_extend", lambda self: False)
    forced = load(folder(SHORT))
    for sampling in ({}, {"temperature": 1.5, "seed": 3}):
        ours, cached = reply(forced, words(100), 40, **sampling)
        assert ours == reply(engine, words(100), 40, **sampling)[0]
        assert cached == 0
    assert len(forced._caches._kept) == 0


# --- turns of a conversation ---------------------------------------------------------------------


def test_a_conversation_reads_only_what_is_new(engine: OnnxEngine) -> None:
    prompt, known = words(70), 0
    for turn in range(4):
        said, cached = reply(engine, prompt)
        assert said == reply(load(folder(SHORT)), prompt)[0]
        # Of the reply before, all but its last token had been read.
        assert cached == known
        known = len(prompt) + len(said) - 1
        prompt = [*prompt, *said, *words(30, seed=turn + 1)]


def test_the_same_prompt_again(engine: OnnxEngine) -> None:
    prompt = words(70)
    first, _ = reply(engine, prompt)
    for _ in range(3):
        again, cached = reply(engine, prompt)
        assert again == first
        assert cached == 64  # where its last part begins


def test_one_token_is_always_read(engine: OnnxEngine) -> None:
    for prompt in ([5], [5, 6], words(32), words(33)):
        first, _ = reply(engine, prompt)
        again, cached = reply(engine, prompt)
        assert (again, cached < len(prompt)) == (first, True)
        # A prompt that is a beginning of what was read.
        shorter, cached = reply(engine, prompt[: len(prompt) // 2 + 1])
        assert shorter == reply(load(folder(SHORT)), prompt[: len(prompt) // 2 + 1])[0]


def test_a_branch_begins_where_the_texts_part(engine: OnnxEngine) -> None:
    trunk = words(100)
    reply(engine, [*trunk, *words(20, seed=1)])
    branch = [*trunk, *words(20, seed=2)]
    said, cached = reply(engine, branch)
    assert cached == 96
    assert said == reply(load(folder(SHORT)), branch)[0]


def test_conversations_beside_each_other_keep_apart(engine: OnnxEngine) -> None:
    """Three with the same system message, asked in turns and all at once."""
    system = words(20)
    prompts = [[*system, *words(50, seed=seed)] for seed in range(1, 4)]
    for turn in range(3):
        for key, prompt in enumerate(prompts):
            cached = engine.admit(key, prompt, Sampling(max_tokens=12, temperature=0))
            assert cached == (len(prompt) - 31 if turn else 0)
        said: dict[int, list[int]] = {key: [] for key in range(3)}
        while any(len(ids) < 12 for ids in said.values()):
            for key, new in engine.step():
                assert not isinstance(new, Exception)
                said[key] += [token.id for token in new]
                if len(said[key]) == 12:
                    engine.release(key)
        for key, prompt in enumerate(prompts):
            assert said[key] == reply(load(folder(SHORT)), prompt)[0]
            prompts[key] = [*prompt, *said[key], *words(30, seed=10 * turn + key)]


def test_a_cancelled_reply_leaves_what_is_right(engine: OnnxEngine) -> None:
    prompt = words(300)
    whole, _ = reply(load(folder(SHORT)), prompt, 30)
    for steps in (0, 1, 4, 15):  # before, while it is read, while it is answered
        engine.admit(0, prompt, Sampling(max_tokens=30, temperature=0))
        for _ in range(steps):
            list(engine.step())
        engine.release(0)
        assert list(engine.step()) == []
        assert reply(engine, prompt, 30)[0] == whole


def test_a_seed_gives_the_same_text_whatever_came_before(embedded: tuple[str, ...]) -> None:
    """On real 4-bit weights, where one token is rounded otherwise than several."""
    engine = load(store.folder(catalog.load().deployment("smollm2-135m-instruct@onnx")))
    prompt = words(75)
    sampling = {"temperature": 1.5, "top_p": 1.0, "seed": 11}
    first, _ = reply(engine, prompt, **sampling)
    follow = [*prompt, *first, *words(10, seed=1)]
    second, _ = reply(engine, follow, **sampling)
    assert reply(engine, prompt, **sampling) == (first, 64)
    reply(engine, [*prompt, *first], temperature=0)
    again, cached = reply(engine, follow, **sampling)
    assert again == second
    assert cached == 64


def test_a_greedy_prompt_again_says_the_same_on_real_weights(embedded: tuple[str, ...]) -> None:
    engine = load(store.folder(catalog.load().deployment("smollm2-135m-instruct@onnx")))
    prompt = words(75)
    first, _ = reply(engine, prompt, 30)
    assert [reply(engine, prompt, 30) for _ in range(2)] == [(first, 64)] * 2


# --- memory ------------------------------------------------------------------------------------


def test_context_is_what_was_asked_for_and_never_more_than_the_models() -> None:
    assert load(folder(LONG), context=300).context == 300
    assert load(folder(LONG), context=1_000_000).context == 131_072
    engine = load(folder(LONG), context=300)
    assert len(reply(engine, words(250), 50)[0]) == 50
    assert engine._caches._kept[0].room == 300


def test_a_sliding_window_is_all_that_is_held(engine: OnnxEngine) -> None:
    """The runtime keeps no more, and its graph fails past that."""
    assert engine.context == 2_047
    assert len(reply(engine, words(2_040), 7)[0]) == 7


def test_room_grows_in_steps(long_engine: OnnxEngine) -> None:
    """The cache is reserved at once: a short reply does not take the whole context's memory."""
    engine = long_engine
    traits = engine._caches._traits
    assert [traits.room(n) for n in (1, 1_024, 1_025, 2_049, 4_097)] == [
        1_024,
        1_024,
        2_048,
        4_096,
        8_192,
    ]
    prompt = words(900)
    said, _ = reply(engine, prompt)
    assert engine._caches._kept[0].room == 1_024
    prompt = [*prompt, *said, *words(200, seed=1)]
    said, cached = reply(engine, prompt)
    assert cached == 0  # it was outgrown, so it is read once again
    assert [cache.room for cache in engine._caches._kept] == [2_048]
    _, cached = reply(engine, [*prompt, *said, *words(9)])
    assert cached == len(prompt) + len(said) - 1


def test_a_few_are_kept_and_the_oldest_goes_first(engine: OnnxEngine) -> None:
    for seed in range(onnx_cache.KEPT + 3):
        reply(engine, words(40, seed))
    assert len(engine._caches._kept) == onnx_cache.KEPT
    assert reply(engine, words(40, seed=onnx_cache.KEPT + 2))[1] > 0
    assert reply(engine, words(40, seed=0))[1] == 0


def test_what_is_kept_gives_way_to_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(folder(LONG), context=4_096)
    monkeypatch.setattr(onnx_cache, "KEPT_BYTES", 0)  # so one context of 4,096 tokens
    for seed in range(5):
        reply(engine, words(40, seed))
    assert len(engine._caches._kept) == 4
    engine.admit(1, words(1_500), Sampling(max_tokens=5, temperature=0))
    assert len(engine._caches._kept) == 2
    engine.admit(2, words(1_500, seed=1), Sampling(max_tokens=5, temperature=0))
    assert len(engine._caches._kept) == 0
    tokens(engine, 1, 5)
    engine.release(1)
    assert [cache.room for cache in engine._caches._kept] == [2_048]


# --- long texts --------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [4_000, 4_096, 4_097, 4_200, 5_000])
def test_long_prompts_are_read_as_transformers_reads_them(
    long_engine: OnnxEngine, length: int
) -> None:
    prompt = words(length)
    found = logits_of(long_engine, prompt)
    assert abs(found - expected_logits(LONG, prompt)).max() < CLOSE


def test_padding_where_the_factors_switch(long_engine: OnnxEngine) -> None:
    """The first part must go beyond the switch, and must not end in padding."""
    padding = long_engine._caches._traits.padding
    prompt = [*words(SWITCH - 6), *[padding] * 12, *words(20)]
    found = logits_of(long_engine, prompt)
    assert abs(found - expected_logits(LONG, prompt)).max() < CLOSE


def test_a_reply_that_crosses_the_switch(long_engine: OnnxEngine) -> None:
    prompt = words(SWITCH - 3)
    long_engine.admit(0, prompt, Sampling(max_tokens=8, temperature=0))
    for _ in range(8):
        [token] = tokens(long_engine, 0, 1)
        assert abs(logits(long_engine) - expected_logits(LONG, prompt)).max() < CLOSE
        prompt = [*prompt, token.id]
    assert len(prompt) > SWITCH + 2


def test_turns_on_both_sides_of_the_switch(long_engine: OnnxEngine) -> None:
    """What was read with one set of factors is not used with the other."""

    def check(prompt: list[int], cached: Iterable[int]) -> None:
        # So many tokens that all have room for 8,192: otherwise it would be the room that differs.
        found = long_engine.admit(0, prompt, Sampling(max_tokens=2_000, temperature=0))
        assert found in cached
        tokens(long_engine, 0, 1)
        assert abs(logits(long_engine) - expected_logits(LONG, prompt)).max() < CLOSE
        long_engine.release(0)

    text = words(5_000)
    check(text[:4_000], [0])
    check(text[:4_090], range(3_900, 4_090))
    check(text[:4_150], [0])  # from short to long
    assert [cache.room for cache in long_engine._caches._kept] == [8_192]
    check(text[:4_300], [4_150])
    check(text[:4_120], range(4_000, 4_120))  # back, still long
    check([*text[:3_000], *words(1_200, seed=1)], [0])  # its parts begin later
    check(text[:4_050], [0])  # from long to short
    check(text[:3_000], range(2_900, 3_000))


def test_a_conversation_that_crossed_while_it_was_answered(long_engine: OnnxEngine) -> None:
    prompt = words(SWITCH - 5)
    said, _ = reply(long_engine, prompt, 10)
    follow = [*prompt, *said, *words(50, seed=1)]
    found, cached = reply(long_engine, follow, 3)
    assert cached == len(prompt) + 9
    assert found == reply(load(folder(LONG), context=8_192), follow, 3)[0]
    assert reply(long_engine, prompt, 10) == (said, 0)


def test_only_longrope_models_switch(tmp_path: Path) -> None:
    def switch(engine: OnnxEngine) -> int | None:
        return engine._caches._traits.rope_switch

    assert switch(load(folder(LONG))) == SWITCH
    assert switch(load(folder(LONG), context=SWITCH)) is None
    assert switch(load(folder(SHORT))) is None
    beside = copy(folder(LONG), tmp_path)
    config = json.loads((tiny_models.hugging_face(LONG) / "config.json").read_text())
    (beside / "config.json").write_text(json.dumps(config | {"rope_scaling": None}))
    assert switch(load(beside)) is None
    (beside / "config.json").write_text(json.dumps(config))
    assert switch(load(beside)) == SWITCH


# --- where it computes ---------------------------------------------------------------------------


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, dirs_exist_ok=True)
    return target


def edit(folder: Path, search: dict[str, object] | None = None, providers: object = None) -> None:
    file = folder / "genai_config.json"
    config = json.loads(file.read_text())
    config["search"] |= search or {}
    if providers is not None:
        config["model"]["decoder"]["session_options"]["provider_options"] = providers
    file.write_text(json.dumps(config))


@pytest.fixture
def for_cuda(tmp_path: Path) -> Path:
    target = copy(folder(SHORT), tmp_path / "cuda")
    edit(target, providers=[{"cuda": {"enable_cuda_graph": "0"}}])
    return target


@pytest.fixture
def for_qnn(tmp_path: Path) -> Path:
    """Compiled for another processor: its graph is one node that only that one understands."""
    target = copy(folder(SHORT), tmp_path / "qnn")
    edit(target, providers=[{"qnn": {}}])
    graph = onnx.load(target / "model.onnx", load_external_data=False)
    inputs = [value.name for value in graph.graph.input]
    outputs = [value.name for value in graph.graph.output]
    node = onnx.helper.make_node("EPContext", inputs, outputs, domain="com.microsoft")
    del graph.graph.node[:], graph.graph.initializer[:]
    graph.graph.node.append(node)
    onnx.save(graph, target / "model.onnx")
    return target


def test_the_cpu_when_nothing_is_asked_or_named(engine: OnnxEngine) -> None:
    assert engine.device == "CPU"
    assert load(folder(SHORT), "cpu").device == "CPU"


@pytest.mark.parametrize("device", [word for word in onnx_providers.PROVIDERS if word != "cpu"])
def test_a_device_that_does_not_work_is_an_error_and_no_other(device: str) -> None:
    provider = onnx_providers.PROVIDERS[device]
    with pytest.raises(SLMError) as caught:
        load(folder(SHORT), device)
    assert f"do not run on {provider.label} here" in caught.value.message
    assert isinstance(caught.value, NotInstalled)
    assert caught.value.hint == f"pip install {provider.package}"


def test_an_unknown_device_is_refused_with_the_words() -> None:
    with pytest.raises(BadRequest) as caught:
        load(folder(SHORT), "gpu")
    assert "cpu" in caught.value.message
    assert "cuda" in caught.value.message


def test_a_folder_for_another_device_falls_back_when_none_was_asked_for(for_cuda: Path) -> None:
    engine = load(for_cuda)
    assert engine.device == "CPU"
    assert reply(engine, words(40)) == reply(load(folder(SHORT)), words(40))
    assert load(for_cuda, "cpu").device == "CPU"
    with pytest.raises(NotInstalled) as caught:
        load(for_cuda, "cuda")
    assert caught.value.hint == "pip install onnxruntime-genai-cuda"


def test_compiled_for_another_processor(for_qnn: Path) -> None:
    with pytest.raises(SLMError) as caught:
        load(for_qnn, "cpu")
    assert "do not run on CPU here" in caught.value.message
    assert "They were made for QNN." in caught.value.message
    with pytest.raises(NotInstalled) as caught:
        load(for_qnn)
    for label in ("QNN", "CPU"):
        assert f"{label}: " in caught.value.message
    assert caught.value.hint == "pip install onnxruntime-qnn"


def test_providers_of_parts_are_found_too(tmp_path: Path) -> None:
    """A QNN folder names them for each part of a pipeline."""
    parts = [{"embeddings": {"session_options": {"provider_options": []}}}]
    parts += [{"context": {"session_options": {"provider_options": [{"qnn": {}}]}}}]
    config = {"model": {"decoder": {"session_options": {}, "pipeline": parts}}}
    (tmp_path / "genai_config.json").write_text(json.dumps(config))
    assert [provider.label for provider in onnx_providers._named(tmp_path)] == ["QNN"]


# --- the folder ----------------------------------------------------------------------------------


def test_stop_ids_come_from_every_file(tmp_path: Path) -> None:
    named = json.loads((folder(LONG) / "genai_config.json").read_text())["model"]["eos_token_id"]
    assert set(named) <= load(folder(LONG)).eos
    beside = copy(folder(LONG), tmp_path)
    (beside / "generation_config.json").write_text(json.dumps({"eos_token_id": [77]}))
    (beside / "config.json").write_text(json.dumps({"eos_token_id": 78}))
    assert load(beside).eos == {*load(folder(LONG)).eos, 77, 78}


def test_telemetry_is_off_before_the_library_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    load(folder(SHORT))
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
