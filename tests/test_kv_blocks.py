"""The book about OpenVINO's prefix cache: what it may promise, and when it must not."""

from __future__ import annotations

import itertools

import pytest

from slm_backends.worker.engines.kv_blocks import Blocks

SIZE = 4
keys = itertools.count()


def answer(blocks: Blocks, prompt: list[int], reply: list[int]) -> int:
    key = next(keys)
    cached = blocks.admit(key, prompt)
    blocks.add(key, reply)
    blocks.release(key)
    return cached


def words(count: int, first: int = 0) -> list[int]:
    return list(range(first, first + count))


@pytest.mark.parametrize(
    ("prompt", "cached"),
    [
        (words(16), 12),  # of the fourth block the reply's last token was never read
        ([*words(9), 99, 100, 101], 8),
        (words(8), 7),  # the last token is always read
        ([7, *words(12)], 0),
        ([0], 0),
        (words(2), 0),
    ],
)
def test_whole_blocks_from_the_beginning(prompt: list[int], cached: int) -> None:
    blocks = Blocks(SIZE, 16)
    assert answer(blocks, words(10), words(6, first=10)) == 0
    assert answer(blocks, prompt, [1]) == cached


def test_equal_blocks_at_other_places_are_others() -> None:
    blocks = Blocks(SIZE, 16)
    answer(blocks, [1, 1, 1, 1, 2, 2, 2, 2], [3])
    assert answer(blocks, [2, 2, 2, 2, 1, 1, 1, 1, 5], [3]) == 0


def test_a_running_one_gives_what_it_has_read() -> None:
    blocks = Blocks(SIZE, 16)
    blocks.admit(1, words(9))
    assert blocks.admit(2, words(9)) == 0
    blocks.add(1, [50])
    assert blocks.admit(3, words(9)) == 8


def test_one_that_was_withdrawn_before_it_was_read_gives_nothing() -> None:
    blocks = Blocks(SIZE, 16)
    blocks.admit(1, words(12))
    assert blocks.release(1) == []
    assert blocks.admit(2, words(12)) == 0


def test_what_must_be_taken_over_is_all_but_the_last_token() -> None:
    blocks = Blocks(SIZE, 16)
    blocks.admit(1, words(5))
    blocks.add(1, [50])
    blocks.add(1, [51, 52])
    assert blocks.release(1) == [*words(5), 50, 51]


def test_the_oldest_are_displaced_first_and_use_keeps() -> None:
    blocks = Blocks(SIZE, 10)  # each answer below takes three
    texts = {name: words(8, first=100 * place) for place, name in enumerate("abcd")}
    for name in "abc":
        answer(blocks, texts[name], [1, 2, 3])
    assert answer(blocks, [*texts["a"], 9], [1, 2]) == 8
    answer(blocks, texts["d"], [1, 2, 3])
    assert answer(blocks, [*texts["b"], 9], [1]) == 0
    assert answer(blocks, [*texts["d"], 9], [1]) == 8


def test_more_than_there_is_room_for_leaves_nothing_certain() -> None:
    blocks = Blocks(SIZE, 6)
    answer(blocks, words(8), [1])
    blocks.admit(100, words(12, first=100))
    blocks.admit(101, words(12, first=200))
    for key in (100, 101):
        blocks.add(key, [1])
        blocks.release(key)
    assert blocks.admit(102, [*words(8), 9]) == 0


def test_it_does_not_grow_with_what_was_said() -> None:
    blocks = Blocks(SIZE, 8)
    for number in range(300):
        answer(blocks, words(20, first=1000 * number), [1, 2])
    assert len(blocks._held) + len(blocks._others) <= 3 * 8
