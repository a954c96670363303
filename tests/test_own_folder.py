"""Weights that the user has: used where they lie, never changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_gguf

from slm_backends import store
from slm_backends.catalog import Deployment, Model, Source
from slm_backends.errors import FetchFailed

CHECKPOINT = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": b"numbers" * 1000,
    "pytorch_model.bin": b"a pickle",
    "modeling_own.py": b"code",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLM_HOME", str(tmp_path / "home"))
    folder = tmp_path / "own"
    folder.mkdir()
    for name, content in CHECKPOINT.items():
        (folder / name).write_bytes(content)
    return folder


def deployment(path: Path | str, runtime: str = "transformers", convert: str = "") -> Deployment:
    return Deployment(
        id=f"own@{runtime}",
        model=Model(id="own", name="Own"),
        runtime=runtime,
        convert=convert,
        source=Source(id="own", path=str(path)),
    )


def test_it_is_used_where_it_lies(own: Path) -> None:
    folder = store.fetch(deployment(own))
    names = {file.name for file in folder.iterdir()}
    assert names == {"config.json", "tokenizer.json", "model.safetensors", "manifest.json"}
    assert (folder / "model.safetensors").samefile(own / "model.safetensors")
    assert store.is_ready(deployment(own)) and store.verify(deployment(own)) == []


def test_remove_leaves_it_alone(own: Path) -> None:
    folder = store.fetch(deployment(own))
    store.remove(deployment(own))
    assert not folder.exists()
    assert {file.name: file.read_bytes() for file in own.iterdir()} == CHECKPOINT


def test_what_the_user_changes_is_seen(own: Path) -> None:
    store.fetch(deployment(own))
    (own / "model.safetensors").write_bytes(b"NUMBERS" * 1000)
    assert store.verify(deployment(own)) == ["model.safetensors"]
    (own / "model.safetensors").unlink()
    assert not store.is_ready(deployment(own))
    assert not store.is_ready(deployment(own.parent))


def test_path_in_the_home_folder(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(own.parent))
    monkeypatch.setenv("USERPROFILE", str(own.parent))
    store.fetch(deployment("~/own"))
    assert store.is_ready(deployment("~/own"))


def test_a_single_gguf(own: Path) -> None:
    file = tiny_gguf.write(own / "tiny.gguf")
    wanted = deployment(file, runtime="openvino")
    folder = store.fetch(wanted)
    assert (folder / "model.gguf").samefile(file)
    assert (folder / "tokenizer.json").exists() and (folder / "chat_template.jinja").exists()
    assert store.is_ready(wanted)
    store.remove(wanted)
    assert file.exists()


@pytest.mark.parametrize(
    ("missing", "runtime", "reason"),
    [
        ("config.json", "transformers", r"holds no config\.json, which Transformers needs"),
        ("model.safetensors", "mlx", r"only as pickles \(pytorch_model\.bin\)"),
        ("", "onnx", r"holds no \*\.onnx"),
        ("", "openvino", r"holds no openvino_model\.xml"),
    ],
)
def test_folder_that_will_not_do(own: Path, missing: str, runtime: str, reason: str) -> None:
    if missing:
        (own / missing).unlink()
    with pytest.raises(FetchFailed, match=reason):
        store.fetch(deployment(own, runtime))
    assert not store.folder(deployment(own, runtime)).exists()


def test_path_that_is_not_there(own: Path) -> None:
    with pytest.raises(FetchFailed, match="there is no .*/gone") as no:
        store.fetch(deployment(own / "gone"))
    assert "[sources.own]" in no.value.hint
    with pytest.raises(FetchFailed, match="is a file, and no GGUF"):
        store.fetch(deployment(own / "config.json"))
