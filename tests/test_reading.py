"""A text deployment that is asked about pictures: they are read first, on this computer."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import receipts

from slm_backends import child, ocr, run
from slm_backends.chat import MAX_IMAGES, ChatRequest, Image, Message
from slm_backends.endpoints.fake import FakeBackend
from slm_backends.errors import BadRequest
from slm_backends.reading import Reading

QUESTION = "What is the total?"


def reader(script: str = "fake@text=echo,rate=0,first=0,tokens=999") -> Reading:
    return Reading(FakeBackend(script))


@pytest.fixture(scope="module")
def receipt() -> tuple[Image, str]:
    return receipts.receipt(1)


def test_what_a_picture_says_stands_in_the_prompt(receipt: tuple[Image, str]) -> None:
    image, total = receipt
    backend = reader()
    done = run.start(backend, ChatRequest((Message("user", QUESTION, (image,)),))).wait(60)
    assert done.state == "done"
    assert total in done.text and QUESTION in done.text
    [(shown, found)] = backend.read
    assert shown is image and total in found.text
    assert backend.asked is not None
    assert not any(message.images for message in backend.asked.messages)
    assert done.looking is not None and done.looking.images == 1


def test_pictures_of_earlier_turns_are_read_in_their_place(receipt: tuple[Image, str]) -> None:
    image, total = receipt
    other, other_total = receipts.receipt(2)
    talk = (
        Message("user", QUESTION, (image,)),
        Message("assistant", total),
        Message("user", "And on this one?", (other,)),
    )
    backend = reader()
    done = run.start(backend, ChatRequest(talk)).wait(60)
    assert done.state == "done" and backend.asked is not None
    first, said, last = backend.asked.messages
    assert total in first.content and other_total not in first.content
    assert said == talk[1]
    assert other_total in last.content and total not in last.content


def test_a_conversation_without_pictures_is_passed_on_as_it_is() -> None:
    backend = reader()
    request = ChatRequest((Message("user", "Hello"),))
    assert run.start(backend, request).wait(10).text == "Hello"
    assert backend.asked == request and backend.read == []


def test_it_takes_pictures_where_its_backend_takes_none() -> None:
    backend = reader()
    assert backend.capabilities.images == MAX_IMAGES
    assert backend.capabilities.context == 8_192
    assert backend.id.startswith("fake@") and backend.about.runtime == "Fake"


def test_a_picture_that_is_none_is_refused() -> None:
    image = Image(b"no picture")
    done = run.start(reader(), ChatRequest((Message("user", QUESTION, (image,)),))).wait(60)
    assert isinstance(done.error, BadRequest)


def test_a_run_that_is_stopped_while_reading_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a reader that never ends: how the real one is ended is in test_ocr.py."""
    stopped = []

    def forever(image: Image, cancelled: Callable[[], bool]) -> None:
        while not cancelled():
            time.sleep(0.005)
        stopped.append(image)
        raise child.ChildCancelled

    monkeypatch.setattr(ocr, "read", forever)
    image, _ = receipts.receipt(3)
    backend = reader()
    going = run.start(backend, ChatRequest((Message("user", QUESTION, (image, image)),)))
    while going.reply.looking is None:
        time.sleep(0.005)
    assert (going.reply.looking.image, going.reply.looking.images) == (1, 2)
    going.cancel()
    assert going.wait(5).state == "stopped"
    deadline = time.monotonic() + 5
    while not stopped and time.monotonic() < deadline:
        time.sleep(0.005)
    assert stopped == [image]  # the second was not begun
    assert backend.asked is None
