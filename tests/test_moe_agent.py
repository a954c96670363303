"""The agent's prompt, and what is found and found wrong in replies to it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from slm_backends.chat import Message
from slm_backends.moe import agent

STEPS: list[dict[str, Any]] = [
    {"agentid": "step1", "tool_name": "Blog", "input": "MoE", "output": "Experts take turns."},
    {"agentid": "step2", "tool_name": "Translate", "input": "Experts take turns.",
     "output": "专家轮流工作。"},
    {"Result": "专家轮流工作。"},
]  # fmt: skip
WHOLE = json.dumps(STEPS, ensure_ascii=False, indent=2)


def changed(place: int, **fields: Any) -> list[Any]:
    step = {**STEPS[place], **fields}
    kept = {name: value for name, value in step.items() if value is not None}
    return [*STEPS[:place], kept, *STEPS[place + 1 :]]


@pytest.mark.parametrize(
    "text",
    [
        WHOLE,
        f"```json\n{WHOLE}\n```",
        f"Here are [some] steps {{of mine}}:\n\n```\n{WHOLE}\n```\nThat was all.",
        f"Of course: {WHOLE} I hope that helps.",
        f"```json\n{WHOLE}",
        f"As [1] and {{some}} say: {WHOLE}",
        f"```python\nsteps = [[1]]\n```\n{WHOLE}",
    ],
    ids=[
        "bare",
        "fenced",
        "words around",
        "in a sentence",
        "fence never closed",
        "after brackets",
        "after a program",
    ],
)
def test_an_answer_is_found_wherever_it_stands(text: str) -> None:
    assert agent.read(text) == agent.Answer(True, STEPS)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (changed(1, tool_name=None), "Step 2 has no tool_name."),
        (changed(0, agentid="step7"), 'Step 1 is called "step7", not step1.'),
        (changed(1, tool_name="Search"), 'Step 2 uses "Search", which is none of'),
        (changed(0, output=""), "The output of step 1 is empty"),
        (changed(0, input=3), "The input of step 1 is empty, or no text."),
        (STEPS[:2], "There is no final Result."),
        ([STEPS[2], *STEPS[:2]], "The Result is not the last entry."),
        (changed(2, Result=[]), "The Result is empty, or no text."),
        ([*STEPS[:1], "then translate", STEPS[2]], "Entry 2 is a text, not a step."),
        ([STEPS[2]], "There is no step."),
        (STEPS[0], "The reply is an object, not a list of steps."),
    ],
)
def test_what_is_wrong_is_said_and_the_json_shown(content: Any, problem: str) -> None:
    found = agent.read(json.dumps(content))
    assert found.found
    assert found.content == content
    assert any(problem in said for said in found.problems), found.problems


@pytest.mark.parametrize(
    "text", ["", "I cannot do that.", "Experts take turns. [1] is no answer, nor is {}.", '"Blog"']
)
def test_nothing_in_it(text: str) -> None:
    assert agent.read(text) == agent.Answer(False, None, ("There is no JSON in this reply.",))


@pytest.mark.parametrize("text", ["[]", "{}", "[1, 2]", " [null]\n"])
def test_json_that_is_all_there_is(text: str) -> None:
    found = agent.read(text)
    assert found.found
    assert found.content == json.loads(text)
    assert found.problems


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("},", "}", "line 8, column 3: Expecting ',' delimiter."),
        ("take turns", "take\nturns", "line 6, column 28: Invalid control character."),
        ('"MoE"', '"a "MoE""', "Expecting ',' delimiter."),
    ],
    ids=["no comma", "a line within a text", "quotes within a text"],
)
def test_a_part_of_broken_json_does_not_pass_for_the_whole(old: str, new: str, said: str) -> None:
    broken = WHOLE.replace(old, new)
    for text in (broken, f"```json\n{broken}\n```"):
        found = agent.read(text)
        assert not found.found
        assert found.content is None
        assert found.problems[0].startswith("The JSON is broken: line ")
    assert said in agent.read(broken).problems[0]


def test_a_comma_too_many_is_no_early_end() -> None:
    assert agent.read('[{"input": "a"},]').problems[0].startswith("The JSON is broken: line 1")


def test_a_number_that_is_none() -> None:
    assert "such as NaN" in agent.read('[{"input": NaN}]').problems[0]


@pytest.mark.parametrize("kept", range(len(WHOLE) - 1, 40, -7))
def test_an_answer_that_was_cut_short(kept: int) -> None:
    found = agent.read(f"```json\n{WHOLE[:kept]}")
    assert not found.found
    assert "raise Max tokens" in found.problems[0]


@pytest.mark.parametrize("end", ["tru", "nul", "-", '"\\u4e', '"\\'])
def test_an_answer_that_was_cut_short_within_a_word(end: str) -> None:
    assert "raise Max tokens" in agent.read('[{"input": ' + end).problems[0]


def test_nothing_endless() -> None:
    assert agent.read("[" * 200_000).problems
    many = json.dumps([{"agentid": "x"}] * 1_000)
    assert 0 < len(agent.read(many).problems) <= agent.MOST


def test_the_prompt_shows_what_is_then_checked() -> None:
    Message("system", agent.PROMPT)
    for word in (*agent.TOOLS, "agentid", "tool_name", "input", "output", "Result", "step1"):
        assert word in agent.PROMPT
    objects = [json.loads(line) for line in agent.PROMPT.splitlines() if line.startswith("{")]
    assert agent.read(json.dumps(objects)).problems == ()
