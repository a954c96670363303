"""Pictures as servers want them: in a data URL, and small enough for those that take them only in
the text of a message.

Knows Pillow. Does not know which server wants what, nor where in a message a picture stands.
"""

from __future__ import annotations

import base64
import io
import math

from slm_backends.chat import Image
from slm_backends.errors import BadRequest

#: NVIDIA's older route takes fewer base64 characters than this, and larger ones by upload only.
MAX_INLINE_CHARACTERS = 180_000
QUALITY = 85  # of JPEG, in percent


def data_url(image: Image) -> str:
    return f"data:{image.media_type};base64," + base64.b64encode(image.data).decode("ascii")


def inline(image: Image) -> str:
    """The picture as an `<img>` tag; a large one is made smaller, as JPEG, which takes a while.

    Raises BadRequest where the bytes are no picture.
    """
    if image.media_type == "image/webp" or not _fits(image.data):
        image = Image(_smaller(image.data), "image/jpeg")
    return f'<img src="{data_url(image)}" />'


def _fits(data: bytes) -> bool:
    return 4 * math.ceil(len(data) / 3) < MAX_INLINE_CHARACTERS


def _smaller(data: bytes) -> bytes:
    """The picture as a JPEG that fits, with as many of its pixels as can be."""
    import PIL.Image
    import PIL.ImageOps

    try:
        with PIL.Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as opened:
            picture = PIL.ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise BadRequest(f"A picture cannot be read: {error}.", field="messages") from None
    paper = PIL.Image.new("RGBA", picture.size, "white")  # JPEG knows nothing that one sees through
    picture = PIL.Image.alpha_composite(paper, picture).convert("RGB")
    while True:
        written = io.BytesIO()
        picture.save(written, "JPEG", quality=QUALITY)
        if _fits(written.getvalue()):
            return written.getvalue()
        # The size goes with the number of pixels, but not quite: in several steps less is lost.
        fit = MAX_INLINE_CHARACTERS / (4 / 3 * len(written.getvalue()))
        shrink = max(0.5, 0.95 * math.sqrt(fit))
        picture = picture.resize([max(1, int(side * shrink)) for side in picture.size])
