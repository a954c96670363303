"""How much phi-moe-nano or its twin knows: accuracy by kind of question on fresh lessons.

An answer is right if it is the expected one to the last character. Stories have no right answer:
their perplexity is told, as of every kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer

from recipes.phi_moe_nano import kinds

FRESH = 90_000_000_000  # seeds from here on are not trained on
LESSONS_A_SEED = 1_000_000  # of these


@dataclass(frozen=True)
class Answer:
    """Of one lesson: whether a greedy reply is the expected answer, and what the expected one costs
    in nats; `tokens` of it, its end among them."""

    lesson: kinds.Lesson
    right: bool
    cost: float
    tokens: int


@dataclass(frozen=True)
class Found:
    """Of one kind: right answers of those asked, None where none is the only right one, and the
    perplexity of the expected ones, a token."""

    asked: int
    right: int | None
    perplexity: float


def fresh(kind: str, count: int, seed: int = 0) -> Iterator[kinds.Lesson]:
    first = FRESH + LESSONS_A_SEED * seed
    return (kinds.lesson(number, kind) for number in range(first, first + count))


@torch.inference_mode()
def answer(model: Any, tokenizer: Tokenizer, lesson: kinds.Lesson) -> Answer:
    """Greedy decoding gives the expected answer if each token of it is the likeliest after those
    before it: one pass tells that, and what the answer costs."""
    prompt = tokenizer.encode(f"<|user|>\n{lesson.question}<|end|>\n<|assistant|>\n").ids
    wanted = tokenizer.encode(f"{lesson.answer}<|end|>").ids
    logits = model(torch.tensor([prompt + wanted])).logits[0, len(prompt) - 1 : -1].float()
    targets = torch.tensor(wanted)
    cost = torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
    return Answer(lesson, bool((logits.argmax(-1) == targets).all()), cost, len(wanted))


def summary(answers: Sequence[Answer]) -> Found:
    """Of answers of one kind, at least one."""
    checked = answers[0].lesson.checked
    right = sum(each.right for each in answers) if checked else None
    perplexity = math.exp(sum(each.cost for each in answers) / sum(each.tokens for each in answers))
    return Found(len(answers), right, perplexity)


def examine(model: Any, tokenizer: Tokenizer, count: int, seed: int = 0) -> dict[str, Found]:
    """`count` lessons of each kind."""
    return {
        kind: summary([answer(model, tokenizer, lesson) for lesson in fresh(kind, count, seed)])
        for kind in kinds.KINDS
    }


def table(found: Mapping[str, Found]) -> str:
    return "\n".join(
        f"{kind:12} {'-' if item.right is None else f'{item.right / item.asked:.1%}':>6} "
        f"of {item.asked}  perplexity {item.perplexity:.3f}"
        for kind, item in found.items()
    )
