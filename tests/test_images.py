"""Pictures from outside, of every kind: what is kept, what is made of them, and what is refused."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import bad_pictures as files
import numpy as np
import PIL.Image
import pytest
from drawn import picture

from slm_backends import images, picture_file
from slm_backends.chat import MAX_IMAGES, Image
from slm_backends.errors import BadRequest

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
MEMORY_MIB = 700  # for the largest picture that is decoded, and for any that is refused


def corners(data: bytes) -> list[tuple[int, ...]]:
    """Colours above left, above right, below left, below right."""
    seen = files.read(data)
    assert seen.mode == "RGB"
    right, below = seen.width - 1, seen.height - 1
    return [seen.getpixel(at) for at in ((0, 0), (right, 0), (0, below), (right, below))]


def near(found: list[tuple[int, ...]], wanted: list[tuple[int, ...]], by: int = 12) -> bool:
    return bool(np.abs(np.array(found) - np.array(wanted)).max() <= by)


# --- what is kept as it is ------------------------------------------------------------------------


@pytest.mark.parametrize("progressive", [False, True])
def test_a_plain_jpeg_keeps_its_pixels(progressive: bool) -> None:
    data = files.written(files.drawn(), "JPEG", progressive=progressive)
    found = images.opened(data, "drawn.jpg")
    assert found == images.Opened(Image(data, "image/jpeg"), 64, 48, (), "drawn.jpg")


def test_a_plain_png_keeps_its_bytes() -> None:
    data = files.written(files.drawn())
    assert images.sound(Image(data)) == (Image(data), 64, 48)


def test_what_is_sound_is_left_alone() -> None:
    once, *_ = images.sound(Image(files.photograph(6), "image/jpeg"))
    assert images.sound(once)[0] == once


def test_the_content_counts_not_what_is_said_of_it() -> None:
    image, *_ = images.sound(Image(files.written(files.drawn(), "JPEG"), "image/png"))
    assert image.media_type == "image/jpeg"


# --- what leaves this computer --------------------------------------------------------------------


def test_a_photograph_loses_its_place_and_keeps_its_pixels() -> None:
    data = files.photograph()
    found = images.opened(data, "photo.jpg")
    assert b"SECRET" in data and b"Exif" in data
    assert b"SECRET" not in found.image.data and b"Exif" not in found.image.data
    assert files.read(found.image.data).tobytes() == files.read(data).tobytes()
    assert any("removed" in note for note in found.notes)


def test_a_png_loses_its_notes_and_keeps_its_pixels() -> None:
    notes = [
        files.chunk(b"tEXt", b"Author\0SECRET"),
        files.chunk(b"eXIf", files.camera_notes().tobytes()[6:]),
        files.chunk(b"zzZz", b"SECRET"),
    ]
    plain = files.written(files.drawn())
    found = images.opened(files.with_chunks(plain, *notes) + b"SECRET behind the end")
    assert found.image.data == plain
    assert len(found.notes) == 1


def test_a_webp_loses_its_notes() -> None:
    data = files.written(files.drawn(), "WEBP", lossless=True, exif=files.camera_notes())
    assert b"SECRET" in data
    found = images.opened(data)
    assert b"SECRET" not in found.image.data
    assert corners(found.image.data) == [RED, GREEN, BLUE, WHITE]


def test_pictures_behind_a_jpeg_are_cut_off() -> None:
    data = files.written(files.drawn(), "JPEG")
    assert images.opened(data + b"SECRET" + files.photograph()).image.data == data


# --- odd ones -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "seen"),
    [
        (1, [RED, GREEN, BLUE, WHITE]),
        (2, [GREEN, RED, WHITE, BLUE]),
        (3, [WHITE, BLUE, GREEN, RED]),
        (4, [BLUE, WHITE, RED, GREEN]),
        (5, [RED, BLUE, GREEN, WHITE]),
        (6, [BLUE, RED, WHITE, GREEN]),
        (7, [WHITE, GREEN, BLUE, RED]),
        (8, [GREEN, WHITE, RED, BLUE]),
    ],
)
def test_it_is_turned_as_the_camera_was_held(
    kind: str, orientation: int, seen: list[tuple[int, ...]]
) -> None:
    exif = files.camera_notes(orientation)
    found = images.opened(files.written(files.drawn(), kind, exif=exif, quality=100))
    assert (found.width, found.height) == ((64, 48) if orientation < 5 else (48, 64))
    assert near(corners(found.image.data), seen)
    assert any("held" in note for note in found.notes) == (orientation != 1)


@pytest.mark.parametrize("exif", [b"Exif\0\0" + bytes(40), b"Exif\0\0II*\0\xff\xff\xff\xff", b"?"])
def test_broken_camera_notes_are_no_reason(exif: bytes) -> None:
    found = images.opened(files.written(files.drawn(), "JPEG", exif=exif))
    assert (found.width, found.height) == (64, 48)


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_sixteen_bits_of_grey_keep_their_lightness(grey: int) -> None:
    found = images.opened(files.sixteen_bits(grey * 257))
    assert corners(found.image.data) == [(grey,) * 3] * 4
    assert any("16 bits" in note for note in found.notes)


def test_sixteen_bits_of_colour_keep_their_lightness() -> None:
    found = images.opened(files.sixteen_bits_of_colour(65_535, 32_896, 257))
    assert near(corners(found.image.data), [(255, 128, 1)] * 4, by=1)


def test_print_colours_become_those_of_a_screen() -> None:
    found = images.opened(files.written(files.drawn(mode="CMYK"), "JPEG", quality=100))
    assert near(corners(found.image.data), [RED, GREEN, BLUE, WHITE])
    assert any("CMYK" in note for note in found.notes)


@pytest.mark.parametrize("mode", ["P", "1", "L", "LA", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_every_mode_becomes_red_green_and_blue(mode: str, kind: str) -> None:
    drawn = files.drawn(mode=mode)
    found = images.opened(files.written(drawn, kind, **({} if kind == "PNG" else {"lossless": 1})))
    assert corners(found.image.data) == corners(files.written(drawn.convert("RGB")))


def test_grey_jpegs_become_red_green_and_blue() -> None:
    found = images.opened(files.written(files.drawn(mode="L"), "JPEG"))
    assert files.read(found.image.data).mode == "RGB"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_where_one_sees_through_it_is_white(mode: str) -> None:
    hole = {"RGBA": (9, 9, 9, 0), "LA": (9, 0)}.get(mode, 0)
    clear = PIL.Image.new(mode, (8, 8), hole)
    options = {
        "RGB": {"transparency": (0, 0, 0)},
        "P": {"transparency": 0},
        "L": {"transparency": 0},
    }
    data = files.written(clear, **options.get(mode, {}))
    found = images.opened(data)
    assert corners(found.image.data) == [WHITE] * 4
    assert any("white" in note for note in found.notes)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_one_that_moves_the_first_frame_is_used(kind: str) -> None:
    found = images.opened(files.moving(kind, 5))
    assert corners(found.image.data) == [(0, 0, 0)] * 4
    assert found.notes == ("The first of 5 frames.",)


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (5_000, 50), (50, 5_000)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_tiny_and_long_ones_are_pictures(kind: str, size: tuple[int, int]) -> None:
    found = images.opened(files.written(files.drawn(*size), kind))
    assert (found.width, found.height) == files.read(found.image.data).size == size
    assert max(files.read(images.thumbnail(found.image, 160)).size) == min(160, max(size))


def test_a_very_large_one_is_made_smaller() -> None:
    found = images.opened(files.written(files.drawn(6_000, 300), "JPEG"), "wide.jpg")
    assert (found.width, found.height) == files.read(found.image.data).size == (5_376, 269)
    assert found.notes == ("Made smaller: 6,000 x 300 to 5,376 x 269 pixels.",)


def test_a_wrong_ending_is_no_reason() -> None:
    found = images.opened(files.written(files.drawn()), "picture.JPG")
    assert found.notes == ("It is a PNG picture, whatever its name says.",)


def test_noise_is_kept_small() -> None:
    noise = picture("WEBP", 1_000, 1_000).data
    found = images.opened(noise)
    assert found.image.media_type == "image/jpeg"
    assert len(found.image.data) < images.PNG_BYTES


# --- what is refused ------------------------------------------------------------------------------


def refused(data: bytes, name: str = "it") -> str:
    with pytest.raises(BadRequest) as caught:
        images.opened(data, name)
    assert caught.value.field == "messages"
    assert caught.value.hint.endswith(".")
    return caught.value.message


@pytest.mark.parametrize(
    "bomb", [files.png_bomb, files.jpeg_bomb, files.webp_bomb], ids=["png", "jpeg", "webp"]
)
def test_bombs_are_refused_by_their_header(bomb: object) -> None:
    data = bomb()  # type: ignore[operator]
    assert len(data) < 100_000
    begun = time.process_time()
    assert "million pixels" in refused(data)
    assert time.process_time() - begun < 0.1


def test_the_most_pixels_are_allowed_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(images.MAX_PIXELS, "png", 64 * 48)
    images.opened(files.written(files.drawn(64, 48)))
    assert "may have" in refused(files.written(files.drawn(64, 49)))


def test_text_that_unpacks_to_much_is_not_unpacked() -> None:
    bomb = files.text_bomb()
    begun = time.process_time()
    found = images.opened(bomb)
    assert found.image.data == files.written(files.drawn())
    assert time.process_time() - begun < 0.2


def test_a_jpeg_that_is_slow_on_purpose() -> None:
    assert refused(files.slow_jpeg()) == (
        "it is written in more than 100 passes, which no camera does."
    )


def test_a_png_in_crumbs() -> None:
    crumbs = files.chunk(b"teXt", b"") * (picture_file.MAX_CHUNKS + 1)
    assert "pieces" in refused(files.with_chunks(files.written(files.drawn()), crumbs))


def test_a_file_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 2**20)
    data = files.written(files.drawn())
    assert refused(data + bytes(2**21), "big.png") == "big.png has 2 MiB; a picture may have 1."


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.99])
def test_cut_off(kind: str, part: float) -> None:
    data = picture(kind, 60, 60).data
    assert refused(data[: max(16, int(part * len(data)))]).startswith(("it is cut off", "it is da"))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_damaged_in_the_middle(kind: str) -> None:
    data = bytearray(picture(kind, 60, 60).data)
    middle = len(data) // 2
    data[middle : middle + 500] = bytes(500)
    try:
        found = images.opened(bytes(data))
    except BadRequest as error:
        assert "damaged" in error.message
    else:  # WEBP has no checksum: what can be decoded is a picture
        assert kind == "WEBP" and (found.width, found.height) == (60, 60)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty."),
        (b"%PDF-1.7 ...", "it is a PDF."),
        (b"PK\x03\x04....", "it is an archive or an office document."),
        (b"Dear Sir or Madam,\n", "it is a text."),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is an SVG drawing."),
        (b"<!DOCTYPE html><html></html>", "it is a web page."),
        (b"\0\0\0\x1cftypheic", "it is a HEIC picture."),
        (b"\0\0\0\x1cftypavif", "it is an AVIF picture."),
        (b"\0\0\0\x1cftypisom", "it is an MP4 or QuickTime video."),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "it is an MP4 or QuickTime video."),
        (b"RIFF\0\0\0\0WAVE", "it is a sound."),
        (bytes(64), "it is of an unknown kind."),
        (random.Random(0).randbytes(1_000), "it is of an unknown kind."),
    ],
)
def test_something_else(data: bytes, said: str) -> None:
    assert refused(data) == said


def test_the_hint_fits_the_kind() -> None:
    for kind, hint in (("GIF", "video"), ("BMP", "PNG"), ("TIFF", "PNG")):
        with pytest.raises(BadRequest) as caught:
            images.opened(files.written(files.drawn(), kind))
        assert hint in caught.value.hint


def test_200_mutations_are_pictures_or_refused_at_once() -> None:
    seeds = random.Random(20)
    sound = [
        files.photograph(6),
        files.written(files.drawn(), "JPEG", progressive=True),
        files.written(files.drawn(mode="CMYK"), "JPEG"),
        files.written(files.drawn(mode="P")),
        files.sixteen_bits(1_000),
        files.moving("PNG", 3),
        files.moving("WEBP", 3),
        files.written(files.drawn(mode="RGBA"), "WEBP", exif=files.camera_notes(3)),
    ]
    survived = 0
    for number in range(200):
        data = files.mutated(sound[number % len(sound)], seeds)
        begun = time.process_time()
        try:
            found = images.opened(data)
        except BadRequest:
            pass
        else:
            survived += 1
            assert (found.width, found.height) == files.read(found.image.data).size
        assert time.process_time() - begun < 1
    assert 10 < survived < 190  # else the mutations would show nothing


# --- several, sheets, thumbnails ------------------------------------------------------------------


def test_of_fifty_the_first_are_kept_and_the_others_named() -> None:
    data = files.written(files.drawn())
    found = images.several([(f"{number}.png", data) for number in range(1, 51)])
    assert [one.name for one in found.opened] == [f"{n}.png" for n in range(1, MAX_IMAGES + 1)]
    assert [error.message for error in found.refused] == [
        "A conversation may have at most 32 images: 18 were left out (33.png, 34.png, 35.png, "
        "36.png, 37.png, 38.png, 39.png, 40.png, 41.png, 42.png and 8 more)."
    ]


def test_a_bad_one_takes_no_place() -> None:
    good = files.written(files.drawn())
    before = [Image(good)] * (MAX_IMAGES - 2)
    given = [("a.png", good), ("b.png", good[:50]), ("c.png", good), ("d.png", good)]
    found = images.several(given, before)
    assert [one.name for one in found.opened] == ["a.png", "c.png"]
    assert [error.message.split()[0] for error in found.refused] == ["b.png", "A"]
    assert "one was left out (d.png)" in found.refused[1].message


def test_many_large_ones_are_made_smaller_so_that_all_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = files.read(picture("PNG", 2_000, 100).data)
    large = files.written(noise, "JPEG", quality=95, subsampling=0)
    given = [(f"{number}.jpg", large) for number in range(5)]
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 3 * len(large))
    assert [one.width for one in images.several(given[:3]).opened] == [2_000] * 3
    found = images.several(given)
    assert [one.width for one in found.opened] == [images.CROWDED_SIDE] * 5
    assert not found.refused


def test_what_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    large = picture("PNG", 40, 40).data
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 2 * len(large))
    found = images.several([("a.png", large), ("b.png", large)], [Image(large)])
    assert [one.name for one in found.opened] == ["a.png"]
    assert found.refused[0].message.startswith("b.png does not fit")


def test_a_contact_sheet_has_all_of_them_in_order() -> None:
    colours = [RED, GREEN, BLUE, (0, 255, 255), (255, 0, 255)]
    plain = [Image(files.written(PIL.Image.new("RGB", (100, 100), colour))) for colour in colours]
    sheet = files.read(images.contact_sheet(plain, columns=3).data)
    assert sheet.size == (3 * 104 - 4, 2 * 104 - 4)
    middles = [(50 + 104 * (n % 3), 50 + 104 * (n // 3)) for n in range(6)]
    assert [sheet.getpixel(at) for at in middles] == [*colours, WHITE]
    assert sheet.crop((0, 0, 12, 12)).convert("L").getextrema() > (0, 200)  # white on black


def test_a_sheet_of_small_ones_is_square() -> None:
    small = Image(files.written(files.drawn(96, 96)))
    assert files.read(images.contact_sheet([small] * 4).data).size == (196, 196)


def test_the_numbers_of_a_sheet_differ() -> None:
    grey = Image(files.written(PIL.Image.new("RGB", (100, 100), "grey")))
    sheet = files.read(images.contact_sheet([grey] * 12, columns=12).data)
    seen = {sheet.crop((104 * n, 0, 104 * n + 40, 40)).tobytes() for n in range(12)}
    assert len(seen) == 12


@pytest.mark.parametrize("count", [1, 2, 3, 8, 21, 32])
def test_a_sheet_of_large_ones_fits(count: int) -> None:
    wide = Image(files.written(files.drawn(1_280, 720), "JPEG"), "image/jpeg")
    sheet = files.read(images.contact_sheet([wide] * count).data)
    assert max(sheet.size) <= images.SHEET_SIDE
    assert max(sheet.size) > 0.9 * min(images.SHEET_SIDE, 1_280)


def test_sheets_take_different_sizes() -> None:
    sizes = [(1, 1), (1, 300), (300, 1), (64, 48)]
    sheet = images.contact_sheet([Image(files.written(files.drawn(*size))) for size in sizes])
    assert images.sound(sheet)[0] == sheet
    with pytest.raises(ValueError, match="no picture"):
        images.contact_sheet([])


def test_thumbnails_are_small_and_are_not_enlarged() -> None:
    seen = files.read(images.thumbnail(Image(files.written(files.drawn(640, 480))), 160))
    assert (seen.format, seen.size) == ("JPEG", (160, 120))
    assert files.read(images.thumbnail(Image(files.written(files.drawn())), 160)).size == (64, 48)


# --- memory ---------------------------------------------------------------------------------------

OPEN = """
import sys
from slm_backends import images
from slm_backends.errors import BadRequest
for name in sys.argv[1:]:
    try:
        images.opened(open(name, "rb").read())
    except BadRequest:
        pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says it in /proc")
def test_memory_is_bounded(tmp_path: Path) -> None:
    largest = PIL.Image.new("RGBA", (8_160, 6_120), (10, 20, 30, 128))
    (tmp_path / "largest").write_bytes(files.written(largest, compress_level=1))
    bombs = [files.png_bomb(), files.jpeg_bomb(), files.webp_bomb(), files.text_bomb()]
    for number, data in enumerate(bombs):
        (tmp_path / f"bomb{number}").write_bytes(data)
    assert 300 < files.peak_mib(OPEN, tmp_path / "largest") < MEMORY_MIB  # 300: it was decoded
    assert files.peak_mib(OPEN, *tmp_path.glob("bomb*")) < 100
