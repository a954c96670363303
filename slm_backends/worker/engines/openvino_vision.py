"""Phi-3-vision in OpenVINO's own format: the parts that look, and those that embed words.

The runtime's continuous batching takes a prompt as embeddings, and here they are made: so a picture
is prepared as published, looked at crop by crop, and looked at once for all questions about it. The
runtime's own way takes tags in the text, which a person could type, and makes the whole picture
small otherwise than the model was trained with.

Knows the files of such a folder. Does not know sequences, sampling and text. Imported only for such
a folder: it needs numpy and Pillow.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy

from slm_backends.errors import SLMError
from slm_backends.picture_tokens import Grid
from slm_backends.worker.engines.phi3v_eyes import Eyes, Floats

ARCHITECTURE = "phi3_v"
SIDE, PATCH = 336, 14  # pixels of a crop and of a patch, where config.json names no others


class OpenVINOVision:
    """Pictures to features and tokens to embeddings, on `device`. SLMError for a model of another
    architecture."""

    def __init__(self, folder: Path, device: str) -> None:
        import openvino

        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config["model_type"] != ARCHITECTURE:
            raise SLMError(
                f"Of the models that see, OpenVINO runs {ARCHITECTURE} here, not "
                f"{config['model_type']}.",
                hint="Pick another deployment of this model.",
            )
        core = openvino.Core()
        self._see, self._project, self._embed = (
            core.compile_model(folder / f"openvino_{part}_model.xml", device)
            for part in ("vision_embeddings", "vision_projection", "text_embeddings")
        )
        self._end = numpy.array(config["sub_GN"], dtype=numpy.float32).reshape(1, 1, -1)
        self._between = numpy.array(config["glb_GN"], dtype=numpy.float32).reshape(1, -1)
        about = config.get("img_processor", {}).get("vision_config", {})
        side = int(about.get("image_size", SIDE))
        self._across = side // int(about.get("patch_size", PATCH)) // 2
        self.eyes = Eyes(side, self._across, self._encode)

    def words(self, ids: Any) -> Floats:
        """Embeddings [n, hidden] of token ids [n]."""
        return numpy.array(self._embed(ids[None])[0][0])

    def embeddings(self, prompt: list[int]) -> Floats:
        """Of a whole prompt whose pictures are held: [1, tokens, hidden]."""
        return self.eyes.rows((), prompt, self.words)[None]

    def _encode(self, crops: Floats, grid: Grid) -> Generator[int, None, Floats]:
        seen = []
        for done, crop in enumerate(crops, 1):
            seen.append(numpy.array(self._see(crop[None])[0][0]))
            yield done
        rows = numpy.concatenate(
            [
                self._rows(numpy.stack(seen[1:]), grid.rows, grid.columns),
                self._between,
                self._rows(numpy.stack(seen[:1]), 1, 1),
            ]
        )
        return numpy.array(self._project(rows[None])[0][0])

    def _rows(self, seen: Floats, rows: int, columns: int) -> Floats:
        """Two by two patches become one token; crops are put together; each row gets its end."""
        n = self._across
        tokens = seen.reshape(rows, columns, n, 2, n, 2, -1).transpose(0, 2, 1, 4, 3, 5, 6)
        tokens = tokens.reshape(rows * n, columns * n, -1)
        ends = self._end.repeat(rows * n, axis=0)
        joined: Floats = numpy.concatenate([tokens, ends], axis=1)
        return joined.reshape(-1, joined.shape[-1])
