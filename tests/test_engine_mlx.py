"""The MLX engine: tiny random models of the real architectures against transformers, and the
embedded model's own weights."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy
import pytest
import tiny_gguf
import tiny_models
import torch
from engine_talk import advance, assert_right, ids, reply, words
from mlx_lm.models import phimoe
from mlx_lm.utils import load_model
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from slm_backends import catalog, chat, compare, convert, store
from slm_backends.chat import Sampling
from slm_backends.errors import NotInstalled, SLMError
from slm_backends.worker import engines
from slm_backends.worker.engines import mlx as module
from slm_backends.worker.engines.mlx import MlxEngine

WINDOW, LONGROPE, EXPERTS, NARROW = (
    "phi-3-mini-4k-instruct",
    "phi-3.5-mini-instruct",
    "phi-3.5-moe-instruct",
    "phi-tiny-moe-instruct",
)
BOUND = 4_096
CLOSE = 1e-3  # of log-probabilities; what wrong factors or a wrong window give is 0.1 and more
PIECE = 128
EMBEDDED = "smollm2-135m-instruct@mlx"
CAPITAL = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(autouse=True)
def large_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models are read in a moment, and small pieces would only cost time."""
    monkeypatch.setitem(module.PIECES, "cpu", PIECE)


def load(folder: Path, **options: Any) -> MlxEngine:
    return module.load(folder, lambda fraction, step: None, **options)


@functools.cache
def reference(folder: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def logits(tokens: list[int]) -> Any:
        with torch.inference_mode():
            return model(torch.tensor([tokens])).logits[0, -1].numpy()

    return logits


# --- the same numbers as transformers -----------------------------------------------------------


@pytest.mark.parametrize("model_id", tiny_models.MODELS)
def test_every_architecture_says_what_transformers_computes(model_id: str) -> None:
    folder = tiny_models.hugging_face(model_id)
    if model_id in (EXPERTS, NARROW) and sys.version_info < (3, 11):
        pytest.xfail("mlx-lm for Python 3.10 weighs the experts in another way")
    engine = load(folder)
    prompt = words(PIECE + 30)
    said, cached = reply(engine, prompt, top=3)
    assert cached == 0
    assert_right(reference(folder), prompt, said, [0, 1, 11], CLOSE)
    longer = [*prompt, *ids(said), *words(20, seed=1)]
    after, cached = reply(engine, longer, top=3)
    assert cached == len(prompt) + len(said) - 1  # the last token was said, not read
    assert_right(reference(folder), longer, after, [0, 11], CLOSE)


def test_names_of_transformers_5_are_read_too(tmp_path: Path) -> None:
    """They move the rotary factors to where mlx-lm does not look."""
    prompt = words(60)
    for model_id in (LONGROPE, "phi-4-mini-instruct", "smollm2-135m-instruct"):
        folder = tmp_path / model_id
        original = tiny_models.hugging_face(model_id)
        AutoModelForCausalLM.from_pretrained(original).save_pretrained(folder)
        assert "rope_theta" not in json.loads((folder / "config.json").read_text())
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((original / name).read_bytes())
        said, _ = reply(load(folder), prompt, 4, top=3)
        assert_right(reference(original), prompt, said, [0, 3], CLOSE)


@pytest.mark.parametrize("model_id", [WINDOW, NARROW])
def test_a_sliding_window_stays_right_when_what_was_read_is_used_again(
    model_id: str, tmp_path: Path
) -> None:
    if model_id == NARROW and sys.version_info < (3, 11):
        pytest.xfail("mlx-lm for Python 3.10 weighs the experts in another way")
    folder = tiny_models.write(model_id, tmp_path / "window", sliding_window=40)
    engine = load(folder)
    prompt = words(2 * PIECE + 50)
    said, _ = reply(engine, prompt, 60, top=3)
    assert_right(reference(folder), prompt, said, [0, 59], CLOSE)
    turns = {
        "goes on": ([*prompt, *ids(said), *words(9, seed=1)], len(prompt) + 59),
        "was changed far before the window": ([*prompt[:200], *words(20, seed=2)], PIECE),
    }
    for turn, (asked, expected) in turns.items():
        again, cached = reply(engine, asked, 45, top=3)
        assert cached == expected, turn
        assert_right(reference(folder), asked, again, [0, 44], CLOSE)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_folders_are_what_mlx_lm_makes_of_them(bits: int) -> None:
    folder = tiny_models.mlx(WINDOW, bits)
    model, config = load_model(folder)
    assert config["quantization"]["bits"] == bits

    def mlx_lm(tokens: list[int]) -> Any:
        return numpy.array(model(mx.array([tokens]))[0, -1].astype(mx.float32))

    prompt = words(PIECE + 30)
    said, _ = reply(load(folder), prompt, top=3)
    assert_right(mlx_lm, prompt, said, [0, 5, 11], CLOSE)


def test_half_precision_reaches_the_sampler_as_numbers(tmp_path: Path) -> None:
    """numpy has no bfloat16."""
    model = AutoModelForCausalLM.from_pretrained(tiny_models.hugging_face(WINDOW))
    cast = tmp_path / "bfloat16"
    model.to(torch.bfloat16).save_pretrained(cast)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (cast / name).write_bytes((tiny_models.hugging_face(WINDOW) / name).read_bytes())
    said, _ = reply(load(cast), words(30), 4, top=3)
    assert_right(reference(cast), words(30), said, [0], 0.2)


# --- two sets of rotary factors -----------------------------------------------------------------


def test_a_conversation_crosses_the_bound_and_goes_on() -> None:
    folder = tiny_models.hugging_face(LONGROPE)
    engine = load(folder, context=8_192)
    prompt = words(BOUND - 6)
    near, _ = reply(engine, prompt[:-300], 4, top=3)
    assert_right(reference(folder), prompt[:-300], near, [0, 3], CLOSE)
    said, cached = reply(engine, prompt, top=3)
    assert cached == len(prompt) - 300
    # 4,096 tokens are before the seventh of the reply, and 4,097 before the eighth.
    assert_right(reference(folder), prompt, said, [0, 6, 7, 11], CLOSE)
    beyond = [*prompt, *ids(said), *words(30, seed=1)]
    after, cached = reply(engine, beyond, 3, top=3)
    assert cached == len(prompt) + len(said) - 1  # it had been read again with the long factors
    assert_right(reference(folder), beyond, after, [0, 2], CLOSE)
    back, cached = reply(engine, prompt[:200], 3, top=3)
    assert cached == 0  # the long factors are not those of a short text
    assert_right(reference(folder), prompt[:200], back, [0, 2], CLOSE)


def test_long_and_short_texts_take_turns() -> None:
    folder = tiny_models.hugging_face(LONGROPE)
    engine = load(folder)
    prompts = {1: words(BOUND + 5, seed=1), 2: words(40, seed=2)}
    for key, prompt in prompts.items():
        engine.admit(key, prompt, Sampling(max_tokens=40, temperature=0), 3)
    made = advance(engine, {1: 3, 2: 36})
    assert_right(reference(folder), prompts[1], made[1], [0, 2], CLOSE)
    assert_right(reference(folder), prompts[2], made[2], [0, 35], CLOSE)


# --- turns --------------------------------------------------------------------------------------


@pytest.fixture
def engine() -> MlxEngine:
    return load(tiny_models.hugging_face(WINDOW))


def test_one_thread_loads_and_another_goes_on() -> None:
    """The worker does so, and MLX notes work down for the thread that asks for it."""
    for model_id in (LONGROPE, EXPERTS):
        made: list[MlxEngine] = []
        said: list[list[int]] = []

        def first(model_id: str = model_id, made: list[MlxEngine] = made) -> None:
            made.append(load(tiny_models.hugging_face(model_id)))
            reply(made[0], words(200))

        def second(made: list[MlxEngine] = made, said: list[list[int]] = said) -> None:
            said.append(ids(reply(made[0], [*words(200), 5])[0]))

        for work in (first, second):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        assert said == [ids(reply(load(tiny_models.hugging_face(model_id)), [*words(200), 5])[0])]


def test_a_seed_repeats_whatever_was_read_before(engine: MlxEngine) -> None:
    prompt = words(2 * PIECE + 30)
    first, _ = reply(engine, prompt, 30, temperature=1, seed=5)
    reply(engine, [*prompt[:100], 7], 30, temperature=1)
    assert reply(engine, prompt, 30, temperature=1, seed=5) == (first, 2 * PIECE)
    other, _ = reply(engine, prompt, 30, temperature=1, seed=6)
    assert ids(other) != ids(first)


def test_one_alone_says_the_same_as_among_others(engine: MlxEngine) -> None:
    prompts = {key: words(30 * key, seed=key) for key in range(1, 9)}
    alone = {key: ids(reply(engine, prompt)[0]) for key, prompt in prompts.items()}
    for key, prompt in prompts.items():
        engine.admit(key, prompt, Sampling(max_tokens=12, temperature=0))
    together = advance(engine, dict.fromkeys(prompts, 12))
    assert {key: ids(tokens) for key, tokens in together.items()} == alone


def test_a_long_prompt_is_read_between_the_others_tokens(engine: MlxEngine) -> None:
    engine.admit(1, words(30), Sampling(max_tokens=100, temperature=0))
    engine.admit(2, words(10 * PIECE, seed=1), Sampling(max_tokens=1, temperature=0))
    for _ in range(9):
        news = dict(engine.step())
        assert news[2] == []
        assert len(news[1]) == 1  # type: ignore[arg-type]
    engine.release(2)  # before its prompt is read: what was read of it is of use
    assert engine.admit(2, words(10 * PIECE, seed=1), Sampling(max_tokens=1)) == 8 * PIECE


def test_another_conversation_that_begins_alike_takes_nothing_away(engine: MlxEngine) -> None:
    long = words(6 * PIECE)
    said, _ = reply(engine, long)
    aside, cached = reply(engine, [*long[: PIECE + 9], *words(20, seed=1)], top=3)
    assert cached == PIECE
    prompt = [*long[: PIECE + 9], *words(20, seed=1)]
    assert_right(reference(tiny_models.hugging_face(WINDOW)), prompt, aside, [0, 11], CLOSE)
    assert reply(engine, [*long, *ids(said), 5])[1] == len(long) + len(said) - 1


def test_what_is_kept_has_the_tokens_of_one_context_at_most() -> None:
    engine = load(tiny_models.hugging_face(WINDOW), context=500)
    assert engine.context == 500
    prompts = [words(2 * PIECE, seed=seed) for seed in range(3)]
    for prompt in prompts:
        reply(engine, prompt, 2)
    assert [reply(engine, [*prompt, 9], 2)[1] for prompt in reversed(prompts)] == [256, 0, 0]


# --- loading ------------------------------------------------------------------------------------


def test_it_says_what_it_is_and_how_far_the_load_is() -> None:
    told: list[tuple[float, str]] = []
    engine = engines.load(
        "mlx", tiny_models.mlx(LONGROPE), lambda fraction, step: told.append((fraction, step))
    )
    assert [fraction for fraction, _ in told] == sorted({fraction for fraction, _ in told})
    assert all(0 <= fraction < 1 and step for fraction, step in told)
    assert engine.version.startswith("mlx-lm ")
    assert f"(mlx {mx.__version__})" in engine.version
    assert engine.device == ("GPU" if mx.is_available(mx.gpu) else "CPU")
    assert engine.context == 131_072
    assert engines.gives_logprobs("mlx")
    assert engines.sampling_fields("mlx") == chat.SAMPLING_FIELDS


def test_a_device_is_taken_or_refused() -> None:
    folder = tiny_models.hugging_face(WINDOW)
    assert load(folder, device="cpu").device == "CPU"
    missing = [name for name in ("gpu", "npu") if name == "npu" or not mx.is_available(mx.gpu)]
    for name in missing:
        with pytest.raises(SLMError, match=name):
            load(folder, device=name)


def test_a_library_that_is_too_old_for_a_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(phimoe, "sparsemixer", raising=False)
    with pytest.raises(SLMError, match="This version of mlx-lm"):
        load(tiny_models.hugging_face(NARROW))


def test_code_in_a_folder_is_refused_and_not_run(tmp_path: Path) -> None:
    folder = tiny_models.write(WINDOW, tmp_path / "own")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_file": "own.py"}))
    with pytest.raises(SLMError, match="own code, own.py"):
        load(folder)
    assert not (tmp_path / "ran").exists()


def test_without_the_package_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "mlx_lm", None)
    with pytest.raises(NotInstalled) as caught:
        engines.load("mlx", tmp_path, lambda fraction, step: None)
    packages = "mlx mlx-lm" if sys.platform == "darwin" else "'mlx[cpu]' mlx-lm"
    assert caught.value.hint == f"pip install {packages}"


# --- the embedded model -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded_folder(embedded: tuple[str, ...]) -> Path:
    """In the store that is in use; where it is missing, it is made of the file that is there."""
    deployment = catalog.load().deployment(EMBEDDED)
    store.fetch(deployment)
    return store.folder(deployment)


def test_the_embedded_model_has_the_very_same_weights(embedded_folder: Path) -> None:
    tensors = mx.load(str(embedded_folder / "model.safetensors"))
    quantization = json.loads((embedded_folder / "config.json").read_text())["quantization"]
    file = store.folder(catalog.load().deployment("smollm2-135m-instruct@openvino")) / "model.gguf"
    kinds = set()
    for tensor in gguf.GGUFReader(file).tensors:
        *layer, part, _ = tensor.name.removeprefix("blk.").split(".")
        if layer not in ([], ["0"], ["29"]):
            continue
        place = ".".join([*(["model.layers", *layer] if layer else []), convert.MLX_NAMES[part]])
        values = tensors[f"{place}.weight"]
        if f"{place}.scales" in tensors:
            values = mx.dequantize(
                values,
                tensors[f"{place}.scales"],
                tensors[f"{place}.biases"],
                group_size=quantization["group_size"],
                bits=quantization.get(place, quantization)["bits"],
            )
        published = gguf.dequantize(tensor.data, tensor.tensor_type)
        # The last bit may differ: one library adds in another order than the other.
        numpy.testing.assert_allclose(numpy.array(values), published, rtol=0, atol=1e-6)
        kinds.add(tensor.tensor_type.name)
    assert kinds == {"F32", "Q4_1", "Q8_0"}


def test_the_embedded_model_knows_paris(embedded_folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(embedded_folder / "tokenizer.json"))
    engine = load(embedded_folder)
    prompt = tokenizer.encode(CAPITAL, add_special_tokens=False).ids
    said, _ = reply(engine, prompt, 8, top=0)
    assert tokenizer.decode(ids(said)) == "The capital of France is Paris."
    assert said[-1].id in engine.eos
    assert all(token.logprob is not None and token.logprob < 0 for token in said)


def test_its_weights_are_those_that_openvino_reads() -> None:
    """What a comparison of the two is told."""
    first, second = (
        catalog.load().deployment(f"smollm2-135m-instruct@{name}") for name in ("mlx", "openvino")
    )
    assert compare.relation(first, second) == "same artefact"


def test_the_converter_takes_what_is_not_quantised_and_refuses_what_it_cannot(
    tmp_path: Path,
) -> None:
    def run(file: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "slm_backends.convert", "mlx", file, tmp_path / "out"]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=Path(__file__).parents[1]
        )

    file = tiny_gguf.write(tmp_path / "tiny.gguf")
    made = run(file)
    assert made.returncode == 0, made.stderr[-2000:]
    prompt = [1, 70, 71]
    said, _ = reply(load(tmp_path / "out"), prompt, 4, top=2)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name)

    def transformers(tokens: list[int]) -> Any:
        with torch.inference_mode():
            return model(torch.tensor([tokens])).logits[0, -1].float().numpy()

    assert_right(transformers, prompt, said, [0, 3], CLOSE)
    file.write_bytes(file.read_bytes().replace(b"llama", b"qwen2"))
    refused = run(file)
    assert refused.returncode != 0
    assert "of llamas only; this one is a qwen2" in refused.stderr
