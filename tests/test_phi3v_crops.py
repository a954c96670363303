"""Crops by numpy and Pillow, against torch's own interpolation and a cutting of the test's own."""

from __future__ import annotations

import numpy
import PIL.Image
import pytest
import torch

from slm_backends.picture_tokens import phi3_vision_grid
from slm_backends.worker.engines import phi3v_crops
from slm_backends.worker.engines.phi3v_crops import MEAN, STD, crops_of

SIZES = [(336, 336), (1280, 720), (720, 1280), (27, 1000), (2000, 300), (1, 1), (5, 3)]
CLOSE = 1e-6  # of numbers up to 3; another interpolation differs by 0.1 and more


def noise(size: tuple[int, int]) -> PIL.Image.Image:
    pixels = numpy.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype="uint8")
    return PIL.Image.fromarray(pixels)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("most", [1, 4, 16])
@pytest.mark.parametrize("side", [56, 336])
def test_crops_are_the_pieces_of_the_paper_and_the_whole_made_small_as_by_torch(
    size: tuple[int, int], most: int, side: int
) -> None:
    picture = noise(size)
    crops, grid = crops_of(picture, most, side)
    assert grid == phi3_vision_grid(*size, most, side)
    assert crops.dtype == numpy.float32
    assert crops.shape == (grid.crops, 3, side, side)
    paper = torch.from_numpy(phi3v_crops.laid_out(picture, grid, side)).permute(2, 0, 1)
    pixels = (paper / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    whole = torch.nn.functional.interpolate(
        pixels[None], size=(side, side), mode="bicubic", align_corners=False
    )
    assert abs(crops[0] - whole[0].numpy()).max() < CLOSE
    for number, crop in enumerate(crops[1:]):
        top, left = side * (number // grid.columns), side * (number % grid.columns)
        cut = pixels[:, top : top + side, left : left + side]
        assert abs(crop - cut.numpy()).max() < CLOSE


@pytest.mark.parametrize("size", [(300, 80), (80, 300)], ids=str)
def test_a_picture_lies_in_the_middle_of_white_paper(size: tuple[int, int]) -> None:
    grid = phi3_vision_grid(*size, 4, 56)
    paper = phi3v_crops.laid_out(PIL.Image.new("RGB", size, "black"), grid, 56)
    assert paper.shape == (56 * grid.rows, 56 * grid.columns, 3)
    dark = numpy.argwhere(paper[..., 0] == 0)
    (top, left), (bottom, right) = dark.min(axis=0), dark.max(axis=0) + 1
    assert (left, top) == (grid.left, grid.top)
    assert (right - left, bottom - top) == (grid.width, grid.height)
    assert set(numpy.unique(paper)) == {0, 255}
    assert len(dark) == grid.width * grid.height


def test_a_picture_that_lies_gives_the_crops_of_the_same_one_upright() -> None:
    lying = noise((300, 100))
    crops, grid = crops_of(lying, 16, 56)
    turned, other = crops_of(lying.transpose(PIL.Image.Transpose.TRANSPOSE), 16, 56)
    assert (grid.rows, grid.columns) == (other.columns, other.rows)
    tiles = crops[1:].reshape(grid.rows, grid.columns, 3, 56, 56).transpose(1, 0, 2, 4, 3)
    assert abs(tiles.reshape(turned[1:].shape) - turned[1:]).max() < CLOSE
