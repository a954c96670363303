"""Receipts to read: drawn in several layouts, each from a seed, the total known."""

from __future__ import annotations

import io
import random

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from slm_backends.chat import Image

SHOPS = ("CORNER SHOP", "Green Grocer", "BAKERY NORTH", "Cafe Luna", "CITY MARKET")
ITEMS = ("Bread", "Milk", "Apples", "Coffee", "Butter", "Cheese", "Rice", "Tea", "Eggs", "Juice")
TOTALS = ("TOTAL", "Total", "Grand total", "TOTAL DUE", "TOTAL EUR")


def receipt(seed: int) -> tuple[Image, str]:
    """A receipt as a PNG, and its total as it is printed, "12.34"."""
    chance = random.Random(seed)
    prices = {item: chance.randint(80, 1499) for item in chance.sample(ITEMS, chance.randint(3, 6))}
    total = sum(prices.values())
    lines = [(chance.choice(SHOPS), ""), (f"{chance.randint(1, 28):02}.11.2026 14:32", "")]
    for item, price in prices.items():
        lines.append((f"{chance.randint(1, 3)} x {item}" if seed % 2 else item, _money(price)))
    if seed % 3 == 0:
        tax = total * 7 // 107
        lines += [("Subtotal", _money(total - tax)), ("Tax 7%", _money(tax))]
    lines.append((TOTALS[seed % len(TOTALS)], _money(total)))
    if seed % 4 < 2:
        paid = total // 1000 * 1000 + 1000
        lines += [("Cash", _money(paid)), ("Change", _money(paid - total))]
    lines.append(("Thank you!", ""))
    return _drawn(lines, chance), _money(total)


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"


def _drawn(lines: list[tuple[str, str]], chance: random.Random) -> Image:
    size = chance.choice((20, 24, 28))
    width = size * chance.choice((14, 18, 24))
    step = round(size * chance.choice((1.4, 1.8)))
    paper = PIL.Image.new(
        "RGB", (width, step * (len(lines) + 2)), chance.choice(("#fff", "#eee8d8"))
    )
    font = PIL.ImageFont.load_default(size)
    draw = PIL.ImageDraw.Draw(paper)
    for row, (left, right) in enumerate(lines, 1):
        draw.text((size, row * step), left, fill="#222", font=font)
        draw.text((width - size, row * step), right, fill="#222", font=font, anchor="ra")
    askew = chance.uniform(-2, 2)  # degrees
    paper = paper.rotate(askew, PIL.Image.Resampling.BICUBIC, expand=True, fillcolor="#fff")
    written = io.BytesIO()
    paper.save(written, "PNG")
    return Image(written.getvalue())
