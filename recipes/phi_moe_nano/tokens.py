"""The tokens of phi-moe-nano and its twin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer

from recipes import tokenizer
from recipes.phi_moe_nano import kinds

SIZE = 1024


def make(folder: Path) -> Tokenizer:
    """Write tokenizer.json and tokenizer_config.json into `folder`."""
    return tokenizer.make(folder, _texts(), SIZE)


def _texts() -> Iterator[str]:
    for seed in range(6000):
        made = kinds.lesson(seed)
        yield made.question
        yield made.answer
