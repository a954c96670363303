"""Servers that others wrote, and our own, answering with the embedded model's real weights.

Knows how each is started as a process of its own, and what each does in its own way: the tables at
the end say what was seen of the versions that requirements-dev.txt names. Asks nothing of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import command_line
import gguf
import numpy
import psutil
import pytest
from safetensors.numpy import save_file

from slm_backends import catalog, convert, files, store
from slm_backends.chat import SAMPLING_FIELDS

PATIENCE = 120.0  # seconds for a server to start: a few, on a computer with nothing else to do
LOOK = 0.25  # seconds between two looks at the time that a process has computed
IDLE = 0.05  # of one processor: what a process that only waits takes at most
KEY = "key-of-these-tests"  # for the one server that can be told to want one
MODEL = "smollm2-135m-instruct"
IN_THE_CACHE = "embedded/smollm2"  # what the checkpoint is called in the cache of the model hub


@dataclass
class RealServer:
    """One that runs: `model` is what it calls the embedded model, `log` what it writes."""

    kind: Kind
    process: subprocess.Popen[str]
    url: str
    model: str
    log: Callable[[], str]
    key: str = ""

    def computed(self) -> float:
        """Seconds of processor time that it has taken, with all its threads and children."""
        parent = psutil.Process(self.process.pid)
        seconds = 0.0
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                seconds += times.user + times.system
        return seconds

    def until_idle(self) -> float:
        """Seconds of processor time that it took until it did nothing any more."""
        begun = before = self.computed()
        quiet = 0
        end = time.monotonic() + PATIENCE
        while quiet < 2:
            assert time.monotonic() < end, f"{self.kind.name} goes on and on"
            time.sleep(LOOK)
            now = self.computed()
            quiet = quiet + 1 if now - before < IDLE * LOOK + 0.01 else 0
            before = now
        return before - begun


@dataclass(frozen=True)
class Kind:
    """A program that serves, and its ways.

    start            gives the running server, with a folder of its own to write into
    honours          fields of Sampling that shape its reply
    passes_over      fields that it takes and does nothing with
    mistakes         fields that it takes for another one
    refuses          fields that it answers with an error
    shows_stops      whether the string that stopped a reply is at its end
    stops_unstreamed whether it stops when somebody who waits for a whole reply hangs up
    any_name         whether it answers to every model's name
    timings          whether it measures, and says so
    seconds_of_tokens  of a reply that takes it a second or two
    """

    name: str
    start: Callable[[Kind, Path], AbstractContextManager[RealServer]]
    honours: frozenset[str]
    passes_over: frozenset[str] = frozenset()
    mistakes: frozenset[str] = frozenset()
    refuses: frozenset[str] = frozenset()
    shows_stops: bool = False
    stops_unstreamed: bool = False
    any_name: bool = False
    timings: bool = False
    seconds_of_tokens: int = 12


# --- starting -------------------------------------------------------------------------------------


@contextmanager
def _running(
    kind: Kind, folder: Path, command: list[str], model: str, ready: str = "/v1/models"
) -> Iterator[RealServer]:
    """The command's process, from its first answer on; `{port}` in it becomes a free one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    log = folder / "log.txt"
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    with log.open("wb") as written:
        process = subprocess.Popen(
            [argument.format(port=port) for argument in command],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=os.environ | convert.OFFLINE | {"PYTHONUTF8": "1", "HF_HUB_CACHE": str(cache)},
            encoding="utf-8",
        )
    try:
        _await(f"http://127.0.0.1:{port}{ready}", process, log)
        yield RealServer(kind, process, f"http://127.0.0.1:{port}/v1", model, log.read_text)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE)


def _await(url: str, process: subprocess.Popen[str], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, f"it ended:\n{log.read_text()}"
        assert time.monotonic() < end, f"no answer from {url}:\n{log.read_text()}"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=PATIENCE):
            return
        time.sleep(0.1)


def _deployed(runtime: str) -> Path:
    """The folder of the embedded model for that runtime, its files in the store."""
    deployment = catalog.load().deployment(f"{MODEL}@{runtime}")
    store.fetch(deployment)
    return store.folder(deployment)


def _checkpoint(folder: Path) -> None:
    """The embedded model as its publisher would put it on the hub: float32 safetensors.

    By hand, because transformers takes half a minute to unpack a GGUF. What was packed by
    llama.cpp has the rows of queries and keys in another order, pairs of numbers that are turned
    together beside each other: here the first halves of all pairs come first again.
    """
    source = _deployed("openvino")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors = {}
    for tensor in gguf.GGUFReader(source / "model.gguf").tensors:
        *layer, part, end = tensor.name.removeprefix("blk.").split(".")
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if part in heads:
            pairs = values.reshape(heads[part], -1, 2, values.shape[-1])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        place = [*(["model.layers", *layer] if layer else []), convert.MLX_NAMES[part], end]
        tensors[".".join(place)] = numpy.ascontiguousarray(values, dtype=numpy.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config["architectures"] = ["LlamaForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        files.link(source / name, folder / name)


@contextmanager
def _transformers_serve(kind: Kind, folder: Path) -> Iterator[RealServer]:
    revision = "0" * 40
    here = folder / "cache" / f"models--{IN_THE_CACHE.replace('/', '--')}"
    (here / "refs").mkdir(parents=True)
    (here / "refs" / "main").write_text(revision, encoding="ascii")
    (here / "snapshots" / revision).mkdir(parents=True)
    _checkpoint(here / "snapshots" / revision)
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", IN_THE_CACHE]
    command += ["--host", "127.0.0.1", "--port", "{port}", "--device", "cpu"]
    with _running(kind, folder, command, IN_THE_CACHE) as server:
        yield server


@contextmanager
def _mlx_lm_server(kind: Kind, folder: Path) -> Iterator[RealServer]:
    weights = str(_deployed("mlx").resolve())
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", weights]
    with _running(kind, folder, [*command, "--port", "{port}"], weights) as server:
        yield server


@contextmanager
def _llama_server(kind: Kind, folder: Path) -> Iterator[RealServer]:
    program = shutil.which("llama-server")
    if program is None:
        pytest.skip("llama-server is not on the PATH")
    weights = str(_deployed("openvino") / "model.gguf")
    command = [program, "--model", weights, "--alias", MODEL, "--ctx-size", "2048"]
    command += ["--host", "127.0.0.1", "--port", "{port}"]
    with _running(kind, folder, command, MODEL, ready="/health") as server:
        yield server


@contextmanager
def _our_serve(kind: Kind, folder: Path) -> Iterator[RealServer]:
    deployment = f"{MODEL}@onnx"
    _deployed("onnx")
    with command_line.serve(deployment, key=KEY) as serving:
        serving.wait_ready()
        yield RealServer(kind, serving.process, serving.url, deployment, serving.errors, KEY)


# --- their ways -----------------------------------------------------------------------------------

KINDS = (
    Kind(
        "transformers serve",
        _transformers_serve,
        # It draws only where the model's generation_config.json says do_sample, which those of
        # SmolLM2 and Phi do not: then nothing but the likeliest token counts. A frequency_penalty
        # is one less than the repetition penalty that it then uses.
        honours=frozenset({"max_tokens", "stop"}),
        passes_over=frozenset({"temperature", "top_p", "seed", "presence_penalty"}),
        mistakes=frozenset({"frequency_penalty"}),
        refuses=frozenset({"top_k", "repetition_penalty"}),
        shows_stops=True,
    ),
    Kind("mlx_lm.server", _mlx_lm_server, honours=SAMPLING_FIELDS),
    Kind(
        "slm_backends serve",
        _our_serve,
        honours=SAMPLING_FIELDS,
        stops_unstreamed=True,
        timings=True,
        seconds_of_tokens=150,
    ),
    Kind(
        "llama-server",
        _llama_server,
        honours=SAMPLING_FIELDS - {"repetition_penalty"},  # it calls that one repeat_penalty
        passes_over=frozenset({"repetition_penalty"}),
        stops_unstreamed=True,
        any_name=True,
        timings=True,
        seconds_of_tokens=150,
    ),
)
