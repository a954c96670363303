"""OpenVINO GenAI: continuous batching with prefix caching; reads a GGUF file as it is.

The runtime batches every admitted sequence in each step and reads long prompts in parts between
the others' tokens. It does not report how many prompt tokens its prefix cache saved.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slm_backends.chat import Sampling
from slm_backends.worker.engines import Progress, Token

SAMPLING = frozenset(
    {
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "seed",
        "stop",
    }
)
LOGPROBS = False
MAX_ACTIVE = 16
BATCHED_TOKENS = 256  # at most in one step, prompt parts included: bounds how long others wait


def load(
    folder: Path, progress: Progress, *, device: str = "", context: int | None = None
) -> OpenVINOEngine:
    return OpenVINOEngine(folder, progress)


class OpenVINOEngine:
    """`model.gguf`, or a folder in OpenVINO's own format, on the CPU."""

    device = "CPU"
    max_active = MAX_ACTIVE

    def __init__(self, folder: Path, progress: Progress) -> None:
        progress(0.1, "starting OpenVINO")
        import openvino
        import openvino_genai

        self._ov = openvino_genai
        self._tensor = openvino.Tensor
        self.version = f"openvino-genai {openvino_genai.__version__}"
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.dynamic_split_fuse = True
        scheduler.max_num_batched_tokens = BATCHED_TOKENS
        scheduler.max_num_seqs = MAX_ACTIVE
        gguf = folder / "model.gguf"
        progress(0.2, "reading weights and compiling")
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(gguf if gguf.exists() else folder), scheduler, self.device, {}
        )
        self.context, self.eos = _limits(folder)
        self._handles: dict[int, Any] = {}
        progress(0.9, "warming up")
        self._warm_up()

    def _warm_up(self) -> None:
        self.admit(0, [min(self.eos)] * 8, Sampling(max_tokens=2, temperature=0))
        while not any(tokens for _, tokens in self.step()):
            pass
        self.release(0)

    def admit(
        self, key: int, prompt: list[int], sampling: Sampling, top_logprobs: int | None = None
    ) -> int | None:
        import numpy

        config = self._ov.GenerationConfig()
        config.max_new_tokens = sampling.max_tokens
        config.ignore_eos = True  # the scheduler ends a reply, for every runtime in the same way
        config.repetition_penalty = sampling.repetition_penalty
        config.presence_penalty = sampling.presence_penalty
        config.frequency_penalty = sampling.frequency_penalty
        config.do_sample = sampling.temperature > 0
        if config.do_sample:
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            if sampling.top_k:
                config.top_k = sampling.top_k
            config.rng_seed = secrets.randbits(31) if sampling.seed is None else sampling.seed
        ids = self._tensor(numpy.array([prompt], dtype=numpy.int64))
        self._handles[key] = self._pipeline.add_request(key, ids, config)
        return None

    def step(self) -> Iterator[tuple[int, list[Token] | Exception]]:
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        for key, handle in list(self._handles.items()):
            tokens: list[Token] = []
            while handle.can_read():
                for output in handle.read().values():
                    tokens += [Token(int(token)) for token in output.generated_ids]
            if not tokens and handle.get_status() == self._ov.GenerationStatus.IGNORED:
                yield key, MemoryError("no room for its cache")
            else:
                yield key, tokens

    def release(self, key: int) -> None:
        handle = self._handles.pop(key, None)
        if handle is not None and handle.get_status() == self._ov.GenerationStatus.RUNNING:
            handle.cancel()


def _limits(folder: Path) -> tuple[int, frozenset[int]]:
    """Context length and end tokens, from the model's config.json."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    eos = config["eos_token_id"]
    return int(config["max_position_embeddings"]), frozenset(
        eos if isinstance(eos, list) else [eos]
    )
