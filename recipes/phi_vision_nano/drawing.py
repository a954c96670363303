"""Pictures of shapes, characters and bars, drawn so that it is known what is where.

Knows colours, shapes and places. Knows no questions; scenes.py asks them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

COLOURS = {
    "red": (220, 30, 35),
    "orange": (250, 140, 10),
    "yellow": (245, 215, 20),
    "green": (30, 150, 50),
    "blue": (30, 80, 215),
    "purple": (135, 40, 160),
    "black": (20, 20, 20),
    "grey": (140, 140, 140),
}
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
LETTERS = "ABCDE"
#: The ninths of a picture, row by row.
PLACES = (
    "top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom",
    "bottom right",
)  # fmt: skip
#: What may stand at a place of a picture; the first is for what has no sign, as a bar.
SIGNS = ("", *SHAPES, *"0123456789", *LETTERS)
PAPER = ("white", "white", "white", (250, 246, 235), (238, 243, 250), (244, 244, 244))
WIDTHS = (96, 96, 96, 192, 320, 480)  # pixels; larger ones are made small like a photograph
ASPECTS = (1.0, 1.0, 4 / 3, 4 / 3, 3 / 2, 16 / 9, 3 / 4)

#: What is on a page of text.
FILLER = (
    "the of and to in is that for it was on as with be by at from this have or which you had not "
    "are but we his they one all were her she there would their him been has when who will no more"
)


@dataclass(frozen=True)
class Thing:
    """A shape. Its centre is given in parts of the picture's width and height, its radius in parts
    of the shorter of them."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float = 0.13

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def place(self) -> int:
        """Of PLACES."""
        return place_of(self.x, self.y)


def place_of(x: float, y: float) -> int:
    """Of PLACES: in which ninth of a picture it is; both are parts of its width and height."""
    return min(int(y * 3), 2) * 3 + min(int(x * 3), 2)


class Mark(NamedTuple):
    """One of SIGNS, drawn around (x, y): parts of the picture's width and height. `radius` is a
    part of its width."""

    sign: str
    x: float
    y: float
    radius: float
    colour: str


@dataclass
class Picture:
    image: PIL.Image.Image
    marks: list[Mark] = field(default_factory=list)


def canvas(chance: random.Random, aspect: float = 0.0) -> PIL.Image.Image:
    """Empty paper of some size; `aspect`: width by height, where 0 leaves it to chance."""
    width = chance.choice(WIDTHS)
    height = round(width / (aspect or chance.choice(ASPECTS)))
    return PIL.Image.new("RGB", (width, height), chance.choice(PAPER))


def tint(chance: random.Random, colour: str) -> tuple[int, ...]:
    """That colour, or nearly: red, green, blue."""
    return tuple(min(255, max(0, part + chance.randint(-12, 12))) for part in COLOURS[colour])


def put(thing: Thing, image: PIL.Image.Image, fill: tuple[int, ...]) -> None:
    """Drawn several times as large and made small, so that edges are smooth at any size."""
    width, height = image.size
    radius = thing.radius * min(width, height)
    zoom = 4 if width < 300 else 2
    side = math.ceil(2 * radius) + 2
    mask = PIL.Image.new("L", (side * zoom, side * zoom), 0)
    pen = PIL.ImageDraw.Draw(mask)
    middle, r = side * zoom / 2, radius * zoom
    if thing.shape == "circle":
        pen.ellipse((middle - r, middle - r, middle + r, middle + r), fill=255)
    elif thing.shape == "square":
        r *= 0.88
        pen.rectangle((middle - r, middle - r, middle + r, middle + r), fill=255)
    elif thing.shape == "cross":
        arm = 0.32 * r
        pen.rectangle((middle - r, middle - arm, middle + r, middle + arm), fill=255)
        pen.rectangle((middle - arm, middle - r, middle + arm, middle + r), fill=255)
    else:
        corners = {"triangle": 3, "diamond": 4, "star": 10}[thing.shape]
        points = []
        for corner in range(corners):
            far = r * (0.42 if thing.shape == "star" and corner % 2 else 1.0)
            angle = 2 * math.pi * corner / corners - math.pi / 2
            points.append((middle + far * math.cos(angle), middle + far * math.sin(angle)))
        pen.polygon(points, fill=255)
    mask = mask.resize((side, side), PIL.Image.Resampling.BOX)
    corner_x = round(thing.x * width - side / 2)
    corner_y = round(thing.y * height - side / 2)
    image.paste(PIL.Image.new("RGB", mask.size, fill), (corner_x, corner_y), mask)


def picture_of(chance: random.Random, things: Sequence[Thing], aspect: float = 0.0) -> Picture:
    picture = Picture(canvas(chance, aspect))
    width, height = picture.image.size
    for thing in things:
        put(thing, picture.image, tint(chance, thing.colour))
        radius = thing.radius * min(width, height) / width
        picture.marks.append(Mark(thing.shape, thing.x, thing.y, radius, thing.colour))
    return picture


@cache
def font_of(size: int) -> PIL.ImageFont.FreeTypeFont:
    return PIL.ImageFont.load_default(size)  # type: ignore[return-value]


def write(
    picture: Picture, text: str, x: float, y: float, size: float, fill: tuple[int, ...], colour: str
) -> None:
    """Put a text around (x, y). `size`, of its characters, is a part of the picture's width;
    `fill` is the tint of `colour`."""
    width, height = picture.image.size
    font = font_of(max(6, round(size * width)))
    pen = PIL.ImageDraw.Draw(picture.image)
    left = x * width - font.getlength(text) / 2
    for character in text:
        advance = font.getlength(character)
        pen.text((left + advance / 2, y * height), character, fill=fill, font=font, anchor="mm")
        if character in SIGNS:
            middle = (left + advance / 2) / width
            picture.marks.append(Mark(character, middle, y, 0.3 * size, colour))
        left += advance


def bars(
    chance: random.Random, picture: Picture, values: Sequence[int], colours: Sequence[str]
) -> None:
    """A chart of bars A, B, ... with values from 0 to 9 above them."""
    width, height = picture.image.size
    pen = PIL.ImageDraw.Draw(picture.image)
    size = chance.uniform(0.115, 0.135)
    label = size * width / height  # of the height
    left, right, base, top = 0.06, 0.94, 1 - 1.2 * label, 1.2 * label
    step = (right - left) / len(values)
    bar = step * chance.uniform(0.45, 0.7)
    black = COLOURS["black"]
    for place, (value, colour) in enumerate(zip(values, colours, strict=True)):
        x = left + step * (place + 0.5)
        y = base - (base - top) * value / 9
        box = (x - bar / 2) * width, y * height, (x + bar / 2) * width, base * height
        pen.rectangle(box, fill=tint(chance, colour))
        picture.marks.append(Mark("", x, (y + base) / 2, bar / 2, colour))
        write(picture, str(value), x, y - 0.6 * label, size, black, "black")
        write(picture, LETTERS[place], x, base + 0.6 * label, size, black, "black")
    line = (left * width, base * height, right * width, base * height)
    pen.line(line, fill=black, width=max(1, width // 96))


def something_else(chance: random.Random) -> Picture:
    """Noise, clouds, runs of colour, lines, pages of text: what stands for photographs."""
    picture = Picture(canvas(chance))
    size = picture.image.size
    dice = numpy.random.default_rng(chance.getrandbits(32))
    look = chance.choice(("noise", "clouds", "clouds", "run", "lines", "page"))
    if look == "noise":
        noise = dice.integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8)
        picture.image = PIL.Image.fromarray(noise)
    elif look == "clouds":
        small = dice.integers(0, 256, (*(chance.randint(3, 14),) * 2, 3), dtype=numpy.uint8)
        picture.image = PIL.Image.fromarray(small).resize(size, PIL.Image.Resampling.BICUBIC)
        if chance.random() < 0.5:
            grain = dice.normal(0, chance.uniform(4, 25), (size[1], size[0], 1))
            grained = numpy.asarray(picture.image) + grain
            picture.image = PIL.Image.fromarray(grained.clip(0, 255).astype(numpy.uint8))
    elif look == "run":
        ends = dice.integers(0, 256, (2, 2, 3), dtype=numpy.uint8)
        picture.image = PIL.Image.fromarray(ends).resize(size, PIL.Image.Resampling.BILINEAR)
    else:
        pen = PIL.ImageDraw.Draw(picture.image)
        for line in range(chance.randint(6, 16)):
            if look == "lines":
                points = [(chance.uniform(0, size[0]), chance.uniform(0, size[1])) for _ in "1234"]
                fill = tuple(int(part) for part in dice.integers(0, 220, 3))
                pen.line(points, fill=fill, width=max(1, size[0] // chance.randint(24, 96)))
            else:
                text = " ".join(chance.choice(FILLER.split()) for _ in range(6))
                font = font_of(max(6, round(0.07 * size[0])))
                pen.text((0.04 * size[0], 0.085 * size[0] * line), text, "black", font)
    return picture
