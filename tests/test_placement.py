"""Where weights go that Transformers reads: told file by file, and partly left on the disk, from
where they give the same replies and the same routing."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from asking import ask, until
from engine_talk import ids, reply, words
from transformers import AutoModelForCausalLM

from slm_backends import catalog, fit, selector, store
from slm_backends.chat import Sampling
from slm_backends.errors import DiskFull, MemoryExceeded
from slm_backends.routing import Experts
from slm_backends.worker.engines import Fired, placement
from slm_backends.worker.engines import transformers as module
from slm_backends.worker.engines.transformers import TransformersEngine

PHI = "phi-3.5-moe-instruct"
MEMORY = 1_400_000  # bytes: one of the two layers stays on the disk


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLM_HOME", str(tmp_path))
    monkeypatch.setattr(module, "_numbers", lambda torch, place: torch.float32)
    return tmp_path


@functools.cache
def in_shards() -> Path:
    """The tiny mixture as its publisher would cut it up, were it large."""
    whole = tiny_models.hugging_face(PHI)
    here = tiny_models.session_folder() / "in-shards"
    model = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32)
    model.save_pretrained(here, max_shard_size="400KB")
    for file in whole.glob("tokenizer*"):
        shutil.copy(file, here)
    return here


def load(
    folder: Path, memory: int | None = None
) -> tuple[TransformersEngine, list[tuple[float, str]]]:
    said: list[tuple[float, str]] = []
    engine = module.load(
        folder, lambda fraction, step: said.append((fraction, step)), memory=memory
    )
    return engine, said


def routing(engine: TransformersEngine, prompt: list[int]) -> list[Fired]:
    engine.admit(1, prompt, Sampling(max_tokens=6, temperature=0), experts=Experts())
    fired, tokens = [], 0
    while tokens < 6:
        for _, news in engine.step():
            if isinstance(news, Fired):
                fired.append(news)
            elif isinstance(news, list):
                tokens += len(news)
            else:
                raise AssertionError(news)
    engine.release(1)
    return fired


def test_each_file_of_a_checkpoint_is_told() -> None:
    files = len(list(in_shards().glob("*.safetensors")))
    assert files > 3
    _, said = load(in_shards())
    steps = list(dict.fromkeys(step for _, step in said if "shard" in step))
    numbers = [int(step.removeprefix("reading weights, shard ").split(" of ")[0]) for step in steps]
    assert all(step.endswith(f" of {files}") for step in steps)
    assert numbers == sorted(numbers)
    assert (numbers[0], numbers[-1]) == (1, files)
    fractions = [fraction for fraction, _ in said]
    assert fractions == sorted(fractions)
    assert said[-1][1] == "warming up"


def test_one_file_is_not_counted() -> None:
    _, said = load(tiny_models.hugging_face(PHI))
    assert not any("shard" in step for _, step in said)
    assert sum(step == "reading weights" for _, step in said) > 10


def test_nobody_is_told_of_other_models_afterwards() -> None:
    _, said = load(in_shards())
    count = len(said)
    AutoModelForCausalLM.from_pretrained(in_shards())
    assert len(said) == count


def test_where_there_is_room_after_all_nothing_is_on_the_disk() -> None:
    engine, _ = load(tiny_models.hugging_face(PHI), 10 * MEMORY)
    assert engine.device == "CPU, float32"


@pytest.mark.parametrize("shards", [False, True], ids=["one file", "several"])
def test_a_part_on_the_disk_changes_no_reply_and_no_routing(shards: bool, home: Path) -> None:
    folder = in_shards() if shards else tiny_models.hugging_face(PHI)
    whole, _ = load(folder)
    partly, _ = load(folder, MEMORY)
    prompt = words(60)
    assert ids(reply(partly, prompt, 12)[0]) == ids(reply(whole, prompt, 12)[0])
    for ours, theirs in zip(routing(partly, prompt), routing(whole, prompt), strict=True):
        assert ours.ids == theirs.ids
        assert ours.chosen == theirs.chosen
    assert "on the disk" not in whole.device
    share = int(partly.device.partition("CPU, float32, ")[2].partition("%")[0])
    assert partly.device.endswith(f"{share}% of its weights on the disk")
    assert 30 < share < 100
    in_memory = sum(each.numel() for each in partly._model.parameters() if not each.is_meta)
    assert 4 * in_memory < MEMORY
    assert list((home / "offload").glob("*/*.safetensors"))  # experts, which are packed anew


PROGRAM = """
import sys
from pathlib import Path
from slm_backends.worker.engines import transformers
transformers.load(Path(sys.argv[1]), lambda *_: None, memory=int(sys.argv[2]))
print("loaded", flush=True)
sys.stdin.read()
"""


def test_what_was_put_there_lasts_as_long_as_its_process(home: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tiny_models.hugging_face(PHI)), str(MEMORY // 3)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"loaded\n"
        placement.sweep()
        assert list((home / "offload").glob("*/*.safetensors"))
        process.kill()
    placement.sweep()
    assert list((home / "offload").iterdir()) == []


def test_a_full_disk_is_named(home: Path) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise RuntimeError("Error while serializing: No space left on device (os error 28)")

    with pytest.raises(DiskFull, match="offload"):
        placement.read_in_part(read, home, "cpu", 1)


def test_a_worker_reads_what_does_not_fit_from_the_disk(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way: refused with the way out, allowed, answered, and nothing left behind."""
    file = tmp_path / "catalog.toml"
    name = f"{PHI}@transformers"
    file.write_text(f'[sources."{PHI}-checkpoint"]\npath = "{in_shards()}"\n')
    monkeypatch.setenv("SLM_CATALOG", str(file))
    monkeypatch.setenv("SLM_CONTEXT", "512")
    own = selector.Selector()
    deployment = catalog.load().deployment(name)
    store.fetch(deployment)
    need = fit.need(deployment)
    monkeypatch.setenv("SLM_MEMORY_GB", str((need.total - 4 * need.weights // 5) / 1e9))
    with pytest.raises(MemoryExceeded) as refused:
        ask(own.backend(name), "Hello", max_tokens=4)
    assert "SLM_OFFLOAD=1" in refused.value.hint
    monkeypatch.setenv("SLM_OFFLOAD", "1")
    answered = ask(own.backend(name), "Hello", max_tokens=4, temperature=0)
    assert answered.completion_tokens
    assert "of its weights on the disk" in answered.about.device
    own.unload(name)
    until(lambda: not list((home / "offload").iterdir()))
