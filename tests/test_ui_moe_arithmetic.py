"""The section on what mixtures cost, and the tree of an agent's answer, without a browser."""

from __future__ import annotations

import json

import pytest
from streamlit.testing.v1 import AppTest

from slm_backends import catalog
from slm_backends.moe import arithmetic

LARGEST = "Phi-3.5 MoE Instruct"


def _page() -> None:
    from ui.moe import arithmetic

    arithmetic.draw()


def _tree() -> None:
    import streamlit as st

    from slm_backends.moe import agent
    from ui.moe import tree

    tree.draw(agent.read(st.session_state.reply))


def drawn(page: AppTest) -> AppTest:
    assert not page.run().exception
    return page


def column(page: AppTest, name: str) -> dict[str, str]:
    """The first cell of each model."""
    table = page.dataframe[0].value
    return dict(zip(reversed(table["Model"]), reversed(table[name]), strict=True))


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setattr(arithmetic, "READ_SECONDS", 0.01)
    return drawn(AppTest.from_function(_page))


def test_every_mixture_stands_above_its_rivals(page: AppTest) -> None:
    table = page.dataframe[0].value
    rows = arithmetic.rows(catalog.load().models.values())
    assert [name.removeprefix("– ") for name in table["Model"]] == [row.model.name for row in rows]
    for name, beside in zip(table["Model"], table["Beside"], strict=True):
        assert ("x its" in beside) == name.startswith("– ")
    assert column(page, "Total")[LARGEST] == "41.9B"
    assert column(page, "Active")[LARGEST] == "6.6B"


def test_speeds_wait_for_the_button(page: AppTest) -> None:
    assert set(column(page, "At most").values()) == {"measure first"}
    assert "not measured yet" in page.caption[0].value
    drawn(page.button(key="moe_measure").click())
    row = next(
        row
        for row in arithmetic.rows(catalog.load().models.values(), arithmetic.bandwidth())
        if row.model.name == LARGEST
    )
    assert column(page, "At most")[LARGEST] == f"{row.costs['int4'].speed:,.1f} tok/s"
    assert f"{arithmetic.bandwidth() / 1e9:.0f} GB/s" in page.caption[0].value


def test_weights_and_conversations_are_chosen(page: AppTest) -> None:
    assert column(page, "Hold")[LARGEST] == "23.6 GB"
    drawn(page.segmented_control(key="moe_precision").set_value("bf16"))
    assert column(page, "Hold")[LARGEST] == "83.7 GB"
    one = column(page, "Read")
    drawn(page.number_input(key="moe_batch").set_value(arithmetic.MAX_BATCH))
    many = column(page, "Read")
    assert many[LARGEST] == column(page, "Hold")[LARGEST] == "83.7 GB", "every expert is read"
    assert one[LARGEST] == "13.3 GB"
    assert many["– Phi-4"] == one["– Phi-4"], "a model without experts reads all anyhow"
    assert "must hold 83.7 GB and reads 83.7 GB" in page.markdown[-1].value


def test_a_longer_context_may_not_fit(page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_MEMORY_GB", "24.5")
    assert column(drawn(page), "Fits")[LARGEST] == "yes"
    drawn(page.number_input(key="moe_context").set_value(131_072))
    assert column(page, "Fits")[LARGEST] == "no"


def test_a_whole_answer_is_a_tree() -> None:
    steps = [
        {"agentid": "step1", "tool_name": "Blog", "input": "AI", "output": "A text"},
        {"Result": "A text"},
    ]
    page = AppTest.from_function(_tree)
    page.session_state["reply"] = json.dumps(steps)
    assert json.loads(drawn(page).json[0].value) == steps
    assert not page.warning


def test_problems_stand_above_the_tree_and_draw_nothing() -> None:
    page = AppTest.from_function(_tree)
    page.session_state["reply"] = json.dumps([{"agentid": "**[x](http://x.example)**"}])
    said = drawn(page).warning[0].value
    assert "Step 1 has no tool_name." in said.replace("\\", "")
    assert "[x](" not in said, "a reply draws no link of its own"
    assert [one.type for one in page.main.children.values()] == ["warning", "json"]


def test_a_reply_that_ends_too_early_has_no_tree() -> None:
    page = AppTest.from_function(_tree)
    page.session_state["reply"] = json.dumps([{"agentid": "step1"}])[:-4]
    assert "raise Max tokens" in drawn(page).warning[0].value
    assert not page.json
