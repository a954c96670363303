"""The converter as a process of its own, on a tiny real GGUF."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_gguf
import tiny_models
from tokenizers import Tokenizer

ROOT = Path(__file__).parents[1]


def convert(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "slm_backends.convert", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def onnx(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("converted") / "onnx"
    made = convert("onnx-int4", tiny, out)
    assert made.returncode == 0, made.stderr[-2000:]
    return out, made.stdout


def test_tokenizer_brings_template_and_configuration(tiny: Path, tmp_path: Path) -> None:
    made = convert("tokenizer", tiny, tmp_path / "out")
    assert made.returncode == 0, made.stderr[-2000:]
    out = tmp_path / "out"
    assert (out / "chat_template.jinja").read_text(encoding="utf-8") == tiny_gguf.TEMPLATE
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert (config["eos_token_id"], config["max_position_embeddings"]) == (2, tiny_gguf.CONTEXT)
    words = Tokenizer.from_file(str(out / "tokenizer.json"))
    assert words.encode("<|im_end|>").ids == [2]
    assert not [file for file in out.iterdir() if file.suffix in (".safetensors", ".bin", ".pt")]


def test_onnx_folder_is_complete_and_runs(onnx: tuple[Path, str]) -> None:
    out, _ = onnx
    names = {file.name for file in out.iterdir()}
    assert {"genai_config.json", "model.onnx", "tokenizer.json", "chat_template.jinja"} <= names
    assert tokens_from(out) == "8"


def tokens_from(folder: Path) -> str:
    """How many tokens there are when the model has gone on to the eighth."""
    script = (
        "import sys, onnxruntime_genai as og\n"
        "model = og.Model(sys.argv[1])\n"
        "asked = og.GeneratorParams(model)\n"
        "asked.set_search_options(max_length=8, min_length=8, do_sample=False)\n"
        "answer = og.Generator(model, asked)\n"
        "answer.append_tokens([1, 70, 71])\n"
        "while not answer.is_done(): answer.generate_next_token()\n"
        "print(len(answer.get_sequence(0)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False
    )
    return ran.stdout.strip() or ran.stderr


def test_onnx_leaves_no_checkpoint(onnx: tuple[Path, str]) -> None:
    out, _ = onnx
    assert [file.name for file in out.parent.iterdir()] == [out.name]


def test_numbers_are_split_as_the_file_says(onnx: tuple[Path, str]) -> None:
    words = Tokenizer.from_file(str(onnx[0] / "tokenizer.json"))
    assert words.encode("\n\n12  3").tokens == ["ĊĊ", "1", "2", "ĠĠ", "3"]


def test_standard_output_is_progress_and_nothing_else(onnx: tuple[Path, str]) -> None:
    steps = [json.loads(line) for line in onnx[1].splitlines()]
    assert all(0 <= step["done"] <= step["total"] for step in steps)
    assert sum(step["step"] == "quantising" for step in steps) >= tiny_gguf.LAYERS
    assert steps[-1] == {"step": "model ready", "done": 1, "total": 1}


def test_weights_without_a_template_are_refused(tmp_path: Path) -> None:
    file = tiny_gguf.write(tmp_path / "bare.gguf", template="")
    made = convert("tokenizer", file, tmp_path / "out")
    assert made.returncode != 0
    assert "chat_template.jinja" in made.stderr


def test_what_is_not_a_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "junk.gguf"
    file.write_bytes(b"junk" * 1000)
    assert convert("tokenizer", file, tmp_path / "out").returncode != 0


# --- checkpoints ---------------------------------------------------------------------------------


def test_longrope_checkpoint_as_transformers_saves_it(tmp_path: Path) -> None:
    checkpoint = tiny_models.write("phi-3.5-mini-instruct", tmp_path / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    rope = config.pop("rope_scaling")
    config["rope_parameters"] = {**rope, "rope_type": rope.pop("type"), "rope_theta": 10000.0}
    del config["rope_parameters"]["type"]
    (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
    before = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    made = convert("onnx-int4", checkpoint, tmp_path / "out")
    assert made.returncode == 0, made.stderr[-2000:]
    assert tokens_from(tmp_path / "out") == "8"
    steps = [json.loads(line) for line in made.stdout.splitlines()]
    assert sum(step["step"] == "quantising" for step in steps) >= config["num_hidden_layers"]
    assert {file.name: file.read_bytes() for file in checkpoint.iterdir()} == before
    for name in tiny_models.TOKENIZER_FILES:
        assert (tmp_path / "out" / name).read_bytes() == before[name]
    assert {folder.name for folder in tmp_path.iterdir()} == {"checkpoint", "out"}


def test_mixture_of_experts_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint = tiny_models.hugging_face("phi-3.5-moe-instruct")
    made = convert("onnx-int4", checkpoint, tmp_path / "out")
    assert made.returncode != 0
    assert "makes no sound model of a PhiMoEForCausalLM; it does of " in made.stderr
    assert "Phi3ForCausalLM" in made.stderr
