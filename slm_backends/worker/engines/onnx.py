"""ONNX Runtime GenAI: one Generator a sequence, advanced in turns.

The runtime's own batching engine is not used: it takes four sequences at most, lets no fifth join
before they end, and has no seeds. Turns are fair, and a lone sequence has the model to itself.
The runtime holds Python's interpreter lock while it computes, so a prompt is read in small chunks.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slm_backends.chat import Sampling
from slm_backends.worker.engines import Progress, Token

SAMPLING = frozenset(
    {"max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop"}
)
LOGPROBS = False
MAX_ACTIVE = 8
NUCLEUS = 4_096  # likeliest tokens among which top_p looks: sorting all of them halves the speed
PREFILL_CHUNK = 64  # tokens; on two cores about 0.1 s for a model of 135 million parameters


def load(
    folder: Path, progress: Progress, *, device: str = "", context: int | None = None
) -> OnnxEngine:
    return OnnxEngine(folder, progress)


class OnnxEngine:
    """The ONNX folder that the runtime's model builder wrote, on the CPU."""

    device = "CPU"
    max_active = MAX_ACTIVE

    def __init__(self, folder: Path, progress: Progress) -> None:
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # it is read when the library is first imported
        progress(0.1, "starting ONNX Runtime")
        import onnxruntime_genai as og

        self._og = og
        self.version = f"onnxruntime-genai {og.__version__}"
        config = og.Config(str(folder))
        config.clear_providers()
        progress(0.3, "reading weights")
        self._model = og.Model(config)
        self.context, self._vocabulary, self.eos = _limits(folder)
        self._sequences: dict[int, _Sequence] = {}
        progress(0.8, "warming up")
        self._warm_up()

    def _warm_up(self) -> None:
        self.admit(-1, [min(self.eos)], Sampling(max_tokens=2, temperature=0))
        while not any(tokens for _, tokens in self.step()):
            pass
        self.release(-1)

    def admit(
        self, key: int, prompt: list[int], sampling: Sampling, top_logprobs: int | None = None
    ) -> int | None:
        parameters = self._og.GeneratorParams(self._model)
        options: dict[str, Any] = {
            "max_length": min(len(prompt) + sampling.max_tokens, self.context),
            "do_sample": sampling.temperature > 0,
            "repetition_penalty": sampling.repetition_penalty,
        }
        if sampling.temperature > 0:
            seed = secrets.randbits(31) if sampling.seed is None else sampling.seed
            options |= {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": self._top_k(sampling),
                "random_seed": seed,
            }
        parameters.set_search_options(**options)
        self._sequences[key] = _Sequence(self._og.Generator(self._model, parameters), prompt)
        return None

    def _top_k(self, sampling: Sampling) -> int:
        """The runtime ignores top_p where top_k is 0, so then it is given one that leaves out next
        to nothing: above temperature 1, where unlikely tokens add up to something, all of them."""
        if sampling.top_k or sampling.top_p == 1:
            return sampling.top_k
        return min(NUCLEUS, self._vocabulary) if sampling.temperature <= 1 else self._vocabulary

    def step(self) -> Iterator[tuple[int, list[Token] | Exception]]:
        for key, sequence in list(self._sequences.items()):
            if key in self._sequences:  # the caller may release while it reads
                try:
                    yield key, sequence.advance()
                except Exception as error:  # the others' sequences are whole
                    yield key, error

    def release(self, key: int) -> None:
        self._sequences.pop(key, None)


class _Sequence:
    def __init__(self, generator: Any, prompt: list[int]) -> None:
        self._generator = generator
        self._unread = prompt

    def advance(self) -> list[Token]:
        """A chunk of the prompt, or one token."""
        if self._unread:
            self._generator.append_tokens(self._unread[:PREFILL_CHUNK])
            self._unread = self._unread[PREFILL_CHUNK:]
            if self._unread:
                return []
        if (
            self._generator.is_done()
        ):  # at an end token or at its limit, which the caller counts too
            raise RuntimeError("the sequence has ended already")
        self._generator.generate_next_token()
        return [Token(int(self._generator.get_next_tokens()[0]))]


def _limits(folder: Path) -> tuple[int, int, frozenset[int]]:
    """Context length, vocabulary size and end tokens, from the folder's genai_config.json."""
    model = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
    eos = model["eos_token_id"]
    ends = frozenset(eos if isinstance(eos, list) else [eos])
    return int(model["context_length"]), int(model["vocab_size"]), ends
