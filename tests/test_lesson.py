"""The lesson's demo: who can answer in it, what brings those that cannot, and what is published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from asking import PATIENCE
from ollama_server import Ollama, serving_ollama
from scripted_server import own_selector

from slm_backends import catalog, run, selector, store
from slm_backends.errors import NotFetched
from slm_backends.multilingual import lesson, parallel
from slm_backends.multilingual.lesson import CHANGSHA, MODELS, Offer
from slm_backends.multilingual.plan import SAMPLING
from slm_backends.selector import Selector

OLD, NEW = MODELS
TAGS = {OLD: "phi3:3.8b-mini-4k-instruct-q4_0", NEW: "phi3.5:latest"}


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Selector]:
    """A computer of 16 GB with an empty store, on which no server was asked."""
    monkeypatch.setenv("SLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SLM_MEMORY_GB", "16")
    monkeypatch.delenv("SLM_CATALOG", raising=False)
    with own_selector(monkeypatch) as made:
        yield made


@pytest.fixture
def ollama(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ollama]:
    with serving_ollama() as made:
        monkeypatch.setenv("OLLAMA_HOST", made.address)
        yield made


def pulled(ollama: Ollama, *models: str) -> None:
    """They are on the Ollama server, and it was asked."""
    for model in models:
        ollama.add(TAGS[model])
    selector.probe(catalog.load().providers["ollama"]).result(PATIENCE)


def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *models: str) -> None:
    """Tiny weights of their architecture are here for Transformers."""
    sources = [
        f'[sources."{model}-checkpoint"]\npath = "{tiny_models.hugging_face(model)}"\n'
        for model in models
    ]
    (tmp_path / "own.toml").write_text("".join(sources))
    monkeypatch.setenv("SLM_CATALOG", str(tmp_path / "own.toml"))
    for model in models:
        store.fetch(catalog.load().deployment(f"{model}@transformers"))


def deployments(offer: Offer) -> list[str]:
    return [item.deployment for item in offer.wanted]


def test_the_questions_are_the_lessons_and_those_of_the_set() -> None:
    first, *others = lesson.questions()
    assert first == CHANGSHA
    assert first.system
    assert [item.prompt for item in others] == list(parallel.texts("zh").ask.values())
    assert {item.expected for item in (first, *others)} == {"zh"}


def test_nothing_is_here() -> None:
    offer = lesson.offer()
    assert offer.plan is None
    assert not offer.whole
    assert [item.model.id for item in offer.wanted] == list(MODELS)
    for item in offer.wanted:
        assert item.deployment == ""
        way = item.ways[0]
        assert way.deployment == f"{item.model.id}@onnx"
        assert way.command == f"python -m slm_backends fetch {item.model.id}@onnx"
        assert 2e9 < way.size < 3e9
        assert way.fits
        places = [way.deployment.partition("@")[2] for way in item.ways]
        assert len(set(places)) == len(places)
        assert "github" not in places  # its provider has ended
        ollama = next(way for way in item.ways if way.deployment.endswith("@ollama"))
        assert ollama.command.startswith("ollama pull phi3")
        assert ollama.size == 0
        nim = next(way for way in item.ways if way.deployment.endswith("@nim"))
        assert (nim.what, nim.command) == ("Set NVIDIA_API_KEY, or type it on the Models page.", "")


def test_without_a_plan_there_is_a_command() -> None:
    with pytest.raises(NotFetched, match="Neither model") as caught:
        lesson.plan()
    for model in MODELS:
        assert f"python -m slm_backends fetch {model}@onnx" in caught.value.hint


def test_what_does_not_fit_the_memory_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_MEMORY_GB", "2")
    for item in lesson.offer().wanted:
        assert item.ways[0].deployment.endswith("@ollama")
        assert not item.ways[-1].fits
        assert item.ways[-1].what.startswith("Needs ")
        assert [way.fits for way in item.ways] == sorted((w.fits for w in item.ways), reverse=True)


def test_both_on_a_server(ollama: Ollama) -> None:
    pulled(ollama, *MODELS)
    offer = lesson.offer()
    assert offer.whole
    assert deployments(offer) == [f"{OLD}@ollama", f"{NEW}@ollama"]
    assert all(item.ways == () for item in offer.wanted)
    assert offer.plan == lesson.plan()
    assert offer.plan.task == "ask"
    assert offer.plan.sampling == SAMPLING
    request = offer.plan.questions[0].request(offer.plan.sampling)
    for deployment in offer.plan.deployments:
        reply = run.start(selector.backend(deployment), request).wait(PATIENCE)
        assert reply.state == "done", reply.error
        assert reply.text.strip() == CHANGSHA.prompt


def test_one_on_a_server_and_how_to_get_the_other(ollama: Ollama) -> None:
    pulled(ollama, NEW)
    offer = lesson.offer()
    assert not offer.whole
    assert deployments(offer) == ["", f"{NEW}@ollama"]
    assert offer.plan is not None
    assert offer.plan.deployments == (f"{NEW}@ollama",)
    pull = next(way for way in offer.wanted[0].ways if way.deployment.endswith("@ollama"))
    assert pull.command == f"ollama pull {TAGS[OLD]}"
    assert pull.what == f"The server does not list {TAGS[OLD]}."


def test_a_server_that_nobody_has_asked_is_not_counted_on(ollama: Ollama) -> None:
    for tag in TAGS.values():
        ollama.add(tag)
    assert lesson.offer().plan is None


def test_here_before_on_a_server(
    ollama: Ollama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled(ollama, *MODELS)
    fetched(tmp_path, monkeypatch, *MODELS)
    monkeypatch.setenv("SLM_CONTEXT", "1024")
    assert deployments(lesson.offer()) == [f"{OLD}@transformers", f"{NEW}@transformers"]
    monkeypatch.setenv("SLM_MEMORY_GB", "0.5")  # too large now
    assert deployments(lesson.offer()) == [f"{OLD}@ollama", f"{NEW}@ollama"]


def test_rather_on_the_same_runtime(
    ollama: Ollama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLM_CONTEXT", "1024")
    pulled(ollama, OLD)
    fetched(tmp_path, monkeypatch, NEW)
    assert deployments(lesson.offer()) == [f"{OLD}@ollama", f"{NEW}@transformers"]
    pulled(ollama, NEW)
    assert deployments(lesson.offer()) == [f"{OLD}@ollama", f"{NEW}@ollama"]


def test_what_is_here_and_too_large_is_a_way_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched(tmp_path, monkeypatch, OLD)
    monkeypatch.setenv("SLM_MEMORY_GB", "0.5")
    offer = lesson.offer()
    way = next(way for way in offer.wanted[0].ways if way.deployment == f"{OLD}@transformers")
    assert (way.fits, way.command) == (False, "")
    assert way.what.startswith("Needs ")


def test_published_scores() -> None:
    (table,) = lesson.published()
    assert table.source == "https://huggingface.co/microsoft/Phi-3.5-mini-instruct"
    assert "other tasks" in table.note
    assert table.models == ("Phi-3 mini 128k", "Phi-3.5 mini", "Phi-3.5 MoE")
    assert table.scores["MGSM"] == (41.56, 47.9, 58.7)
    assert len(table.scores) == 6
    for scores in table.scores.values():
        assert len(scores) == len(table.models)
        assert all(0 < score <= 100 for score in scores)
