"""Seconds per megapixel that reading the text in a picture takes.

Time goes by lines of text more than by pixels, so that pages with few and with many lines are told
apart; the first picture also pays for the process and the models.
"""

from __future__ import annotations

import io
import statistics

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from slm_backends import ocr
from slm_backends.chat import Image

SIZES = ((640, 480), (1_600, 1_200))
LINES = (1, 16)
ROUNDS = 3


def page(width: int, height: int, lines: int, seed: int) -> Image:
    """`lines` lines of some thirty letters; another `seed` makes another picture."""
    picture = PIL.Image.new("RGB", (width, height), "white")
    draw = PIL.ImageDraw.Draw(picture)
    step = height / (lines + 1)
    font = PIL.ImageFont.load_default(max(10, min(width / 24, step * 0.6)))
    for number in range(lines):
        draw.text(
            (10, step * (number + 0.5)), f"{seed}-{number} The quick brown fox runs", "black", font
        )
    written = io.BytesIO()
    picture.save(written, "PNG")
    return Image(written.getvalue())


def main() -> None:
    first = ocr.read(page(640, 480, 8, 99)).seconds
    print(f"first picture, models loaded: {first:.2f} s", flush=True)
    for width, height in SIZES:
        for lines in LINES:
            read = [ocr.read(page(width, height, lines, seed)) for seed in range(ROUNDS)]
            seconds = statistics.median(reading.seconds for reading in read)
            found = statistics.median(len(reading.rows) for reading in read)
            print(
                f"{width:5} x {height:<5} {lines:3} lines, {found:3.0f} found: {seconds:6.2f} s, "
                f"{seconds / read[0].megapixels:6.2f} s per megapixel",
                flush=True,
            )


if __name__ == "__main__":
    main()
