"""Trains phi-moe-nano, or its dense twin, from nothing on lessons that kinds.py makes.

    python -m recipes.phi_moe_nano.train FOLDER [--twin] [--steps 2600] [--seed 1]

Both are taught the same lessons in the same order by the same number of steps. Lessons and first
weights follow from the seed. What training has reached is kept in FOLDER/training.pt now and then,
and written as a runtime reads it (export.py) at the end.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from recipes.phi_moe_nano import examine, export, kinds, layout, tokens

ROW = 160  # tokens of a row: lessons one after the other, as turns of a conversation
ROWS = 24
SYSTEM = ("You are a helpful assistant.", "You are a helpful AI assistant.", "Answer briefly.")
SYSTEM_SHARE = 0.15  # of the rows begin with a system prompt
UNTAUGHT = -100  # what PyTorch's cross entropy leaves out
RISE = 200  # steps until the learning rate is reached
LEAST = 0.02  # of the rate, at the end
NOTED = 20  # steps between two notes of the loss
TOLD_SECONDS, KEPT_SECONDS, EXAMINED_SECONDS = 20, 120, 600


class Lessons(IterableDataset):  # type: ignore[type-arg]
    """Endless batches: (ids, targets), [ROWS, at most ROW] each; then what the next seed is."""

    def __init__(self, tokenizer: Tokenizer, first: int) -> None:
        self._tokenizer = tokenizer
        self._seed = first

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        while True:
            rows = [self._row() for _ in range(ROWS)]
            length = max(len(ids) for ids, _ in rows)
            ids = torch.tensor([row + [0] * (length - len(row)) for row, _ in rows])
            wanted = torch.tensor([row + [UNTAUGHT] * (length - len(row)) for _, row in rows])
            yield ids, wanted, self._seed

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return found

    def _row(self) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        wanted: list[int] = []
        chance = random.Random(self._seed)
        if chance.random() < SYSTEM_SHARE:
            ids = self._ids(f"<|system|>\n{chance.choice(SYSTEM)}<|end|>\n")
            wanted = [UNTAUGHT] * len(ids)
        while True:
            made = kinds.lesson(self._seed)
            prompt = self._ids(f"<|user|>\n{made.question}<|end|>\n<|assistant|>\n")
            answer = self._ids(f"{made.answer}<|end|>")
            if ids and len(ids) + len(prompt) + len(answer) + 1 > ROW:
                return ids, wanted
            self._seed += 1
            after = self._ids("\n")
            ids = ids + prompt + answer + after
            # A token's target is the one after it: answers begin at the prompt's last one.
            wanted = wanted + [UNTAUGHT] * (len(prompt) - 1) + answer
            wanted = wanted + [UNTAUGHT] * (1 + len(after))


def step(
    model: Any, optimizer: torch.optim.Optimizer, ids: torch.Tensor, wanted: torch.Tensor
) -> tuple[float, float]:
    """Learn one batch; (loss of the answers, how unevenly experts were loaded) before that. The
    second is 1 for an even load and 0 without experts."""
    moe = hasattr(model.config, "num_local_experts")
    more = {"output_router_logits": True} if moe else {}
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(ids, use_cache=False, **more)
        asked = wanted != UNTAUGHT
        logits = model.lm_head(hidden.last_hidden_state[asked]).float()
    loss = nn.functional.cross_entropy(logits, wanted[asked])
    uneven = torch.zeros(())
    if moe:
        uneven = torch.stack([_uneven(scores) for scores in hidden.router_logits]).mean()
    optimizer.zero_grad(set_to_none=True)
    (loss + layout.BALANCE * uneven).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item(), uneven.item()


def _uneven(scores: torch.Tensor) -> torch.Tensor:
    """The load loss of Switch Transformers (Fedus et al., arXiv 2101.03961, equation 4) for the
    experts of one layer, with the first choices: 1 for an even load, up to their number.
    `scores` are the router's, [tokens, experts]."""
    likely = scores.float().softmax(-1)
    count = scores.shape[-1]
    first = nn.functional.one_hot(scores.argmax(-1), count).float().mean(0)
    return count * (first * likely.mean(0)).sum()


def share_of_rate(number: int, passed: float) -> float:
    """The share of the learning rate for a step: it rises for RISE steps, and falls by a cosine
    over the whole training, of which `passed` is over."""
    falling = 0.5 * (1 + math.cos(math.pi * passed))
    return min(1, (number + 1) / RISE) * (LEAST + (1 - LEAST) * falling)


def train(given: argparse.Namespace) -> None:
    torch.manual_seed(given.seed)
    torch.set_num_threads(given.threads)
    tokenizer = tokens.make(given.folder)
    model = (layout.twin if given.twin else layout.mixture)(tokenizer.get_vocab_size())
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=given.rate, betas=(0.9, 0.95), weight_decay=0.05
    )
    kept = given.folder / export.KEPT
    number, seed = 0, kinds.LESSONS_A_SEED * given.seed
    curve: list[tuple[int, float]] = []
    seconds = 0.0
    if given.resume:
        state = torch.load(kept, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        number, seed, curve, seconds = (
            state["number"], state["seed"], state["curve"], state["seconds"]
        )  # fmt: skip
    model.train()
    begun = told = saved = examined = time.monotonic()
    already, learnt, recent = seconds, 0, []
    loader = DataLoader(Lessons(tokenizer, seed), batch_size=None, num_workers=1, prefetch_factor=8)
    for ids, wanted, seed in loader:
        if number >= given.steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = given.rate * share_of_rate(number, number / given.steps)
        loss, uneven = step(model, optimizer, ids, wanted)
        number += 1
        learnt += ids.numel()
        recent.append(loss)
        if number % NOTED == 0:
            curve.append((number, round(sum(recent) / len(recent), 4)))
            recent = []
        now = time.monotonic()
        seconds = already + now - begun
        if now - told > TOLD_SECONDS:
            told = now
            print(
                f"{seconds / 60:5.1f} min  step {number}  loss {loss:.3f}  uneven {uneven:.2f}  "
                f"{learnt / (now - begun):,.0f} tokens/s",
                flush=True,
            )
        if now - saved > KEPT_SECONDS or number == given.steps:
            saved = now
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"number": number, "seed": seed, "curve": curve, "seconds": seconds}
            torch.save(state, kept.with_suffix(".part"))
            kept.with_suffix(".part").replace(kept)
        if now - examined > EXAMINED_SECONDS:
            examined = now
            print(examine.table(examine.examine(model.eval(), tokenizer, 40)), flush=True)
            model.train()
    export.export(given.folder, given.folder)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--twin", action="store_true", help="the dense one")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="go on from FOLDER/training.pt")
    train(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
