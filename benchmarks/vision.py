"""Pictures: first token, tokens a second, and what a second question on the same pictures costs.

One picture of 640 x 480 and eight such frames, noise that no cache has seen, each asked about and
then asked about again in the same conversation. phi-vision-nano as it is shipped; then a tiny
Phi-3.5-vision (tests/tiny_phi3v.py) on every runtime that it can be built for, with the same
weights, so that runtimes are compared and not models. What a caller of `Backend.stream` sees, by
its own clock. For OpenVINO its eyes are wider.
Wanted: the first token of a second question in a third of the first one's time at most. That is
where looking takes most of it: the tiny models' eyes are so small that it takes nearly none.
Some of them alone: `python -m benchmarks.vision nano onnx`.
"""

from __future__ import annotations

import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path

import numpy
import PIL.Image

from slm_backends import catalog, run, selector, store
from slm_backends.chat import ChatRequest, Image, Message, Sampling
from slm_backends.run import Reply

NANO = "phi-vision-nano@transformers"
SIZE = (640, 480)  # pixels
FRAMES = 8
ROUNDS = 5
TOKENS = 32
GOAL = 1 / 3
PATIENCE = 300.0  # seconds for one reply

CATALOG = """
[models.tiny-vision]
name = "Tiny Phi-3.5 vision"
inputs = ["text", "images"]
context = 131_072
sight = "phi-3-vision"
"""
ENTRY = """
[sources.{source}]
path = "{folder}"

[deployments."{id}"]
source = "{source}"
images = 16
"""

_numbers = count()


def noise() -> Image:
    """Another picture each time."""
    dice = numpy.random.default_rng(next(_numbers))
    small = dice.integers(0, 256, (SIZE[1] // 16, SIZE[0] // 16, 3), dtype=numpy.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(small).resize(SIZE, PIL.Image.Resampling.NEAREST).save(file, "PNG")
    return Image(file.getvalue())


def ask(deployment_id: str, *messages: Message) -> tuple[float, Reply]:
    """(seconds to the first token, the reply)."""
    sampling = Sampling(max_tokens=TOKENS, temperature=0.0, top_p=1.0)
    begun = time.perf_counter()
    running = run.start(selector.backend(deployment_id), ChatRequest(messages, sampling))
    reply = running.wait(PATIENCE)
    if reply.error is not None:
        raise reply.error
    first = reply.here_first_s
    return time.perf_counter() - begun if first is None else first, reply


def measure(deployment_id: str, name: str) -> None:
    begun = time.perf_counter()
    ask(deployment_id, Message("user", "Hi"))
    load = time.perf_counter() - begun
    for pictures in (1, FRAMES):
        first, second, speeds = [], [], []
        for number in range(ROUNDS + 1):
            images = tuple(noise() for _ in range(pictures))
            asked = Message("user", "What is in this picture?", images)
            waited, reply = ask(deployment_id, asked)
            again, later = ask(
                deployment_id,
                asked,
                Message("assistant", reply.text),
                Message("user", "How many objects are there?"),
            )
            if not number:  # warms it up
                continue
            first.append(waited)
            second.append(again)
            speeds += [one.tokens_per_second for one in (reply, later) if one.tokens_per_second]
        ratio = statistics.median(b / a for a, b in zip(first, second, strict=True))
        speed = f"{statistics.median(speeds):8.1f}" if speeds else "       -"
        print(
            f"{name:24} {load:6.1f}  {pictures:8}  {1000 * statistics.median(first):8.0f}  "
            f"{1000 * statistics.median(second):9.0f}  {ratio:5.2f}"
            f"{' ' if ratio <= GOAL else '!'} {speed}  "
            f"{reply.prompt_tokens or 0:7}  {later.cached_tokens or 0:6}",
            flush=True,
        )
    selector.unload(deployment_id)


def _tiny() -> Mapping[str, tuple[str, Callable[[], Path]]]:
    """id -> (its name here, what makes its folder): two checkpoints, each on two runtimes, since
    OpenVINO GenAI takes CLIP's true width only."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import tiny_vision_onnx
    import tiny_vision_openvino

    return {
        "tiny-vision@transformers": ("tiny, transformers", tiny_vision_onnx.checkpoint),
        "tiny-vision@onnx": ("tiny, onnx", tiny_vision_onnx.folder),
        "tiny-vision@transformers:wide": ("wider, transformers", tiny_vision_openvino.checkpoint),
        "tiny-vision@openvino:wide": ("wider, openvino", tiny_vision_openvino.folder),
    }


def _measure_tiny(wanted: list[str]) -> None:
    found = {id: each for id, each in _tiny().items() if any(name in id for name in wanted)}
    with tempfile.TemporaryDirectory() as made:
        own = Path(made) / "catalog.toml"
        entries = [
            ENTRY.format(id=id, source=id.partition("@")[2].replace(":", "-"), folder=make())
            for id, (_, make) in found.items()
        ]
        own.write_text(CATALOG + "".join(entries), encoding="utf-8")
        os.environ |= {"SLM_CATALOG": str(own), "SLM_HOME": str(Path(made) / "home")}
        for id, (name, _) in found.items():
            store.fetch(catalog.load().deployment(id))
            measure(id, name)


def main() -> None:
    names = ["nano", "transformers", "onnx", "openvino"]
    wanted = sys.argv[1:] if __name__ == "__main__" and len(sys.argv) > 1 else names
    print(f"{'':24} load s  pictures  1st: ms  again: ms  ratio  {'tok/s':>8}   tokens  cached")
    if "nano" in wanted:
        measure(NANO, "nano, transformers")
    tiny = [name for name in wanted if name != "nano"]
    if tiny:
        _measure_tiny(tiny)


if __name__ == "__main__":
    main()
