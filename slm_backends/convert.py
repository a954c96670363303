"""Turn weights into what a runtime can load: `python -m slm_backends.convert KIND FILE OUT`.

FILE is a GGUF, or the folder of a Hugging Face checkpoint (config.json and safetensors).

Knows file formats and the libraries that read and write them. Does not know where files come from,
where they belong or who else wants them (store.py). Runs as a process of its own, because the
libraries take a gigabyte that only ending a process gives back, and because a crash in them must
not take the app along.

Standard output carries one JSON object a line, `{"step": "...", "done": 3, "total": 30}`; whatever
the libraries print goes to standard error. Nothing is looked up on the network: FILE holds it all.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import io
import json
import os
import re
import runpy
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from slm_backends import files
from slm_backends.catalog import MLX_PACKAGES

Report = Callable[[str, int, int], None]

#: What keeps the libraries from calling anybody. To be set before any of them is imported.
OFFLINE: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

#: What every loader gets: no code out of a model folder, and no key sent along.
SAFE: Mapping[str, Any] = {"trust_remote_code": False, "token": False}

#: What a checkpoint's conversion takes at most, in bytes of its weights: on disk at the end, and of
#: memory on top of what Python and the libraries take. Measured with builder 0.18: 1.1 GB of
#: bfloat16 became 0.6 GB and took 6.3 GB of memory, 0.54 GB of float32 became 0.23 GB and took 2.9.
DISK = 1.0
MEMORY = 5.0
MEMORY_AT_LEAST = 900_000_000

BUILDER = "onnxruntime_genai.models.builder"
TEMPLATE = "chat_template.jinja"
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    TEMPLATE,
)

#: Architectures of text models that the builder makes for the CPU. It has a path for PhiMoE too,
#: but that stops (longrope), and what others made with it computes something else.
BUILT = (
    "Gemma2ForCausalLM",
    "GemmaForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Phi3ForCausalLM",
    "PhiForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "SmolLM3ForCausalLM",
)


#: What a GGUF calls the parts of a llama, and what mlx-lm does.
MLX_NAMES: Mapping[str, str] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
MLX_GROUP = 32  # weights that share a scale and a bias, as in Q4_0, Q4_1 and Q8_0


@dataclass(frozen=True)
class Kind:
    """A conversion: `run(file, out, report)` fills the folder `out`, using `tools`.

    exact  whether what comes out are the very same weights, written in another way
    """

    run: Callable[[Path, Path, Report], None]
    tools: tuple[str, ...]
    exact: bool = False

    def versions(self) -> dict[str, str]:
        """The tools with their versions; those that are not installed are left out."""
        found = {}
        for tool in self.tools:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[tool] = importlib.metadata.version(tool)
        return found


def tokenizer(file: Path, out: Path, report: Report) -> None:
    """tokenizer.json, chat_template.jinja and config.json, for a runtime that reads the weights."""
    report("loading the converter", 0, 3)
    from transformers import AutoConfig

    report("reading the tokenizer", 1, 3)
    _save_tokenizer(file, out)
    report("reading the configuration", 2, 3)
    AutoConfig.from_pretrained(file.parent, gguf_file=file.name, **SAFE).save_pretrained(out)
    _must_hold(out, "tokenizer.json", TEMPLATE, "config.json")
    report("tokenizer ready", 3, 3)


def onnx_int4(file: Path, out: Path, report: Report) -> None:
    """4-bit weights for ONNX Runtime GenAI on the CPU; a GGUF goes by way of float32."""
    with tempfile.TemporaryDirectory(dir=out.parent, prefix="checkpoint-") as folder:
        checkpoint = Path(folder)
        if file.is_dir():
            layers = _readable(file, checkpoint)
        else:
            layers = _dequantise(file, checkpoint, report)
        gc.collect()
        cache = checkpoint / "cache"
        cache.mkdir()
        arguments = ["-i", str(checkpoint), "-o", str(out), "-p", "int4", "-e", "cpu"]
        arguments += ["-c", str(cache), "--extra_options", "hf_token=false", "hf_remote=false"]
        _run_builder([*arguments, *_precision()], layers, report)
        # The builder reads the tokenizer into a class and writes that: take what we had.
        for name in TOKENIZER if file.is_dir() else TOKENIZER[:1]:
            (out / name).unlink(missing_ok=True)
            if (checkpoint / name).exists():
                shutil.copyfile(checkpoint / name, out / name)
    _must_hold(out, "genai_config.json", "model.onnx", "tokenizer.json")
    if not file.is_dir():
        _must_hold(out, TEMPLATE)
    _drop_nulls(out / "genai_config.json")
    report("model ready", 1, 1)


def mlx(file: Path, out: Path, report: Report) -> None:
    """A llama's GGUF for mlx-lm, weight for weight.

    Q4_0, Q4_1 and Q8_0 are a scale and a bias for each 32 weights, which is one of MLX's own ways.
    They are float32 here, and so is what a model then computes: the same numbers as elsewhere. On
    a CPU, with float16 the embedded model takes thirty times as long for a token, and unpacked to
    float32 as long as so, with 514 MB instead of 115.
    """
    try:
        import mlx.core as mx
    except ImportError as error:
        raise SystemExit(
            f"MLX is not installed here ({error}): pip install {MLX_PACKAGES}"
        ) from None

    found, about = mx.load(str(file), return_metadata=True)
    if (kind := about["general.architecture"]) != "llama":
        raise SystemExit(f"MLX is made of GGUF files of llamas only; this one is a {kind}.")
    tokenizer(file, out, lambda step, done, total: report(step, done, total + 2))
    report("repacking the weights", 3, 5)
    tensors = {}
    quantization: dict[str, Any] = {"group_size": MLX_GROUP, "bits": 4}
    for name, values in found.items():
        *layer, part, end = name.removeprefix("blk.").split(".")
        place = ".".join(["model.layers", *layer, MLX_NAMES[part]] if layer else [MLX_NAMES[part]])
        packed = values.dtype == mx.uint32
        tensors[f"{place}.{end}"] = values if packed else values.astype(mx.float32)
        if end == "scales":
            words = found[name.replace(end, "weight")].shape[-1]
            if (bits := 32 * words // (MLX_GROUP * values.shape[-1])) != 4:
                quantization[place] = {"group_size": MLX_GROUP, "bits": bits}
    report("writing the weights", 4, 5)
    mx.save_safetensors(str(out / "model.safetensors"), tensors, metadata={"format": "mlx"})
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config |= {
        "quantization": quantization,
        "rope_theta": config["rope_parameters"]["rope_theta"],
        "rope_traditional": True,  # a GGUF has the rows of queries and keys in the order for that
    }
    (out / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    report("model ready", 5, 5)


def unfit(kind: str, architectures: Sequence[str]) -> str:
    """Why a checkpoint of these architectures cannot be converted so, a sentence, or nothing."""
    if kind != "onnx-int4" or not architectures or architectures[0] in BUILT:
        return ""
    return (
        f"ONNX Runtime GenAI's builder makes no sound model of a {architectures[0]}; it does of "
        f"{', '.join(BUILT)}."
    )


def _readable(given: Path, checkpoint: Path) -> int:
    """The folder `given` again as links, its config.json such that the builder reads it; layers.

    The builder looks for the kind of a longrope under a name that transformers 5 does not write.
    """
    config = json.loads((given / "config.json").read_text(encoding="utf-8"))
    if reason := unfit("onnx-int4", config.get("architectures") or ["model without architecture"]):
        raise SystemExit(reason)
    for name in ("rope_parameters", "rope_scaling"):
        rope = config.get(name)
        if isinstance(rope, dict) and (kind := rope.get("rope_type")):
            rope.setdefault("type", kind)
    for file in given.iterdir():
        if file.name != "config.json":
            files.link_or_point(file.resolve(), checkpoint / file.name)
    (checkpoint / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return int(config["num_hidden_layers"])


def _precision() -> list[str]:
    """The builder's options for 4-bit weights with 8 bits where they are missed most: in the output
    matrix and a third of the layers, as llama.cpp mixes them.

    Measured for SmolLM2-135M against its float32 weights on 52 tokens of prose: KL divergence 0.19
    and 63 % the same likeliest token, against 0.44 and 56 % with the builder's defaults, for about
    a tenth of the speed.
    """
    import onnxruntime_genai

    version = tuple(int(part) for part in onnxruntime_genai.__version__.split(".")[:2])
    if version < (0, 18):
        return ["int4_algo_config=k_quant_mixed", "int4_is_symmetric=false"]
    return [
        "algo_config=k_quant",
        "is_symmetric=false",
        "matmul_mixed_precision=last_matmul:int8,mixed_layers:int8",
        "shared_embeddings=false",  # an 8-bit output matrix cannot be the embedding as well
    ]


def _dequantise(file: Path, checkpoint: Path, report: Report) -> int:
    """Write `file` as float32 safetensors with its tokenizer; the number of layers."""
    report("loading the converter", 0, 4)
    import torch
    import transformers

    report("reading the tokenizer", 1, 4)
    _save_tokenizer(file, checkpoint)
    report("unpacking the weights", 2, 4)
    options: dict[str, Any] = {"gguf_file": file.name, "dtype": torch.float32, **SAFE}
    if hasattr(transformers, "GgufConfig"):  # before 5.23 weights were always dequantised
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, **options)
    report("writing the weights", 3, 4)
    model.save_pretrained(checkpoint)
    return int(model.config.num_hidden_layers)


def _save_tokenizer(file: Path, out: Path) -> None:
    """tokenizer.json and the chat template of a GGUF, with the way it splits text into words.

    A GGUF names that way in `tokenizer.ggml.pre`, and transformers does not read it: SmolLM2 splits
    digits from all that is before them, and without that a numbered list gets other tokens than
    those the model was trained on.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, **SAFE)
    way = GGUFReader(file).get_field("tokenizer.ggml.pre")
    if way is not None and way.contents() == "smollm":
        words.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    words.save_pretrained(out)


def _run_builder(arguments: list[str], layers: int, report: Report) -> None:
    """The builder as its documentation calls it; its "Reading layer N" lines are the progress."""

    class Lines(io.TextIOBase):
        def write(self, text: str) -> int:
            if found := re.search(r"Reading (?:decoder )?layer (\d+)", text):
                report("quantising", int(found[1]) + 1, layers + 1)
            return sys.stderr.write(text)

    report("quantising", 0, layers + 1)
    with mock.patch.object(sys, "argv", [BUILDER, *arguments]), contextlib.redirect_stdout(Lines()):
        runpy.run_module(BUILDER, run_name="__main__", alter_sys=True)


def _drop_nulls(config: Path) -> None:
    """Leave defaults to the runtime: older builders write null for them, which it cannot read."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["search"] = {
        name: value for name, value in settings["search"].items() if value is not None
    }
    config.write_text(json.dumps(settings, indent=4) + "\n", encoding="utf-8")


def _must_hold(folder: Path, *names: str) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise SystemExit(f"The conversion did not make {', '.join(missing)}.")


KINDS: Mapping[str, Kind] = {
    "tokenizer": Kind(tokenizer, ("transformers", "tokenizers", "gguf")),
    "onnx-int4": Kind(
        onnx_int4, ("transformers", "tokenizers", "gguf", "torch", "onnxruntime-genai", "onnx")
    ),
    "mlx": Kind(mlx, ("transformers", "tokenizers", "gguf", "mlx"), exact=True),
}


@contextlib.contextmanager
def _own_stdout() -> Iterator[Report]:
    """Keep standard output for reports, and send what native libraries print there to stderr."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as reports:
        os.dup2(2, 1)

        def report(step: str, done: int, total: int) -> None:
            reports.write(json.dumps({"step": step, "done": done, "total": total}) + "\n")
            reports.flush()

        yield report


def main() -> None:
    os.environ.update(OFFLINE)
    kind, file, out = sys.argv[1:]
    with _own_stdout() as report:
        Path(out).mkdir(parents=True, exist_ok=True)
        # Not resolved: a link shows one file, and the folder that it points into holds others.
        KINDS[kind].run(Path(file).absolute(), Path(out).absolute(), report)


if __name__ == "__main__":
    main()
