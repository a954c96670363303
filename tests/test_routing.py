"""What is asked of a mixture's experts and what comes back, by itself and all the way: a real
worker with the mixture that comes with the playground, its client, a Run."""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy
import pytest
from asking import until
from mixtures import same

from slm_backends import catalog, chat, run, selector, store
from slm_backends.chat import ChatRequest, Message, Sampling
from slm_backends.endpoints import replies
from slm_backends.errors import BadRequest, Unsupported, WorkerDied
from slm_backends.local import LocalBackend
from slm_backends.moe.trace import Trace, trace
from slm_backends.routing import ALL_LAYERS, MAX_OFF, MAX_REPLY, Experts, Routed
from slm_backends.run import Reply
from slm_backends.worker import engines
from slm_backends.worker.engines import Fired
from slm_backends.worker.scheduler import joined
from slm_backends.worker.text import ChatText

NANO = "phi-moe-nano@transformers"
QUESTION = "Tell me a story about a cat."
PATIENCE = 120.0

# --- what may be asked ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": -1}, {"k": 1.5}, {"k": True}, {"k": "2"}, {"off": 3}, {"off": [1]}, {"off": [(0,)]},
        {"off": [(0, -1)]}, {"off": [(-2, 0)]}, {"off": [(0, 1, 2)]}, {"off": [("0", 1)]},
        {"off": [(0, 0)] * (MAX_OFF + 1)}, {"reply": 1}, {"reply": "x" * (MAX_REPLY + 1)},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_asked(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        Experts(**wrong)
    assert caught.value.field == "experts"
    assert len(caught.value.message) < 300


def test_lists_as_json_has_them() -> None:
    assert Experts(off=[[0, 3], [ALL_LAYERS, 5]]).off == ((0, 3), (-1, 5))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        (Experts(k=17), "at most 16"),
        (Experts(off=((2, 0),)), "2 layers with 16 experts"),
        (Experts(off=((0, 16),)), "2 layers with 16 experts"),
        (Experts(off=tuple((0, expert) for expert in range(15))), "2 experts of each layer"),
        (Experts(k=3, off=tuple((ALL_LAYERS, one) for one in range(14))), "3 experts of each"),
    ],
)
def test_what_a_model_has_not(experts: Experts, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        experts.check(2, 16, 2)


def test_what_a_model_has() -> None:
    Experts(k=16).check(2, 16, 2)
    Experts(off=tuple((1, expert) for expert in range(14))).check(2, 16, 2)
    Experts(k=1, off=tuple((ALL_LAYERS, expert) for expert in range(15))).check(2, 16, 2)


def test_sizes_must_fit_together() -> None:
    whole = Routed(0, (5, 6), ("a", "b"), 3, 8, 2, b"x" * 24, b"x" * 48, b"x" * 96)
    assert whole.k == 2
    Routed(0, (5, 6), ("a", "b"), 3, 8, 2, b"x" * 24)
    for wrong in (
        {"tokens": ("a",)}, {"chosen": b"x" * 23}, {"weights": b"x"}, {"scores": b"x" * 48},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="do not fit"):
            Routed(**{**vars(whole), **wrong})  # type: ignore[arg-type]


def test_pieces_that_follow_each_other_are_joined() -> None:
    parts = [
        Fired(0, [1, 2], 2, b"ab", b"cd", b"ef"),
        Fired(2, [3], 2, b"g", b"h", b"i"),
        Fired(0, [1], 2, b"j", b"k", b"l"),
    ]
    assert joined(parts) == [Fired(0, [1, 2, 3], 2, b"abg", b"cdh", b"efi"), parts[2]]
    assert joined([]) == []


def test_what_is_no_routing_breaks_a_reply() -> None:
    for sent in ({"start": 0}, {"chosen": 3}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            replies.routed_of(sent)
    assert replies.routed_of(None) is None


# --- all the way ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def unloaded_after() -> Iterator[None]:
    yield
    selector.unload(NANO, force=True)


def request(experts: Experts | None, **sampling: Any) -> ChatRequest:
    given = Sampling(**{"max_tokens": 60, "temperature": 0.0, "top_p": 1.0, **sampling})
    return ChatRequest((Message("user", QUESTION),), given, 0, experts)


def asked(experts: Experts | None, **sampling: Any) -> Reply:
    reply = run.start(selector.backend(NANO), request(experts, **sampling)).wait(PATIENCE)
    assert reply.error is None, reply.error
    return reply


@functools.cache
def plain() -> Reply:
    return asked(None)


def told(reply: Reply) -> Trace:
    found = trace(reply.routing, reply.prompt_tokens)
    assert found is not None
    return found


@functools.cache
def text() -> ChatText:
    return ChatText(store.folder(catalog.load().deployment(NANO)))


def test_who_does_not_ask_is_told_nothing() -> None:
    assert plain().routing == ()
    assert len(plain().text) > 60


def test_the_whole_prompt_and_the_reply_are_told_as_the_engine_has_it() -> None:
    reply = asked(Experts())
    found = told(reply)
    assert reply.text == plain().text
    prompt = text().prompt([Message("user", QUESTION)])
    assert found.prompt_tokens == len(prompt) == reply.prompt_tokens
    assert found.ids[: len(prompt)] == tuple(prompt)
    # The end token is read by nobody; the one before it is, where the reply ended by itself.
    assert len(found) == len(prompt) + (reply.completion_tokens or 0) - 1
    assert "".join(found.reply.tokens).startswith(reply.text[:40])
    assert found.tokens[0] == "<|user|>"

    engine = engines.load("transformers", store.folder(catalog.load().deployment(NANO)), _silent)
    engine.admit(1, prompt, request(None).sampling, experts=Experts())
    fired: list[Fired] = []
    while sum(len(part.ids) for part in fired) < len(found):
        fired += [news for _, news in engine.step() if isinstance(news, Fired)]
    whole = joined(fired)[0]
    assert whole.ids == list(found.ids)
    assert whole.chosen == found.chosen.tobytes()
    assert found.weights is not None
    assert whole.weights == found.weights.tobytes()
    assert found.scores is not None
    assert whole.scores == found.scores.astype("<f2").tobytes()


def _silent(fraction: float, step: str) -> None:
    pass


def test_it_comes_while_the_reply_is_written() -> None:
    started = run.start(selector.backend(NANO), request(Experts()))
    sizes = set()
    while not started.wait(0.02).ended:
        sizes.add(sum(len(part.ids) for part in started.reply.routing))
    assert len(sizes - {0}) > 1


def test_fewer_experts_and_the_next_reply_is_as_ever() -> None:
    for sampling in ({}, {"seed": 7, "temperature": 0.8}):
        before = asked(None, **sampling)
        one = asked(Experts(k=1), **sampling)
        assert told(one).k == 1
        assert one.logprobs != before.logprobs
        assert asked(None, **sampling).text == before.text, "nothing of it was kept"


def test_an_expert_that_is_off_does_not_work() -> None:
    busiest = int(numpy.bincount(told(asked(Experts())).chosen[:, 2].ravel()).argmax())
    assert busiest not in told(asked(Experts(off=((2, busiest),)))).chosen[:, 2]


def test_what_is_written_is_said_with_its_probability() -> None:
    written = asked(Experts(reply=plain().text))
    assert written.text == plain().text
    assert written.finish_reason == "length"
    ours = [token.logprob for token in written.logprobs]
    theirs = [token.logprob for token in plain().logprobs][: len(ours)]
    assert ours == pytest.approx(theirs, abs=0.15), "but for the rounding of bfloat16"
    limited = asked(Experts(k=1, reply=plain().text))
    assert limited.text == plain().text
    assert [token.logprob for token in limited.logprobs] != ours


def post(**fields: Any) -> httpx2.Response:
    backend = selector.backend(NANO)
    assert isinstance(backend, LocalBackend)
    plain()
    assert backend.worker is not None
    return httpx2.post(
        f"{backend.worker.base_url}/chat/completions",
        json={"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 8} | fields,
        headers={"Authorization": f"Bearer {backend.worker.token}"},
        timeout=PATIENCE,
    )


def test_a_reply_in_one_piece() -> None:
    body = post(experts={}).json()
    (part,) = [replies.routed_of(part) for part in body["routing"]]
    assert part is not None
    prompt = tuple(text().prompt([Message("user", QUESTION)]))
    assert part.ids[: len(prompt)] == prompt
    assert len(part.ids) == body["usage"]["total_tokens"] - 1
    assert "routing" not in post().json()


def test_in_pieces_it_is_the_same() -> None:
    fields = {"experts": {"k": 3, "off": [[ALL_LAYERS, 1]]}, "temperature": 0, "max_tokens": 40}
    (whole,) = post(**fields).json()["routing"]
    lines = [line for line in post(**fields, stream=True).text.splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    sent = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    parts = [replies.routed_of(chunk["routing"]) for chunk in sent if "routing" in chunk]
    assert len(parts) > 1
    pieces, at_once = trace([part for part in parts if part]), trace([replies.routed_of(whole)])
    assert pieces is not None
    assert at_once is not None
    assert same(pieces, at_once)
    assert (pieces.k, 1 in pieces.chosen) == (3, False)


@pytest.mark.parametrize(
    "experts",
    [
        {"reply": "\ufdd0"},
        {"off": [[ALL_LAYERS, one] for one in range(16)]},
        {"k": 17},
        {"off": [[9, 0]]},
        {"k": -1},
        {"more": 1},
        [],
        "all",
        {"off": [[0, 99]]},
    ],
    ids=str,
)
def test_a_limit_that_cannot_be_is_a_400_that_names_the_field(experts: Any) -> None:
    response = post(experts=experts)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "experts"


def test_who_has_no_experts_refuses_by_name() -> None:
    dense = selector.backend("phi-dense-nano@transformers")
    assert not dense.capabilities.routing
    reply = run.start(dense, request(Experts())).wait(PATIENCE)
    assert isinstance(reply.error, Unsupported)
    assert reply.error.field == "experts"
    assert reply.error.hint == "Pick a mixture of experts on transformers."
    told_only = chat.Capabilities(chat.SAMPLING_FIELDS, routing=True, logprobs=True)
    told_only.check(request(Experts()))
    with pytest.raises(Unsupported, match="cannot be limited"):
        told_only.check(request(Experts(k=1)))


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "mlx"])
def test_only_transformers_tells(runtime: str) -> None:
    assert not engines.gives_routing(runtime)
    assert engines.gives_routing("transformers")


def test_which_deployments_of_the_catalog_tell() -> None:
    known = catalog.load().deployments.values()
    tell = {
        item.id for item in known if item.local and selector.backend(item.id).capabilities.routing
    }
    assert tell == {
        NANO,
        "phi-tiny-moe-instruct@transformers",
        "phi-mini-moe-instruct@transformers",
        "phi-3.5-moe-instruct@transformers",
        "olmoe-1b-7b-0924-instruct@transformers",
    }


def test_a_text_that_no_context_holds_is_refused_with_its_tokens() -> None:
    error = post(experts={"reply": "word " * 10_000}).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["max_tokens"] > 10_000


def test_halves_of_characters_and_names_of_special_tokens_are_written_as_text() -> None:
    said = "Grüße 👩‍🚀 <|end|> 数\n  x"
    written = asked(Experts(reply=said))
    found = told(written)
    assert written.text == said
    ids = tuple(text().tokens(said))
    assert found.reply.ids == ids[:-1]
    assert len(written.logprobs) == len(ids) == written.completion_tokens
    assert tuple(token.id for token in written.logprobs) == ids


def test_a_stop_string_cuts_what_is_written_too() -> None:
    written = asked(Experts(reply="one two three four"), stop=("three",))
    assert (written.text, written.finish_reason) == ("one two ", "stop")
    made = written.completion_tokens or 0
    assert len(told(written)) == (written.prompt_tokens or 0) + made - 1


def test_two_at_once_each_as_if_alone() -> None:
    ways = [None, Experts(), Experts(k=1), Experts(off=((0, 3), (5, 1)))]
    short = {"seed": 3, "max_tokens": 20}
    alone = [asked(experts, **short) for experts in ways]
    runs = [run.start(selector.backend(NANO), request(experts, **short)) for experts in ways]
    for one, started in zip(alone, runs, strict=True):
        reply = started.wait(PATIENCE)
        assert (reply.text, reply.logprobs) == (one.text, one.logprobs)
        assert bool(reply.routing) == bool(one.routing)
        if one.routing:
            assert same(told(reply), told(one))


def test_a_stopped_reply_keeps_what_was_told() -> None:
    started = run.start(selector.backend(NANO), request(Experts(), max_tokens=200))
    while not started.reply.routing:
        assert not started.wait(0.005).ended
    started.cancel()
    reply = started.wait(PATIENCE)
    assert reply.state == "stopped"
    assert len(told(reply)) >= (reply.prompt_tokens or 1)


def test_a_worker_that_dies_leaves_what_it_told() -> None:
    whole = told(asked(Experts()))
    backend = selector.backend(NANO)
    assert isinstance(backend, LocalBackend)
    started = run.start(backend, request(Experts(), max_tokens=400))
    until(lambda: started.reply.text)
    assert backend.worker is not None
    os.kill(backend.worker.pid, signal.SIGKILL)
    reply = started.wait(PATIENCE)
    assert isinstance(reply.error, WorkerDied)
    left = told(reply)
    assert len(left) >= (reply.prompt_tokens or 1)
    assert whole.ids[: len(left)] == left.ids
