"""Pictures from outside: looked at before they are decoded, made sound, refused with a reason.

Knows formats, limits and what can be wrong with an image file. Does not know models, pages or where
the bytes came from.
"""

from __future__ import annotations

import io

import PIL.Image

from slm_backends.chat import Image


def sound(image: Image) -> tuple[Image, int, int]:
    """The image of a request as one that every runtime can decode as it is, with its width and
    height in pixels. BadRequest with the reason where it cannot be read."""
    with PIL.Image.open(io.BytesIO(image.data), formats=("PNG", "JPEG", "WEBP")) as opened:
        return image, *opened.size
