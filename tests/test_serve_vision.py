"""`serve` with a model that sees, spoken to by the openai package: what goes in, what is refused.

The model is a small random Phi-3.5-vision in the hub's layout: what it says means nothing, but it
is what these weights say about these pictures.
"""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import tiny_vision_onnx
from asking import until
from command_line import PATIENCE, Serving, serve
from drawn import picture
from scripted_server import scripted
from shelves import own_shelf

from slm_backends import catalog, run, selector, store
from slm_backends.chat import MAX_IMAGES, ChatRequest, Image, Looking, Message, Sampling
from slm_backends.picture_tokens import (
    SEVERAL_CROPS,
    SINGLE_CROPS,
    phi3_vision_grid,
    phi3_vision_tokens,
)

#: runtime -> the folder of the same weights for it
FOLDERS = {"onnx": tiny_vision_onnx.folder, "transformers": tiny_vision_onnx.checkpoint}
SIDE, ACROSS = 56, 2  # pixels and tokens along a crop of the tiny model
CATALOG = """
[models.tiny-vision]
name = "Tiny vision"
inputs = ["text", "images"]
context = 131_072
sight = "phi-3-vision"

[sources.onnx]
path = "{onnx}"

[sources.transformers]
path = "{transformers}"

[deployments."tiny-vision@onnx"]
source = "onnx"
images = 32

[deployments."tiny-vision@transformers"]
source = "transformers"
images = 32
"""
ELSEWHERE = """
[deployments."tiny-vision@openai"]
base_url = "{address}"
served_as = "{served_as}"
images = 2
"""
MANY = 30
LANDSCAPE = picture("PNG", 96, 64)
PORTRAIT = picture("JPEG", 60, 90)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with the tiny model in it, which every process here uses."""
    folder = tmp_path_factory.mktemp("vision")
    made = {runtime: make() for runtime, make in FOLDERS.items()}
    own = folder / "catalog.toml"
    own.write_text(CATALOG.format(**made))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLM_HOME", str(folder / "home"))
        patch.setenv("SLM_CATALOG", str(own))
        for deployment in catalog.load().deployments.values():
            if deployment.model.id == "tiny-vision":
                store.fetch(deployment)
        yield folder


@pytest.fixture(scope="module", params=FOLDERS)
def deployment(request: pytest.FixtureRequest, home: Path) -> str:
    return f"tiny-vision@{request.param}"


@pytest.fixture(scope="module")
def server(deployment: str) -> Iterator[Serving]:
    with serve(deployment) as serving:
        serving.wait_ready()
        yield serving


@pytest.fixture
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def url(image: Image) -> str:
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"


def question(text: str, *addresses: str) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": address}} for address in addresses]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def ask(client: openai.OpenAI, *messages: Any, **options: Any) -> Any:
    """Of the one model that the server has."""
    served = next(iter(client.models.list())).id
    given = {"model": served, "messages": messages, "max_tokens": 4, "temperature": 0}
    return client.chat.completions.create(**(given | options))


def tokens(width: int, height: int, *, alone: bool = False) -> int:
    """Of a picture of so many pixels, among several or alone."""
    crops = SINGLE_CROPS if alone else SEVERAL_CROPS
    return phi3_vision_tokens(phi3_vision_grid(width, height, crops, SIDE), ACROSS)


def health(server: Serving) -> dict[str, Any]:
    with urllib.request.urlopen(server.url.replace("/v1", "/health"), timeout=PATIENCE) as reply:
        found: dict[str, Any] = json.load(reply)
        return found


# --- pictures in ----------------------------------------------------------------------------------


def test_pictures_are_part_of_the_prompt(client: openai.OpenAI) -> None:
    words = ask(client, question("What are they?")).usage.prompt_tokens
    seen = ask(client, question("What are they?", url(LANDSCAPE), url(PORTRAIT)))
    assert seen.choices[0].finish_reason in ("stop", "length")
    more = seen.usage.prompt_tokens - words
    around = 8  # tokens beside them: line breaks, the beginnings of runs
    assert 0 <= more - tokens(96, 64) - tokens(60, 90) <= around


def test_other_pictures_and_another_order_are_other_prompts(client: openai.OpenAI) -> None:
    def said(*images: Image) -> list[float]:
        reply = ask(
            client, question("What is it?", *map(url, images)), logprobs=True, top_logprobs=0
        )
        return [token.logprob for token in reply.choices[0].logprobs.content]

    first = said(LANDSCAPE, PORTRAIT)
    assert first == pytest.approx(said(LANDSCAPE, PORTRAIT), abs=0.05)
    assert first != pytest.approx(said(PORTRAIT, LANDSCAPE), abs=0.05)
    assert first != pytest.approx(said(LANDSCAPE, LANDSCAPE), abs=0.05)


def test_a_second_question_on_the_same_picture_is_not_looked_at_again(
    client: openai.OpenAI,
) -> None:
    image = picture("PNG", 64, 64)
    first = ask(client, question("What is it?", url(image)))
    assert not (first.usage.prompt_tokens_details.cached_tokens or 0) >= tokens(64, 64, alone=True)
    turns = [
        question("What is it?", url(image)),
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "Are you sure?"},
    ]
    chunks = progress(client, *turns)
    assert not [chunk for chunk in chunks if chunk.get("prompt_progress")]
    usage = ask(client, *turns).usage
    assert usage.prompt_tokens_details.cached_tokens >= tokens(64, 64, alone=True)


def progress(client: openai.OpenAI, *messages: Any, **options: Any) -> list[dict[str, Any]]:
    """All chunks of a streamed reply, as JSON says them."""
    body = {"return_progress": True} | options
    stream = ask(client, *messages, stream=True, extra_body=body)
    return [chunk.model_dump() for chunk in stream]


def test_how_far_it_is_with_looking_is_told_when_asked(client: openai.OpenAI) -> None:
    images = [picture("PNG", width, 50) for width in (50, 51)]
    chunks = progress(client, question("What are they?", *map(url, images)))
    told = [chunk["prompt_progress"] for chunk in chunks if chunk.get("prompt_progress")]
    places = [(one["image"], one["crop"]) for one in told]
    assert places == sorted(set(places))  # never back, nothing twice
    last = told[-1]
    assert (last["image"], last["crop"]) == (2, last["crops"])
    assert {one["images"] for one in told} == {2}
    assert {one["crops"] for one in told} == {phi3_vision_grid(50, 50, SEVERAL_CROPS).crops}
    silent = progress(client, question("And?", url(picture("PNG", 52, 50))), return_progress=False)
    assert not [chunk for chunk in silent if chunk.get("prompt_progress")]


# --- what is refused ------------------------------------------------------------------------------


BROKEN = picture("PNG", 64, 64).data[:300]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("data:image/png;base64,%%%", "base64 is broken"),
        ("data:image/gif;base64,R0lG", "PNG, JPEG or WEBP"),
        (url(Image(BROKEN)), "cut off"),
        (url(Image(b"no picture at all, but text")), "text"),
        ("file:///etc/passwd", "not fetched"),
    ],
)
def test_what_is_no_picture_is_refused(
    client: openai.OpenAI, server: Serving, address: str, reason: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, question("What is it?", address))
    assert caught.value.param == "messages"
    assert reason in caught.value.message
    assert health(server)["status"] == "ok"


def test_an_address_is_not_fetched(client: openai.OpenAI) -> None:
    with scripted() as elsewhere:
        with pytest.raises(openai.BadRequestError, match="remote addresses are not fetched"):
            ask(client, question("What is it?", f"{elsewhere.address}/cat.png"))
        assert elsewhere.asked == []


def test_too_many_pictures(client: openai.OpenAI) -> None:
    many = [url(picture("PNG", 8, 8))] * (MAX_IMAGES + 1)
    with pytest.raises(openai.BadRequestError, match=f"at most {MAX_IMAGES} images"):
        ask(client, question("What are they?", *many))


def test_a_conversation_past_the_context_says_both_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, question("word " * 9_000, url(LANDSCAPE)))
    assert caught.value.code == "context_length_exceeded"
    body: Any = caught.value.body
    assert body["prompt_tokens"] > 9_000 + tokens(96, 64, alone=True) > body["context"]


# --- hanging up -----------------------------------------------------------------------------------


def test_a_caller_that_hangs_up_while_it_looks_stops_it(
    client: openai.OpenAI, server: Serving
) -> None:
    asked = question("What are they?", *(url(picture("PNG", 200, 99 + n)) for n in range(MANY)))
    options = {"extra_body": {"return_progress": True}}
    stream = ask(client, asked, stream=True, **options)
    for chunk in stream:
        if told := chunk.model_dump().get("prompt_progress"):
            break
    assert told["image"] < MANY
    stream.close()
    until(lambda: health(server)["active"] == 0, "the end of what nobody waits for")
    # What it has looked at it need not look at again: the last ones it has not seen.
    looks = [chunk.get("prompt_progress") for chunk in progress(client, asked)]
    seen_now = {look["image"] for look in looks if look}
    assert MANY in seen_now


# --- the same from the playground itself ----------------------------------------------------------


def test_the_playground_s_own_worker_tells_how_far_it_is(deployment: str) -> None:
    asked = ChatRequest(
        (Message("user", "What is it?", (LANDSCAPE,)),), Sampling(max_tokens=3, temperature=0.0)
    )
    backend = selector.backend(deployment)
    try:
        first, second = (run.start(backend, asked).wait(PATIENCE) for _ in range(2))
    finally:
        selector.unload(deployment, force=True)
    crops = phi3_vision_grid(96, 64, SINGLE_CROPS).crops
    assert first.looking == Looking(1, 1, crops, crops)
    assert second.looking is None  # it knows that picture
    assert first.text == second.text


def test_the_playground_speaks_to_it_as_to_any_server(
    home: Path, deployment: str, server: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "catalog.toml"
    own.write_text(
        (home / "catalog.toml").read_text()
        + ELSEWHERE.format(address=server.url, served_as=deployment)
    )
    monkeypatch.setenv("SLM_CATALOG", str(own))
    asked = ChatRequest(
        (Message("user", "What are they?", (LANDSCAPE, PORTRAIT)),),
        Sampling(max_tokens=3, temperature=0.0),
    )
    with own_shelf():
        reply = run.start(selector.backend("tiny-vision@openai"), asked).wait(PATIENCE)
    assert reply.error is None and reply.state == "done"
    assert (reply.prompt_tokens or 0) > tokens(96, 64) + tokens(60, 90)
