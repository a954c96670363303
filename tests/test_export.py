"""A comparison as Markdown and JSON: everything that was asked and came back, and no key."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from slm_backends import export
from slm_backends.catalog import Deployment, Model
from slm_backends.chat import About, ChatRequest, Image, Logprob, Message, Sampling, Timings
from slm_backends.errors import StreamBroken
from slm_backends.export import Exchange
from slm_backends.run import Reply
from ui.markdown import safe

SAMPLING = Sampling(max_tokens=64, temperature=0.7, top_k=40, stop=("END",), seed=3)
ABOUT = About("ONNX Runtime GenAI", "0.18.0", "cpu", "int4 ONNX")


def exchange(
    deployment: str = "small@onnx", prompt: str = "What is\nthe capital?", **reply: object
) -> Exchange:
    given: dict[str, object] = {
        "state": "done",
        "text": "Paris. 巴黎 👩‍🚀\n\n```python\nprint(1)\n```",
        "finish_reason": "stop",
        "load_s": 1.25,
        "held_s": 2.5,
        "queue_s": 0.5,
        "first_token_s": 0.08,
        "decode_s": 2.0,
        "here_first_s": 0.12,
        "here_decode_s": 2.01,
        "server": Timings(12, 80.0, 201, 2000.0, queue_ms=500.0, cache_n=4, load_ms=300.0),
        "total_s": 3.83,
        "prompt_tokens": 12,
        "completion_tokens": 201,
        "cached_tokens": 4,
        "counted": True,
        "about": ABOUT,
        "logprobs": (Logprob("Paris", -0.25, 7, (Logprob("Paris", -0.25, 7),)),),
    }
    request = ChatRequest((Message("system", "Be brief."), Message("user", prompt)), SAMPLING)
    made = Reply(**(given | reply))  # type: ignore[arg-type]
    return Exchange(deployment, request, made, cost=0.00012)


BROKEN = exchange(
    "other@nim",
    state="failed",
    text="Pa",
    logprobs=(),
    error=StreamBroken("It broke\noff.", hint="Send it again."),
    finish_reason="error",
)


def test_json_holds_everything() -> None:
    made = json.loads(export.to_json([[exchange()], [BROKEN]]))
    assert made["made"].endswith("+00:00")
    first, second = made["panes"][0][0], made["panes"][1][0]
    assert first == {
        "deployment": "small@onnx",
        "about": {
            "runtime": "ONNX Runtime GenAI",
            "version": "0.18.0",
            "device": "cpu",
            "artefact": "int4 ONNX",
        },
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is\nthe capital?"},
        ],
        "parameters": {
            "max_tokens": 64,
            "temperature": 0.7,
            "top_p": 0.95,
            "top_k": 40,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
            "stop": ["END"],
            "seed": 3,
            "left_out": [],
        },
        "reply": "Paris. 巴黎 👩‍🚀\n\n```python\nprint(1)\n```",
        "logprobs": [
            {
                "token": "Paris",
                "logprob": -0.25,
                "id": 7,
                "top": [{"token": "Paris", "logprob": -0.25, "id": 7, "top": []}],
            }
        ],
        "finish_reason": "stop",
        "error": None,
        "numbers": {
            "prompt_tokens": 12,
            "completion_tokens": 201,
            "cached_tokens": 4,
            "tokens_per_second": 100.0,
            "characters_per_second": first["numbers"]["characters_per_second"],
            "room_s": 0.0,
            "load_s": 1.25,
            "held_s": 2.5,
            "queue_s": 0.5,
            "first_token_s": 0.08,
            "decode_s": 2.0,
            "total_s": 3.83,
            "measured_by": "server",
            "here_first_s": 0.12,
            "here_decode_s": 2.01,
            "server": {
                "prompt_n": 12,
                "prompt_ms": 80.0,
                "predicted_n": 201,
                "predicted_ms": 2000.0,
                "queue_ms": 500.0,
                "cache_n": 4,
                "load_ms": 300.0,
            },
            "cost_usd": 0.00012,
        },
    }
    assert first["numbers"]["characters_per_second"] == len(first["reply"]) / 2.0
    assert (second["reply"], second["logprobs"]) == ("Pa", [])
    assert second["error"] == {
        "code": "stream_broken",
        "message": "It broke\noff.",
        "hint": "Send it again.",
    }


def test_json_says_who_measured() -> None:
    made = json.loads(export.to_json([[exchange(counted=False, server=None)]]))
    assert made["panes"][0][0]["numbers"]["measured_by"] == "client"
    assert made["panes"][0][0]["numbers"]["server"] is None


def test_what_nobody_else_measured_is_told_from_when_it_was_sent() -> None:
    here = exchange(counted=False, server=None).reply
    assert "first token 120 ms" in export.numbers(here)


def test_a_reply_costs_its_tokens_at_the_prices_for_a_million() -> None:
    priced = Deployment("m@nim", Model("m", "M"), "nim", price_in=0.15, price_out=0.6)
    reply = exchange().reply
    assert export.cost(reply, priced) == pytest.approx((12 * 0.15 + 201 * 0.6) / 1_000_000)
    assert export.cost(reply, None) is None
    for unknown in (replace(priced, price_in=0.0), replace(priced, price_out=0.0)):
        assert export.cost(reply, unknown) is None
    for uncounted in (replace(reply, prompt_tokens=None), replace(reply, completion_tokens=None)):
        assert export.cost(uncounted, priced) is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.00012240, "$0.00012"),
        (0.0000031, "$0.0000031"),
        (0.014, "$0.014"),
        (0.5, "$0.50"),
        (12.345, "$12.35"),
        (1234.5, "$1,234.50"),
        (0.0, "$0.00"),
    ],
)
def test_dollars_have_the_digits_that_say_something(value: float, shown: str) -> None:
    assert export.dollars(value) == shown


def test_markdown_is_for_reading() -> None:
    text = export.to_markdown([[exchange()], [BROKEN]])
    assert text.startswith("# Comparison\n\nMade ")
    assert text.count("> What is\n> the capital?") == 1  # once for all panes
    assert text.index("## Prompt 1") < text.index("### small@onnx") < text.index("### other@nim")
    assert "Paris. 巴黎 👩‍🚀\n\n```python\nprint(1)\n```\n" in text
    assert "*201 tokens · 100.0 tok/s · first token 80 ms · 3.8 s · $0.00012 · stop*" in text
    assert "max_tokens=64, temperature=0.7, top_p=0.95, top_k=40, stop=('END',), seed=3" in text
    assert "Error:\n\n> It broke\n> off.\n" in text


def test_markdown_numbers_the_rounds() -> None:
    text = export.to_markdown(
        [[exchange(prompt="One"), exchange(prompt="Two", text="")], [exchange(prompt="Else")]]
    )
    assert text.index("## Prompt 1") < text.index("> One") < text.index("> Else")
    assert text.index("> Else") < text.index("## Prompt 2") < text.index("> Two")
    assert text.count("## Prompt") == 2
    assert "*(no text)*" in text


def test_an_empty_comparison_is_a_document_too() -> None:
    assert json.loads(export.to_json([[], []]))["panes"] == [[], []]
    assert export.to_markdown([]).startswith("# Comparison")


def test_images_are_told_by_their_size() -> None:
    image = Message("user", "What is this?", (Image(b"x" * 321),))
    seen = Exchange("small@onnx", ChatRequest((image,)), Reply(state="done"))
    made = export.to_json([[seen]])
    assert json.loads(made)["panes"][0][0]["messages"][0]["images"] == [321]
    assert "xxx" not in made


def test_a_viewer_of_the_document_loads_no_picture() -> None:
    hostile = exchange(text="![x](http://127.0.0.1:9/leak.png)")
    assert "![x](http" in export.to_markdown([[hostile]])
    assert "![x](http" not in export.to_markdown([[hostile]], safe)
