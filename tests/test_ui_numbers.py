"""The line under a reply: what it says, what is best of a row, and what a comparison compares."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from slm_backends.catalog import Deployment, Model
from slm_backends.chat import Looking, Timings
from slm_backends.health import Health
from slm_backends.run import Reply
from ui import numbers

DONE = Reply(
    state="done",
    text="Paris.",
    finish_reason="stop",
    first_token_s=0.08,
    decode_s=2.0,
    total_s=2.5,
    prompt_tokens=12,
    completion_tokens=201,
    counted=True,
)
FASTER = replace(DONE, decode_s=1.0, total_s=1.25)
SOONER = replace(DONE, first_token_s=0.04, total_s=3.0)


def best(reply: Reply, *others: Reply) -> list[str]:
    """What is marked in the line of `reply` beside these."""
    return re.findall(r":green\[\*\*★ ([^*]+)\*\*\]", numbers.final(reply, [reply, *others]))


def test_the_line_of_one_reply() -> None:
    assert numbers.final(DONE, [DONE]) == (
        "201 tokens · 100.0 tok/s · first token 80 ms · 2.5 s · stop"
    )


def test_thousands_and_what_is_not_known() -> None:
    assert numbers.final(replace(DONE, completion_tokens=12_345), []).startswith("12,345 tokens")
    unknown = Reply(state="done", total_s=0.5, finish_reason="stop")
    assert numbers.final(unknown, [unknown]) == "500 ms · stop"


def test_the_best_of_a_row_is_marked() -> None:
    assert best(FASTER, DONE) == ["200.0 tok/s"]
    assert best(DONE, FASTER) == []
    assert best(SOONER, DONE, FASTER) == ["first token 40 ms"]
    assert best(DONE, SOONER, FASTER) == []


def test_equals_are_not_marked() -> None:
    assert best(DONE) == []
    assert best(DONE, DONE) == []
    assert best(FASTER, FASTER, DONE) == ["200.0 tok/s"]  # both are best
    assert best(replace(DONE, decode_s=1.9999), DONE) == []  # the same on screen


@pytest.mark.parametrize("state", ["stopped", "failed", "decoding"])
def test_only_complete_replies_compete(state: str) -> None:
    other = replace(FASTER, state=state)  # type: ignore[arg-type]
    assert best(other, DONE) == []
    assert best(DONE, other) == []  # nobody is left to be better than
    assert best(DONE, other, replace(DONE, first_token_s=9.0)) == ["first token 80 ms"]


def test_what_is_not_known_does_not_compete() -> None:
    uncounted = replace(FASTER, completion_tokens=None, first_token_s=None)
    assert best(uncounted, DONE) == []
    assert best(DONE, uncounted) == []


def test_the_line_of_a_running_reply() -> None:
    assert numbers.live(Reply(total_s=0.25)) == "waiting · 0.2 s"
    assert numbers.live(Reply(state="prefill", total_s=1.5)) == "reading the prompt · 1.5 s"
    waiting = Reply(queue_place=2, queue_reason="waiting for memory, behind a@onnx", total_s=4.0)
    expected = "waiting for memory, behind a@onnx · place 2 in line · 4 s"
    assert numbers.live(waiting) == expected
    loading = Reply(state="loading", load_step="starting a process", total_s=3.2)
    assert numbers.live(loading) == "loading the model: starting a process · 3 s"
    running = replace(DONE, state="decoding", finish_reason="")
    assert numbers.live(running) == "201 tokens · 100.0 tok/s · first token 80 ms · 2.5 s"


def test_a_reply_that_waited_for_memory_says_so() -> None:
    assert "memory" not in numbers.final(DONE, [])
    assert "waited 12.3 s for memory" in numbers.final(replace(DONE, room_s=12.3), [])


def test_a_reply_that_a_server_held_back_says_so() -> None:
    assert "asked" not in numbers.final(replace(DONE, held_s=0.05), [])
    assert "waited 5.0 s as the server asked" in numbers.final(replace(DONE, held_s=5.0), [])
    held = Reply(queue_reason="Slow down. Asking again in 5 s", total_s=2.0)
    assert numbers.live(held) == "Slow down. Asking again in 5 s · 2 s"


def test_a_cost_stands_in_the_line_as_text_and_not_as_maths() -> None:
    assert r" · 2.5 s · \$0.00012 · stop" in numbers.final(DONE, [], 0.00012)


def test_what_was_measured_here_stands_beside_what_the_server_says() -> None:
    own = Timings(12, 80.0, 201, 2000.0, queue_ms=500.0, load_ms=300.0)
    reply = replace(DONE, here_first_s=0.62, here_decode_s=2.5, server=own)
    assert numbers.measured(reply, Health(round_trip_s=0.034)) == {
        "": ["First token", "Tokens/s", "Queue", "Loading the model", "There and back"],
        "measured here": ["620 ms", "80.0", "–", "–", "34 ms"],
        "by the server": ["80 ms", "100.0", "200 ms", "300 ms", "–"],
    }
    silent = numbers.measured(replace(reply, server=None), Health())
    assert silent["by the server"] == ["–", "–", "–", "–"]
    assert silent["measured here"] == ["620 ms", "80.0", "–", "–"]
    here = numbers.measured(reply)  # it was answered on this computer
    assert "There and back" not in here[""]
    assert here["by the worker"][0] == "80 ms"


def test_a_conversation_past_what_is_known_to_be_right_is_warned_of() -> None:
    short = Deployment("m@x", Model("m", "M"), "x", sound_to=250, sound_note="It forgets.")
    used = replace(DONE, prompt_tokens=50)
    assert (used.prompt_tokens or 0) + (used.completion_tokens or 0) == 251
    assert numbers.past_sound(used, short) == "Past 250 tokens: It forgets."
    assert numbers.past_sound(used, replace(short, sound_to=251)) == ""
    assert numbers.past_sound(used, replace(short, sound_to=0)) == ""  # right to the end
    assert numbers.past_sound(replace(used, completion_tokens=None), short) == ""
    assert numbers.past_sound(used, None) == ""


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (Looking(2, 3, 5, 17), "looking at image 2 of 3, crop 5 of 17"),
        (Looking(1, 3, 17, 17), "looking at image 1 of 3, crop 17 of 17"),
        (Looking(2, 3, 0, 1), "looking at image 2 of 3"),
        (Looking(3, 3, 17, 17), "reading the prompt"),
        (None, "reading the prompt"),
    ],
)
def test_how_far_a_model_is_with_the_images(at: Looking | None, said: str) -> None:
    assert numbers.live(Reply(state="prefill", looking=at, total_s=1.5)) == f"{said} · 1.5 s"
