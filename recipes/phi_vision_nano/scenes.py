"""Scenes for a very small vision model: pictures drawn by chance, with questions and true answers.

Knows what is in each picture, since it is drawn here. Knows no model. The same seed gives the same
scene in every process.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from recipes.phi_vision_nano import drawing, words
from recipes.phi_vision_nano.drawing import COLOURS, PLACES, SHAPES, Picture, Thing

#: Of questions: what the accuracy is counted by.
KINDS = (
    "shapes", "colours", "counts", "positions", "numbers", "bars", "which image", "frames",
    "describe", "unknown",
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    kind: str
    question: str
    answer: str


@dataclass
class Scene:
    """`kind` is one of MAKERS, another thing than the kinds of its questions."""

    kind: str
    pictures: list[Picture]
    pairs: list[Pair]


def scene(seed: int, kind: str = "") -> Scene:
    """The scene of that seed: of that kind of scene (MAKERS), or of any."""
    chance = random.Random(seed)
    kind = kind or chance.choices(list(MAKERS), [share for _, share in MAKERS.values()])[0]
    return MAKERS[kind][0](chance)


class _Asker:
    """Gathers the questions about a scene."""

    def __init__(self, chance: random.Random) -> None:
        self.pairs: list[Pair] = []
        self._chance = chance

    def __call__(self, kind: str, template: str, answer: str, **names: str) -> None:
        """`names` are what the template names."""
        self.pairs.append(Pair(kind, words.question(self._chance, template, **names), answer))


def _things(chance: random.Random, count: int, apart: bool = False) -> list[Thing]:
    """Things in different ninths of a picture, in their order; `apart`: of different names."""
    made: list[Thing] = []
    places = chance.sample(range(9), count)
    radius = chance.uniform(0.11, 0.15)
    # Of all names by chance, there would hardly be two things of one colour or shape to count.
    few = chance.random() < 0.5 and not apart
    colours = chance.sample(list(COLOURS), 2 if few else len(COLOURS))
    shapes = chance.sample(SHAPES, 2 if few else len(SHAPES))
    for place in places:
        name = None
        while name is None or (apart and name in {(thing.shape, thing.colour) for thing in made}):
            name = chance.choice(shapes), chance.choice(colours)
        x = (place % 3 + 0.5 + chance.uniform(-0.13, 0.13)) / 3
        y = (place // 3 + 0.5 + chance.uniform(-0.13, 0.13)) / 3
        made.append(Thing(*name, x, y, radius * chance.uniform(0.92, 1.05)))
    return sorted(made, key=lambda thing: thing.place)


def _of_shapes(chance: random.Random) -> Scene:
    things = _things(chance, chance.choice((1, 2, 2, 3, 3, 4, 4, 5, 6)))
    ask = _Asker(chance)
    names = [thing.name for thing in things]
    for thing in things:
        alone = [other for other in things if other.colour == thing.colour] == [thing]
        if alone:
            ask("shapes", "shape of", thing.shape.capitalize(), colour=thing.colour)
        if [other for other in things if other.shape == thing.shape] == [thing]:
            ask("colours", "colour of", thing.colour.capitalize(), shape=thing.shape)
        if names.count(thing.name) == 1:
            ask("positions", "where", PLACES[thing.place].capitalize(), name=thing.name)
        ask("shapes", "what is at", words.sentence([thing.name]), place=PLACES[thing.place])
    for one in things:
        for other in things:
            if one is other or names.count(one.name) > 1 or names.count(other.name) > 1:
                continue
            if abs(one.x - other.x) > 0.2:
                side = "Left" if one.x < other.x else "Right"
                ask("positions", "left or right", side, name=one.name, other=other.name)
            if abs(one.y - other.y) > 0.2:
                side = "Above" if one.y < other.y else "Below"
                ask("positions", "above or below", side, name=one.name, other=other.name)
    ask("counts", "how many", str(len(things)))
    # Not sets, whose order is another one in each process.
    for colour in dict.fromkeys(
        [*(thing.colour for thing in things), chance.choice(list(COLOURS))]
    ):
        count = sum(thing.colour == colour for thing in things)
        ask("counts", "how many of colour", str(count), colour=colour)
    for shape in dict.fromkeys([*(thing.shape for thing in things), chance.choice(SHAPES)]):
        count = sum(thing.shape == shape for thing in things)
        ask("counts", "how many of shape", str(count), shape=shape)
    shown = chance.choice(names)
    ask("shapes", "is there", "Yes", name=shown)
    absent = f"{chance.choice(list(COLOURS))} {chance.choice(SHAPES)}"
    ask("shapes", "is there", "Yes" if absent in names else "No", name=absent)
    if len(things) <= 4:
        for _ in range(2):
            ask("describe", "describe", _description(things))
    ask("unknown", "other", words.UNKNOWN)
    return Scene("shapes", [drawing.picture_of(chance, things)], ask.pairs)


def _description(things: list[Thing]) -> str:
    return words.sentence([f"{thing.name} at the {PLACES[thing.place]}" for thing in things])


def _of_a_number(chance: random.Random) -> Scene:
    text = str(chance.randrange(10 ** chance.choice((1, 2, 2, 3, 3))))
    picture = Picture(drawing.canvas(chance))
    colour = chance.choice([name for name in COLOURS if name != "yellow"])
    size = chance.uniform(0.17, min(0.45, 0.75 / (0.62 * len(text))))
    height = picture.image.height / picture.image.width
    size = min(size, 0.7 * height)
    room = max(0.0, 0.5 - 0.33 * size * len(text) - 0.04)
    x = 0.5 + chance.uniform(-room, room)
    tall = max(0.0, 0.5 - 0.5 * size / height)
    y = 0.5 + chance.uniform(-tall, tall)
    drawing.write(picture, text, x, y, size, drawing.tint(chance, colour), colour)
    ask = _Asker(chance)
    ask("numbers", "number", text)
    ask("numbers", "number", text)
    ask("numbers", "read", text)
    ask("numbers", "read", text)
    ask("colours", "colour of number", colour.capitalize())
    ask("counts", "how many digits", str(len(text)))
    ask("describe", "describe", f"The number {text} in {colour}.")
    ask("unknown", "other", words.UNKNOWN)
    return Scene("a number", [picture], ask.pairs)


def _of_bars(chance: random.Random) -> Scene:
    count = chance.randint(2, 5)
    values = [chance.randint(1, 9) for _ in range(count)]
    picture = Picture(drawing.canvas(chance, chance.choice((1.0, 4 / 3, 4 / 3))))
    many = chance.random() < 0.6
    colours = (
        chance.sample(list(COLOURS), count) if many else [chance.choice(list(COLOURS))] * count
    )
    drawing.bars(chance, picture, values, colours)
    bars = drawing.LETTERS[:count]
    ask = _Asker(chance)
    ask("bars", "how many bars", str(count))
    for pick, template in ((max, "highest"), (min, "lowest")):
        if values.count(pick(values)) == 1:
            found = bars[values.index(pick(values))]
            ask("bars", template, f"Bar {found}")
    for letter, value, colour in zip(bars, values, colours, strict=True):
        ask("bars", "value of bar", str(value), bar=f"bar {letter}")
        if many:
            ask("bars", "value of bar", str(value), bar=f"the {colour} bar")
            ask("colours", "colour of bar", colour.capitalize(), letter=letter)
    rows = [f"| {letter} | {value} |" for letter, value in zip(bars, values, strict=True)]
    table = "\n".join(["| Bar | Value |", "| --- | --- |", *rows])
    ask("bars", "table", table)
    code = words.CODE.format(bars=", ".join(f'"{bar}"' for bar in bars), values=str(values)[1:-1])
    ask("bars", "code", code)
    read = words.listed([f"{letter} {value}" for letter, value in zip(bars, values, strict=True)])
    ask("bars", "read", f"{read}.")
    told = words.listed(
        [f"{letter} is {value}" for letter, value in zip(bars, values, strict=True)]
    )
    about = f"A bar chart with {count} bars: {told}."
    ask("describe", "describe", about)
    ask("unknown", "other", words.UNKNOWN)
    return Scene("bars", [picture], ask.pairs)


def _of_several(chance: random.Random) -> Scene:
    count = chance.choice((2, 2, 3))
    groups = [_things(chance, chance.choice((1, 1, 2, 3)), apart=True) for _ in range(count)]
    aspect = chance.choice(drawing.ASPECTS)
    pictures = [drawing.picture_of(chance, things, aspect) for things in groups]
    ask = _Asker(chance)
    for number, things in enumerate(groups, 1):
        for thing in things:
            where = [n for n, group in enumerate(groups, 1) if thing.name in _names(group)]
            if where == [number]:
                ask("which image", "which shows", f"Image {number}", name=thing.name)
        shown = words.sentence(_names(things))
        ask("which image", "what is in", shown, number=str(number))
        ask("counts", "how many in", str(len(things)), number=str(number))
    sizes = [len(things) for things in groups]
    if sizes.count(max(sizes)) == 1:
        ask("which image", "most", f"Image {sizes.index(max(sizes)) + 1}")
    told = [
        f"Image {number} shows {words.sentence(_names(things), start=False)}"
        for number, things in enumerate(groups, 1)
    ]
    ask("which image", "compare", " ".join(told))
    ask("counts", "how many images", str(count))
    ask("unknown", "other", words.UNKNOWN)
    return Scene("several", pictures, ask.pairs)


def _names(things: list[Thing]) -> list[str]:
    return [thing.name for thing in things]


def _line(thing: Thing, way: str) -> int:
    """The row of ninths, or the column, in which a thing that goes that way stays."""
    return thing.place // 3 if way in ("right", "left") else thing.place % 3


def _of_frames(chance: random.Random) -> Scene:
    count = chance.choice((2, 3, 4))
    way = chance.choice(("right", "left", "up", "down", ""))
    cast = _things(chance, chance.choice((1, 2, 2, 3)), apart=True)
    mover, *others = chance.sample(cast, len(cast))
    if way:  # nothing may stand in it
        others = [thing for thing in others if _line(thing, way) != _line(mover, way)]
    begin, end = chance.uniform(0.14, 0.26), chance.uniform(0.74, 0.86)
    if way in ("left", "up"):
        begin, end = end, begin
    aspect = chance.choice(drawing.ASPECTS)
    pictures = []
    paper = chance.getrandbits(32)
    for number in range(count):
        at = begin + (end - begin) * number / (count - 1)
        x = at if way in ("right", "left") else mover.x
        y = at if way in ("up", "down") else mover.y
        now = Thing(mover.shape, mover.colour, x, y, mover.radius)
        pictures.append(drawing.picture_of(random.Random(paper), [now, *others], aspect))
    name = mover.name
    if way:
        answers = f"The {name}", way.capitalize(), f"The {name} moves {way}."
    else:
        answers = "Nothing", "Nothing moves.", "Nothing moves."
    ask = _Asker(chance)
    for _ in range(2):
        for template, answer in zip(
            ("what moved", "which way", "what happens"), answers, strict=True
        ):
            ask("frames", template, answer)
    if way:
        ask("frames", "which way of", way.capitalize(), name=name)
    ask("counts", "how many images", str(count))
    ask("unknown", "other", words.UNKNOWN)
    return Scene("frames", pictures, ask.pairs)


def _of_nothing_known(chance: random.Random) -> Scene:
    picture = drawing.something_else(chance)
    pairs = [Pair("unknown", words.any_question(chance), words.UNKNOWN) for _ in range(6)]
    return Scene("nothing known", [picture], pairs)


Maker = Callable[[random.Random], Scene]
#: kind of scene -> (its maker, its share)
MAKERS: dict[str, tuple[Maker, float]] = {
    "shapes": (_of_shapes, 0.40),
    "a number": (_of_a_number, 0.12),
    "bars": (_of_bars, 0.17),
    "several": (_of_several, 0.11),
    "frames": (_of_frames, 0.11),
    "nothing known": (_of_nothing_known, 0.09),
}
