"""Trains phi-vision-nano from nothing on drawn scenes.

    python -m recipes.phi_vision_nano.train FOLDER [--minutes 75] [--warm-up 20] [--seed 1]

Two kinds of lessons. Halfway through the language model, each token of a picture says what is drawn
at its place, in which row, column and ninth: without that, positions and digits are hardly ever
learnt by a model of this size. That is taught alone for the minutes of the warm-up, and then beside
the other: the language model answers questions.

Scenes and first weights follow from the seed. How many scenes are seen follows from the minutes and
the machine; `--steps` fixes their number instead.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

from recipes.phi_vision_nano import drawing, examine, layout, tokens
from recipes.phi_vision_nano.layout import ACROSS, CELLS, SIDE, SLOTS
from recipes.phi_vision_nano.lessons import ALONE, Batch, Lessons
from slm_backends.worker.engines import phi3v

SEEN = 2  # layers of the language model after which a picture's tokens say what is there
LEAST = 0.02  # of the rate, at the end
SAYS = (1.0, 0.5, 0.1, 0.1, 0.5)  # weights of signs, colours, rows, columns and ninths
NOTHING = (0.1, 0.3, 1.0, 1.0, 0.1)  # of the first class of each: most places are empty
DENSE = (1.0, 0.2)  # weight of what places say, at first and at the end
TOLD_SECONDS, KEPT_SECONDS, EXAMINED_SECONDS = 20, 120, 480
HIDDEN = -1e9  # added to what must not be seen
SCENES_A_SEED = 10_000_000


class Pupil(nn.Module):
    """The model, and what is thrown away after the training."""

    def __init__(self, model: phi3v.Phi3Vision) -> None:
        super().__init__()
        self.model = model
        hidden = model.config["hidden_size"]
        self.tells = nn.ModuleList(
            nn.Linear(hidden, count)
            for count in (
                len(drawing.SIGNS),
                1 + len(drawing.COLOURS),
                CELLS,
                CELLS,
                1 + len(drawing.PLACES),
            )
        )

    def pictures(self, pixels: torch.Tensor) -> torch.Tensor:
        """As look() and arrange() of the model, of many pictures of two by two crops at once:
        [pictures, 2 * SIDE, 2 * SIDE, 3] bytes -> [pictures, SLOTS, hidden]."""
        vision = self.model.vision
        count, n = len(pixels), ACROSS
        crops = phi3v.cut(pixels, SIDE)  # [pictures, 5, 3, SIDE, SIDE]
        seen = vision.look(crops.flatten(0, 1)).unflatten(0, (count, -1))
        grid = seen[:, 1:].reshape(count, 2, 2, n, 2, n, 2, -1).permute(0, 1, 3, 2, 5, 4, 6, 7)
        grid = grid.reshape(count, CELLS, CELLS, -1)
        grid = torch.cat([grid, vision.sub_GN.expand(count, CELLS, 1, -1)], 2).flatten(1, 2)
        whole = seen[:, 0].reshape(count, n, 2, n, 2, -1).permute(0, 1, 3, 2, 4, 5)
        whole = whole.reshape(count, n, n, -1)
        whole = torch.cat([whole, vision.sub_GN.expand(count, n, 1, -1)], 2).flatten(1, 2)
        middle = vision.glb_GN.expand(count, 1, -1)
        rows: torch.Tensor = vision.img_projection(torch.cat([grid, middle, whole], 1))
        return rows

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(loss of the answers, loss of what places say, share of signs told rightly)."""
        features = self.pictures(batch.pixels.flatten(0, 1)).flatten(0, 1)
        flat = self.model.embed(batch.ids.flatten(), features)
        hidden = told = flat.reshape(*batch.ids.shape, -1)
        language = self.model.language
        mask = _mask(batch.group).to(hidden.dtype)
        rotary = language.model.rotary_emb(hidden, batch.place)
        for number, layer in enumerate(language.model.layers, 1):
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_ids=batch.place,
                position_embeddings=rotary,
            )
            if number == SEEN:
                told = hidden
        hidden = language.model.norm(hidden)
        asked = batch.target >= 0
        logits = language.lm_head(hidden[asked]).float()
        answers = nn.functional.cross_entropy(logits, batch.target[asked])
        return answers, *self._said(told[batch.ids < 0], batch.labels)

    def look(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The last two of forward(): each picture by itself, through half of the model."""
        features = self.pictures(batch.pixels.flatten(0, 1))
        language = self.model.language.model
        begin = language.embed_tokens(batch.ids[:1, : batch.ids[0].tolist().index(-1)])
        hidden = torch.cat([begin.expand(len(features), -1, -1), features], 1)
        length = hidden.shape[1]
        mask = torch.full((length, length), HIDDEN).triu(1)[None, None].to(hidden.dtype)
        rotary = language.rotary_emb(hidden, torch.arange(length)[None])
        for layer in language.layers[:SEEN]:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary)
        return self._said(hidden[:, -SLOTS:], batch.labels)

    def _said(self, told: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss, share of signs told rightly) of the tokens of pictures, [..., hidden]."""
        count = labels.shape[0] * labels.shape[1]
        grid = told.reshape(count, SLOTS, -1)[:, : CELLS * (CELLS + 1)]
        grid = grid.reshape(count, CELLS, CELLS + 1, -1)[:, :, :CELLS]
        signs, colours, ninths = labels.flatten(0, 1).unbind(1)
        rows = torch.arange(CELLS)[None, :, None].expand(count, -1, CELLS)
        columns = torch.arange(CELLS)[None, None, :].expand(count, CELLS, -1)
        loss = torch.zeros(())
        for tell, wanted, weight, nothing in zip(
            self.tells, (signs, colours, rows, columns, ninths), SAYS, NOTHING, strict=True
        ):
            logits = tell(grid).float().flatten(0, 2)
            each = torch.ones(logits.shape[-1])
            each[0] = nothing
            loss = loss + weight * nn.functional.cross_entropy(logits, wanted.flatten(), each)
        there = signs > 0
        right = (self.tells[0](grid[there]).argmax(-1) == signs[there]).float().mean()
        return loss, right


def _mask(group: torch.Tensor) -> torch.Tensor:
    """What is added to attention [scenes, 1, length, length]: all see the beginning, but for what
    is asked without a picture, and a pair sees itself. What is nothing does too, or its attention
    would be over nothing at all."""
    length = group.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    begin = (group[:, None, :] == 0) & (group[:, :, None] != ALONE)
    view = begin | (group[:, None, :] == group[:, :, None])
    return torch.zeros(len(group), 1, length, length).masked_fill_(
        ~(view & causal)[:, None], HIDDEN
    )


def step(
    pupil: Pupil, optimizer: torch.optim.Optimizer, batch: Batch, dense: float, only_look: bool
) -> tuple[float, float, float]:
    """Learn one batch; what forward() says of it before. With `only_look` no answer is learnt."""
    # The plain kernel: the other's way back takes a third of all time at these sizes.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        if only_look:
            answers, (places, right) = torch.zeros(()), pupil.look(batch)
        else:
            answers, places, right = pupil(batch)
    optimizer.zero_grad(set_to_none=True)
    (answers + dense * places).backward()
    nn.utils.clip_grad_norm_(pupil.parameters(), 1.0)
    optimizer.step()
    return answers.item(), places.item(), right.item()


def share_of_rate(number: int, rise: int, passed: float) -> float:
    """The share of the learning rate for a step, when that part of the time has passed: it rises
    for `rise` steps, and falls from a tenth of the time on."""
    falling = 0.5 * (1 + math.cos(math.pi * max(0.0, passed - 0.1) / 0.9))
    return min(1, (number + 1) / rise) * (LEAST + (1 - LEAST) * falling)


def train(given: argparse.Namespace) -> None:
    torch.manual_seed(given.seed)
    torch.set_num_threads(given.threads)
    tokenizer = tokens.make(given.folder)
    layout.write_beside(given.folder)
    pupil = Pupil(phi3v.Phi3Vision(layout.config(tokenizer.get_vocab_size())))
    optimizer = torch.optim.AdamW(
        pupil.parameters(), lr=given.rate, betas=(0.9, 0.98), weight_decay=0.02
    )
    kept = given.folder / "training.pt"
    done = 0
    if given.resume:
        state = torch.load(kept, weights_only=True)
        pupil.load_state_dict(state["pupil"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["scenes"]
    lessons = Lessons(tokenizer, SCENES_A_SEED * given.seed + done)
    begun = told = saved = examined = time.monotonic()
    for number, batch in enumerate(
        DataLoader(lessons, batch_size=None, num_workers=1, prefetch_factor=8)
    ):
        now = time.monotonic()
        minutes = (now - begun) / 60
        passed = number / given.steps if given.steps else minutes / given.minutes
        if passed >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = given.rate * share_of_rate(number, given.rise, passed)
        first, last = DENSE
        dense = first + (last - first) * passed
        only_look = passed < given.warm_up / given.minutes
        answers, places, right = step(pupil, optimizer, batch, dense, only_look)
        done += len(batch.ids)
        if now - told > TOLD_SECONDS:
            told = now
            print(
                f"{minutes:5.1f} min  step {number}  scenes {done}  answers {answers:.3f}  "
                f"places {places:.3f}  signs {right:.0%}",
                flush=True,
            )
        if now - saved > KEPT_SECONDS:
            saved = now
            _keep(pupil, optimizer, done, kept)
        if now - examined > EXAMINED_SECONDS and not only_look:
            examined = now
            seeds = range(examine.FRESH, examine.FRESH + 60)
            found = examine.examine(pupil.model.eval(), tokenizer, seeds)
            print(examine.table(found), flush=True)
            pupil.train()
    _keep(pupil, optimizer, done, kept)
    phi3v.save(pupil.model.to(torch.bfloat16), given.folder)


def _keep(pupil: Pupil, optimizer: Any, done: int, file: Path) -> None:
    state = {"pupil": pupil.state_dict(), "optimizer": optimizer.state_dict(), "scenes": done}
    torch.save(state, file)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument(
        "--warm-up", type=float, default=20, help="minutes of them for places alone"
    )
    parser.add_argument("--steps", type=int, default=0, help="so many, instead of all the minutes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--rise", type=int, default=300, help="steps until the rate is reached")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from FOLDER/training.pt")
    train(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
