"""Phi-3-vision's preprocessing in numpy and Pillow, for runtimes that need no torch.

Knows how a picture becomes crops. Does not know what is seen in them, nor where they stand among
tokens. Source: the preprocessing that is published with the weights, as phi3v.py has it.
"""

from __future__ import annotations

from typing import Any

import numpy
import PIL.Image

from slm_backends.picture_tokens import Grid, phi3_vision_grid

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training pictures: red, green, blue
STD = (0.26862954, 0.26130258, 0.27577711)
SHARPNESS = -0.75  # the a of Keys' cubic convolution (1981), as torch has it

Floats = Any  # a numpy array of float32


def crops_of(picture: PIL.Image.Image, most: int, side: int = 336) -> tuple[Floats, Grid]:
    """Crops [1 + rows * columns, 3, side, side] of an RGB picture, float32: the whole, made small,
    and then those of the grid row by row."""
    grid = phi3_vision_grid(*picture.size, most, side)
    pixels = laid_out(picture, grid, side).astype(numpy.float32) / numpy.float32(255)
    pixels = (pixels - numpy.array(MEAN, numpy.float32)) / numpy.array(STD, numpy.float32)
    whole = _smaller(_smaller(pixels, side).swapaxes(0, 1), side).swapaxes(0, 1)
    cut = pixels.reshape(grid.rows, side, grid.columns, side, 3).transpose(0, 2, 4, 1, 3)
    cut = cut.reshape(-1, 3, side, side)
    return numpy.concatenate([whole.transpose(2, 0, 1)[None], cut]), grid


def laid_out(picture: PIL.Image.Image, grid: Grid, side: int) -> Any:
    """The picture on white paper as large as its grid: bytes [height, width, 3]."""
    upright = picture.width < picture.height
    size = (grid.height, grid.width) if upright else (grid.width, grid.height)
    # As published, an upright picture is resized lying on its side: rounding then is the same.
    turn = PIL.Image.Transpose.TRANSPOSE
    lying = picture.transpose(turn) if upright else picture
    resized = lying.resize(size, PIL.Image.Resampling.BILINEAR)
    resized = resized.transpose(turn) if upright else resized
    paper = PIL.Image.new("RGB", (side * grid.columns, side * grid.rows), "white")
    paper.paste(resized, (grid.left, grid.top))
    return numpy.array(paper)


def _smaller(pixels: Floats, side: int) -> Floats:
    """As `pixels` [length, ...], but `side` long: cubic interpolation between four neighbours, as
    torch does it without `align_corners` and `antialias`."""
    length = len(pixels)
    middle = (numpy.arange(side) + 0.5) * (length / side) - 0.5
    first = numpy.floor(middle)
    beyond = (middle - first).astype(numpy.float32)
    result = numpy.zeros((side, *pixels.shape[1:]), dtype=numpy.float32)
    for step in range(-1, 3):
        weight = _cubic(numpy.abs(beyond - numpy.float32(step)))
        neighbour = numpy.clip(first + step, 0, length - 1).astype(int)
        result += weight.reshape(-1, *[1] * (pixels.ndim - 1)) * pixels[neighbour]
    return result


def _cubic(distance: Floats) -> Floats:
    """Keys' kernel, for distances from 0 to 2."""
    a = numpy.float32(SHARPNESS)
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return numpy.where(distance <= 1, near, far).astype(numpy.float32)
