"""Pictures in the text of a message: as they are where they fit, smaller where they do not."""

from __future__ import annotations

import base64
import io
import re

import PIL.Image
import pytest
from drawn import picture

from slm_backends.chat import Image
from slm_backends.endpoints import pictures
from slm_backends.errors import BadRequest


def sent(image: Image) -> tuple[str, str]:
    """(the media type, the base64 text) of the tag."""
    found = re.fullmatch(r'<img src="data:(image/\w+);base64,([^"]+)" />', pictures.inline(image))
    assert found
    return found.group(1), found.group(2)


def opened(text: str) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(base64.b64decode(text)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_small_picture_goes_as_it_is(kind: str) -> None:
    image = picture(kind)
    assert sent(image) == (image.media_type, base64.b64encode(image.data).decode())


@pytest.mark.parametrize(("width", "height"), [(300, 200), (2_000, 1_500), (9_000, 40)])
def test_a_large_picture_is_made_to_fit(width: int, height: int) -> None:
    media_type, text = sent(picture("PNG", width, height))
    assert media_type == "image/jpeg"
    assert len(text) < pictures.MAX_INLINE_CHARACTERS
    made = opened(text)
    assert made.format == "JPEG"
    assert made.width / made.height == pytest.approx(width / height, rel=0.1)


def test_no_more_is_lost_than_must_be() -> None:
    _, text = sent(picture("PNG", 2_000, 1_500))
    assert len(text) > 0.5 * pictures.MAX_INLINE_CHARACTERS


def test_just_as_much_as_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture()
    length = len(base64.b64encode(image.data))
    monkeypatch.setattr(pictures, "MAX_INLINE_CHARACTERS", length + 1)
    assert sent(image)[0] == "image/png"
    monkeypatch.setattr(pictures, "MAX_INLINE_CHARACTERS", length)
    monkeypatch.setattr(pictures, "_smaller", lambda data: b"smaller")
    assert sent(image) == ("image/jpeg", base64.b64encode(b"smaller").decode())


def test_what_the_older_route_does_not_know_becomes_a_jpeg() -> None:
    media_type, text = sent(picture("WEBP"))
    assert (media_type, opened(text).format) == ("image/jpeg", "JPEG")


def test_what_one_sees_through_becomes_white() -> None:
    written = io.BytesIO()
    PIL.Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(written, "WEBP", lossless=True)
    _, text = sent(Image(written.getvalue(), "image/webp"))
    assert opened(text).getpixel((4, 4)) == (255, 255, 255)


def test_a_picture_that_was_taken_sideways_is_turned() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees
    written = io.BytesIO()
    opened_png = PIL.Image.open(io.BytesIO(picture("PNG", 600, 300).data))
    opened_png.save(written, "JPEG", exif=exif, quality=100, subsampling=0)
    made = opened(sent(Image(written.getvalue(), "image/jpeg"))[1])
    assert made.height > made.width


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(100), b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(BadRequest, match="cannot be read"):
        pictures.inline(Image(data, "image/webp"))
