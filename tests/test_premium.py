"""What languages cost in tokens: by real tokenizers, tiny ones, and by what servers reported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_tokenizers
from tokenizers import Tokenizer

from slm_backends import catalog, shipped_weights
from slm_backends.multilingual import parallel, premium, tasks
from slm_backends.multilingual.plan import Plan, Question
from slm_backends.multilingual.results import Cell, Results

NANO = "phi-vision-nano@transformers"  # its weights come with the playground


@pytest.fixture(autouse=True)
def _empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_HOME", str(tmp_path / "home"))


def nano() -> premium.Counts:
    found = premium.counts(NANO)
    assert found is not None
    return found


def test_tokens_are_those_of_the_deployments_own_tokenizer() -> None:
    found = nano()
    file = shipped_weights.folder("phi-vision-nano") / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    for code in ("en", "de", "ja"):
        cost, contents = found.costs[code], parallel.texts(code).contents
        assert cost.tokens.keys() == contents.keys()
        museum = tokenizer.encode(contents["sentences/museum"], add_special_tokens=False)
        assert cost.tokens["sentences/museum"] == len(museum.ids)
        assert cost.total == sum(cost.tokens.values())
        assert cost.characters == sum(map(len, contents.values()))
    assert found.entries == tokenizer.get_vocab_size()
    assert found.context == catalog.load().deployment(NANO).model.context


def test_premiums_are_over_english() -> None:
    costs = nano().costs
    assert costs["en"].premium == 1
    assert costs["de"].premium == costs["de"].total / costs["en"].total
    assert 1 < costs["de"].premium < costs["ar"].premium < 5


def test_what_a_context_holds() -> None:
    cost = premium.Cost("de", {"a": 40, "b": 60}, 100, 400, 2.0, 70)
    assert cost.tokens_per_character == 0.25
    assert (cost.characters_in(1_000), cost.words_in(1_000)) == (4_000, 700)
    assert replace(cost, words=None).words_in(1_000) is None
    assert nano().costs["ja"].words is None


@pytest.mark.parametrize("id", ["fake", "phi-3-mini-4k-instruct@onnx", "nobody@nowhere"])
def test_no_tokenizer_here(id: str) -> None:
    assert premium.counts(id) is None


def test_a_server_has_no_tokenizer_here() -> None:
    remote = [one.id for one in catalog.load().deployments.values() if not one.local]
    assert remote
    assert all(premium.counts(id) is None for id in remote)


def test_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = nano()
    monkeypatch.setattr(premium, "Tokenizer", None)
    assert nano().costs is first.costs


def name(folder: Path) -> str:
    source = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return premium._name(source["model"])


def test_tokenizers_are_shared_by_what_they_know_not_by_file(tmp_path: Path) -> None:
    one, later, unlike = (
        tiny_tokenizers.files(family, tmp_path / family)
        for family in ("phi-3-mini", "phi-3.5", "phi-4")
    )
    assert name(one) == name(later) != name(unlike)
    other = tmp_path / "other"
    shutil.copytree(one, other)
    source = json.loads((one / "tokenizer.json").read_text(encoding="utf-8"))
    source["model"]["vocab"] = dict(reversed(source["model"]["vocab"].items()))
    source["model"]["merges"] = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in source["model"]["merges"]
    ]
    source["added_tokens"] = source["added_tokens"][:-1]
    (other / "tokenizer.json").write_text(json.dumps(source), encoding="utf-8")
    assert name(other) == name(one)
    source["model"]["merges"] = source["model"]["merges"][:-1]
    (other / "tokenizer.json").write_text(json.dumps(source), encoding="utf-8")
    assert name(other) != name(one)


def test_groups_of_deployments_that_share() -> None:
    found = [premium.Counts(id, id[0], 1, None, {}) for id in ("a1", "b1", "a2", "c1")]
    assert premium.sharing(found) == (("a1", "a2"),)


def run(task: str, questions: tuple[Question, ...], tokens: dict[str, int | None]) -> Results:
    made = Results(Plan(task, ("one",), questions))
    for question in questions:
        if question.id in tokens:
            made.cells[question.id, "one"] = Cell(
                question.id, "one", "…", prompt_tokens=tokens[question.id]
            )
    return made


def test_from_what_was_reported() -> None:
    questions = tasks.questions("ask", ["de", "en", "zh"], names=["tea", "rain", "sea"])
    reported = {
        "ask/tea/de": 30, "ask/tea/en": 20,
        "ask/rain/de": 45, "ask/rain/en": 30,
        "ask/sea/de": 99,  # not asked in English
        "ask/tea/zh": None,
    }  # fmt: skip
    found = premium.measured(run("ask", questions, reported))
    assert found == {"one": {"de": premium.Measured("de", 1.5, 75, 50, 2)}}


def test_nothing_is_measured_where_prompts_do_not_mean_the_same() -> None:
    questions = tasks.questions("translate", ["de"])
    assert premium.measured(run("translate", questions, {})) == {}
    german = tasks.questions("ask", ["de"], names=["tea"])
    assert premium.measured(run("ask", german, {"ask/tea/de": 30})) == {}


def test_no_runtime_is_loaded() -> None:
    code = (
        f"import sys; from slm_backends.multilingual import premium; premium.counts({NANO!r}); "
        "print([name for name in ('torch', 'transformers', 'openvino') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
