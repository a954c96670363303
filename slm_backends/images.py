"""Pictures from outside: looked at before they are decoded, made sound, refused with a reason.

Knows formats, limits and what can be wrong with an image file. Does not know models, pages or where
the bytes came from.

A picture keeps its bytes where every runtime can decode them, less what says more than the picture
does (the place where it was taken, comments, previews). Any other is decoded and written again: as
8 bits of red, green and blue, turned as it was held, on white where one could see through it.
"""

from __future__ import annotations

import contextlib
import io
import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from slm_backends import file_kinds, picture_file
from slm_backends.chat import MAX_IMAGE_BYTES, MAX_IMAGES, Image
from slm_backends.errors import BadRequest

MAX_FILE_BYTES = 50 * 2**20
#: A 50-megapixel camera's picture passes. Decoding takes 4 to 8 bytes a pixel, for WEBP 16.
MAX_PIXELS = {"png": 50_000_000, "jpeg": 50_000_000, "webp": 25_000_000}
LARGE_PIXELS = 10_000_000  # such pictures are decoded one at a time, whoever asks
MAX_SIDE = 5_376  # 16 crops of 336 pixels in a row: more than Phi-3-vision can look at is lost
CROWDED_SIDE = 1_344  # 4 x 4 crops of 336 pixels: of several pictures it looks at fewer still
PNG_BYTES = 2 * 2**20  # of a picture written again: past them, and
PNG_PIXELS = 6_000_000  # past these, JPEG
QUALITY = 95  # of that JPEG, with all of its colours: near what a camera writes
SHEET_SIDE = 1_344  # of a contact sheet, at most: what fits into 16 crops
SHEET_GAP = 4  # white pixels between its pictures
NAMED = 10  # pictures that were left out are named up to so many

_Picture = PIL.Image.Image
_one_at_a_time = threading.Lock()
_ORIENTATION = 0x0112
#: Exif's orientation -> how to turn the picture, as in CIPA DC-008
_TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Opened:
    """A file that became a picture of `width` x `height` pixels; `notes` says, a sentence each,
    what was done to it."""

    image: Image
    width: int
    height: int
    notes: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True)
class Several:
    """Of files that came together: those that are in, in their order, and why others are not."""

    opened: tuple[Opened, ...]
    refused: tuple[BadRequest, ...]


def sound(image: Image) -> tuple[Image, int, int]:
    """The image of a request as one that every runtime can decode as it is, with its width and
    height in pixels. BadRequest with the reason where it cannot be read."""
    found = opened(image.data)
    return found.image, found.width, found.height


def opened(data: bytes, name: str = "", *, side: int = MAX_SIDE) -> Opened:
    """A file that somebody chose, as an image that every runtime can decode.

    data  PNG, JPEG or WEBP, by its content; of one that moves the first frame
    name  of the file, for messages
    side  pixels; a picture with a longer one is made smaller

    BadRequest where it is none of these, broken, or past a limit.
    """
    if len(data) > MAX_FILE_BYTES:
        raise _refused(
            name,
            f"has {len(data) / 2**20:,.0f} MiB; a picture may have {MAX_FILE_BYTES // 2**20}",
            "Make it smaller, then add it again.",
        )
    kind = file_kinds.kind(data)
    if kind not in file_kinds.PICTURES:
        raise _wrong_kind(name, kind)
    try:
        file = picture_file.read(kind, data)
    except picture_file.Broken as broken:
        raise _refused(name, str(broken), "Save it again as PNG or JPEG.") from None
    pixels = file.width * file.height
    if pixels > MAX_PIXELS[kind]:
        raise _refused(
            name,
            f"has {pixels / 10**6:,.1f} million pixels; {file_kinds.NAMES[kind]} may have "
            f"{MAX_PIXELS[kind] // 10**6} million",
            "Make it smaller, then add it again.",
        )
    with _one_at_a_time if pixels > LARGE_PIXELS else contextlib.nullcontext():
        return _made(name, kind, file, side)


def _made(name: str, kind: str, file: picture_file.PictureFile, side: int) -> Opened:
    size = (file.width, file.height)
    notes = _said_about(file, kind, name)
    turn = _TURNS.get(_orientation(file.exif))
    with _decoded(name, kind, file) as picture:
        if file.simple and turn is None and max(size) <= side:
            return Opened(Image(file.data, f"image/{kind}"), *size, tuple(notes), name)
        notes += _said_of_pixels(picture)
        if max(size) > side:
            small = _shrunk(picture, side)
            notes.append(f"Made smaller: {_size(size)} to {_size(small.size)} pixels.")
        else:
            small = picture
        made = on_white(small)
    if turn is not None:
        made = made.transpose(turn)
        notes.append("Turned as the camera was held.")
    return Opened(encoded(made), *made.size, tuple(notes), name)


def several(files: Iterable[tuple[str, bytes]], before: Sequence[Image] = ()) -> Several:
    """Files that came together, (name, content) each, beside the pictures that were there before.

    The first that fit are kept; those past the number that a conversation may have are left out by
    name. Where the files have too many bytes together, the large ones are made smaller first.
    """
    files = list(files)
    places = max(0, MAX_IMAGES - len(before))
    room = MAX_IMAGE_BYTES - sum(len(image.data) for image in before)
    crowded = sum(len(data) for _, data in files[:places]) > room
    kept: list[Opened] = []
    refused: list[BadRequest] = []
    left_out: list[str] = []
    for name, data in files:
        if len(kept) == places:
            left_out.append(name)
            continue
        try:
            found = opened(data, name, side=CROWDED_SIDE if crowded else MAX_SIDE)
        except BadRequest as reason:
            refused.append(reason)
            continue
        if len(found.image.data) > room:
            refused.append(
                _refused(
                    name,
                    f"does not fit: the pictures of a conversation may have "
                    f"{MAX_IMAGE_BYTES // 2**20} MiB together",
                    "Make it smaller, or remove others.",
                )
            )
            continue
        room -= len(found.image.data)
        kept.append(found)
    if left_out:
        refused.append(_too_many(left_out))
    return Several(tuple(kept), tuple(refused))


def contact_sheet(images: Sequence[Image], columns: int | None = None) -> Image:
    """One picture with all of them in order, row by row, numbered from 1 in a corner.

    columns  those that show the pictures largest where it is not given

    The sheet's sides have at most SHEET_SIDE pixels. ValueError without a picture.
    """
    if not images:
        raise ValueError("a contact sheet of no picture")
    pictures = [_shrunk(_read_again(image), SHEET_SIDE) for image in images]
    columns, cell_width, cell_height = _cells([picture.size for picture in pictures], columns)
    sheet = PIL.Image.new(
        "RGB", _sheet_size(len(pictures), columns, cell_width, cell_height), "white"
    )
    for place, picture in enumerate(pictures):
        picture.thumbnail((cell_width, cell_height))
        left = place % columns * (cell_width + SHEET_GAP)
        top = place // columns * (cell_height + SHEET_GAP)
        sheet.paste(picture, (left, top))
        _write_number(sheet, place + 1, left, top, cell_height)
    return encoded(sheet)


def sheet_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Width and height of the contact sheet of pictures of these sizes, but for a pixel that
    rounding may take."""
    shrink = [min(1.0, SHEET_SIDE / max(size)) for size in sizes]
    small = [
        (max(1, round(width * by)), max(1, round(height * by)))
        for (width, height), by in zip(sizes, shrink, strict=True)
    ]
    return _sheet_size(len(small), *_cells(small, None))


def _cells(sizes: Sequence[tuple[int, int]], columns: int | None) -> tuple[int, int, int]:
    """How many columns a contact sheet has, and the width and height of each of its cells."""
    wide, high = max(width for width, _ in sizes), max(height for _, height in sizes)
    count = len(sizes)

    def scale(columns: int) -> float:
        rows = math.ceil(count / columns)
        across = (SHEET_SIDE - SHEET_GAP * (columns - 1)) / (columns * wide)
        down = (SHEET_SIDE - SHEET_GAP * (rows - 1)) / (rows * high)
        return min(1.0, across, down)

    def longest(columns: int) -> int:
        return max(columns * wide, math.ceil(count / columns) * high)

    columns = columns or max(
        range(1, count + 1), key=lambda number: (scale(number), -longest(number))
    )
    by = scale(columns)
    return columns, max(1, int(wide * by)), max(1, int(high * by))


def _sheet_size(count: int, columns: int, cell_width: int, cell_height: int) -> tuple[int, int]:
    return (
        columns * (cell_width + SHEET_GAP) - SHEET_GAP,
        math.ceil(count / columns) * (cell_height + SHEET_GAP) - SHEET_GAP,
    )


def thumbnail(image: Image, side: int) -> bytes:
    """The picture as a JPEG for a page, its sides at most `side` pixels."""
    return jpeg(_shrunk(_read_again(image), side)).data


def encoded(picture: _Picture) -> Image:
    """An RGB picture as PNG, or, where that would be large, as JPEG."""
    if picture.width * picture.height <= PNG_PIXELS:
        written = io.BytesIO()
        picture.save(written, "PNG")
        if written.tell() <= PNG_BYTES:
            return Image(written.getvalue(), "image/png")
    return jpeg(picture)


def jpeg(picture: _Picture) -> Image:
    """An RGB picture as JPEG."""
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=QUALITY, subsampling=0)
    return Image(written.getvalue(), "image/jpeg")


def on_white(picture: _Picture) -> _Picture:
    """A picture of any mode in RGB."""
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        return picture.convert("I").point(lambda value: value / 257).convert("L").convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    seen = picture.convert("RGBA")
    paper = PIL.Image.new("RGB", seen.size, "white")
    paper.paste(seen, mask=seen)
    return paper


def _decoded(name: str, kind: str, file: picture_file.PictureFile) -> _Picture:
    """The whole picture: a file whose header is good may still be broken further on."""
    try:
        picture = PIL.Image.open(io.BytesIO(file.data), formats=(kind.upper(),))
        if picture.size != (file.width, file.height):
            raise ValueError("two sizes")
        picture.load()
    except MemoryError:
        raise _refused(
            name, "needs more memory than there is", "Close other programs, or make it smaller."
        ) from None
    except Exception:  # what Pillow raises for broken files has many types, and grows
        raise _refused(name, "is damaged or cut off", "Save it again as PNG or JPEG.") from None
    return picture


def _read_again(image: Image) -> _Picture:
    found, _, _ = sound(image)
    return PIL.Image.open(io.BytesIO(found.data), formats=("PNG", "JPEG"))


def _shrunk(picture: _Picture, side: int) -> _Picture:
    """At most `side` pixels wide and high, its aspect kept; never enlarged."""
    if picture.mode in ("1", "P", "PA") or picture.mode.startswith("I"):  # cannot be averaged
        picture = picture.convert("RGBA") if picture.has_transparency_data else on_white(picture)
    picture.thumbnail((side, side), reducing_gap=2.0)
    return picture


def _orientation(exif: bytes) -> int:
    """1 where the camera said nothing that can be read."""
    tags = PIL.Image.Exif()
    try:
        tags.load(exif)
        return int(tags.get(_ORIENTATION, 1))
    except Exception:  # what Pillow raises here is not fixed either
        return 1


def _said_about(file: picture_file.PictureFile, kind: str, name: str) -> list[str]:
    notes = []
    ending = PurePath(name).suffix.lower()
    if ending and ending not in file_kinds.ENDINGS[kind]:
        notes.append(f"It is {file_kinds.NAMES[kind]}, whatever its name says.")
    if file.frames > 1:
        notes.append(f"The first of {file.frames:,} frames.")
    if file.notes:
        notes.append("What the file said beside the picture, as its place or camera, was removed.")
    return notes


def _said_of_pixels(picture: _Picture) -> list[str]:
    if picture.mode == "CMYK":
        return ["Its colours for print (CMYK) became those of a screen."]
    if picture.mode.startswith("I"):
        return ["Its 16 bits a pixel became 8."]
    if picture.has_transparency_data:
        return ["Where one sees through it, it became white."]
    return []


def _write_number(sheet: _Picture, number: int, left: int, top: int, height: int) -> None:
    """In the picture's upper left corner, white on black."""
    font = PIL.ImageFont.load_default(max(10, height // 12))
    draw = PIL.ImageDraw.Draw(sheet)
    x0, y0, x1, y1 = draw.textbbox((left + 3, top + 2), str(number), font)
    draw.rectangle((left, top, x1 + 3, y1 + 3), "black")
    draw.text((left + 3, top + 2), str(number), "white", font)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]:,} x {size[1]:,}"


def _refused(name: str, what: str, hint: str) -> BadRequest:
    return BadRequest(f"{name or 'The picture'} {what}.", field="messages", hint=hint)


def _wrong_kind(name: str, kind: str) -> BadRequest:
    hint = "A picture must be PNG, JPEG or WEBP."
    if kind in file_kinds.VIDEOS:
        hint = "Add it as a video: pictures are taken from it."
    elif kind in ("bmp", "tiff", "heic", "avif", "svg", "pdf"):
        hint = "Save it as PNG or JPEG, then add that."
    return _refused(name, f"is {file_kinds.NAMES[kind]}", hint)


def _too_many(names: Sequence[str]) -> BadRequest:
    listed = ", ".join(names[:NAMED])
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    were = "one was" if len(names) == 1 else f"{len(names)} were"
    return BadRequest(
        f"A conversation may have at most {MAX_IMAGES} images: {were} left out ({listed}{more}).",
        field="messages",
        hint="Remove some, or put several into one contact sheet.",
    )
