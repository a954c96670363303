"""Plans: what can be run, and that one from a file asks the same."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from slm_backends.chat import Message, Sampling
from slm_backends.errors import BadRequest
from slm_backends.multilingual.plan import (
    MAX_CHARACTERS,
    MAX_DEPLOYMENTS,
    MAX_QUESTIONS,
    TASKS,
    Plan,
    Question,
)

HELLO = Question("ask/hello/de", "de", "de", "Wie geht es?")
SUM = Question(
    "solve/sum/ar", "ar", "ar", "٢ + ٣ = ؟", "أجب برقم.", "خمسة", "5", content="٢ + ٣ = ؟", line=7
)
PLAN = Plan(
    "ask",
    ("fake", "fake:slow"),
    (HELLO, SUM),
    Sampling(max_tokens=30, temperature=0.5, seed=3, stop=("\n\n",), left_out=("top_k",)),
    "Two of them",
    at_once=2,
)


def test_cells_go_deployment_by_deployment() -> None:
    assert PLAN.languages == ("de", "ar")
    assert PLAN.keys == (
        ("ask/hello/de", "fake"),
        ("solve/sum/ar", "fake"),
        ("ask/hello/de", "fake:slow"),
        ("solve/sum/ar", "fake:slow"),
    )


def test_a_question_as_a_request() -> None:
    assert HELLO.request(PLAN.sampling).messages == (Message("user", "Wie geht es?"),)
    asked = SUM.request(PLAN.sampling)
    assert asked.messages == (Message("system", "أجب برقم."), Message("user", "٢ + ٣ = ؟"))
    assert asked.sampling == PLAN.sampling


def test_a_plan_survives_json() -> None:
    assert Plan.from_json(PLAN.to_json()) == PLAN
    assert Plan.from_json(json.loads(json.dumps(PLAN.to_json()))) == PLAN
    assert PLAN.to_json()["questions"][0] == {
        "id": "ask/hello/de", "language": "de", "expected": "de", "prompt": "Wie geht es?"
    }  # fmt: skip


def test_unknown_settings_of_another_version_are_left_out() -> None:
    given = PLAN.to_json()
    given["sampling"] = {**given["sampling"], "mirostat": 2}
    assert Plan.from_json(given) == PLAN


def test_as_much_as_a_plan_takes() -> None:
    questions = tuple(replace(HELLO, id=str(number)) for number in range(MAX_QUESTIONS))
    deployments = tuple(f"fake:{number}" for number in range(MAX_DEPLOYMENTS))
    plan = Plan("ask", deployments, questions)
    assert len(plan.keys) == MAX_QUESTIONS * MAX_DEPLOYMENTS
    with pytest.raises(BadRequest, match="at most 5,000 prompts, not 5,001"):
        replace(plan, questions=(*questions, HELLO))
    with pytest.raises(BadRequest, match="Choose 1 to 8 deployments, not 9"):
        replace(plan, deployments=(*deployments, "fake"))


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"task": "sing"}, "task", "There is no task called 'sing'."),
        ({"questions": ()}, "questions", "There is nothing to ask."),
        ({"deployments": ()}, "deployments", "Choose 1 to 8 deployments, not 0."),
        ({"deployments": ("a", "a")}, "deployments", "A deployment is named twice."),
        ({"questions": (HELLO, HELLO)}, "questions", "Two prompts are called 'ask/hello/de'."),
        ({"questions": (replace(HELLO, id=""),)}, "questions", "A prompt has no id."),
        (
            {"questions": (replace(HELLO, language="tlh"),)},
            "questions",
            "There is no language called 'tlh'.",
        ),
        (
            {"questions": (replace(HELLO, expected="German"),)},
            "questions",
            "There is no language called 'German'.",
        ),
        (
            {"questions": (replace(HELLO, prompt=" \n"),)},
            "questions",
            "A prompt has 1 to 20,000 characters; ask/hello/de does not.",
        ),
        (
            {"questions": (replace(HELLO, prompt="a" * (MAX_CHARACTERS + 1)),)},
            "questions",
            "A prompt has 1 to 20,000 characters; ask/hello/de does not.",
        ),
    ],
)
def test_what_cannot_be_run(change: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        replace(PLAN, **change)
    assert (caught.value.field, caught.value.message) == (field, message)


@pytest.mark.parametrize("given", [None, [], "plan", 5, {}, {"task": "ask"}])
def test_what_is_no_plan(given: Any) -> None:
    with pytest.raises(BadRequest, match="no plan of a comparison") as caught:
        Plan.from_json(given)
    assert caught.value.field == "plan"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("task",), ["ask"]),
        (("task",), None),
        (("deployments",), "fake"),
        (("deployments",), {"fake": 1}),
        (("deployments",), [1]),
        (("questions",), "ask"),
        (("questions",), [None]),
        (("questions", 0), []),
        (("questions", 0, "prompt"), ["Wie?"]),
        (("questions", 0, "language"), None),
        (("questions", 0, "line"), "7"),
        (("questions", 0, "colour"), "red"),
        (("at_once",), "4"),
        (("at_once",), 1.5),
        (("at_once",), float("inf")),
        (("at_once",), True),
        (("at_once",), 65),
        (("sampling",), None),
        (("sampling", "temperature"), "warm"),
        (("sampling", "temperature"), float("nan")),
        (("sampling", "max_tokens"), 10**4000),
        (("sampling", "stop"), "ab"),
        (("sampling", "stop"), [1]),
        (("sampling", "left_out"), "top_k"),
        (("sampling", "left_out"), [[]]),
    ],
)
def test_a_wrong_kind_anywhere_in_a_plan(place: tuple[str | int, ...], value: Any) -> None:
    given: Any = copy.deepcopy(PLAN.to_json())
    *path, last = place
    inner = given
    for step in path:
        inner = inner[step]
    inner[last] = value
    with pytest.raises(BadRequest):
        Plan.from_json(given)


def test_every_task_says_what_it_is() -> None:
    assert all(TASKS.values())
