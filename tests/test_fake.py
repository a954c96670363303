"""The scripted backend does what its id says."""

from __future__ import annotations

import asyncio

import pytest
from asking import ask, request, start, until, until_decoding
from drawn import picture

from slm_backends import selector
from slm_backends.chat import (
    ChatRequest,
    Delta,
    Event,
    Finished,
    Loading,
    Looking,
    Message,
    Prefill,
    Queued,
)
from slm_backends.endpoints.fake import CONTEXT, CROPS, FakeBackend
from slm_backends.errors import (
    Busy,
    ContextOverflow,
    NotFound,
    SLMError,
    StreamBroken,
    Unauthorized,
    Unavailable,
    Unsupported,
)


def events(backend_id: str, **sampling: object) -> list[Event]:
    async def collect() -> list[Event]:
        stream = FakeBackend(backend_id).stream(request(**sampling))
        return [event async for event in stream]

    return asyncio.run(collect())


def test_events_come_in_order() -> None:
    seen = events("fake@tokens=3,rate=0,first=0,load=0.01")
    kinds = [type(event) for event in seen]
    assert kinds == [Loading] * 10 + [Queued, Prefill] + [Delta] * 3 + [Finished]
    fractions = [event.fraction for event in seen if isinstance(event, Loading)]
    assert fractions == sorted(fractions)


def test_it_looks_at_each_picture_crop_by_crop() -> None:
    two = ChatRequest((Message("user", "What are they?", (picture(), picture())),))

    async def collect(backend_id: str) -> list[Event]:
        return [event async for event in FakeBackend(backend_id).stream(two)]

    seen = asyncio.run(collect("fake@tokens=1,rate=0,first=0,images=2"))
    looks = [event for event in seen if isinstance(event, Looking)]
    assert [(look.image, look.crop) for look in looks] == [
        (image, crop) for image in (1, 2) for crop in range(1, CROPS + 1)
    ]
    with pytest.raises(Unsupported, match="one image"):
        asyncio.run(collect("fake@images=1"))


def test_numbers_add_up() -> None:
    *_, last = events("fake@tokens=5,rate=0,first=0")
    assert isinstance(last, Finished)
    assert (last.reason, last.completion_tokens, last.prompt_tokens) == ("stop", 5, 1)
    assert last.timings is not None
    assert last.timings.predicted_n == 5


def test_max_tokens_ends_it() -> None:
    *_, last = events("fake@tokens=50,rate=0,first=0", max_tokens=4)
    assert isinstance(last, Finished)
    assert (last.reason, last.completion_tokens) == ("length", 4)


def test_two_runs_are_equal() -> None:
    backend = FakeBackend("fake@tokens=40,rate=0,first=0")
    assert ask(backend).text == ask(backend, temperature=1.0, seed=5).text


def test_echo_says_the_prompt() -> None:
    assert ask(FakeBackend("fake@text=echo,rate=0,first=0"), "one two  three").text == (
        "one two  three"
    )


@pytest.mark.parametrize(
    ("refuse", "kind"), [("busy", Busy), ("key", Unauthorized), ("unreachable", Unavailable)]
)
def test_refusals(refuse: str, kind: type[SLMError]) -> None:
    with pytest.raises(kind) as caught:
        events(f"fake@refuse={refuse}")
    assert caught.value.hint


def test_overflow_only_of_a_longer_conversation() -> None:
    backend = FakeBackend("fake@refuse=overflow,rate=0,first=0,tokens=3")
    short = request()
    long = type(short)((*short.messages, *short.messages))

    async def drain(asked: object) -> None:
        async for _ in backend.stream(asked):  # type: ignore[arg-type]
            pass

    asyncio.run(drain(short))
    with pytest.raises(ContextOverflow) as caught:
        asyncio.run(drain(long))
    assert caught.value.context == CONTEXT


@pytest.mark.parametrize(("word", "kind"), [("fail", SLMError), ("break", StreamBroken)])
@pytest.mark.parametrize("after", [0, 1, 7])
def test_failures_come_after_as_many_tokens_as_told(
    word: str, kind: type[SLMError], after: int
) -> None:
    reply = start(FakeBackend(f"fake@{word}={after},rate=0,first=0,text=plain")).wait(10)
    assert reply.state == "failed"
    assert type(reply.error) is kind
    assert len(reply.text.split()) == after


@pytest.mark.parametrize(
    "wrong", ["tokens=x", "tokens", "speed=3", "text=novel", "refuse=politely", "break_=1"]
)
def test_a_script_that_is_not_understood_is_not_found(wrong: str) -> None:
    with pytest.raises(NotFound) as caught:
        selector.backend(f"fake@{wrong}")
    assert wrong in caught.value.message or "must be one of" in caught.value.message


def test_closing_it_frees_its_place() -> None:
    backend = FakeBackend("fake@tokens=1000,rate=100")
    run = start(backend)
    until_decoding(run)
    assert backend.active == 1
    run.cancel()
    until(lambda: backend.active == 0)
