"""What the page says of the shipped mixture and its twin is what their folders say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slm_backends import catalog, shipped_weights
from slm_backends.moe import nano

BOTH = (nano.MIXTURE, nano.TWIN)


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of two models with notes that are known here."""
    monkeypatch.setattr(shipped_weights, "ROOT", tmp_path)
    for number, model_id in enumerate(BOTH, 1):
        folder = tmp_path / model_id
        folder.mkdir()
        training = {
            "steps": 40, "lessons": 900, "seconds": 7 * number, "seed": 1, "active": 50,
            "parameters": 50 * number, "loss": [[20, 6.5 * number], [40, 3.25]],
        }  # fmt: skip
        kinds = {
            "arithmetic": {"asked": 8, "right": 6, "perplexity": 1.5},
            "stories": {"asked": 8, "right": None, "perplexity": 2.5},
        }
        (folder / nano.TRAINING).write_text(json.dumps(training))
        (folder / nano.RESULTS).write_text(json.dumps({"seed": 5, "kinds": kinds}))
        (folder / "model.safetensors").write_bytes(b"w" * 100 * number)
    return tmp_path


def test_curves_are_those_of_the_training(notes: Path) -> None:
    assert nano.curves() == {
        nano.MIXTURE: ((20, 6.5), (40, 3.25)),
        nano.TWIN: ((20, 13.0), (40, 3.25)),
    }


def test_both_are_compared(notes: Path) -> None:
    told = nano.comparison()
    assert told.mixture == nano.Taught(
        nano.MIXTURE, 50, 50, 100, 40, 900, 7,
        {"arithmetic": nano.Score(8, 6, 1.5), "stories": nano.Score(8, None, 2.5)},
    )  # fmt: skip
    assert (told.twin.model_id, told.twin.parameters, told.twin.bytes) == (nano.TWIN, 100, 200)
    assert told.twin.seconds == 14


def test_a_kind_without_one_right_answer_has_no_accuracy() -> None:
    assert nano.Score(8, 6, 1.5).accuracy == 0.75
    assert nano.Score(8, 0, 1.5).accuracy == 0.0
    assert nano.Score(8, None, 2.5).accuracy is None


def test_what_is_shipped_is_a_fair_comparison() -> None:
    told, curves = nano.comparison(), nano.curves()
    mixture, twin = told.mixture, told.twin
    assert (mixture.steps, mixture.lessons) == (twin.steps, twin.lessons)
    assert mixture.active == pytest.approx(twin.active, rel=0.02)
    assert mixture.parameters > 4 * twin.parameters
    assert [step for step, _ in curves[nano.MIXTURE]] == [step for step, _ in curves[nano.TWIN]]
    assert mixture.scores.keys() == twin.scores.keys()
    for each in (mixture, twin):
        assert all(score.perplexity >= 1 for score in each.scores.values())
        assert each.steps - 20 < curves[each.model_id][-1][0] <= each.steps
        model = catalog.load().models[each.model_id]
        assert (each.parameters, each.active) == (
            model.parameters,
            model.active or model.parameters,
        )
        assert each.deployment_id in catalog.load().deployments
