"""Phi-3-vision's folder for ONNX Runtime GenAI: its graphs, run one by one by ONNX Runtime.

The runtime's own Generator is not used for these folders. It looks at all pictures of a prompt in
the call that reads it; cuts each into up to 16 crops, also where there are several; makes the whole
picture small otherwise than the model was trained with; cannot go back to a shorter prompt; and
does not read a text again when its rotary factors change. Here a Generator has the part of its
interface that onnx_cache.py uses, and pictures are seen by phi3v_eyes.py.

Knows the graphs' inputs and outputs as genai_config.json names them. Does not know sequences,
sampling and text. Imported only for such a folder: it needs numpy and Pillow.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator as Parts
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from slm_backends.errors import BadRequest, SLMError
from slm_backends.picture_tokens import Grid
from slm_backends.worker.engines.phi3v_eyes import Eyes, Floats

SIDE = 336  # pixels of a crop, where the graph takes any
ACROSS = 12  # tokens along its side, where processor_config.json says nothing else
CROPS = 17  # that the runtime itself always gives to the graph, blank ones behind the picture's own
CPU = "CPUExecutionProvider"
TYPES = {
    "tensor(float)": numpy.float32,
    "tensor(float16)": numpy.float16,
    "tensor(int64)": numpy.int64,
}


class Graph:
    """One file of the folder, read for the processor. SLMError where that does not work."""

    def __init__(self, folder: Path, part: Mapping[str, Any]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised
        file = part["filename"]
        try:
            self.session = onnxruntime.InferenceSession(
                str(folder / file), options, providers=[CPU]
            )
            inputs = self.session.get_inputs()
            self.types = {item.name: TYPES[item.type] for item in inputs}
        except Exception as error:  # its classes have no common one
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise SLMError(
                f"ONNX Runtime cannot compute {file} on the CPU ({reason[:300].rstrip('.')}).",
                hint="Fetch the weights again; if that does not help, they need another device.",
            ) from error
        self.make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        self.shapes = {item.name: item.shape for item in inputs}
        self.inputs: dict[str, str] = part["inputs"]
        self.outputs: dict[str, str] = part["outputs"]

    def run(self, output: str, **inputs: Any) -> Floats:
        """One output in float32, from inputs by the names that genai_config.json has for them."""
        given = {self.inputs[name]: value for name, value in inputs.items()}
        given = {name: value.astype(self.types[name]) for name, value in given.items()}
        (found,) = self.session.run([self.outputs[output]], given)
        return found.astype(numpy.float32)


class OnnxVision:
    """The graphs of the folder: pictures to features, tokens to embeddings, embeddings to logits.

    Raises BadRequest for another device than the processor.
    """

    def __init__(self, folder: Path, device: str = "") -> None:
        if device.lower() not in ("", "cpu"):
            raise BadRequest(
                f"ONNX Runtime computes models that see on the CPU here, not on {device}.",
                hint="Leave the device empty.",
                field="device",
            )
        import onnxruntime

        self.version = f"onnxruntime {onnxruntime.__version__}"
        model = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
        self.sizes = model["decoder"]
        self.reader = Graph(folder, model["decoder"])
        self._embedder = Graph(folder, model["embedding"])
        self._seer = Graph(folder, model["vision"])
        side = self._seer.shapes[self._seer.inputs["pixel_values"]][-1]
        self._side = side if isinstance(side, int) else SIDE
        self._across = _across(folder / "processor_config.json")
        self._by_two = self._takes_two()
        self.eyes = Eyes(self._side, self._across, self._encode)

    def generator(self, room: int) -> Generator:
        return Generator(self, room)

    def words(self, ids: Any) -> Floats:
        """Embeddings [n, hidden] of token ids [n]."""
        none = numpy.zeros((0, self.sizes["hidden_size"]))
        return self._embedder.run("inputs_embeds", input_ids=ids[None], image_features=none)[0]

    def _takes_two(self) -> bool:
        """Whether the graph takes as few crops as two."""
        blank = numpy.zeros((2, 3, self._side, self._side))
        try:
            return len(self._look(blank, 1, 1)) == 2 * self._across * (self._across + 1) + 1
        except Exception:  # the runtime's classes have no common one
            return False

    def _look(self, crops: Floats, rows: int, columns: int) -> Floats:
        """Features [tokens, hidden] of a picture: those of its grid, one between, of the whole."""
        sizes = numpy.array([[rows * self._side, columns * self._side]])
        found = self._seer.run("image_features", pixel_values=crops[None], image_sizes=sizes)
        return found.reshape(-1, found.shape[-1])

    def _encode(self, crops: Floats, grid: Grid) -> Parts[int, None, Floats]:
        """The graph puts the crops of a picture in order. Where it can, it is given two at a time,
        as if they were a picture and its only crop, and they are put in order here: a picture of
        Phi-3.5-vision takes a minute, and nobody could stop it."""
        if not self._by_two:
            blank = numpy.zeros((CROPS - len(crops), *crops.shape[1:]), dtype=numpy.float32)
            features = self._look(numpy.concatenate([crops, blank]), grid.rows, grid.columns)
            yield grid.crops
            return features
        n = self._across
        tiles: list[Floats] = []
        for start in range(0, len(crops), 2):
            pair = crops[[start, min(start + 1, len(crops) - 1)]]
            features = self._look(pair, 1, 1)
            tiles += [features[n * (n + 1) + 1 :], features[: n * (n + 1)]]
            yield min(start + 2, len(crops))
        hidden = features.shape[-1]
        tile = numpy.stack(tiles[: len(crops)]).reshape(-1, n, n + 1, hidden)
        ends = tile[0, :1, n:]  # the same behind each row
        rows = tile[1:, :, :n].reshape(grid.rows, grid.columns, n, n, hidden)
        rows = rows.transpose(0, 2, 1, 3, 4).reshape(grid.rows * n, grid.columns * n, hidden)
        rows = numpy.concatenate([rows, ends.repeat(len(rows), axis=0)], axis=1)
        return numpy.concatenate(
            [rows.reshape(-1, hidden), features[n * (n + 1)][None], tile[0].reshape(-1, hidden)]
        )


class Generator:
    """A cache with room for so many tokens, and the logits of those that it read last."""

    def __init__(self, vision: OnnxVision, room: int) -> None:
        self._vision = vision
        graph, sizes = vision.reader, vision.sizes
        shape = (1, sizes["num_key_value_heads"], room, sizes["head_size"])
        #: Each is input and output at once: the graph then writes new tokens behind the others.
        self._cache = {}
        for layer in range(sizes["num_hidden_layers"]):
            for kind in ("key", "value"):
                past = graph.inputs[f"past_{kind}_names"] % layer
                present = graph.outputs[f"present_{kind}_names"] % layer
                self._cache[past, present] = graph.make(shape, graph.types[past])
        self._tokens: list[int] = []
        self._logits: Floats = None

    def append_tokens(self, tokens: Sequence[int]) -> None:
        """Read them; negative ones are places of pictures."""
        vision, graph = self._vision, self._vision.reader
        rows = vision.eyes.rows(self._tokens, tokens, vision.words)[None]
        mask = numpy.ones((1, len(self._tokens) + len(tokens)))
        binding = graph.session.io_binding()
        for name, value in (("inputs_embeds", rows), ("attention_mask", mask)):
            name = graph.inputs[name]
            binding.bind_cpu_input(name, value.astype(graph.types[name]))
        binding.bind_output(graph.outputs["logits"])
        for (past, present), cache in self._cache.items():
            binding.bind_ortvalue_input(past, cache)
            binding.bind_ortvalue_output(present, cache)
        graph.session.run_with_iobinding(binding)
        self._logits = binding.get_outputs()[0].numpy()
        self._tokens += tokens

    def rewind_to(self, length: int) -> None:
        """Forget what was read after the first `length` tokens."""
        del self._tokens[length:]

    def get_logits(self) -> Floats:
        """[1, tokens, vocabulary]"""
        return self._logits


def _across(file: Path) -> int:
    """Tokens along a crop's side: the root of those of a crop, in the folder's image processor."""
    steps = json.loads(file.read_text(encoding="utf-8"))["processor"]["transforms"]
    for step in steps:
        if tokens := step["operation"].get("attrs", {}).get("num_img_tokens"):
            return math.isqrt(int(tokens))
    return ACROSS
