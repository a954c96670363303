"""How many tokens a picture takes in a model's context, by arithmetic alone.

Knows how each architecture cuts a picture into crops and what it puts between them. Loads no
runtime and decodes nothing: sizes are given in pixels. So the page can say what a picture costs
before anything is loaded, and an engine lays out its prompt with the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Size = tuple[int, int]  # width and height in pixels

SINGLE_CROPS, SEVERAL_CROPS = 16, 4  # Phi-3.5-vision's own advice, for one picture and for more


@dataclass(frozen=True)
class Grid:
    """Where a picture comes to lie: `rows` x `columns` crops, in pixels `width` x `height` of it.

    `left` and `top` pixels before it, and what is missing behind it, are white. Without rows only
    the whole picture made small is looked at.
    """

    rows: int
    columns: int
    width: int
    height: int
    left: int
    top: int

    @property
    def crops(self) -> int:
        """How many are computed: those of the grid, and the whole picture made small."""
        return self.rows * self.columns + 1


def phi3_vision_grid(width: int, height: int, crops: int, side: int = 336) -> Grid:
    """The grid of Phi-3-vision's preprocessing, as published with its weights; aspect is kept.

    crops  that the grid may have at most; `side` is a crop's, in pixels
    """
    upright = width < height
    long, short = (height, width) if upright else (width, height)
    ratio = long / short
    count = 1
    while (count + 1) * math.ceil((count + 1) / ratio) <= crops:
        count += 1
    new_long = side * count
    new_short = max(1, int(new_long / ratio))  # a hair of a picture is still there
    across = math.ceil(new_short / side)
    before = (across * side - new_short) // 2
    if upright:
        return Grid(count, across, new_short, new_long, before, 0)
    return Grid(across, count, new_long, new_short, 0, before)


def phi3_vision_tokens(grid: Grid, across: int = 12) -> int:
    """Tokens of a picture: those of all crops, the whole one included, one at the end of each row
    of tokens, and one between the grid and the whole.

    across  tokens along a crop's side: 12 where it has 24 patches
    """
    return grid.crops * across**2 + 1 + (grid.rows + 1) * across


@dataclass(frozen=True)
class Sight:
    """How models of Phi-3-vision's architecture see: crops of `side` pixels, `across` tokens along
    it, at most `single` of them in the grid of one picture and `several` in those of more. Past
    `bound` tokens the rotary factors are the long ones: the published were trained on so many."""

    single: int = SINGLE_CROPS
    several: int = SEVERAL_CROPS
    side: int = 336
    across: int = 12
    bound: int = 4_096

    def grids(self, sizes: Sequence[Size]) -> list[Grid]:
        """Of each picture of a conversation, from the sizes of all of them."""
        most = self.single if len(sizes) == 1 else self.several
        return [phi3_vision_grid(*size, most, self.side) for size in sizes]

    def tokens(self, grid: Grid) -> int:
        return phi3_vision_tokens(grid, self.across)

    def told(self, grid: Grid) -> str:
        """How the tokens of a picture add up."""
        return (
            f"({grid.rows} x {grid.columns} + 1) crops x {self.across**2} "
            f"+ {grid.rows + 1} x {self.across} for the ends of rows + 1"
        )


@dataclass(frozen=True)
class SmolSight:
    """How SmolVLM sees: a picture's longer side is made `long` pixels, then both are stretched to
    whole crops of `side` pixels, `across` tokens along it. Where that is one crop, or pictures are
    not to be `split`, the whole alone is seen. Others in the conversation make no difference. The
    rotary factors are the same for any length.

    Source: the preprocessing that is published with the weights.
    """

    long: int = 2_048
    side: int = 512
    across: int = 8
    split: bool = True
    bound: int = 0

    def grids(self, sizes: Sequence[Size]) -> list[Grid]:
        """Of each picture of a conversation."""
        return [self._grid(*self.resized(*size)) for size in sizes]

    def resized(self, width: int, height: int) -> Size:
        """Its size before it is stretched: the shorter side becomes an even number of pixels."""
        ratio = width / height
        short = int(self.long / ratio) if width >= height else int(self.long * ratio)
        short = max(1, short + short % 2)
        return (self.long, short) if width >= height else (short, self.long)

    def tokens(self, grid: Grid) -> int:
        """Those of all crops, two before each, the end of each row, and one behind the whole."""
        return grid.crops * (self.across**2 + 2) + grid.rows + 1

    def told(self, grid: Grid) -> str:
        """How the tokens of a picture add up."""
        return (
            f"({grid.rows} x {grid.columns} + 1) crops x ({self.across**2} + 2) "
            f"+ {grid.rows} for the ends of rows + 1"
        )

    def _grid(self, width: int, height: int) -> Grid:
        along = math.ceil(self.long / self.side)
        ratio = width / height
        if width >= height:
            columns, rows = along, math.ceil(int(along * self.side / ratio) / self.side)
        else:
            columns, rows = math.ceil(int(along * self.side * ratio) / self.side), along
        if rows == columns == 1 or not self.split:
            return Grid(0, 0, self.side, self.side, 0, 0)
        return Grid(rows, columns, columns * self.side, rows * self.side, 0, 0)


#: What a model's `sight` in the catalog may be.
SIGHTS: Mapping[str, Sight | SmolSight] = {
    "phi-3-vision": Sight(),
    "phi-vision-nano": Sight(single=4, several=4, side=48, across=3),
    "smolvlm": SmolSight(),
}
