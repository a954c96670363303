"""Pictures for tests: noise, which no format can make small."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image

from slm_backends.chat import Image


def picture(kind: str = "PNG", width: int = 8, height: int = 8, mode: str = "RGB") -> Image:
    """As PNG, JPEG or WEBP; the same each time."""
    bands = len(PIL.Image.new(mode, (1, 1)).getbands())
    noise = np.random.default_rng(0).integers(0, 256, (height, width, bands), np.uint8)
    written = io.BytesIO()
    PIL.Image.frombytes(mode, (width, height), noise.tobytes()).save(written, kind)
    return Image(written.getvalue(), f"image/{kind.lower()}")
