"""The mixture of experts that comes with the playground, beside its twin without experts.

Knows the notes that training and the benchmark have left in their shipped folders. Reads no weights
and measures nothing: what is slow or takes memory here is measured where it is shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slm_backends import shipped_weights

MIXTURE, TWIN = "phi-moe-nano", "phi-dense-nano"
TRAINING, RESULTS = "training.json", "results.json"

Curve = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Score:
    """Of one kind of question, on fresh ones.

    right       answers that were the expected one to the last character; None where there is no
                one right answer, as of stories
    perplexity  of the expected answers, a token: 1 would be certainty
    """

    asked: int
    right: int | None
    perplexity: float

    @property
    def accuracy(self) -> float | None:
        return None if self.right is None else self.right / self.asked


@dataclass(frozen=True)
class Taught:
    """One of the two, as it was shipped.

    active   parameters that work on a token
    bytes    of its weights on disk
    lessons  that it was taught in `steps`, which took `seconds`
    scores   by kind of question
    """

    model_id: str
    parameters: int
    active: int
    bytes: int
    steps: int
    lessons: int
    seconds: int
    scores: Mapping[str, Score]

    @property
    def deployment_id(self) -> str:
        return f"{self.model_id}@transformers"


@dataclass(frozen=True)
class Comparison:
    """Both were taught the same lessons in the same order, and asked the same questions."""

    mixture: Taught
    twin: Taught


def curves() -> Mapping[str, Curve]:
    """(step, loss) of training by model id: the loss of the answers in nats a token, a mean over
    the steps since the one before it."""
    return {
        model_id: tuple((step, loss) for step, loss in _notes(model_id, TRAINING)["loss"])
        for model_id in (MIXTURE, TWIN)
    }


def comparison() -> Comparison:
    return Comparison(_taught(MIXTURE), _taught(TWIN))


def _taught(model_id: str) -> Taught:
    told = _notes(model_id, TRAINING)
    weights = shipped_weights.folder(model_id) / "model.safetensors"
    return Taught(
        model_id,
        told["parameters"],
        told["active"],
        weights.stat().st_size,
        told["steps"],
        told["lessons"],
        told["seconds"],
        {kind: Score(**score) for kind, score in _notes(model_id, RESULTS)["kinds"].items()},
    )


def _notes(model_id: str, name: str) -> dict[str, Any]:
    file = shipped_weights.folder(model_id) / name
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
