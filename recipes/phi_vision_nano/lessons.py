"""Scenes as a model is taught them: batches of pictures, tokens, what is to be said and seen.

All pairs of a scene stand behind its pictures in one sequence, each with positions and a view of
its own, so that what a picture costs is paid once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from tokenizers import Tokenizer
from torch.utils.data import IterableDataset

from recipes.phi_vision_nano import drawing, scenes, words
from recipes.phi_vision_nano.layout import CELLS, CROPS, PATCH, SIDE, SLOTS
from slm_backends.picture_tokens import phi3_vision_grid
from slm_backends.worker.engines import phi3v

BATCH = 8  # scenes with one picture; fewer of those with more
ROOM = 120  # tokens of the pairs that are asked of a scene, but for one that is longer
FOLLOWS = 0.15  # of the pairs are asked after another one, as in a conversation
SYSTEM = 0.15  # of the batches stand behind a system prompt
BLIND = 0.12  # of the scenes also bring a question that is asked without a picture
MISFIT = 0.12  # of the scenes bring a question about what their pictures cannot have
ALONE = -2  # the group of what is asked without a picture
UNTAUGHT = -100  # what PyTorch's cross entropy leaves out


@dataclass
class Batch:
    """Scenes with equally many pictures.

    pixels  [scenes, pictures, 2 * SIDE, 2 * SIDE, 3], bytes
    labels  [scenes, pictures, 3, CELLS, CELLS]: sign, colour and ninth of each place
    ids     [scenes, length]: -1 at a picture's places
    target  [scenes, length]: the token that follows, where it belongs to an answer, or UNTAUGHT
    place   [scenes, length]: positions
    group   [scenes, length]: 0 the beginning that most see, 1.. the pairs, -1 nothing, and below
            that what is asked without a picture: it sees itself alone
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor
    target: torch.Tensor
    place: torch.Tensor
    group: torch.Tensor


class Lessons(IterableDataset):  # type: ignore[type-arg]
    """Endless batches of scenes whose seeds count up from `first`."""

    def __init__(self, tokenizer: Tokenizer, first: int) -> None:
        self._first = first
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def __iter__(self) -> Iterator[Batch]:
        waiting: dict[int, list[scenes.Scene]] = {}
        seed = self._first
        while True:
            made = scenes.scene(seed)
            seed += 1
            group = waiting.setdefault(len(made.pictures), [])
            group.append(made)
            if len(group) * (1 + len(made.pictures)) >= 2 * BATCH:
                del waiting[len(made.pictures)]
                yield self._batch(group, random.Random(seed))

    def _ids(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return self._known[text]

    def _batch(self, group: list[scenes.Scene], chance: random.Random) -> Batch:
        # All scenes of a batch stand behind the same words.
        system = words.system_prompt(chance) if chance.random() < SYSTEM else ""
        rows = [self._row(item, system, chance) for item in group]
        length = max(len(row[0]) for row in rows)
        columns = []
        for column, nothing in enumerate((0, UNTAUGHT, 0, -1)):
            columns.append(
                torch.tensor([row[column] + [nothing] * (length - len(row[0])) for row in rows])
            )
        pixels = numpy.stack([[laid_out(p) for p in item.pictures] for item in group])
        labels = numpy.stack([[labels_of(p) for p in item.pictures] for item in group])
        return Batch(torch.from_numpy(pixels), torch.from_numpy(labels), *columns)

    def _row(
        self, item: scenes.Scene, system: str, chance: random.Random
    ) -> tuple[list[int], list[int], list[int], list[int]]:
        """One scene's ids, target, place and group."""
        ids = self._ids(f"<|system|>\n{system}<|end|>\n") if system else []
        ids = ids + self._ids("<|user|>\n")
        for number in range(len(item.pictures)):
            ids = ids + (self._ids("\n") if number else []) + [-1] * SLOTS
        begin = len(ids)
        target = [UNTAUGHT] * begin
        place = list(range(begin))
        group = [0] * begin
        pairs = chance.sample(item.pairs, len(item.pairs))
        misfit = words.misfit(chance, item.kind) if chance.random() < MISFIT else None
        if misfit:
            pairs.insert(0, scenes.Pair("unknown", misfit, words.NOT_THERE))
        for number, pair in enumerate(pairs, 1):
            follows = len(ids) > begin and chance.random() < FOLLOWS
            asked = ("<|user|>\n" if follows else "\n") + pair.question
            prompt = self._ids(f"{asked}<|end|>\n<|assistant|>\n")
            answer = self._ids(f"{pair.answer}<|end|>")
            after = self._ids("\n")
            if len(ids) > begin and len(ids) + len(prompt) + len(answer) + 1 > begin + ROOM:
                continue
            at = place[-1] + 1 if follows else begin
            own = group[-1] if follows else number
            added = prompt + answer + after
            ids = ids + added
            # A token's target is the one after it: answers begin at the prompt's last one.
            target += [UNTAUGHT] * (len(prompt) - 1) + answer + [UNTAUGHT] * (1 + len(after))
            place += range(at, at + len(added))
            group += [own] * len(added)
        if chance.random() < BLIND:
            prompt = self._ids(f"<|user|>\n{words.any_question(chance)}<|end|>\n<|assistant|>\n")
            answer = self._ids(f"{words.UNKNOWN}<|end|>")
            ids = ids + prompt + answer
            target += [UNTAUGHT] * (len(prompt) - 1) + answer + [UNTAUGHT]
            place += range(len(prompt) + len(answer))
            group += [ALONE] * (len(prompt) + len(answer))
        return ids, target, place, group


def laid_out(picture: drawing.Picture) -> Any:
    """The picture on its white paper, as crops_of lays it out: [2 * SIDE, 2 * SIDE, 3] bytes."""
    return phi3v.laid_out(picture.image, phi3_vision_grid(*picture.image.size, CROPS, SIDE), SIDE)


def labels_of(picture: drawing.Picture) -> Any:
    """What is drawn at each of a picture's tokens: [3, CELLS, CELLS], sign, colour and, of shapes,
    in which ninth of the picture they are; 0: none.

    A sign is where its middle is. A colour is there and, but for characters, wherever it fills.
    """
    grid = phi3_vision_grid(*picture.image.size, CROPS, SIDE)
    labels = numpy.zeros((3, CELLS, CELLS), dtype=numpy.int64)
    cell = 2 * PATCH
    middles = (numpy.arange(CELLS) + 0.5) * cell
    for mark in picture.marks:
        x, y = grid.left + mark.x * grid.width, grid.top + mark.y * grid.height
        tint = 1 + list(drawing.COLOURS).index(mark.colour)
        if mark.sign in ("", *drawing.SHAPES):
            away = numpy.maximum(abs(middles[:, None] - y), abs(middles[None, :] - x))
            labels[1, away < mark.radius * grid.width] = tint
        row, column = min(int(y / cell), CELLS - 1), min(int(x / cell), CELLS - 1)
        labels[1, row, column] = tint
        if mark.sign:
            labels[0, row, column] = drawing.SIGNS.index(mark.sign)
        if mark.sign in drawing.SHAPES:
            labels[2, row, column] = 1 + drawing.place_of(mark.x, mark.y)
    return labels
