"""Makers of picture and video files: sound ones, odd ones and broken ones, for whoever takes files.

Everything is drawn here and written by Pillow and PyAV; what no program writes is patched in.
"""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image

ORIENTATION, GPS, MAKE = 0x0112, 0x8825, 0x010F


def drawn(width: int = 64, height: int = 48, mode: str = "RGB") -> PIL.Image.Image:
    """Red above left, green above right, blue below left, white below right."""
    picture = PIL.Image.new("RGB", (width, height), "white")
    half = (-(-width // 2), -(-height // 2))  # of a single pixel all
    picture.paste("blue", (0, 0, half[0], height))
    picture.paste("lime", (0, 0, width, half[1]))
    picture.paste("red", (0, 0, *half))
    return picture.convert(mode)


def written(picture: PIL.Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def read(data: bytes) -> PIL.Image.Image:
    """Any picture, decoded."""
    picture = PIL.Image.open(io.BytesIO(data))
    picture.load()
    return picture


def chunk(name: bytes, body: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """Put behind the header."""
    return png[:33] + b"".join(chunks) + png[33:]


def mended(data: bytes) -> bytes:
    """A PNG with checksums that are right again, as far as its chunks can be followed: what reads
    it gets past them. Other files as they are."""
    if not data.startswith(b"\x89PNG"):
        return data
    made, at = data[:8], 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        made += chunk(data[at + 4 : at + 8], data[at + 8 : end])
        at = end + 4
    return made + data[at:]


def mutated(data: bytes, seeds: random.Random) -> bytes:
    """One to three places of it changed, taken out or doubled."""
    changed = bytearray(data)
    for _ in range(seeds.randint(1, 3)):
        at = seeds.randrange(len(changed))
        change = seeds.randrange(4)
        if change == 0:
            changed[at] = seeds.randrange(256)
        elif change == 1:
            changed[at : at + 4] = seeds.choice([bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff"])
        elif change == 2:
            del changed[at : at + seeds.randint(1, 40)]
        else:
            changed[at:at] = changed[: seeds.randint(1, 200)]
    return mended(bytes(changed))


def camera_notes(orientation: int = 1) -> PIL.Image.Exif:
    """What a telephone writes: how it was held, its maker and where it was."""
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    exif[MAKE] = "SECRETPHONE"
    exif.get_ifd(GPS)[2] = (52.0, 31.0, 12.0)
    return exif


def photograph(orientation: int = 1, width: int = 64, height: int = 48) -> bytes:
    """A JPEG as a telephone writes it, with a preview, a comment and XMP."""
    return written(
        drawn(width, height),
        "JPEG",
        quality=95,
        subsampling=0,
        exif=camera_notes(orientation),
        xmp=b"<x:xmpmeta>SECRETPLACE</x:xmpmeta>",
        comment=b"SECRETCOMMENT",
    )


def sixteen_bits(value: int, width: int = 8, height: int = 8) -> bytes:
    """A grey PNG of 16 bits a pixel."""
    return written(PIL.Image.fromarray(np.full((height, width), value, np.uint16)))


def sixteen_bits_of_colour(red: int, green: int, blue: int, side: int = 8) -> bytes:
    """A PNG of 16 bits a colour, which Pillow does not write."""
    row = b"\0" + struct.pack(">HHH", red, green, blue) * side
    header = struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0)
    pixels = zlib.compress(row * side)
    sign = b"\x89PNG\r\n\x1a\n"
    return sign + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def png_bomb(width: int = 50_000, height: int = 50_000) -> bytes:
    """A small file with billions of pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(bytes(10**6)) for _ in range(50)) + packer.flush()
    sign = b"\x89PNG\r\n\x1a\n"
    return sign + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A small PNG whose text and colour profile are 200 MB each when they are unpacked."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(10**6)) for _ in range(200)) + packer.flush()
    return with_chunks(
        written(drawn()),
        chunk(b"iCCP", b"p\0\0" + packed),
        chunk(b"zTXt", b"Comment\0\0" + packed),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed),
    )


def jpeg_bomb() -> bytes:
    """A JPEG that says it is 65,500 pixels wide and high."""
    data = bytearray(written(drawn(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def webp_bomb() -> bytes:
    """A WEBP whose canvas has 16,384 x 16,384 pixels, of which one frame of 64 x 48 is drawn."""
    data = bytearray(moving("WEBP", 2))
    at = data.index(b"VP8X") + 8
    data[at + 4 : at + 10] = (16_383).to_bytes(3, "little") * 2
    return bytes(data)


def slow_jpeg(scans: int = 5_000) -> bytes:
    """A JPEG whose last pass is repeated: each costs a walk over the picture."""
    data = written(drawn(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + data[-2:]


def moving(kind: str, frames: int, seconds: float = 1.0) -> bytes:
    """A GIF, PNG or WEBP that moves: frame n has the grey 20 n and is shown for `seconds`."""
    first, *rest = (PIL.Image.new("RGB", (64, 48), (20 * number,) * 3) for number in range(frames))
    options = {"lossless": True} if kind == "WEBP" else {}
    return written(
        first, kind, save_all=True, append_images=rest, duration=int(1_000 * seconds), **options
    )


def film(
    greys: Sequence[int],
    *,
    kind: str = "mp4",
    times: Sequence[float] | None = None,
    width: int = 64,
    height: int = 48,
    rotation: int = 0,
    options: dict[str, str] | None = None,
    codec: str = "",
) -> bytes:
    """A video of one frame a grey, a second each, or shown from `times` on, in seconds."""
    times = times or range(len(greys))
    return film_of(
        (PIL.Image.new("RGB", (width, height), (grey,) * 3) for grey in greys),
        times,
        kind=kind,
        size=(width, height),
        rotation=rotation,
        options=options,
        codec=codec,
    )


def film_of(
    pictures: Iterable[PIL.Image.Image],
    times: Iterable[float],
    *,
    kind: str = "mp4",
    size: tuple[int, int] = (64, 48),
    rotation: int = 0,
    options: dict[str, str] | None = None,
    codec: str = "",
) -> bytes:
    """A video of these frames; key frames where the encoder wants them."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "film")
        _write_film(file, pictures, times, kind, size, rotation, options or {}, codec)
        return file.read_bytes()


def _write_film(
    file: Path,
    pictures: Iterable[PIL.Image.Image],
    times: Iterable[float],
    kind: str,
    size: tuple[int, int],
    rotation: int,
    options: dict[str, str],
    codec: str,
) -> None:
    with av.open(str(file), "w", format=kind, options=options) as container:
        codec = codec or {"webm": "libvpx", "matroska": "mpeg4"}.get(kind, "mpeg4")
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 1_000_000
        stream.codec_context.time_base = Fraction(1, 1_000)
        if rotation:
            stream.set_display_rotation(rotation)
        for picture, time in zip(pictures, times, strict=False):
            frame = av.VideoFrame.from_image(picture)
            frame.pts = round(1_000 * time)
            frame.time_base = Fraction(1, 1_000)
            container.mux(stream.encode(frame))
        container.start_encoding()  # of a film without a frame, which is to have its header
        container.mux(stream.encode(None))


def sound_only(kind: str = "mp4") -> bytes:
    """A video file with a second of silence in it, and no video."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), "fltp", "mono")
        silence.rate = 16_000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    return file.getvalue()


def no_frames() -> bytes:
    """A video file with a video in it that has no frame."""
    return film([])


def peak_mib(code: str, *arguments: object) -> float:
    """The most memory that a fresh Python process takes which runs this code, in MiB, on Linux.
    What getrusage says begins with what its parent took."""
    told = "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    command = [sys.executable, "-c", f"{code}\n{told}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 2**10
