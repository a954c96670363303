"""The shipped catalog holds together; a mistake in one's own gives file, line and reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slm_backends import catalog, convert
from slm_backends.errors import CatalogError, NotFound

OWN = """\
[models.tiny]
name = "Tiny"
parameters = 1_000

[deployments."tiny@openai"]
base_url = "http://127.0.0.1:9999/v1"
served_as = "tiny-q4"
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "own.toml"
    file.write_text(OWN)
    monkeypatch.setenv("SLM_CATALOG", str(file))
    return file


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> catalog.Catalog:
    monkeypatch.delenv("SLM_CATALOG", raising=False)
    return catalog.load()


def test_embedded_model_has_two_deployments(shipped: catalog.Catalog) -> None:
    onnx = shipped.deployment("smollm2-135m-instruct@onnx")
    openvino = shipped.deployment("smollm2-135m-instruct@openvino")
    assert onnx.source is openvino.source is not None
    assert (onnx.local, onnx.runtime_name) == (True, "ONNX Runtime GenAI")
    assert openvino.label == "SmolLM2 135M Instruct · OpenVINO GenAI"
    assert onnx.model.context == 8192


def test_shipped_conversions_exist(shipped: catalog.Catalog) -> None:
    named = {deployment.convert for deployment in shipped.deployments.values()} - {""}
    assert named <= set(convert.KINDS)


def test_unknown_deployment_names_the_known_ones(shipped: catalog.Catalog) -> None:
    with pytest.raises(NotFound) as caught:
        shipped.deployment("gpt-5@onnx")
    assert "smollm2-135m-instruct@openvino" in caught.value.hint


def test_catalog_is_read_once(shipped: catalog.Catalog) -> None:
    assert catalog.load() is shipped


def test_own_catalog_adds(own: Path) -> None:
    both = catalog.load()
    assert "smollm2-135m-instruct@onnx" in both.deployments
    tiny = both.deployment("tiny@openai")
    assert (tiny.model.name, tiny.served_as, tiny.local) == ("Tiny", "tiny-q4", False)


def test_own_catalog_overrides(own: Path) -> None:
    own.write_text(
        '[deployments."phi-3-mini-4k-instruct@ollama"]\n'
        'base_url = "http://127.0.0.1:1234/v1"\nserved_as = "mine"\n'
    )
    assert catalog.load().deployment("phi-3-mini-4k-instruct@ollama").served_as == "mine"


def test_changed_file_is_read_again(own: Path) -> None:
    catalog.load()
    own.write_text(OWN.replace("tiny-q4", "tiny-q8"))
    os.utime(own, ns=(1, 1))  # whatever the clock's resolution
    assert catalog.load().deployment("tiny@openai").served_as == "tiny-q8"


def test_missing_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLM_CATALOG", str(tmp_path / "nowhere.toml"))
    with pytest.raises(CatalogError, match=r"does not exist: .*nowhere\.toml"):
        catalog.load()


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("parameters = 1_000", 'parameters = "many"', 3, "parameters must be a whole number"),
        ("parameters = 1_000", "parameters = -1", 3, "parameters must be a whole number"),
        ("parameters = 1_000", "parameters = true", 3, "parameters must be a whole number"),
        ("parameters = 1_000", 'languages = "en"', 3, "languages must be a list of strings"),
        ('name = "Tiny"', "name = 7", 2, "name must be a string"),
        ('name = "Tiny"', 'nome = "Tiny"', 2, "there is no field called 'nome'"),
        ('name = "Tiny"\n', "", 1, "name is missing"),
        ("tiny@openai", "tiny", 5, "must be model@runtime"),
        ("tiny@openai", "huge@openai", 5, "there is no model called 'huge'"),
        ("tiny@openai", "tiny@abacus", 5, "there is no runtime called 'abacus'; known are onnx"),
        ("tiny@openai", "tiny@onnx", 5, "a deployment on onnx needs a source"),
        ("http://", "ftp://", 5, "needs a base_url"),
        ('served_as = "tiny-q4"', 'source = "moon"', 7, "there is no source called 'moon'"),
        ('served_as = "tiny-q4"', 'sampling = ["warmth"]', 7, "no sampling field called 'warmth'"),
        ("[models.tiny]", "[model.tiny]", 1, "there is no table called 'model'"),
    ],
)
def test_mistake(own: Path, old: str, new: str, line: int, reason: str) -> None:
    assert old in OWN
    own.write_text(OWN.replace(old, new))
    with pytest.raises(CatalogError) as caught:
        catalog.load()
    message = str(caught.value)
    assert message.startswith(f"{own}, line {line}: ")
    assert reason in message


def test_broken_toml_gives_the_line(own: Path) -> None:
    own.write_text("[models.tiny]\nname = \n")
    with pytest.raises(CatalogError, match=r"own\.toml: .*line 2"):
        catalog.load()
