"""ONNX Runtime GenAI: one Generator a sequence, advanced in turns; tokens are sampled here.

The runtime's own batching engine is not used: it takes four sequences at most, lets no fifth join
before they end, and has no seeds. Turns are fair, and a lone sequence has the model to itself.
The runtime holds Python's interpreter lock while it computes, so a prompt is read in small parts.
A finished reply's cache is kept, and the next turn of its conversation reads only what is new.
Folders of models that see are computed by onnx_vision.py, and their sequences advanced here too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from slm_backends.chat import MAX_IMAGES, SAMPLING_FIELDS, Looking, Sampling
from slm_backends.worker.engines import Progress, Token
from slm_backends.worker.engines.onnx_cache import Cache, Caches, Traits
from slm_backends.worker.engines.onnx_providers import CPU, open_model
from slm_backends.worker.engines.sampler import Sampler
from slm_backends.worker.pieces import Piece
from slm_backends.worker.stops import stop_ids

SAMPLING = SAMPLING_FIELDS
LOGPROBS = True
ENVIRONMENT = {"ORT_DISABLE_TELEMETRY": "1"}
MAX_ACTIVE = 8
#: Tokens of a prompt that are read at once. On a CPU one piece of 512 takes no less time than 16 of
#: 32, and holds the interpreter lock for all of it; elsewhere each start costs.
CPU_CHUNK, CHUNK = 32, 512
#: Tokens after which these model types change their rotary factors, if their context is longer.
ROPE_SWITCHES = {"phi3": 4_096, "phi3v": 4_096, "phimoe": 4_096, "phi3small": 8_192}
SEES = "phi3v"  # the model type whose pictures are looked at


def load(
    folder: Path, progress: Progress, *, device: str = "", context: int | None = None
) -> OnnxEngine:
    return OnnxEngine(folder, progress, device, context)


class OnnxEngine:
    """A folder with genai_config.json, on the device that is asked for or the best that works."""

    max_active = MAX_ACTIVE
    mixture = None  # it has no Phi-MoE, and tells nothing of a router

    def __init__(
        self, folder: Path, progress: Progress, device: str = "", context: int | None = None
    ) -> None:
        os.environ.update(ENVIRONMENT)  # also for who makes an engine without engines.load
        progress(0.1, "starting ONNX Runtime")
        self.eos = stop_ids(folder)
        progress(0.3, "reading weights")
        self._vision = _vision(folder, device)
        self.images = MAX_IMAGES if self._vision else 0
        if self._vision:
            self.version, self.device, chunk = self._vision.version, CPU.label, CPU_CHUNK
        else:
            import onnxruntime_genai as og

            self._og = og
            self.version = f"onnxruntime-genai {og.__version__}"
            self._model, provider = open_model(og, folder, device)
            self.device = provider.label
            chunk = CPU_CHUNK if provider is CPU else CHUNK
        progress(0.8, "warming up")
        traits = _traits(folder, context, extends=self._can_extend(), chunk=chunk)
        self.context = traits.context
        self._caches = Caches(self._generator, traits)
        self._sequences: dict[int, _Sequence] = {}

    def _generator(self, room: int) -> Any:
        """One that holds `room` tokens; whatever the folder's defaults say, it chooses none."""
        if self._vision:
            return self._vision.generator(room)
        parameters = self._og.GeneratorParams(self._model)
        parameters.set_search_options(
            max_length=room, do_sample=False, num_beams=1, min_length=0, repetition_penalty=1.0
        )
        return self._og.Generator(self._model, parameters)

    def _can_extend(self) -> bool:
        """Whether a sequence can be appended to: DirectML and others cannot. Warms up as well."""
        generator = self._generator(2)
        generator.append_tokens([min(self.eos)])
        try:
            generator.append_tokens([min(self.eos)])
        except RuntimeError:
            return False
        return True

    def lay_out(self, pieces: Sequence[Piece]) -> list[int]:
        tokens: list[int] = self._vision.eyes.lay_out(pieces)
        return tokens

    def admit(
        self,
        key: int,
        prompt: list[int],
        sampling: Sampling,
        top_logprobs: int | None = None,
        pieces: Sequence[Piece] = (),
    ) -> int | None:
        tokens = min(len(prompt) + sampling.max_tokens, self.context)
        repeats = sampling.seed is not None
        cache, useful = self._caches.take(prompt, tokens, self._active(), repeats=repeats)
        words = [token for token in prompt if token >= 0]
        sequence = _Sequence(cache, prompt, Sampler(sampling, words, top_logprobs))
        if pieces:
            self._vision.eyes.hold(key, pieces)
            sequence.looks = self._vision.eyes.looks(key, prompt[useful:])
        self._sequences[key] = sequence
        return useful

    def _active(self) -> Iterator[Cache]:
        return (sequence.cache for sequence in self._sequences.values())

    def step(self) -> Iterator[tuple[int, list[Token] | Looking | Exception]]:
        for key, sequence in list(self._sequences.items()):
            if key in self._sequences:  # the caller may release while it reads
                try:
                    tokens = sequence.advance()
                except Exception as error:  # the others' sequences are whole
                    del self._sequences[key]  # its cache may not be
                    yield key, error
                else:
                    yield key, tokens

    def release(self, key: int) -> None:
        sequence = self._sequences.pop(key, None)
        if sequence is not None:
            self._caches.keep(sequence.cache, self._active())
        if self._vision:
            self._vision.eyes.release(key)


class _Sequence:
    def __init__(self, cache: Cache, prompt: list[int], sampler: Sampler) -> None:
        self.cache = cache
        self._prompt = prompt
        self._sampler = sampler
        self._last: int | None = None
        self.looks: Iterator[Looking] = iter(())

    def advance(self) -> list[Token] | Looking:
        """A part of a picture or of the prompt, or one token."""
        if (looking := next(self.looks, None)) is not None:
            return looking
        if self._last is not None:
            self.cache.extend(self._last)
        elif not self.cache.read(self._prompt):
            return []
        token = self._sampler.pick(self.cache.logits())
        self._last = token.id
        return [token]


def _traits(folder: Path, context: int | None, *, extends: bool, chunk: int) -> Traits:
    """From the folder's genai_config.json; `context` limits the model's own."""
    model = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
    decoder = model["decoder"]
    held = int(model["context_length"])
    held = min(held, context or held)
    if window := decoder.get("sliding_window"):
        # The runtime then keeps no more than the window, and its own graphs fail past that.
        held = min(held, int(window["window_size"]))
    switch = _rope_switch(folder, model["type"])
    numbers = decoder["num_hidden_layers"] * decoder["num_key_value_heads"] * decoder["head_size"]
    return Traits(
        context=held,
        padding=model.get("pad_token_id", -1),
        rope_switch=switch if switch and switch < held else None,
        token_bytes=2 * numbers * 4,
        extends=extends,
        chunk=chunk,
    )


def _rope_switch(folder: Path, model_type: str) -> int | None:
    """Where a longrope model changes factors: config.json knows; where it is missing, the type
    does, as the runtime goes by it. A model that has one set of factors then only loses time."""
    file = folder / "config.json"
    if not file.exists():
        return ROPE_SWITCHES.get(model_type)
    config = json.loads(file.read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type")) not in ("longrope", "su"):
        return None
    switch = rope.get("original_max_position_embeddings")
    return int(switch or config["original_max_position_embeddings"])


def _vision(folder: Path, device: str) -> Any:
    """What looks at pictures, or None for a folder that has text alone."""
    model = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
    if model["type"] != SEES:
        return None
    from slm_backends.worker.engines.onnx_vision import OnnxVision  # needs numpy and Pillow

    return OnnxVision(folder, device)
