"""Requests are checked when they are made, and say what is allowed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from slm_backends.chat import (
    MAX_CHARACTERS,
    MAX_MESSAGES,
    MAX_STOP_CHARACTERS,
    PARAMETERS,
    SAMPLING_FIELDS,
    Capabilities,
    ChatRequest,
    Image,
    Message,
    Parameter,
    Sampling,
    Timings,
)
from slm_backends.errors import BadRequest, Unsupported

USER = Message("user", "Hello")


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=PARAMETERS)
def test_both_ends_of_a_range_are_allowed_and_nothing_beyond(parameter: Parameter) -> None:
    for allowed in (parameter.minimum, parameter.maximum):
        value = getattr(Sampling(**{parameter.name: allowed}), parameter.name)
        assert value == allowed
        assert type(value) is parameter.kind
    for refused in (parameter.minimum - 1, parameter.maximum + 1):
        with pytest.raises(BadRequest) as caught:
            Sampling(**{parameter.name: refused})
        assert caught.value.field == parameter.name
        assert parameter.name in caught.value.message
        for end in (parameter.minimum, parameter.maximum):
            assert f"{parameter.kind(end):,}" in caught.value.message


@pytest.mark.parametrize("name", ["temperature", "max_tokens", "seed"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1", [], 10**400])
def test_what_is_no_number_in_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        Sampling(**{name: value})
    assert caught.value.field == name
    assert len(caught.value.message) < 300  # it repeats the value, but not all of a long one


def test_only_a_seed_may_be_none() -> None:
    assert Sampling(seed=None).seed is None
    with pytest.raises(BadRequest):
        Sampling(temperature=None)  # type: ignore[arg-type]


def test_whole_numbers_stay_whole() -> None:
    assert Sampling(max_tokens=7.0).max_tokens == 7  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="whole number"):
        Sampling(max_tokens=7.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "stop", ["text", None, 5, ["a", 5], [""], ["x" * (MAX_STOP_CHARACTERS + 1)], ["a"] * 5]
)
def test_wrong_stop_strings_are_refused(stop: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        Sampling(stop=stop)
    assert caught.value.field == "stop"


def test_stop_strings_become_a_tuple() -> None:
    assert Sampling(stop=["a", "b"]).stop == ("a", "b")  # type: ignore[arg-type]


def test_asked_names_what_differs_from_neutral() -> None:
    assert Sampling(top_p=1.0).asked() == {"max_tokens", "temperature"}
    everything = Sampling(
        top_k=1,
        presence_penalty=0.1,
        frequency_penalty=-0.1,
        repetition_penalty=1.1,
        stop=("x",),
        seed=0,
    )
    assert everything.asked() == SAMPLING_FIELDS
    without = dataclasses.replace(everything, left_out=("temperature", "stop"))
    assert without.asked() == SAMPLING_FIELDS - {"temperature", "stop"}


@pytest.mark.parametrize("role", ["tool", "", None, ["user"]])
def test_unknown_roles_are_refused(role: Any) -> None:
    with pytest.raises(BadRequest, match="role"):
        Message(role, "Hello")


@pytest.mark.parametrize("content", [None, 5, b"bytes", "half \ud83d of a pair"])
def test_content_must_be_text(content: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        Message("user", content)
    assert caught.value.field == "messages"


def test_a_message_has_a_longest_length() -> None:
    Message("user", "x" * MAX_CHARACTERS)
    with pytest.raises(BadRequest, match="1,000,001"):
        Message("user", "x" * (MAX_CHARACTERS + 1))


@pytest.mark.parametrize(
    "messages",
    [
        (),
        (Message("assistant", "I speak first"),),
        (Message("system", "Be kind"),),
        (Message("user", " \n"),),
        (USER,) * (MAX_MESSAGES + 1),
    ],
    ids=["none", "assistant last", "only system", "blank", "too many"],
)
def test_a_conversation_ends_with_what_the_user_says(messages: tuple[Message, ...]) -> None:
    with pytest.raises(BadRequest) as caught:
        ChatRequest(messages)
    assert caught.value.field == "messages"


def test_an_image_alone_is_something_to_say() -> None:
    assert ChatRequest((Message("user", "", (Image(b"png"),)),)).messages[0].images


def test_images_are_of_three_kinds_and_do_not_show_in_a_repr() -> None:
    with pytest.raises(BadRequest, match="PNG, JPEG or WEBP"):
        Image(b"<svg/>", "image/svg+xml")
    assert "secret" not in repr(Image(b"secret"))


def test_requests_are_frozen() -> None:
    request = ChatRequest([USER])  # type: ignore[arg-type]
    assert request.messages == (USER,)
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.messages = ()  # type: ignore[misc]


def test_a_backend_refuses_by_name_what_it_does_not_honour() -> None:
    plain = Capabilities(frozenset({"max_tokens", "temperature", "top_p"}))
    plain.check(ChatRequest((USER,)))
    plain.check(ChatRequest((USER,), Sampling(top_k=0, presence_penalty=0)))
    with pytest.raises(Unsupported) as caught:
        plain.check(ChatRequest((USER,), Sampling(presence_penalty=0.5)))
    assert caught.value.field == "presence_penalty"
    assert "presence_penalty" in caught.value.message
    assert caught.value.hint


def test_a_backend_refuses_more_images_than_it_takes() -> None:
    two = ChatRequest((Message("user", "Compare", (Image(b"1"), Image(b"2"))),))
    Capabilities(SAMPLING_FIELDS, images=2).check(two)
    for images, word in ((0, "no images"), (1, "one image")):
        with pytest.raises(Unsupported, match=word):
            Capabilities(SAMPLING_FIELDS, images=images).check(two)


def test_decode_speed_counts_tokens_after_the_first() -> None:
    assert Timings(5, 100.0, 11, 500.0).tokens_per_second == pytest.approx(20.0)
    assert Timings(5, 100.0, 1, 0.0).tokens_per_second is None
    assert Timings(5, 100.0, 0, 0.0).tokens_per_second is None
