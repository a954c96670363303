"""What the Chat page says of a row: kin deployments, and where their replies part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import serving
from shelves import own_shelf
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from streamlit.testing.v1 import AppTest
from test_page_chat import BROKEN, ask, open_page, panes, press

from slm_backends.catalog import Deployment, Model, Source
from slm_backends.providers import Provider
from ui import compare

GGUF = Source("gguf", wheel="weights==1", file="a.gguf", sha256="0", size=5, download=4)


def deployment(model: str, runtime: str, artefact: str, **facts: Any) -> Deployment:
    return Deployment(f"{model}@{runtime}", Model(model, model), runtime, artefact, **facts)


ONNX = deployment("small", "onnx", "int4 ONNX", source=GGUF, convert="onnx-int4")
READ = deployment("small", "openvino", "Q4_1 GGUF", source=GGUF)
SAME = deployment("small", "transformers", "Q4_1 GGUF", source=GGUF)
NOBODY = Provider("ollama", "Ollama", base_url="http://127.0.0.1:9")
SERVED = deployment("small", "ollama", "Q4_1 GGUF", provider=NOBODY)
OTHER = deployment("large", "onnx", "int4 ONNX", source=GGUF, convert="onnx-int4")


def test_kinship_says_what_is_compared() -> None:
    assert compare.kinship([]) == ""
    assert compare.kinship([ONNX]) == ""
    assert compare.kinship([ONNX, ONNX]) == ""
    assert compare.kinship([READ, SAME]) == "The same artefact on different runtimes."
    assert compare.kinship([ONNX, READ, SAME]) == (
        "The same model, different artefacts: int4 ONNX · Q4_1 GGUF"
    )
    assert "not known" in compare.kinship([READ, SERVED])  # a server's own words prove nothing
    assert compare.kinship([ONNX, OTHER]) == "Different models."
    assert compare.kinship([ONNX, READ, OTHER]) == "Different models."


# --- the page, on a server whose every token is chosen here ---------------------------------------


def entry(token: str, number: int, logprob: float) -> dict[str, Any]:
    return {"token": token, "id": number, "logprob": logprob, "bytes": list(token.encode())}


class Server:
    """Answers "The cat" or "The dog", by the model's name; tokens with ids where asked for them."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = json.loads(await Request(scope, receive).body())
        self.asked.append(asked)
        the, cat, dog = entry("The", 1, -0.1), entry(" cat", 2, -0.71), entry(" dog", 3, -0.75)
        own, other = (cat, dog) if asked["model"] == "cat" else (dog | {"logprob": -0.7}, cat)
        told = [the | {"top_logprobs": [the]}, own | {"top_logprobs": [own, other]}]
        choice: dict[str, Any] = {"index": 0, "delta": {"content": f"The{own['token']}"}}
        if asked.get("logprobs"):
            choice["logprobs"] = {"content": told}
        usage = {"prompt_tokens": 90, "completion_tokens": 2, "total_tokens": 92}
        body = "".join(
            f"data: {json.dumps({'id': '1', 'object': 'chat.completion.chunk', **part})}\n\n"
            for part in (
                {"choices": [choice]},
                {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
                {"choices": [], "usage": usage},
            )
        )
        await Response(body, media_type="text/event-stream")(scope, receive, send)


CATALOG = """
[models.pet]
name = "Pet"

[models.beast]
name = "Beast"

[deployments."pet@openai:cat"]
base_url = "URL"
served_as = "cat"
logprobs = true
sound_to = 91
sound_note = "It forgets its name."

[deployments."pet@openai:dog"]
base_url = "URL"
served_as = "dog"
logprobs = true
sound_to = 92
sound_note = "It forgets its tail."

[deployments."beast@openai"]
base_url = "URL"
served_as = "cat"
"""
CAT, DOG, BEAST = "pet@openai:cat", "pet@openai:dog", "beast@openai"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    with serving(server) as address:
        file = tmp_path / "catalog.toml"
        file.write_text(CATALOG.replace("URL", f"{address}/v1"))
        monkeypatch.setenv("SLM_CATALOG", str(file))
        with own_shelf():
            yield server


def texts(page: AppTest) -> list[str]:
    return [text.value for text in page.text]


def test_details_tell_where_a_reply_parts_from_the_first_pane(server: Server) -> None:
    page = ask(open_page(CAT, DOG, BEAST, temperature="0"))
    assert [caption.value for caption in page.caption].count("Beside pane 1") == 2
    assert texts(page) == [
        "The same model; whether it is the same artefact is not known.",
        'Pane 1 and Pane 2 part after 4 characters, "The ".\n'
        'Pane 1 says "cat".\nPane 2 says "dog".',
        "Different models: Pet and Beast.",
        "Pane 1 and Pane 3 are the same for 7 characters.",
    ]
    assert not any("by chance" in caption.value for caption in page.caption)
    assert not any("logprobs" in asked for asked in server.asked)


def test_log_probabilities_are_asked_where_they_are_given_and_told(server: Server) -> None:
    page = open_page(CAT, DOG, BEAST)
    page.toggle(key="logprobs").set_value(True).run()
    ask(page)
    asked = {sent["model"]: sent.get("top_logprobs") for sent in server.asked if "logprobs" in sent}
    assert asked == {"cat": 20, "dog": 20}
    assert len(server.asked) == 3  # the third does not give them, and is asked without
    assert texts(page)[1].split("\n") == [
        'Pane 1 and Pane 2 part after 1 token, "The".',
        'Pane 1 says " cat" (log-probability -0.71, of the other\'s -0.75, margin 0.04).',
        'Pane 2 says " dog" (log-probability -0.70, of the other\'s -0.71, margin 0.01).',
        "Log-probabilities up to there differ by 0 on average.",
        "A tie, not an error: each finds the other's token about as likely as its own.",
    ]
    by_chance = [caption.value for caption in page.caption if "by chance" in caption.value]
    assert by_chance == ["Sampled at temperature 0.3: also equal models part by chance."]


def test_the_wish_for_log_probabilities_is_each_panes_own(server: Server) -> None:
    page = open_page(CAT, DOG)
    page.toggle(key="logprobs").set_value(True).run()
    page.toggle(key="sync").set_value(False).run()
    assert page.toggle(key="logprobs_2").value is True  # begins with the common value
    page.toggle(key="logprobs_1").set_value(False).run()
    ask(page)
    assert {sent["model"]: sent.get("logprobs") for sent in server.asked} == {
        "cat": None,
        "dog": True,
    }


def test_nothing_is_told_of_one_pane_or_of_a_reply_that_failed(server: Server) -> None:
    assert texts(ask(open_page(CAT))) == []
    page = ask(open_page(BROKEN, CAT))
    assert len(texts(page)) == 2  # the error and its hint
    assert panes(page)[1].turns[0].reply.text == "The cat"


def test_a_conversation_past_what_its_runtime_computes_rightly_is_warned_of(
    server: Server,
) -> None:
    page = ask(open_page(CAT, DOG))
    warnings = [caption.value for caption in page.caption if "Past" in caption.value]
    assert warnings == [":orange[:material/warning: Past 91 tokens: It forgets its name.]"]
    press(page, "Clear")
    assert not any("Past" in caption.value for caption in page.caption)
