"""What vLLM tells of experts, from a server that answers as its sources do: the request, both forms
of the answer, and what is none."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy
import pytest
from asking import PATIENCE
from scripted_server import Server, scripted
from starlette.responses import JSONResponse, Response

from slm_backends import background, run
from slm_backends.chat import SAMPLING_FIELDS, Capabilities, ChatRequest, Message, Sampling
from slm_backends.endpoints.incoming import MAX_BYTES
from slm_backends.endpoints.openai import OpenAIBackend
from slm_backends.errors import StreamBroken, Unsupported
from slm_backends.moe.trace import trace
from slm_backends.routing import Experts
from slm_backends.run import Reply

# Three tokens of a prompt and the first of two of a reply, in two layers with 8 experts.
PROMPT, SAID = [11, 12, 13], [21, 22]
CHOSEN = numpy.random.default_rng(3).integers(0, 8, (4, 2, 2)).astype(numpy.int32)


@pytest.fixture
def server() -> Iterator[Server]:
    with scripted() as server:
        yield server


def npy(array: Any) -> str:
    made = io.BytesIO()
    numpy.save(made, array)
    return base64.b64encode(made.getvalue()).decode()


# Its head says that more numbers follow than any memory holds.
PROMISES = base64.b64encode(
    base64.b64decode(npy(CHOSEN)).replace(b"2), }" + b" " * 12, b"2000000000000), }")
).decode()


def answer(
    *, ids: bool = True, of_prompt: Any = None, usage: dict[str, int] | None = None, **choice: Any
) -> Any:
    """A whole reply as vLLM writes it."""
    sent: dict[str, Any] = {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [
            {
                "index": 0, "message": {"role": "assistant", "content": "Hello"},
                "finish_reason": "stop", **({"token_ids": SAID} if ids else {}), **choice,
            }
        ],
        "usage": usage or {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        **({"prompt_token_ids": PROMPT} if ids else {}),
        **({} if of_prompt is None else {"prompt_routed_experts": of_prompt}),
    }  # fmt: skip

    def answered(_: Mapping[str, Any]) -> Response:
        return JSONResponse(sent)

    return answered


def asked(
    server: Server,
    experts: Experts | None = Experts(),  # noqa: B008 - frozen
    **options: Any,
) -> Reply:
    backend = OpenAIBackend(
        "mixture@vllm",
        server.address,
        "m",
        Capabilities(SAMPLING_FIELDS, routing=True),
        experts=8,
        **options,
    )
    asking = ChatRequest((Message("user", "Hello"),), Sampling(max_tokens=4), experts=experts)
    reply = run.start(backend, asking).wait(PATIENCE)
    background.submit(backend.close()).result(PATIENCE)
    return reply


@pytest.mark.parametrize(
    "given",
    [
        {"routed_experts": npy(CHOSEN)},
        {"routed_experts": CHOSEN[3:].tolist(), "of_prompt": CHOSEN[:3].tolist()},
    ],
    ids=["a NumPy file", "nested lists"],
)
def test_both_forms_of_the_answer(server: Server, given: dict[str, Any]) -> None:
    server.answers = [answer(**given)]
    reply = asked(server)
    assert reply.text == "Hello"
    found = trace(reply.routing, reply.prompt_tokens)
    assert found is not None
    assert found.chosen.tolist() == CHOSEN.tolist()
    assert found.ids == (*PROMPT, SAID[0])
    assert found.prompt_tokens == 3
    assert found.experts == 8
    assert found.weights is None
    assert found.scores is None


@pytest.mark.parametrize("left_out", [1, 2, 3])
@pytest.mark.parametrize("form", [npy, lambda array: array.tolist()], ids=["file", "lists"])
def test_the_beginning_of_a_prompt_may_be_left_out(
    server: Server, form: Any, left_out: int
) -> None:
    server.answers = [answer(routed_experts=form(CHOSEN[left_out:].astype(numpy.uint8)))]
    reply = asked(server)
    found = trace(reply.routing, reply.prompt_tokens)
    assert found is not None
    assert found.chosen.tolist() == CHOSEN[left_out:].tolist()
    assert found.ids == (*PROMPT, SAID[0])[left_out:]
    assert found.prompt_tokens == 3 - left_out
    assert len(found.reply) == 1


def test_it_is_asked_whole_and_for_its_tokens(server: Server) -> None:
    server.answers = [answer(routed_experts=npy(CHOSEN))]
    asked(server)
    sent = server.prompts[0].body
    assert sent["return_token_ids"] is True
    assert not sent.get("stream")
    assert "experts" not in sent


def test_who_does_not_ask_gets_it_in_pieces_as_ever(server: Server) -> None:
    assert asked(server, None).text == "Hello"
    assert server.prompts[0].body["stream"] is True
    assert "return_token_ids" not in server.prompts[0].body


def test_who_does_not_ask_is_told_nothing_of_a_whole_reply_either(server: Server) -> None:
    for given in (npy(CHOSEN), "what nobody reads"):
        server.answers = [answer(routed_experts=given)]
        reply = asked(server, None, streamed=False)
        assert reply.text == "Hello"
        assert reply.routing == ()


def test_a_long_text_of_many_layers(server: Server) -> None:
    many = numpy.random.default_rng(4).integers(0, 8, (5_000, 48, 8)).astype(numpy.int32)
    assert len(npy(many)) > MAX_BYTES, "more than any other answer may have"
    usage = {"prompt_tokens": 4_901, "completion_tokens": 100, "total_tokens": 5_001}
    server.answers = [answer(ids=False, usage=usage, routed_experts=npy(many))]
    (routed,) = asked(server).routing
    assert routed.chosen == many.astype("<u2").tobytes()


def test_a_server_that_was_started_without_it_answers_all_the_same(server: Server) -> None:
    server.answers = [answer()]
    reply = asked(server)
    assert reply.text == "Hello"
    assert reply.routing == ()


def test_tokens_without_numbers_are_placeholders(server: Server) -> None:
    server.answers = [answer(ids=False, routed_experts=npy(CHOSEN))]
    found = trace(asked(server).routing, 3)
    assert found is not None
    assert found.tokens == ("?",) * 4


@pytest.mark.parametrize(
    "wrong",
    [
        "no base64!", npy(CHOSEN)[:40], PROMISES, npy(CHOSEN + 6),
        npy(numpy.concatenate([CHOSEN, CHOSEN])), npy(-CHOSEN - 1),
        npy(CHOSEN.astype(float)), npy(CHOSEN[0]), npy(CHOSEN[:0]), [[1, 2], [3]],
        5,
    ],
    ids=[
        "text", "cut", "a large head", "too many", "too many tokens", "negative", "fractions",
        "flat", "empty", "ragged", "a number",
    ],
)  # fmt: skip
def test_what_is_none_breaks_the_reply(server: Server, wrong: Any) -> None:
    server.answers = [answer(routed_experts=wrong)]
    assert isinstance(asked(server).error, StreamBroken)


def test_its_experts_cannot_be_limited(server: Server) -> None:
    reply = asked(server, Experts(k=1))
    assert isinstance(reply.error, Unsupported)
    assert not server.prompts
