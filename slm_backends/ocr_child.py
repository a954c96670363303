"""The process that reads text in pictures: `python -m slm_backends.ocr_child`, run by ocr_process.

Knows RapidOCR: which of its models to use, and what a picture must be like for it. Pictures come on
standard input, the length in four bytes and then the file; replies go to standard output, one JSON
object a line: `{"width", "height", "seconds", "lines": [[text, confidence, corners], ...]}`, or
`{"failed": why}`. It ends when standard input closes, also in the middle of a picture.

The models are those in RapidOCR's wheel, named by their paths: with names instead, the library
would download what it does not find.
"""

from __future__ import annotations

import io
import json
import math
import os
import queue
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import PIL.Image

HEADER = 4  # bytes of a picture's length, the highest first
THREADS = 2  # of each model
DETECTOR = "PP-OCRv6_det_small.onnx"
TURNER = "ch_ppocr_mobile_v2.0_cls_mobile.onnx"
READER = "PP-OCRv6_rec_small.onnx"

#: Letters of a picture with a shorter side are often too small to be found. RapidOCR enlarges to
#: 736 pixels as well, but without a limit: for 20 x 2,000 pixels it then takes 7 GB and minutes.
SHORT_SIDE = 736
ENLARGED = 3.0  # times, at most
PIXELS = 4_000_000  # that a larger picture is made smaller to: as many as 2,000 x 2,000 has


def scale(width: int, height: int) -> float:
    """What a picture's sides are multiplied with before it is looked at."""
    wanted = min(ENLARGED, max(1.0, SHORT_SIDE / min(width, height)))
    return min(wanted, math.sqrt(PIXELS / (width * height)))


def load() -> Any:
    """RapidOCR with the models that it brings, and no sizing of its own."""
    import cv2
    import rapidocr

    cv2.setNumThreads(THREADS)
    models = Path(rapidocr.__file__).with_name("models")
    as_it_is = {"Global.use_preprocess_img": False, "Global.use_vertical_padding": False}
    return rapidocr.RapidOCR(
        params={
            **as_it_is,
            "Det.limit_type": "max",
            "Det.limit_side_len": 1_000_000,
            "Det.model_path": str(models / DETECTOR),
            "Cls.model_path": str(models / TURNER),
            "Rec.model_path": str(models / READER),
            "Global.log_level": "critical",
            "EngineConfig.onnxruntime.intra_op_num_threads": min(THREADS, os.cpu_count() or 1),
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )


def read(reader: Any, data: bytes) -> dict[str, Any]:
    """One reply, as described above; corners are in pixels of the picture as it came."""
    begun = time.perf_counter()
    with PIL.Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as opened:
        picture = _on_white(opened)
    width, height = picture.size
    factor = scale(width, height)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if size != picture.size:
        picture = picture.resize(size, PIL.Image.Resampling.BICUBIC)
    found = reader(np.ascontiguousarray(np.asarray(picture)[:, :, ::-1]))  # blue comes first
    lines = []
    if found.boxes is not None:
        steps = np.array([width / size[0], height / size[1]])
        limits = np.array([width, height])
        corners = np.clip(np.asarray(found.boxes, dtype=float) * steps, 0, limits)
        lines = [
            [text, float(score), box]
            for text, score, box in zip(
                found.txts, found.scores, corners.round(1).tolist(), strict=True
            )
        ]
    seconds = time.perf_counter() - begun
    return {"width": width, "height": height, "seconds": seconds, "lines": lines}


def _on_white(picture: PIL.Image.Image) -> PIL.Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    seen = picture.convert("RGBA")
    white = PIL.Image.new("RGBA", seen.size, "white")
    return PIL.Image.alpha_composite(white, seen).convert("RGB")


def main() -> None:
    parent = _take_standard_output()
    pictures: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pictures.put,), name="parent", daemon=True).start()
    reader = load()
    while True:
        data = pictures.get()
        try:
            reply = read(reader, data)
        except Exception as error:  # this picture's; the next one may be readable
            reply = {"failed": f"{type(error).__name__}: {error}"}
        parent.write(json.dumps(reply) + "\n")
        parent.flush()


def _take_standard_output() -> TextIO:
    """Standard output for replies alone; what libraries print there goes to standard error."""
    ours = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return ours


def _receive(take: Any) -> None:
    while header := _exactly(HEADER):
        take(_exactly(int.from_bytes(header, "big")))
    os._exit(0)


def _exactly(count: int) -> bytes:
    """That many bytes of standard input; the process ends where the parent is gone before."""
    parts = bytearray()
    while len(parts) < count:
        part = os.read(0, count - len(parts))
        if not part:
            os._exit(0)
        parts += part
    return bytes(parts)


if __name__ == "__main__":
    main()
