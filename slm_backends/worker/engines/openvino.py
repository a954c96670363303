"""OpenVINO GenAI: continuous batching with prefix caching; reads a GGUF file as it is.

The runtime batches every admitted sequence in each step and reads long prompts in parts between
the others' tokens. It does not report how many prompt tokens its prefix cache saved: kv_blocks.py
keeps count. Prompts of models that see are made of embeddings, by openvino_vision.py.
"""

from __future__ import annotations

import itertools
import json
import secrets
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from slm_backends.chat import MAX_IMAGES, SAMPLING_FIELDS, Looking, Sampling
from slm_backends.errors import SLMError, Unsupported
from slm_backends.worker.engines import Progress, Token
from slm_backends.worker.engines.kv_blocks import Blocks
from slm_backends.worker.pieces import Piece
from slm_backends.worker.stops import stop_ids

SAMPLING = SAMPLING_FIELDS
#: The runtime's are of the distribution after temperature and penalties, and of the chosen token
#: alone.
LOGPROBS = False
MAX_ACTIVE = 32
BATCHED_TOKENS = 256  # at most in one step, prompt parts included: bounds how long others wait
#: Tokens of conversations that are kept for their next turns, where the context has so many: one
#: full context, which is what a worker is reckoned to take (fit.py).
KEPT = 8_192
#: Tokens in a block of the key-value cache. On GPUs it has 16, or 256 with sparse attention: what
#: holds of blocks of 256 holds in both cases.
BLOCK = {"CPU": 32, "GPU": 256}
WITHDRAWN = 2**48  # from here on are keys of prompts that are not to be answered
READABLE = ("llama", "qwen2", "qwen3")  # architectures of the GGUF files that the runtime reads


def load(
    folder: Path, progress: Progress, *, device: str = "", context: int | None = None
) -> OpenVINOEngine:
    return OpenVINOEngine(folder, progress, device, context)


class OpenVINOEngine:
    """`model.gguf`, or a folder in OpenVINO's own format.

    Without a device it runs on the CPU, which every computer has and where it was measured.
    """

    max_active = MAX_ACTIVE
    mixture = None  # it tells nothing of a router

    def __init__(self, folder: Path, progress: Progress, device: str, context: int | None) -> None:
        progress(0.1, "starting OpenVINO")
        import openvino
        import openvino_genai

        self._ov = openvino_genai
        self._tensor = openvino.Tensor
        self.version = f"openvino-genai {openvino_genai.__version__}"
        self.device = _device(openvino, device)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        made_for = int(config["max_position_embeddings"])
        self.context = min(made_for, context or made_for)
        self.eos = stop_ids(folder)
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.dynamic_split_fuse = True
        scheduler.max_num_batched_tokens = BATCHED_TOKENS
        scheduler.max_num_seqs = MAX_ACTIVE
        progress(0.2, "reading weights and compiling")
        self._vision = _vision(folder, self.device)
        self.images = MAX_IMAGES if self._vision else 0
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(_weights(folder)), scheduler, self.device, {}
        )
        self._handles: dict[int, Any] = {}
        #: Of sequences whose pictures are looked at first: prompt and how to answer it.
        self._looking: dict[int, tuple[Iterator[Looking], list[int], Any]] = {}
        self._withdrawn = itertools.count(WITHDRAWN)
        size = BLOCK[self.device.partition(".")[0]]
        kept = min(self.context, KEPT)
        self._blocks = Blocks(size, kept // size)
        progress(0.9, "warming up")
        self._warm_up(kept)

    def _warm_up(self, kept: int) -> None:
        """One step with a prompt of `kept` tokens: the cache then has room for as many. It grows
        when running sequences need more, and only then: of a cache of a fixed size the runtime
        may fail all requests at once when their prompts do not fit together."""
        self.admit(0, [min(self.eos)] * (kept - 1), Sampling(max_tokens=1, temperature=0))
        for _ in self.step():
            pass
        self.release(0)

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
        config = self._config(sampling)
        if pieces:
            self._vision.eyes.hold(key, pieces)
            if self._vision.eyes.unseen(key, prompt):
                self._looking[key] = self._vision.eyes.looks(key, prompt), prompt, config
                return None  # what its cache will have when they are seen is not known yet
        return self._begin(key, prompt, config)

    def _config(self, sampling: Sampling) -> Any:
        if self._vision and sampling.repetition_penalty != 1:
            raise Unsupported(
                "OpenVINO does not honour repetition_penalty for a model that sees: it would not "
                "count the prompt.",
                field="repetition_penalty",
                hint="Set repetition_penalty back to 1, or pick another deployment.",
            )
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
        return config

    def _begin(self, key: int, prompt: list[int], config: Any) -> int:
        self._handles[key] = self._request(key, prompt, config)
        return self._blocks.admit(key, prompt)

    def _request(self, key: int, prompt: list[int], config: Any) -> Any:
        import numpy

        if self._vision:
            tokens = self._vision.embeddings(prompt)
        else:
            tokens = numpy.array([prompt], dtype=numpy.int64)
        return self._pipeline.add_request(key, self._tensor(tokens), config)

    def step(self) -> Iterator[tuple[int, list[Token] | Looking | Exception]]:
        for key in list(self._looking):
            if key in self._looking:  # the caller may release while it looks
                yield key, self._look(key)
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        for key, handle in list(self._handles.items()):
            tokens: list[Token] = []
            while handle.can_read():
                for output in handle.read().values():
                    tokens += [Token(int(token)) for token in output.generated_ids]
            if tokens:
                self._blocks.add(key, [token.id for token in tokens])
                yield key, tokens
            elif handle.get_status() == self._ov.GenerationStatus.IGNORED:
                yield key, MemoryError("no room for its cache")
            else:
                yield key, tokens

    def _look(self, key: int) -> list[Token] | Looking | Exception:
        """At a part of a picture; after the last the sequence begins."""
        looks, prompt, config = self._looking[key]
        try:
            if (looking := next(looks, None)) is not None:
                return looking
            del self._looking[key]
            self._begin(key, prompt, config)
            return []
        except Exception as error:  # the others' sequences are whole
            self._looking.pop(key, None)
            return error

    def release(self, key: int) -> None:
        self._looking.pop(key, None)
        try:
            self._end(key)
        finally:
            if self._vision:
                self._vision.eyes.release(key)

    def _end(self, key: int) -> None:
        handle = self._handles.pop(key, None)
        if handle is None:
            return
        if handle.get_status() == self._ov.GenerationStatus.RUNNING:
            handle.cancel()
        if tokens := self._blocks.release(key):
            config = self._ov.GenerationConfig()
            config.max_new_tokens = 1
            self._request(next(self._withdrawn), tokens, config).cancel()
        if not self._handles:
            self._pipeline.step()  # in which it drops what was cancelled; else the next one does


def _vision(folder: Path, device: str) -> Any:
    """What looks at pictures, or None for a folder that has text alone."""
    if not (folder / "openvino_vision_embeddings_model.xml").exists():
        return None
    from slm_backends.worker.engines.openvino_vision import OpenVINOVision  # numpy and Pillow

    return OpenVINOVision(folder, device)


def _device(openvino: Any, asked: str) -> str:
    """The device that was asked for, in OpenVINO's word, or CPU. SLMError where it cannot be."""
    device = asked.upper() or "CPU"
    kind = device.partition(".")[0]
    if kind == "NPU":
        raise SLMError(
            "OpenVINO's continuous batching, which answers here, does not run on an NPU.",
            hint="Pick a deployment without a device, or with GPU.",
        )
    found = openvino.Core().available_devices
    if kind not in BLOCK or not any(name in (device, f"{device}.0") for name in found):
        raise SLMError(
            f"OpenVINO finds no device {device!r} on this computer, only {', '.join(found)}.",
            hint="Install that device's driver, or pick a deployment without a device.",
        )
    return device


def _weights(folder: Path) -> Path:
    """The GGUF file, or the folder itself. Another architecture's file would crash the runtime."""
    file = folder / "model.gguf"
    if not file.exists():
        return folder
    architecture = _architecture(file)
    if architecture and architecture not in READABLE:
        raise SLMError(
            f"OpenVINO does not read GGUF files of the architecture {architecture!r}, only of "
            f"{', '.join(READABLE)}.",
            hint="Pick a deployment of this model in OpenVINO's own format, or another runtime.",
        )
    return file


def _architecture(file: Path) -> str:
    """A GGUF's `general.architecture`, which is its first entry; empty where it is not."""
    key = b"general.architecture" + struct.pack("<I", 8)  # 8: a string follows, its length first
    with file.open("rb") as stream:
        _, found, rest = stream.read(4_096).partition(key)
    if not found:
        return ""
    (length,) = struct.unpack_from("<Q", rest)
    return rest[8 : 8 + length].decode("utf-8")
