"""The bytes of an answer: what is passed on, and where it ends. Limits under load are played by
test_failures.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from slm_backends.chat import MAX_CHARACTERS
from slm_backends.endpoints.incoming import MAX_BYTES, MAX_ERROR_BYTES, Incoming
from slm_backends.errors import StreamBroken

EVENTS = "text/event-stream; charset=utf-8"


async def parts_of(*parts: bytes | float | Exception) -> AsyncIterator[bytes]:
    """The bytes; numbers are seconds of silence before the next."""
    for part in parts:
        if isinstance(part, Exception):
            raise part
        if isinstance(part, bytes):
            yield part
        else:
            await asyncio.sleep(part)


def read(incoming: Incoming, *, progress: int | None = None) -> list[bytes]:
    async def all_of_it() -> list[bytes]:
        got = []
        async for part in incoming:
            got.append(part)
            if progress is not None:
                incoming.progress(progress)
        return got

    return asyncio.run(all_of_it())


@pytest.mark.parametrize(
    ("parts", "events"),
    [
        ((b"data: a\n\ndata: b\n\n",), ["a", "b"]),
        ((b"data:a\r\n\r\ndata:  b \r\n\r\n",), ["a", "b"]),
        ((b"da", b"ta: a", b"\n", b"\n", b"data: b\r", b"\n\r", b"\n"), ["a", "b"]),
        ((b": comment\n\nevent: x\nid: 5\nretry: 1\ndata: a\n\n\n\n",), ["a"]),
        ((b"data\n\ndata:\n\ndata: \n\nevent: ping\n\n",), []),
        ((b'data: {"a":\ndata: 1}\n\n',), ['{"a": 1}']),
        ((b"data: a\n\ndata: unfinished\n",), ["a"]),
        ((b"\xf0\x9f", b"\x91\x8b\ndata: \xf0\x9f\x91", b"\x8b\n\n"), ["👋"]),
        ((b"<html>\n\n</html>",), []),
        ((), []),
    ],
)
def test_server_sent_events(parts: tuple[bytes, ...], events: list[str]) -> None:
    got = read(Incoming(parts_of(*parts), 200, EVENTS))
    assert got == [f"data: {event}\n\n".encode() for event in events]


def test_other_bytes_come_as_they_are() -> None:
    assert read(Incoming(parts_of(b"in words"), 500, EVENTS)) == [b"in words"]
    parts = (b"data: a\r\n", b"", b": b")
    assert read(Incoming(parts_of(*parts), 200, "application/json")) == list(parts)


def test_bytes_without_a_piece_of_a_reply() -> None:
    half = bytes(MAX_BYTES // 2)
    assert len(read(Incoming(parts_of(half, half), 200))) == 2
    with pytest.raises(StreamBroken, match="8 MB without a piece"):
        read(Incoming(parts_of(half, half, b"x"), 200))
    assert len(read(Incoming(parts_of(half, half, half), 200), progress=0)) == 3
    assert len(read(Incoming(parts_of(half, half, b"x"), 200, most=2 * MAX_BYTES))) == 3
    with pytest.raises(StreamBroken, match="16 MB without a piece"):
        read(Incoming(parts_of(*[half] * 4, b"x"), 200, most=2 * MAX_BYTES))


def test_what_follows_the_end_of_a_reply_harms_nobody() -> None:
    rest = bytes(MAX_BYTES)
    parts = (b"data: [DONE]\n\n", rest, rest)
    assert read(Incoming(parts_of(*parts), 200, EVENTS)) == [b"data: [DONE]\n\n"]


def test_the_length_of_a_reply() -> None:
    piece = MAX_CHARACTERS // 2
    assert len(read(Incoming(parts_of(b"a", b"b"), 200), progress=piece)) == 2
    with pytest.raises(StreamBroken, match="1,000,000 characters"):
        read(Incoming(parts_of(b"a", b"b", b"c"), 200), progress=piece)


def test_silence_counts_from_the_first_word_on() -> None:
    silent = (b"a", 0.3, b"b")
    assert len(read(Incoming(parts_of(*silent), 200, stall_s=0.1))) == 2
    assert len(read(Incoming(parts_of(*silent), 200, stall_s=0.1), progress=0)) == 2
    with pytest.raises(StreamBroken, match="silent for 0.1 seconds"):
        read(Incoming(parts_of(*silent), 200, stall_s=0.1), progress=1)


def test_the_body_of_an_error_ends_early_and_never_fails() -> None:
    half = b"x" * (MAX_ERROR_BYTES - 10)
    assert b"".join(read(Incoming(parts_of(half, half), 500))) == half + b"x" * 10
    assert read(Incoming(parts_of(b"a", 5.0, b"b"), 500, stall_s=0.1)) == [b"a"]
    assert read(Incoming(parts_of(b"a", OSError("cut"), b"b"), 500)) == [b"a"]
    with pytest.raises(OSError, match="cut"):
        read(Incoming(parts_of(b"a", OSError("cut")), 200))


def test_cancelling_is_not_taken_for_silence() -> None:
    async def cancelled() -> None:
        task = asyncio.ensure_future(anext(aiter(Incoming(parts_of(60.0), 500, stall_s=30.0))))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
