"""A picture's file without its pixels: size, frames, what a camera wrote, and the rest taken out.

Knows the segments of JPEG, the chunks of PNG and of WEBP. Decodes no pixel and inflates nothing:
so it can say what a decoder would meet before one is started. Sources: ITU-T T.81 annex B, the PNG
specification (third edition) and RFC 9649.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

MAX_SCANS = 100  # of a JPEG; encoders write about ten, each is a walk over the whole picture
MAX_CHUNKS = 100_000  # of a PNG or WEBP; 50 MiB are 6,400 in the pieces that encoders write
MAX_EXIF_BYTES = 65_535  # what fits in a JPEG

_PNG_SIGN = b"\x89PNG\r\n\x1a\n"
_PNG_PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_PNG_NOTES = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # the first marker that ends its data


_Chunk = tuple[bytes, int, int]


class Broken(ValueError):
    """What is wrong with the file, to follow its name in a sentence: "is cut off"."""


@dataclass(frozen=True)
class PictureFile:
    """What a file says of the picture in it.

    data    the file with nothing in it but the picture: no place, camera, comment or preview
    exif    what the camera wrote, as TIFF; empty where it wrote nothing
    notes   whether the file held Exif, XMP or text
    frames  1 where it does not move
    simple  8 bits of red, green and blue, written as every decoder of PNG and JPEG knows it
    """

    width: int
    height: int
    data: bytes
    exif: bytes = b""
    notes: bool = False
    frames: int = 1
    simple: bool = False


def read(kind: str, data: bytes) -> PictureFile:
    """Raises Broken; `kind` is "png", "jpeg" or "webp"."""
    try:
        found = _READERS[kind](data)
    except (struct.error, IndexError):
        raise Broken("is cut off") from None
    if not (found.width and found.height):
        raise Broken("is damaged")
    return found


def _jpeg(data: bytes) -> PictureFile:
    kept = [data[:2]]
    exif, notes, scans, frame = b"", False, 0, b""
    at = 2
    while True:
        if data[at] != 0xFF:
            raise Broken("is damaged")
        while data[at + 1] == 0xFF:  # filling
            at += 1
        marker = data[at + 1]
        if marker == 0xD9:
            kept.append(b"\xff\xd9")
            break
        if marker < 0xC0 or marker == 0xD8 or 0xF0 <= marker <= 0xFD:
            raise Broken("is damaged")
        end = at + 2 + int(struct.unpack_from(">H", data, at + 2)[0])
        body = data[at + 4 : end]
        if end > len(data):
            raise Broken("is cut off")
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif = body
        if marker in (0xE1, 0xED, 0xFE):  # Exif or XMP, IPTC, a comment
            notes = True
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if frame:
                raise Broken("is damaged")
            frame = data[at + 1 : end]
        if marker == 0xDA:
            scans += 1
            if scans > MAX_SCANS:
                raise Broken(f"is written in more than {MAX_SCANS} passes, which no camera does")
            scan_end = _AFTER_SCAN.search(data, end)
            if scan_end is None:
                raise Broken("is cut off")
            end = scan_end.start()
        if _is_picture(marker, body):
            kept.append(data[at:end])
        at = end
    if not frame or not scans:
        raise Broken("is damaged")
    process, bits, height, width, bands = struct.unpack_from(">BxxBHHB", frame)
    simple = process in (0xC0, 0xC1, 0xC2) and bits == 8 and bands == 3
    return PictureFile(width, height, b"".join(kept), exif, notes, simple=simple)


def _is_picture(marker: int, body: bytes) -> bool:
    """Whether a decoder needs it: of what programs add, only which colours the numbers stand for,
    which JFIF without a preview and Adobe's segment say."""
    if marker == 0xE0:
        return body.startswith(b"JFIF\0") and len(body) == 14
    return marker == 0xEE or not (0xE0 <= marker <= 0xEF or marker == 0xFE)


def _png(data: bytes) -> PictureFile:
    kept = [_PNG_SIGN]
    exif, notes, frames = b"", False, 1
    seen: set[bytes] = set()
    for name, start, end in _chunks(data, len(_PNG_SIGN), "big"):
        body = data[start + 8 : end - 4]
        if not seen and name != b"IHDR":
            raise Broken("is damaged")
        seen.add(name)
        if name == b"eXIf" and len(body) <= MAX_EXIF_BYTES:
            exif = body
        elif name == b"acTL":
            frames = struct.unpack_from(">I", body)[0]
        notes |= name in _PNG_NOTES
        if name in _PNG_PICTURE:
            kept.append(data[start:end])
        if name == b"IEND":
            break
    else:
        raise Broken("is cut off")
    if b"IDAT" not in seen:
        raise Broken("is damaged")
    width, height, bits, colours, *_, interlaced = struct.unpack_from(">IIBBBBB", kept[1], 8)
    simple = (bits, colours, interlaced) == (8, 2, 0) and b"tRNS" not in seen
    return PictureFile(width, height, b"".join(kept), exif, notes, max(1, frames), simple)


def _webp(data: bytes) -> PictureFile:
    whole = 8 + int(struct.unpack_from("<I", data, 4)[0])
    if whole > len(data):
        raise Broken("is cut off")
    size: tuple[int, int] | None = None
    exif, notes, frames = b"", False, 0
    for name, start, end in _chunks(data[:whole], 12, "little"):
        body = data[start + 8 : min(end, start + 8 + MAX_EXIF_BYTES)]
        if size is None:  # the first chunk says it, and decoders check the others against it
            size = _webp_size(name, body)
        if name == b"EXIF":
            exif = body
        notes |= name in (b"EXIF", b"XMP ")
        frames += name == b"ANMF"
    if size is None:
        raise Broken("is damaged")
    return PictureFile(*size, data[:whole], exif, notes, max(1, frames))


def _webp_size(name: bytes, body: bytes) -> tuple[int, int]:
    if name == b"VP8X":
        wide, high = body[4:7], body[7:10]
        return int.from_bytes(wide, "little") + 1, int.from_bytes(high, "little") + 1
    if name == b"VP8L":
        bits = int(struct.unpack_from("<I", body, 1)[0])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if name == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    raise Broken("is damaged")


def _chunks(data: bytes, at: int, order: Literal["big", "little"]) -> Iterator[_Chunk]:
    """(name, where it starts, where it ends) of each chunk, those of PNG in "big" order."""
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(data):
            return
        first, second = data[at : at + 4], data[at + 4 : at + 8]
        if order == "big":
            name, body = second, int.from_bytes(first, order)
            end = at + 8 + body + 4  # its checksum
        else:
            name, body = first, int.from_bytes(second, order)
            end = at + 8 + body
        if end > len(data):
            raise Broken("is cut off")
        yield name, at, end
        at = end if order == "big" else end + body % 2  # RIFF fills up to even
    raise Broken(f"is written in more than {MAX_CHUNKS:,} pieces")


_READERS: Mapping[str, Callable[[bytes], PictureFile]] = {
    "jpeg": _jpeg,
    "png": _png,
    "webp": _webp,
}
