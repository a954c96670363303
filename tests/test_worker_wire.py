"""JSON in, checked field by field; JSON out, in OpenAI's shape."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_tokenizers
from tokenizers import Tokenizer

from slm_backends import catalog, store
from slm_backends.chat import SAMPLING_FIELDS, ChatRequest, Message, Sampling, Timings
from slm_backends.endpoints import openai as client
from slm_backends.endpoints import replies
from slm_backends.errors import BadRequest, Busy, ContextOverflow, Unsupported
from slm_backends.routing import ALL_LAYERS, Experts
from slm_backends.worker import wire
from slm_backends.worker.engines import Fired, Mixture, Token
from slm_backends.worker.text import ChatText
from slm_backends.worker.vocabulary import Vocabulary

HELLO = [{"role": "user", "content": "Hello"}]


def read(**fields: Any) -> wire.Asked:
    return wire.read_request({"messages": HELLO} | fields)


def test_the_least_that_can_be_asked() -> None:
    asked = read()
    assert asked.request.messages == (Message("user", "Hello"),)
    assert asked.request.sampling == Sampling(top_p=1.0)  # left out is off, not our own default
    assert asked.model is None
    assert asked.open_ended
    assert not (asked.stream or asked.include_usage or asked.timings_per_token)


def test_all_that_can_be_asked() -> None:
    sampling = Sampling(100, 0.5, 0.9, 40, 0.1, 0.2, 1.1, ("a", "b"), 7)
    fields = {name: getattr(sampling, name) for name in SAMPLING_FIELDS}
    asked = read(
        **fields | {"stop": ["a", "b"]},
        model="some",
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
        timings_per_token=True,
    )
    assert asked.request.sampling == sampling
    assert asked.model == "some"
    assert not asked.open_ended
    assert asked.stream
    assert asked.include_usage
    assert asked.timings_per_token


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(top_p=1.0, temperature=0.0),
        Sampling(100, 0.5, 0.9, 40, 0.1, 0.2, 1.1, ("a",), 7),
    ],
)
def test_what_our_client_writes_is_what_is_read(sampling: Sampling) -> None:
    assert read(**client.wanted(sampling)).request.sampling == sampling


def test_null_asks_for_nothing() -> None:
    fields = dict.fromkeys(("temperature", "stop", "tools", "stream", "stream_options", "n"))
    assert read(**fields) == read()


def test_other_spellings() -> None:
    assert read(max_completion_tokens=5).request.sampling.max_tokens == 5
    assert not read(max_completion_tokens=5).open_ended
    assert read(stop="x").request.sampling.stop == ("x",)
    developer = read(messages=[{"role": "developer", "content": "Be kind"}, *HELLO])
    assert developer.request.messages[0] == Message("system", "Be kind")


def test_text_in_parts_and_images() -> None:
    picture = base64.b64encode(b"\x89PNG").decode()
    parts = [
        {"type": "text", "text": "Look"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        {"type": "text", "text": "at this"},
    ]
    message = read(messages=[{"role": "user", "content": parts}]).request.messages[0]
    assert message.content == "Look\nat this"
    assert [(image.data, image.media_type) for image in message.images] == [
        (b"\x89PNG", "image/png")
    ]


def test_log_probabilities_are_asked_as_in_openais_api() -> None:
    assert read().request.top_logprobs is None
    assert read(logprobs=False).request.top_logprobs is None
    assert read(logprobs=True).request.top_logprobs == 0
    assert read(logprobs=True, top_logprobs=20).request.top_logprobs == 20
    for top in (None, 0, 7):
        request = ChatRequest((Message("user", "Hello"),), top_logprobs=top)
        sent = client.body(request, "m")
        assert wire.read_request(sent).request.top_logprobs == top


def test_what_means_nothing_may_be_sent() -> None:
    assert (
        read(n=1, logprobs=False, tools=[], logit_bias={}, user="me", metadata={"a": "b"}) == read()
    )
    assert read(response_format={"type": "text"}) == read()


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"mirostat": 2}, "mirostat"),
        ({"functions": []}, "functions"),
        ({"stream_options": {"include_poetry": True}}, "stream_options.include_poetry"),
    ],
)
def test_what_is_not_known_is_refused_by_name(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(Unsupported) as caught:
        read(**fields)
    assert caught.value.field == name
    assert name in caught.value.message


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**400}, "max_tokens"),
        ({"max_completion_tokens": "5"}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"stop": 5}, "stop"),
        ({"stop": [5]}, "stop"),
        ({"stop": ["x"] * 5}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"logprobs": 5}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": True}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": "5"}, "top_logprobs"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"top_logprobs": 0, "logprobs": False}, "top_logprobs"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "include_usage"),
        ({"model": 5}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["Hello"]}, "messages"),
        ({"messages": [{"content": "Hello"}]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages"),
        ({"messages": [{"role": "user", "content": []}]}, "messages"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "I end"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}, *HELLO]}, "messages"),
    ],
)
def test_mistakes_name_their_field(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(**fields)
    assert caught.value.field == name
    assert caught.value.status == 400


@pytest.mark.parametrize("body", [None, [], "text", 5])
def test_a_body_is_an_object(body: Any) -> None:
    with pytest.raises(BadRequest):
        wire.read_request(body)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/cat.png",
        "file:///etc/passwd",
        "data:image/png;base64,%%%",
        "data:image/svg+xml;base64,PHN2Zy8+",
        "data:image/gif;base64,R0lG",
        5,
        None,
    ],
)
def test_images_come_with_the_request_or_not_at_all(url: Any) -> None:
    content = [{"type": "image_url", "image_url": {"url": url}}]
    with pytest.raises(BadRequest) as caught:
        read(messages=[{"role": "user", "content": content}])
    assert caught.value.field == "messages"


def test_numbers_are_written_in_llama_servers_words() -> None:
    timings = Timings(20, 250.0, 5, 400.0, queue_ms=30.0, cache_n=12)
    assert wire.write_timings(timings) == {
        "cache_n": 12,
        "queue_ms": 30.0,
        "prompt_n": 20,
        "prompt_ms": 250.0,
        "predicted_n": 5,
        "predicted_ms": 400.0,
        "predicted_per_second": 10.0,
    }
    assert replies.timings_of(wire.write_timings(timings)) == timings
    assert wire.write_usage(timings) == {
        "prompt_tokens": 20,
        "completion_tokens": 5,
        "total_tokens": 25,
        "prompt_tokens_details": {"cached_tokens": 12},
    }
    assert "prompt_tokens_details" not in wire.write_usage(Timings(1, 1.0, 1, 0.0))


def test_log_probabilities_are_written_in_openais_shape(embedded: tuple[str, ...]) -> None:
    vocabulary = ChatText(store.folder(catalog.load().deployment(embedded[0]))).vocabulary
    writer = wire.Logprobs(vocabulary)
    hello, world, end = 19_556, 905, 2
    assert writer.write([Token(hello, -0.5, ((hello, -0.5), (end, -1.5)))]) == {
        "content": [
            {
                "id": hello,
                "token": "Hello",
                "bytes": [72, 101, 108, 108, 111],
                "logprob": -0.5,
                "top_logprobs": [
                    {
                        "id": hello,
                        "token": "Hello",
                        "bytes": [72, 101, 108, 108, 111],
                        "logprob": -0.5,
                    },
                    {"id": end, "token": "<|im_end|>", "bytes": None, "logprob": -1.5},
                ],
            }
        ],
        "refusal": None,
    }
    never = writer.write([Token(world, float("-inf"))])["content"][0]
    assert (never["token"], never["top_logprobs"]) == (" world", [])
    assert never["logprob"] == -9999.0  # as in OpenAI's API


def test_only_a_reply_begins_without_its_space(tmp_path: Path) -> None:
    """Phi-3's tokenizer has a space before every word, and drops the first."""
    tokenizer = tiny_tokenizers.files("phi-3.5", tmp_path) / "tokenizer.json"
    word = tiny_tokenizers.ids(tmp_path)["▁hello"]
    byte = tiny_tokenizers.ids(tmp_path)["<0xC3>"]
    decoder = json.loads(tokenizer.read_text())["decoder"]
    writer = wire.Logprobs(Vocabulary(Tokenizer.from_file(str(tokenizer)), decoder))
    first = writer.write([Token(word, -1.0, ((word, -1.0),))])["content"]
    later = writer.write([Token(byte, -1.0), Token(word, -1.0, ((word, -1.0),))])["content"]
    assert [entry["token"] for entry in (*first, *later)] == ["hello", "\ufffd", " hello"]
    assert first[0]["top_logprobs"][0]["token"] == "hello"
    assert later[1]["top_logprobs"][0]["bytes"] == list(b" hello")


def test_errors_are_written_in_openais_shape() -> None:
    assert wire.write_error(BadRequest("Wrong.", field="top_p", hint="Lower it.")) == {
        "error": {
            "message": "Wrong.",
            "type": "invalid_request_error",
            "param": "top_p",
            "code": "invalid_value",
            "hint": "Lower it.",
        }
    }
    busy = wire.write_error(Busy("Full."))["error"]
    assert (busy["type"], busy["code"], busy["param"]) == ("invalid_request_error", "busy", None)
    overflow = wire.write_error(ContextOverflow.measured(8_000, 512, 8_192))["error"]
    assert (overflow["prompt_tokens"], overflow["max_tokens"], overflow["context"]) == (
        8_000, 512, 8_192,
    )  # fmt: skip
    assert overflow["code"] == "context_length_exceeded"


# --- experts --------------------------------------------------------------------------------------


def test_what_is_asked_of_experts() -> None:
    assert read().request.experts is None
    assert read(experts=None).request.experts is None
    assert read(experts={}).request.experts == Experts()
    asked = {"k": 3, "off": [[ALL_LAYERS, 5], [2, 0]], "reply": "Yes."}
    expected = Experts(3, ((ALL_LAYERS, 5), (2, 0)), "Yes.")
    assert read(experts=asked).request.experts == expected
    assert read(**client.routing(read(experts=asked).request)).request.experts == expected


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (True, BadRequest), ([], BadRequest), ("all", BadRequest), ({"k": None}, BadRequest),
        ({"off": {"0": 1}}, BadRequest), ({"reply": ["a"]}, BadRequest),
        ({"layer": 1}, Unsupported),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_asked_of_experts(wrong: Any, error: type[BadRequest]) -> None:
    with pytest.raises(error) as refused:
        read(experts=wrong)
    assert getattr(refused.value, "field", None) == "experts"


def test_a_routing_is_read_as_it_was_written(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizers.files("phi-3.5", tmp_path) / "tokenizer.json"
    vocabulary = Vocabulary(Tokenizer.from_file(str(tokenizer)), None)
    fired = Fired(7, [5, 6, 10**6], 2, bytes(range(24)), bytes(range(48)), bytes(range(48)))
    sent = json.loads(json.dumps(wire.write_routing(fired, Mixture(2, 4, 3), vocabulary)))
    routed = replies.routed_of(sent)
    assert routed is not None
    assert (routed.start, routed.ids, routed.layers, routed.experts) == (7, (5, 6, 10**6), 2, 4)
    assert routed.k == 2, "as many as worked, not as many as it was made for"
    assert routed.tokens[2] == "", "models have more rows than tokens"
    assert (routed.chosen, routed.weights, routed.scores) == fired[3:]
