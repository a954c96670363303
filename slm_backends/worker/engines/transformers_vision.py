"""Models that see, on Transformers: the engine of transformers.py with eyes.

A prompt's pictures are looked at crop by crop, as steps of their own, and stand among the tokens as
embeddings. Knows where what was seen goes into the model; phi3v_eyes.py knows where it stands among
the tokens and keeps it, phi3v.py and smolvlm.py have what differs between models. Imports torch:
only made for such a folder.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
import transformers

from slm_backends.chat import MAX_IMAGES
from slm_backends.picture_tokens import SINGLE_CROPS, Grid
from slm_backends.worker.engines import Progress, phi3v, smolvlm
from slm_backends.worker.engines.phi3v_eyes import Eyes, Floats
from slm_backends.worker.engines.readings import Reading
from slm_backends.worker.engines.transformers import SAFE, TransformersEngine


class VisionEngine(TransformersEngine):
    """A model whose `_vision` sees: a subclass reads both, and says what its eyes are."""

    images = MAX_IMAGES
    _vision: Any

    def __init__(self, folder: Path, progress: Progress, device: str, context: int | None) -> None:
        super().__init__(folder, progress, device, context)
        self._eyes = self._open_eyes(folder)

    def _open_eyes(self, folder: Path) -> Eyes:
        raise NotImplementedError

    def _inputs(self, reading: Reading, tokens: list[int]) -> dict[str, Any]:
        if min(tokens) >= 0:
            return super()._inputs(reading, tokens)
        assert self._eyes is not None
        rows = torch.from_numpy(self._eyes.rows(reading.tokens, tokens, self._words))
        return {"inputs_embeds": rows[None].to(self._place, self._model.dtype)}

    def _words(self, ids: Any) -> Floats:
        """Embeddings [n, hidden] of token ids [n]."""
        embedded = self._model.get_input_embeddings()(torch.from_numpy(ids).to(self._place))
        return embedded.float().cpu().numpy()

    def _encode(self, crops: torch.Tensor, grid: Grid) -> Generator[int, None, Floats]:
        """One crop at a time, so that it can be stopped in between. A crop of Phi-3.5-vision takes
        one core 5.2 s in float32 and 2.9 s in bfloat16; of four at once each takes 5.0 and 2.7.
        One of SmolVLM takes 2.8 s and 1.6 s; of four at once 2.9 and 1.8."""
        seen = []
        for done, crop in enumerate(crops, 1):
            with torch.inference_mode():
                seen.append(self._vision.look(crop[None].to(self._place, self._model.dtype)))
            yield done
        with torch.inference_mode():
            rows: Floats = self._vision.arrange(torch.cat(seen), grid).float().cpu().numpy()
        return rows


class Phi3Engine(VisionEngine):
    """Phi-3-vision and Phi-3.5-vision, as the hub has them."""

    def _read(self, folder: Path, numbers: torch.dtype) -> Any:
        model = phi3v.load(folder, numbers).to(self._place)
        self._vision = model.vision
        return model.language

    def _open_eyes(self, folder: Path) -> Eyes:
        return Eyes(
            self._vision.side,
            self._vision.across,
            self._encode,
            most=_most_crops(folder),
            crop=phi3v.crops_of,
        )


class SmolEngine(VisionEngine):
    """SmolVLM, as the hub has it."""

    def _read(self, folder: Path, numbers: torch.dtype) -> Any:
        read = transformers.AutoModelForImageTextToText.from_pretrained
        model: Any = read(folder, dtype=numbers, **SAFE)
        self._vision = smolvlm.Vision(model.model)
        return model.to(self._place)

    def _open_eyes(self, folder: Path) -> Eyes:
        return smolvlm.SmolEyes(folder, self._encode)


def _most_crops(folder: Path) -> int:
    """That the grid of one picture may have: the checkpoint's own word, where it has one."""
    file = folder / "preprocessor_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return int(config.get("num_crops", SINGLE_CROPS))
