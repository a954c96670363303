"""What a file is, by its first bytes: its name may say anything.

Knows the signs of pictures, videos and what people mix up with them. Reads nothing past the signs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

LOOKED_AT = 512  # bytes from the beginning that are enough for every sign

#: kind -> how a sentence names it
NAMES: Mapping[str, str] = {
    "png": "a PNG picture",
    "jpeg": "a JPEG picture",
    "webp": "a WEBP picture",
    "gif": "a GIF",
    "bmp": "a BMP picture",
    "tiff": "a TIFF picture",
    "heic": "a HEIC picture",
    "avif": "an AVIF picture",
    "svg": "an SVG drawing",
    "mp4": "an MP4 or QuickTime video",
    "webm": "a WebM or Matroska video",
    "avi": "an AVI video",
    "audio": "a sound",
    "pdf": "a PDF",
    "zip": "an archive or an office document",
    "html": "a web page",
    "text": "a text",
    "empty": "empty",
    "": "of an unknown kind",
}
PICTURES = ("png", "jpeg", "webp")
VIDEOS = ("mp4", "webm", "gif")

#: kind -> how a name ends that tells the truth about it
ENDINGS: Mapping[str, tuple[str, ...]] = {
    "png": (".png", ".apng"),
    "jpeg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "webp": (".webp",),
}

_SIGNS = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"\x1a\x45\xdf\xa3", "webm"),
    (b"ID3", "audio"),
    (b"OggS", "audio"),
    (b"fLaC", "audio"),
    (b"%PDF-", "pdf"),
    (b"PK\x03\x04", "zip"),
    (b"\x1f\x8b", "zip"),
)
_RIFF = {b"WEBP": "webp", b"AVI ": "avi", b"WAVE": "audio"}
_BRANDS = {b"avif": "avif", b"avis": "avif", b"M4A ": "audio", b"M4B ": "audio"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"), "heic"
)
_BOXES = (b"moov", b"mdat", b"wide", b"free", b"skip", b"moof", b"styp")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def kind(data: bytes) -> str:
    """One of NAMES. `data` may be the beginning of the file, of LOOKED_AT bytes."""
    start = data[:LOOKED_AT]
    if not start:
        return "empty"
    for sign, found in _SIGNS:
        if start.startswith(sign):
            return found
    if start.startswith(b"RIFF"):
        return _RIFF.get(start[8:12], "")
    if start[4:8] == b"ftyp":
        return _BRANDS.get(start[8:12], "mp4")
    if start[4:8] in _BOXES:  # QuickTime, before there were brands
        return "mp4"
    return _written(start)


def _written(start: bytes) -> str:
    if _CONTROL.search(start):
        return ""
    lower = start.lower()
    if b"<svg" in lower:
        return "svg"
    if lower.lstrip().startswith((b"<!doctype html", b"<html")):
        return "html"
    try:
        start[:-3].decode("utf-8")  # the last character may be cut in two
    except UnicodeDecodeError:
        return ""
    return "text"
