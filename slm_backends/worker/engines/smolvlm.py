"""SmolVLM, whose architecture is Idefics3: its pictures as crops, as tokens and as embeddings.

Knows the published preprocessing and the tokens that stand around each crop. The network is that of
Transformers. Does not know prompts, caches or sampling. Imports torch, so only those who need a
model import this module.

Sources: the checkpoints' preprocessor_config.json; the SmolVLM report (arXiv 2504.05299).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import PIL.Image
import tokenizers
import torch

from slm_backends.picture_tokens import Grid, SmolSight
from slm_backends.worker.engines.phi3v_eyes import Encode, Eyes
from slm_backends.worker.pieces import Picture

AROUND, WHOLE = "<fake_token_around_image>", "<global-img>"
MIDDLE = 0.5  # of the range of each colour: taken off, and what the rest is divided by


class SmolEyes(Eyes):
    """Eyes of the model in `folder`. A picture looks the same alone and with others."""

    def __init__(self, folder: Path, encode: Encode) -> None:
        self._sight = sight_of(folder)
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        super().__init__(self._sight.side, self._sight.across, encode, most=1, crop=self._cut)

    def _spelled(self, picture: Picture, place: int) -> list[int]:
        (grid,) = self._sight.grids([(picture.width, picture.height)])
        seen = [place] * self._sight.across**2
        tokens: list[int] = []
        for row in range(1, grid.rows + 1):
            for column in range(1, grid.columns + 1):
                above = "\n" if row > 1 and column == 1 else ""
                tokens += [*self._ids(f"{above}{AROUND}<row_{row}_col_{column}>"), *seen]
        above = "\n\n" if grid.rows else ""
        return [*tokens, *self._ids(above + AROUND + WHOLE), *seen, *self._ids(AROUND)]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _cut(self, picture: PIL.Image.Image, most: int, side: int) -> tuple[torch.Tensor, Grid]:
        return crops_of(picture, self._sight)


class Vision:
    """What sees in `model`, an Idefics3Model or a SmolVLMModel."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def look(self, crops: torch.Tensor) -> torch.Tensor:
        """Rows among the embeddings [n, tokens, hidden] of crops [n, 3, side, side]."""
        seen = self._model.vision_model(pixel_values=crops).last_hidden_state
        rows: torch.Tensor = self._model.connector(seen)
        return rows

    def arrange(self, seen: torch.Tensor, grid: Grid) -> torch.Tensor:
        """One picture's rows [tokens, hidden] from those of its crops, which are in order."""
        return seen.flatten(0, 1)


def sight_of(folder: Path) -> SmolSight:
    """How the model in `folder` sees, from its configuration."""
    config = _json(folder / "config.json")
    given = _json(folder / "preprocessor_config.json")
    side = int(given["max_image_size"]["longest_edge"])
    return SmolSight(
        long=int(given["size"]["longest_edge"]),
        side=side,
        across=side // int(config["vision_config"]["patch_size"]) // int(config["scale_factor"]),
        split=bool(given.get("do_image_splitting", True)),
    )


def crops_of(picture: PIL.Image.Image, sight: SmolSight) -> tuple[torch.Tensor, Grid]:
    """Crops [rows * columns + 1, 3, side, side] of an RGB picture, float32: those of the grid row
    by row, and then the whole, made small."""
    (grid,) = sight.grids([picture.size])
    lanczos = PIL.Image.Resampling.LANCZOS
    # Twice, as published, with rounding in between.
    picture = picture.resize(sight.resized(*picture.size), lanczos)
    picture = picture.resize((grid.width, grid.height), lanczos)
    side = sight.side
    places = [(row, column) for row in range(grid.rows) for column in range(grid.columns)]
    crops = [
        picture.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
        for row, column in places
    ]
    crops.append(picture.resize((side, side), lanczos))
    pixels = torch.from_numpy(numpy.stack([numpy.asarray(crop) for crop in crops]))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - MIDDLE) / MIDDLE, grid


def _json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content
