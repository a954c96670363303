"""Weights that come with the playground: found, never written, never removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import slm

from slm_backends import catalog, compare, shipped_weights, store, weights
from slm_backends.catalog import Deployment, Model, Source
from slm_backends.errors import BadRequest, CatalogError, FetchFailed

OURS = Deployment(
    id="ours@transformers",
    model=Model(id="ours", name="Ours", inputs=("text", "images")),
    runtime="transformers",
    source=Source(id="ours", shipped="ours"),
)
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "preprocessor_config.json": b"{}",
    "model.safetensors": b"numbers" * 1000,
    "README.md": b"# Its card",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(shipped_weights, "ROOT", tmp_path / "shipped")
    folder = tmp_path / "shipped" / "ours"
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def test_it_is_used_where_it_lies(folder: Path, tmp_path: Path) -> None:
    assert store.folder(OURS) == store.fetch(OURS) == folder
    assert store.is_ready(OURS) and store.verify(OURS) == []
    assert store.size(OURS) == sum(map(len, FILES.values()))
    assert not (tmp_path / "home").exists()  # nothing was made, not even a lock


@pytest.mark.parametrize("gone", sorted(FILES.keys() - {"README.md"}))
def test_what_is_missing_is_told(folder: Path, gone: str) -> None:
    (folder / gone).unlink()
    assert not store.is_ready(OURS)
    for ask in (store.fetch, store.verify):
        with pytest.raises(
            FetchFailed, match="comes with the playground, and is not whole"
        ) as told:
            ask(OURS)
        assert gone.partition(".")[2] in told.value.message
        assert "Install the playground again" in told.value.hint


def test_a_shard_that_is_missing_is_told(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / weights.INDEX).write_text(json.dumps(index))
    with pytest.raises(FetchFailed, match=r"model-2\.safetensors"):
        store.fetch(OURS)


def test_a_folder_that_is_not_there(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert not store.is_ready(OURS) and store.size(OURS) == 0


def test_it_stays(folder: Path) -> None:
    with pytest.raises(BadRequest, match="belongs to the playground and stays"):
        store.remove(OURS)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == FILES


def test_one_of_ours_is_the_same_artefact_as_itself_alone(folder: Path) -> None:
    other = Deployment(
        id="ours@transformers:2",
        model=OURS.model,
        runtime="transformers",
        source=Source(id="other", shipped="other"),
    )
    assert compare.relation(OURS, OURS) == "same artefact"
    assert compare.relation(OURS, other) != "same artefact"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ('shipped = "../../etc"', "shipped must be the name of a folder"),
        ('shipped = ".hidden"', "shipped must be the name of a folder"),
        ('shipped = "a"\nfiles = ["b"]', "files does not go with a shipped"),
        ('shipped = "a"\nrepo = "b/c"', "exactly one of wheel, repo, path and shipped"),
    ],
)
def test_mistakes_in_the_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, reason: str
) -> None:
    own = tmp_path / "own.toml"
    own.write_text(f"[sources.x]\n{entry}\n")
    monkeypatch.setenv("SLM_CATALOG", str(own))
    with pytest.raises(CatalogError, match=reason):
        catalog.load()


def test_the_command_line_keeps_it(tmp_path: Path) -> None:
    here = {"SLM_HOME": str(tmp_path / "home")}
    done = slm("remove", "--yes", "phi-vision-nano@transformers", env=here)
    assert done.returncode == 1
    assert "belongs to the playground" in done.stderr
    shown = slm("show", "phi-vision-nano@transformers", env=here)
    assert "comes from  the playground itself" in shown.stdout
