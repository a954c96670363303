"""Models with two sets of rotary factors: the right ones up to 4,096 tokens and beyond, and where a
conversation crosses that bound, on every runtime, against transformers' plain forward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import tiny_models

from slm_backends.chat import Sampling
from slm_backends.worker import engines
from slm_backends.worker.engines import Engine, Token

BOUND = 4_096
REPLY = 12  # tokens
#: Below the bound, crossing it with the seventh token of the reply, and beyond it from the start.
CASES = [
    ("phi-3.5-mini-instruct", 60),
    ("phi-3.5-mini-instruct", BOUND - 6),
    ("phi-3.5-mini-instruct", BOUND + 1),
    ("phi-4-mini-instruct", BOUND - 6),
]
#: Folders with the same numbers as the checkpoint, so that nothing but arithmetic differs.
FOLDERS: dict[str, Callable[[str], Path]] = {
    "transformers": tiny_models.hugging_face,
    "onnx": lambda model_id: tiny_models.onnx(model_id, "fp32"),
    "mlx": tiny_models.hugging_face,
}
FAR = 1.0  # what a log-probability is off by, and more, with the wrong factors


def close(found: Engine) -> float:
    """What it may be off by: arithmetic of 8 bits, where the processor has it, or of 24."""
    return 0.3 if "bfloat16" in found.device else 0.005


@functools.cache
def model(model_id: str, *, swapped: bool = False) -> Any:
    """The reference, or one that takes each set of factors where the other belongs."""
    from transformers import AutoModelForCausalLM

    folder = tiny_models.hugging_face(model_id)
    if swapped:
        rope = tiny_models.MODELS[model_id].config["rope_scaling"]
        turned = rope | {
            "short_factor": rope["long_factor"],
            "long_factor": rope["short_factor"],
        }
        place = tiny_models.session_folder() / "swapped" / model_id
        folder = tiny_models.write(model_id, place, rope_scaling=turned)
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False).eval()


@functools.cache
def expected(model_id: str, tokens: tuple[int, ...], *, swapped: bool) -> Any:
    """Log-probabilities of what may follow each beginning of `tokens`, from the one that lacks
    REPLY of them on: (REPLY, vocabulary). A beginning within the bound is read by itself."""
    import torch

    reference = model(model_id, swapped=swapped)
    ends = range(len(tokens) - REPLY, len(tokens))
    with torch.inference_mode():
        logits = {
            far: reference(torch.tensor([tokens if far else tokens[:BOUND]])).logits[0]
            for far in {end > BOUND for end in ends}
        }
        rows = [torch.log_softmax(logits[end > BOUND][end - 1].double(), -1) for end in ends]
    return torch.stack(rows).numpy()


@functools.cache
def engine(runtime: str, model_id: str) -> Engine:
    return engines.load(runtime, FOLDERS[runtime](model_id), lambda fraction, step: None)


def reply(runtime: str, model_id: str, prompt: list[int]) -> list[Token]:
    """The likeliest tokens; what would end a reply ends nothing here."""
    found = engine(runtime, model_id)
    top = 3 if engines.gives_logprobs(runtime) else None
    found.admit(1, prompt, Sampling(max_tokens=REPLY, temperature=0), top)
    tokens: list[Token] = []
    while len(tokens) < REPLY:
        for _, news in found.step():
            assert not isinstance(news, Exception), news
            tokens += news
    found.release(1)
    return tokens[:REPLY]


@pytest.mark.parametrize(("model_id", "length"), CASES)
@pytest.mark.parametrize("runtime", FOLDERS)
def test_both_sides_of_the_bound(model_id: str, runtime: str, length: int) -> None:
    random = numpy.random.default_rng(length)
    prompt = [int(token) for token in random.integers(3, 400, length)]
    said = reply(runtime, model_id, prompt)
    tokens = (*prompt, *(token.id for token in said))
    right, wrong = (expected(model_id, tokens, swapped=swapped) for swapped in (False, True))
    chosen = numpy.array([token.id for token in said])[:, None]

    def lost(rows: Any) -> Any:
        """How much less likely than the likeliest the chosen tokens are, each."""
        return (rows.max(1, keepdims=True) - numpy.take_along_axis(rows, chosen, 1))[:, 0]

    near = close(engine(runtime, model_id))
    assert lost(right).max() < near
    assert lost(wrong).max() > FAR
    if engines.gives_logprobs(runtime):
        given = numpy.array([token.logprob for token in said])
        assert abs(given - numpy.take_along_axis(right, chosen, 1)[:, 0]).max() < near
        assert abs(given - numpy.take_along_axis(wrong, chosen, 1)[:, 0]).max() > FAR
