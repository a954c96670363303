"""Draw the sample pictures of the Vision page into ui/samples: the same ones each time.

    python -m scripts.draw_samples          into ui/samples
    python -m scripts.draw_samples DIR      into a folder of your own

Shapes, pairs, bars and frames are scenes as phi-vision-nano knows them; the others are for models
that read. Everything in them is made up. Pillow's own font, so that no file of letters is needed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).resolve().parents[1] / "ui" / "samples"
SMOOTH = 4  # drawn so many times as large and made small, so that edges are smooth

#: The colours of the scenes that the recipe for phi-vision-nano draws.
COLOURS = {
    "red": (215, 38, 38),
    "green": (40, 160, 60),
    "blue": (40, 80, 215),
    "yellow": (240, 205, 30),
    "orange": (240, 135, 25),
    "purple": (130, 50, 170),
    "black": (20, 20, 20),
}
INK = COLOURS["black"]
GREY = (110, 110, 110)

BOUGHT = {"2 Rolls": 180, "1 Rye bread": 420, "1 Apple cake": 350, "1 Coffee": 290}  # cents

Box = tuple[float, float, float, float]
Thing = tuple[str, str, float, float]  # shape, colour, centre in parts of width and height


class Paper:
    """A white picture that is drawn large; all numbers are pixels of the picture as it will be."""

    def __init__(self, width: int, height: int, colour: tuple[int, int, int] = (255,) * 3) -> None:
        self.width, self.height = width, height
        self._large = Image.new("RGB", (width * SMOOTH, height * SMOOTH), colour)
        self._draw = ImageDraw.Draw(self._large)

    def text(
        self, x: float, y: float, text: str, size: float, anchor: str = "mm",
        colour: tuple[int, int, int] = INK,
    ) -> None:  # fmt: skip
        """`anchor` says which point of the text (x, y) is, as in Pillow."""
        font = ImageFont.load_default(size=size * SMOOTH)
        self._draw.text((x * SMOOTH, y * SMOOTH), text, colour, font, anchor=anchor)

    def box(self, box: Box, colour: tuple[int, int, int], radius: float = 0) -> None:
        self._draw.rounded_rectangle(_large(box), radius * SMOOTH, fill=colour)

    def frame(self, box: Box, colour: tuple[int, int, int], width: float, radius: float) -> None:
        line = round(width * SMOOTH)
        self._draw.rounded_rectangle(_large(box), radius * SMOOTH, outline=colour, width=line)

    def line(self, box: Box, colour: tuple[int, int, int] = INK, width: float = 2) -> None:
        self._draw.line(_large(box), colour, round(width * SMOOTH))

    def shape(self, thing: Thing, radius: float) -> None:
        shape, colour, x, y = thing
        fill = COLOURS[colour]
        x, y, radius = (part * SMOOTH for part in (x * self.width, y * self.height, radius))
        if shape == "circle":
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill)
        elif shape == "square":
            radius *= 0.88
            self._draw.rectangle((x - radius, y - radius, x + radius, y + radius), fill)
        else:
            corners = {"triangle": 3, "diamond": 4, "star": 10}[shape]
            points = []
            for corner in range(corners):
                turn = math.tau * corner / corners - math.pi / 2
                reach = radius * (0.42 if shape == "star" and corner % 2 else 1)
                points.append((x + reach * math.cos(turn), y + reach * math.sin(turn)))
            self._draw.polygon(points, fill)

    def done(self) -> Image.Image:
        return self._large.resize((self.width, self.height), Image.Resampling.BOX)


def _large(box: Box) -> list[float]:
    return [part * SMOOTH for part in box]


# --- scenes that phi-vision-nano knows ------------------------------------------------------------


def scene(things: Sequence[Thing]) -> Image.Image:
    paper = Paper(480, 360)
    for thing in things:
        paper.shape(thing, 47)
    return paper.done()


def bars(values: Mapping[str, tuple[int, str]]) -> Image.Image:
    """A bar for each letter, as high as its number says, of its colour."""
    paper = Paper(480, 360)
    ground, top, left, right = 288, 72, 28, 452
    step = (right - left) / len(values)
    for place, (letter, (value, colour)) in enumerate(values.items()):
        x = left + step * (place + 0.5)
        y = ground - (ground - top) * value / 9
        paper.box((x - 0.3 * step, y, x + 0.3 * step, ground), COLOURS[colour])
        paper.text(x, y - 36, str(value), 60)
        paper.text(x, ground + 36, letter, 60)
    paper.line((left, ground, right, ground), width=5)
    return paper.done()


def ball(number: int, frames: int = 4) -> Image.Image:
    """Frame `number` of a ball that crosses the picture; a square stays where it is."""
    x = 0.18 + 0.64 * number / (frames - 1)
    return scene([("square", "blue", 0.5, 0.22), ("circle", "red", x, 0.72)])


# --- what has to be read --------------------------------------------------------------------------


def chart() -> Image.Image:
    """Sales of four quarters, with an axis."""
    paper = Paper(640, 480)
    paper.text(320, 36, "Bicycles sold in 2025", 26)
    ground, left, scale = 410, 80, 0.75  # pixels a bicycle
    for count in range(0, 401, 100):
        y = ground - count * scale
        paper.line((left, y, 600, y), (215, 215, 215), 1)
        paper.text(left - 10, y, str(count), 18, "rm", GREY)
    sold = {"Q1": 120, "Q2": 310, "Q3": 380, "Q4": 190}
    for place, (quarter, count) in enumerate(sold.items()):
        x = 150 + 130 * place
        paper.box((x - 38, ground - count * scale, x + 38, ground), (55, 110, 190))
        paper.text(x, ground - count * scale - 16, str(count), 20)
        paper.text(x, ground + 26, quarter, 22)
    paper.line((left, ground, 600, ground))
    return paper.done()


def table() -> Image.Image:
    paper = Paper(640, 300)
    paper.text(40, 38, "Opening hours", 26, "lm")
    rows = (
        ("Day", "Opens", "Closes", "Visitors"),
        ("Monday", "closed", "", "0"),
        ("Tuesday", "09:00", "17:00", "212"),
        ("Thursday", "09:00", "20:00", "348"),
        ("Saturday", "10:00", "18:00", "590"),
    )
    for number, row in enumerate(rows):
        y = 86 + 42 * number
        if not number:
            paper.box((30, y - 20, 610, y + 20), (228, 234, 242))
        for x, anchor, text in zip((40, 240, 400, 600), ("lm", "lm", "lm", "rm"), row, strict=True):
            paper.text(x, y, text, 21, anchor)
        paper.line((30, y + 21, 610, y + 21), (180, 180, 180), 1)
    return paper.done()


def _euros(cents: int) -> str:
    return f"{cents / 100:.2f}"


def receipt() -> Image.Image:
    paper = Paper(400, 560, (252, 251, 246))
    paper.text(200, 48, "CORNER BAKERY", 28)
    paper.text(200, 84, "12 Mill Lane", 20, colour=GREY)
    paper.text(200, 112, "14.03.2025  09:41", 20, colour=GREY)
    total, paid = sum(BOUGHT.values()), 2_000
    y = 160.0
    for name, price in BOUGHT.items():
        paper.text(36, y, name, 23, "lm")
        paper.text(364, y, _euros(price), 23, "rm")
        y += 40
    paper.line((36, y, 364, y))
    for name, amount, size in (("TOTAL", total, 30), ("Cash", paid, 23),
                               ("Change", paid - total, 23)):  # fmt: skip
        y += 44
        paper.text(36, y, name, size, "lm")
        paper.text(364, y, _euros(amount), size, "rm")
    paper.text(200, 520, "Thank you!", 22, colour=GREY)
    return paper.done()


def sign() -> Image.Image:
    """A street's name in two languages, on one post."""
    paper = Paper(560, 400, (196, 220, 240))
    paper.box((270, 60, 290, 400), (120, 120, 125))
    for y, text in ((120, "Rue de la Gare"), (240, "Bahnhofstrasse")):
        paper.box((60, y - 46, 500, y + 46), (22, 66, 140), 12)
        paper.frame((66, y - 40, 494, y + 40), (255, 255, 255), 3, 9)
        paper.text(280, y, text, 44, colour=(255, 255, 255))
    return paper.done()


TWO = [("circle", "red", 0.22, 0.28), ("triangle", "green", 0.74, 0.7)]
PICTURES: Mapping[str, Callable[[], Image.Image]] = {
    "shapes": lambda: scene(
        [("circle", "red", 0.2, 0.25), ("square", "blue", 0.78, 0.28),
         ("star", "yellow", 0.5, 0.76)]
    ),
    "pair-1": lambda: scene(TWO),
    "pair-2": lambda: scene([*TWO, ("square", "purple", 0.74, 0.24)]),
    "bars": lambda: bars(
        {"A": (4, "blue"), "B": (7, "red"), "C": (2, "green"), "D": (5, "orange")}
    ),
    **{f"frame-{number + 1}": lambda number=number: ball(number) for number in range(4)},  # type: ignore[misc]
    "chart": chart,
    "table": table,
    "receipt": receipt,
    "sign": sign,
}  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        draw().save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
