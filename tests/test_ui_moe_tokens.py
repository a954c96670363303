"""What the browser is sent of a reply's tokens: a window of them, and all of the one chosen."""

from __future__ import annotations

import json

import numpy
import pytest
from mixtures import any_of, by_hand

from ui.moe import tokens

TRACE = any_of(10, 6, 3, 8, 2)


def test_a_window_holds_the_experts_of_one_layer() -> None:
    sent = tokens.data(TRACE, 1, 0, None)
    assert sent["tokens"] == list(TRACE.tokens)
    assert sent["chosen"] == TRACE.chosen[:, 1].tolist()
    assert (sent["begin"], sent["prompt"], sent["layer"]) == (0, 6, 1)
    assert sent["opened"] is None


def test_a_window_ends_with_the_text_or_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST", 4)
    for begin, end in ((0, 4), (4, 8), (8, 10)):
        sent = tokens.data(TRACE, 2, begin, None)
        assert sent["begin"] == begin
        assert sent["tokens"] == list(TRACE.tokens[begin:end])
        assert sent["chosen"] == TRACE.chosen[begin:end, 2].tolist()


def test_the_chosen_token_brings_all_layers_and_the_scores_of_one() -> None:
    opened = tokens.data(TRACE, 1, 0, 7)["opened"]
    assert (opened["place"], opened["text"]) == (7, TRACE.tokens[7])
    assert opened["layers"] == TRACE.chosen[7].tolist()
    assert numpy.allclose(opened["weights"], TRACE.weights[7], atol=5e-4)
    assert numpy.allclose(opened["scores"], TRACE.scores[7, 1], atol=5e-5)
    assert sum(opened["scores"]) == pytest.approx(1, abs=1e-2)


def test_a_token_outside_of_the_window_stays_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST", 4)
    assert tokens.data(TRACE, 0, 8, 1)["opened"]["place"] == 1


def test_a_place_that_a_shorter_reply_does_not_have_is_not_opened() -> None:
    assert tokens.data(TRACE, 0, 0, len(TRACE))["opened"] is None


def test_what_a_server_does_not_tell_is_none() -> None:
    opened = tokens.opened(by_hand([[[1, 0], [2, 3]]], 4, 1), 1, 0)
    assert opened["layers"] == [[1, 0], [2, 3]]
    assert (opened["weights"], opened["scores"]) == (None, None)


def test_all_of_it_can_be_sent_as_json() -> None:
    sent = tokens.data(TRACE, 0, 0, 3)
    assert json.loads(json.dumps(sent)) == sent
