"""The recipe of phi-moe-nano and its twin: batches that teach, and weights that know."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from command_line import ROOT
from engine_talk import ids, reply
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, Phi3ForCausalLM, PhimoeForCausalLM

from recipes.phi_moe_nano import examine, export, kinds, layout, tokens, train
from recipes.tokenizer import SPECIAL
from slm_backends import catalog, shipped_weights
from slm_backends.chat import Message
from slm_backends.moe import nano
from slm_backends.worker.engines import transformers
from slm_backends.worker.text import ChatText

BOTH = (nano.MIXTURE, nano.TWIN)
LARGEST = 26_000_000  # bytes of weights that may be shipped
#: of right answers to checked questions: below what the cards say, for few are asked here
FLOOR = {nano.MIXTURE: 0.95, nano.TWIN: 0.95}
WORST_STORIES = 2.0  # perplexity


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(shipped_weights.folder(nano.MIXTURE) / "tokenizer.json"))


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    """Model id -> the model, in float32."""
    return {
        model_id: AutoModelForCausalLM.from_pretrained(
            shipped_weights.folder(model_id), dtype=torch.float32, local_files_only=True
        ).eval()
        for model_id in BOTH
    }


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both models in tiny."""
    for name, value in (("HIDDEN", 48), ("EXPERT", 24), ("LAYERS", 1), ("HEADS", 2)):
        monkeypatch.setattr(layout, name, value)


# --- training -------------------------------------------------------------------------------------


def test_answers_are_taught_and_nothing_else(tokenizer: Tokenizer) -> None:
    batches = iter(train.Lessons(tokenizer, 70))
    seed = 70
    for _ in range(2):
        read, wanted, after = next(batches)
        assert read.shape == wanted.shape == (train.ROWS, read.shape[1])
        assert read.shape[1] <= train.ROW
        for row, targets in zip(read.tolist(), wanted.tolist(), strict=True):
            text = tokenizer.decode(row, skip_special_tokens=False)
            turns = re.findall(r"<\|user\|>\n(.*?)<\|end\|>\n<\|assistant\|>\n(.*?)<\|end\|>\n",
                               text, re.DOTALL)  # fmt: skip
            assert len(turns) >= 1
            for question, answer in turns:
                lesson = kinds.lesson(seed)
                assert (question, answer) == (lesson.question, lesson.answer)
                seed += 1
            taught = [place for place, token in enumerate(targets) if token != train.UNTAUGHT]
            # Each target is the token after it, which is an answer's or the end of one.
            assert [targets[place] for place in taught] == [row[place + 1] for place in taught]
            said = tokenizer.decode([targets[place] for place in taught], skip_special_tokens=False)
            assert said == "".join(f"{answer}<|end|>" for _, answer in turns)
        assert after == seed
    again = next(iter(train.Lessons(tokenizer, seed)))  # as where a training goes on
    assert torch.equal(again[0], next(batches)[0])


def test_an_uneven_load_costs() -> None:
    even = torch.eye(4) * 20  # each token is sure of another expert
    assert float(train._uneven(even)) == pytest.approx(1)
    assert float(train._uneven(torch.tensor([[20.0, 0, 0, 0]] * 4))) == pytest.approx(4)


@pytest.mark.parametrize("make", [layout.mixture, layout.twin])
def test_steps_teach(tokenizer: Tokenizer, small: None, make: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make(tokens.SIZE)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        read, wanted, _ = next(iter(train.Lessons(tokenizer, 0)))
        told = [train.step(model, optimizer, read[:4], wanted[:4]) for _ in range(6)]
    losses, uneven = zip(*told, strict=True)
    assert losses[0] == pytest.approx(numpy.log(tokens.SIZE), rel=0.05)
    assert losses[-1] < 0.8 * losses[0]
    assert all(value >= 0.99 for value in uneven) if make is layout.mixture else not any(uneven)


def test_the_rate_rises_and_falls() -> None:
    shares = [train.share_of_rate(step, step / 3_000) for step in range(3_000)]
    rise = train.RISE
    assert shares[0] < 0.01 and shares[rise] > 0.95
    assert shares[-1] == pytest.approx(train.LEAST, rel=0.01)
    assert shares[:rise] == sorted(shares[:rise])
    assert shares[rise:] == sorted(shares[rise:], reverse=True)


def test_two_steps_of_training_make_a_mixture_that_runs(tmp_path: Path) -> None:
    command = "-m", "recipes.phi_moe_nano.train", str(tmp_path), "--steps", "2", "--threads", "1"
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
    here = shipped_weights.folder(nano.MIXTURE)
    made = {file.name for file in tmp_path.iterdir()}
    beside = {"README.md", nano.RESULTS}
    assert made - {export.KEPT} == {file.name for file in here.iterdir()} - beside
    for name in made - {export.KEPT, nano.TRAINING, "model.safetensors"}:
        written, known = (json.loads((where / name).read_text()) for where in (tmp_path, here))
        for each in (written, known):
            each.pop("transformers_version", None)
        assert written == known, name
    engine = transformers.load(tmp_path, lambda fraction, step: None)
    assert engine.mixture == (layout.LAYERS, layout.EXPERTS, layout.CHOSEN)
    said, _ = reply(engine, ChatText(tmp_path).prompt((Message("user", "Hi"),)), 3)
    assert len(said) == 3


def test_a_training_goes_on_where_it_was(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "DataLoader", lambda lessons, **options: lessons)
    monkeypatch.setattr(train, "NOTED", 1)
    for steps, more in ((2, []), (3, ["--resume"])):
        train.main(
            [str(tmp_path), "--twin", "--steps", f"{steps}", "--threads", "1", "--seed", "4", *more]
        )
        told = json.loads((tmp_path / nano.TRAINING).read_text())
        assert told["steps"] == steps and told["seed"] == 4
        assert [step for step, _ in told["loss"]] == [*range(1, steps + 1)]
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(model, Phi3ForCausalLM)
    assert told["parameters"] == told["active"] == model.num_parameters()
    seed = 4 * kinds.LESSONS_A_SEED
    batches = iter(train.Lessons(Tokenizer.from_file(str(tmp_path / "tokenizer.json")), seed))
    assert told["lessons"] == [next(batches)[2] for _ in range(3)][-1] - seed


# --- what is shipped ------------------------------------------------------------------------------


@pytest.mark.parametrize("model_id", BOTH)
def test_they_are_small_and_have_cards(model_id: str) -> None:
    weights = shipped_weights.folder(model_id) / "model.safetensors"
    assert weights.stat().st_size <= LARGEST
    card = (weights.parent / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in card
    assert "TODO" not in card


def test_the_architectures_are_those_of_the_family(shipped: dict[str, Any]) -> None:
    mixture, twin = (shipped[model_id] for model_id in BOTH)
    assert isinstance(mixture, PhimoeForCausalLM) and isinstance(twin, Phi3ForCausalLM)
    for layer in mixture.model.layers:
        assert type(layer.mlp.router).__name__ == "PhimoeTopKRouter"
        assert (layer.mlp.router.num_experts, layer.mlp.router.top_k) == (16, 2)
    assert 10_000_000 <= layout.sizes(mixture)[0] <= 15_000_000
    for model_id, model in shipped.items():
        told = json.loads((shipped_weights.folder(model_id) / nano.TRAINING).read_text())
        assert layout.sizes(model) == (told["parameters"], told["active"])
        assert catalog.load().deployment(f"{model_id}@transformers").sound_to == train.ROW


@pytest.mark.parametrize("model_id", BOTH)
def test_the_weights_know_fresh_lessons(
    tokenizer: Tokenizer, shipped: dict[str, Any], model_id: str
) -> None:
    found = examine.examine(shipped[model_id], tokenizer, 12, seed=2)
    checked = [item for item in found.values() if item.right is not None]
    assert len(checked) == len(kinds.KINDS) - 1
    share = sum(item.right or 0 for item in checked) / sum(item.asked for item in checked)
    assert share >= FLOOR[model_id], examine.table(found)
    assert found["stories"].perplexity < WORST_STORIES, examine.table(found)


@pytest.mark.parametrize("model_id", BOTH)
def test_a_reply_is_what_was_judged(
    tokenizer: Tokenizer, shipped: dict[str, Any], model_id: str
) -> None:
    """The engine's own greedy decoding, in its own numbers."""
    folder = shipped_weights.folder(model_id)
    engine = transformers.load(folder, lambda fraction, step: None)
    text, end = ChatText(folder), SPECIAL.index("<|end|>")
    judged = 0
    for kind in kinds.KINDS:
        for lesson in examine.fresh(kind, 2, seed=3):
            if not examine.answer(shipped[model_id], tokenizer, lesson).right:
                continue
            judged += 1
            wanted = tokenizer.encode(lesson.answer).ids
            prompt = text.prompt((Message("user", lesson.question),))
            assert ids(reply(engine, prompt, len(wanted) + 1)[0]) == [*wanted, end], lesson
    assert judged >= len(kinds.KINDS)


def test_every_expert_of_every_layer_is_used(tokenizer: Tokenizer, shipped: dict[str, Any]) -> None:
    model = shipped[nano.MIXTURE]
    used = [set[int]() for _ in range(layout.LAYERS)]
    for kind in kinds.KINDS:
        for lesson in examine.fresh(kind, 6, seed=4):
            text = f"<|user|>\n{lesson.question}<|end|>\n<|assistant|>\n{lesson.answer}<|end|>"
            read = torch.tensor([tokenizer.encode(text).ids])
            with torch.inference_mode():
                made = model(read, output_router_logits=True)
            for layer, logits in enumerate(made.router_logits):
                used[layer] |= set(logits.topk(layout.CHOSEN).indices.flatten().tolist())
    assert used == [set(range(layout.EXPERTS))] * layout.LAYERS


def test_a_table_tells_no_accuracy_where_there_is_none() -> None:
    told = examine.table(
        {"units": examine.Found(4, 3, 1.5), "stories": examine.Found(4, None, 2.25)}
    )
    assert told.splitlines() == [
        "units         75.0% of 4  perplexity 1.500",
        "stories           - of 4  perplexity 2.250",
    ]
