"""The tokens of phi-vision-nano."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer

from recipes import tokenizer
from recipes.phi_vision_nano import scenes, words

SIZE = 640


def make(folder: Path) -> Tokenizer:
    """Write tokenizer.json and tokenizer_config.json into `folder`."""
    return tokenizer.make(folder, _texts(), SIZE)


def _texts() -> Iterator[str]:
    chance = random.Random(0)
    for seed in range(1500):
        for pair in scenes.scene(seed).pairs:
            yield pair.question
            yield pair.answer
        yield words.any_question(chance)
