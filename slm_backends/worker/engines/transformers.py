"""Transformers on PyTorch: safetensors checkpoints and GGUF files, sequences advanced in turns.

A loop of our own around the model instead of `generate` (turns.py), with the sampler that other
runtimes have too. A batch of several sequences would need their caches padded to one length.
"""

from __future__ import annotations

import functools
import gc
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

from slm_backends.chat import SAMPLING_FIELDS
from slm_backends.errors import SLMError
from slm_backends.routing import Experts
from slm_backends.worker.engines import Progress
from slm_backends.worker.engines.readings import Cache, Reading
from slm_backends.worker.engines.turns import Turns
from slm_backends.worker.stops import stop_ids

SAMPLING = SAMPLING_FIELDS
LOGPROBS = True
ROUTING = True
#: PyTorch's threads wait for each other a few hundred times a token, by default long in a busy
#: loop, which takes time from others that compute, as in a comparison. So the loop is shorter.
#: Measured on two cores: 27 tokens a second alone and 7 to 10 beside two busy programs, against 23
#: and 2 to 7 by default, and 17 and 7 without any such loop.
ENVIRONMENT = {"GOMP_SPINCOUNT": "10000"}
#: Tokens of a prompt that are read at once: SmolLM2-135M takes 0.2 s for them on two cores.
PIECE = 128

#: Instructions that multiply bfloat16: Intel's and AMD's two, and ARM's.
NATIVE_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")

#: What config.json calls the models that see.
SEEING = ("phi3_v", "idefics3", "smolvlm")

#: Local files only, no code out of them, no pickle, no key sent along.
SAFE = {
    "local_files_only": True,
    "trust_remote_code": False,
    "use_safetensors": True,
    "token": False,
}


def load(
    folder: Path,
    progress: Progress,
    *,
    device: str = "",
    context: int | None = None,
    memory: int | None = None,
) -> TransformersEngine:
    kind = _model_type(folder)
    if kind in SEEING:
        from slm_backends.worker.engines.transformers_vision import Phi3Engine, SmolEngine

        engine = Phi3Engine if kind == "phi3_v" else SmolEngine
        return engine(folder, progress, device, context)
    return TransformersEngine(folder, progress, device, context, memory)


class TransformersEngine(Turns):
    """`model.gguf` with its config.json, or a checkpoint as save_pretrained writes it; of one that
    does not fit, weights of at most `memory` bytes in memory."""

    def __init__(
        self,
        folder: Path,
        progress: Progress,
        device: str,
        context: int | None,
        memory: int | None = None,
    ) -> None:
        progress(0.0, "starting PyTorch")
        import torch
        import transformers

        from slm_backends.worker.engines import phimoe_rope, placement
        from slm_backends.worker.engines.routers import Routers
        from slm_backends.worker.engines.torch_cache import TorchCache

        self._torch, self._empty_cache = torch, TorchCache
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}"
        self._place = _place(torch, device)
        numbers = _numbers(torch, self._place)
        self.device = f"{self._place.upper()}, {str(numbers).removeprefix('torch.')}"
        progress(0.3, "reading weights")
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        with placement.told(folder, progress, 0.3, 0.9):
            if memory is None:
                self._model = self._read(folder, numbers).eval()
            else:
                read = transformers.AutoModelForCausalLM.from_pretrained
                options = {"dtype": numbers, **SAFE}
                self._model = placement.read_in_part(
                    functools.partial(read, **options), folder, self._place, memory
                ).eval()
                if away := placement.share_on_disk(self._model):
                    self.device += f", {away:.0%} of its weights on the disk"
        phimoe_rope.mend(self._model, self._place)
        gc.collect()  # of what unpacking took
        self._routers = Routers(self._model)
        self.mixture = self._routers.mixture
        config = self._model.config.get_text_config()
        made_for = int(config.max_position_embeddings)
        context = min(made_for, context or made_for)
        super().__init__(context, bound=_bound(config), piece=PIECE)
        self.eos = stop_ids(folder)
        progress(0.9, "warming up")
        self._forward(self._read_anew(1), [0] * min(8, context), last=True)

    def _read(self, folder: Path, numbers: Any) -> Any:
        """The model in `folder`, on its device, in such numbers."""
        import transformers

        packed = (folder / "model.gguf").exists()
        read = _read_gguf if packed else transformers.AutoModelForCausalLM.from_pretrained
        model: Any = read(folder, dtype=numbers, **SAFE)
        return model.to(self._place)

    def _watched(self, experts: Experts) -> AbstractContextManager[Any]:
        return self._routers.watched(experts)

    def _cache(self) -> Cache:
        return self._empty_cache()

    def _inputs(self, reading: Reading, tokens: list[int]) -> dict[str, Any]:
        """What the model is given of tokens that come after those of the reading: [1, tokens]."""
        return {"input_ids": self._torch.tensor([tokens], device=self._place)}

    def _forward(self, reading: Reading, tokens: list[int], *, last: bool) -> Any:
        begin = len(reading.tokens)
        end = begin + len(tokens)
        ids, positions = tokens, list(range(begin, end))
        # The model chooses the rotary factors by the highest position that it is given at once. One
        # more token at the end, which the others do not see, says that this is part of a long text.
        herald = reading.far and end <= self._bound
        if herald:
            ids, positions = [*ids, ids[-1]], [*positions, self._bound]
        torch = self._torch
        with torch.inference_mode():
            made = self._model(
                **self._inputs(reading, ids),
                position_ids=torch.tensor([positions], device=self._place),
                past_key_values=reading.cache,
                use_cache=True,
                logits_to_keep=2 if herald else 1,
            )
            logits = made.logits[0, 0].float().cpu().numpy()
        if herald:
            reading.cache.cut(end)
        return logits


def _model_type(folder: Path) -> str:
    """What its configuration calls the model in `folder`; empty where that says nothing."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return str(config.get("model_type", ""))


def _read_gguf(folder: Path, **options: Any) -> Any:
    """`model.gguf`, its weights unpacked. Without kernels for packed ones, which would have to be
    downloaded, the library unpacks them anyway, but into float32.

    It takes 13 s for SmolLM2-135M where it finds the configuration in the GGUF too, and makes the
    same table of names for each of the model's 397 modules; 4 s where it need not.
    """
    import gguf
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, **options)
    if hasattr(transformers, "GgufConfig"):  # before 5.23 weights were always unpacked
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    names = functools.cache(gguf.get_tensor_name_map)
    with mock.patch.object(gguf, "get_tensor_name_map", names):
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, config=config, gguf_file="model.gguf", **options
        )


def _place(torch: Any, asked: str) -> str:
    """The device that was asked for, or the best that is here."""
    found = ["cpu"]
    if torch.accelerator.is_available():
        found.insert(0, torch.accelerator.current_accelerator().type)
    if not asked:
        return found[0]
    if asked.lower() not in found:
        raise SLMError(
            f"PyTorch finds no device {asked!r} on this computer, only {', '.join(found)}.",
            hint="Pick a deployment without that device, or install the PyTorch that supports it.",
        )
    return asked.lower()


def _numbers(torch: Any, place: str) -> Any:
    """bfloat16 where the device multiplies it by itself, else float32.

    Elsewhere it is emulated and slower than float32. Measured on two cores with AVX-512 BF16:
    SmolLM2-135M says 28 tokens a second in bfloat16 and 17 in float32, and reads 1,090 against 606.
    """
    if place == "cpu":
        able = any(torch.cpu.get_capabilities().get(name) for name in NATIVE_BFLOAT16)
    elif place == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    elif place == "xpu":
        able = torch.xpu.is_bf16_supported()
    else:
        able = place == "mps" and torch.backends.mps.is_macos_or_newer(14, 0)
    return torch.bfloat16 if able else torch.float32


def _bound(config: Any) -> int:
    """Tokens up to which a model with two sets of rotary factors uses the short ones; 0: it has
    one set."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return 0
    return int(rope["original_max_position_embeddings"])
