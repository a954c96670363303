"""What pictures cost before they are sent: numbers against the published ones, and the words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from drawn import picture

from slm_backends import catalog, fit, images, picture_cost
from slm_backends.catalog import Deployment

FRAME = (1_280, 720)


@pytest.fixture(autouse=True)
def usual_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLM_CONTEXT", raising=False)


def deployment(name: str, **changes: object) -> Deployment:
    return replace(catalog.load().deployment(name), **changes)  # type: ignore[arg-type]


def phi(**changes: object) -> Deployment:
    """On a graphics processor, where its cache is in half precision whatever this machine is."""
    chosen = {"device": "cuda", "images": 5, "sound_to": 0} | changes
    return deployment("phi-3.5-vision-instruct@transformers", **chosen)


@pytest.mark.parametrize(
    ("sizes", "tokens", "crops"),
    [
        ([(640, 480)], 1_921, 13),
        ([(336, 336)], 2_509, 17),
        ([FRAME], 2_353, 16),
        ([FRAME, FRAME], 2 * 757, 10),
        ([FRAME] * 4 + [(720, 1_280)], 5 * 757, 25),
    ],
)
def test_the_tokens_are_the_published_ones(
    sizes: list[tuple[int, int]], tokens: int, crops: int
) -> None:
    cost = picture_cost.of(phi(), sizes)
    assert (cost.known, cost.total, cost.crops, cost.refusal) == (True, tokens, crops, "")
    assert len(cost.tokens) == len(sizes)
    assert cost.memory == tokens * 384 * 1024 == tokens * fit.token_bytes(phi())
    assert cost.pixels == crops * 336 * 336 * 3 * 4


def test_the_sum_is_told() -> None:
    cost = picture_cost.of(phi(), [(640, 480)])
    assert cost.words == "1,921 tokens, 720 MiB of cache"
    assert cost.arithmetic == (
        "1,921 tokens = (3 x 4 + 1) crops x 144 + 4 x 12 for the ends of rows + 1. "
        "Cache: 1,921 tokens x 384 KiB = 720 MiB. To look at: 17 MiB of pixels."
    )


def test_equal_sums_are_told_once() -> None:
    sizes = [FRAME, FRAME, (336, 700)]
    told = picture_cost.of(phi(), sizes).arithmetic
    total = picture_cost.of(phi(), sizes).total
    assert told.startswith("2 pictures of 757 tokens = (2 x 2 + 1) crops")
    assert told.count(" crops x 144") == 2
    assert f"; {total:,} together. Cache: {total:,} tokens" in told


def test_a_small_model_has_small_units() -> None:
    cost = picture_cost.of(deployment("phi-vision-nano@transformers"), [(96, 96)])
    assert cost.total == (2 * 2 + 1) * 9 + 3 * 3 + 1 == 55
    assert " KiB of cache" in cost.words


def test_smolvlm_makes_every_picture_large() -> None:
    smol = deployment("smolvlm-256m-instruct@transformers", device="cuda")
    cost = picture_cost.of(smol, [(64, 48), (640, 480), (500, 500)])
    assert (cost.tokens, cost.crops, cost.refusal) == ((862, 862, 1_127), 43, "")
    assert cost.pixels == 43 * 512 * 512 * 3 * 4
    assert cost.arithmetic.startswith(
        "2 pictures of 862 tokens = (3 x 4 + 1) crops x (64 + 2) + 3 for the ends of rows + 1; "
        "1,127 tokens = (4 x 4 + 1) crops x (64 + 2) + 4 for the ends of rows + 1; 2,851 together. "
        "Cache: 2,851 tokens x 22.5 KiB"
    )
    # Its rotary factors are the same for any length.
    assert not picture_cost.of(smol, [(500, 500)] * 5, 500, 568).warning
    assert "are 8,193 together" in picture_cost.of(smol, [(500, 500)] * 5, 1_000, 1_558).refusal


def test_past_what_the_model_is_sure_of_there_is_a_warning() -> None:
    free = phi(sound_to=0, images=10)
    assert not picture_cost.of(free, [FRAME] * 4, 500, 568).warning  # 3,028 + 1,068 = 4,096
    over = picture_cost.of(free, [FRAME] * 4, 501, 568)
    assert over.warning.startswith("With the text and the reply these are 4,097 tokens, past 4,096")
    assert "long position factors take over" in over.warning and not over.refusal
    known = phi(sound_to=2_000, sound_note="Its answers are noise.")
    assert picture_cost.of(known, [(640, 480)], 0, 80).warning.endswith(
        "2,000. Its answers are noise."
    )
    assert not picture_cost.of(known, [(640, 480)], 0, 79).warning


def test_past_the_context_it_is_refused_with_what_to_do() -> None:
    many = phi(images=32)
    assert not picture_cost.of(many, [FRAME] * 10, 110, 512).refusal  # 7,570 + 622 = 8,192
    cost = picture_cost.of(many, [FRAME] * 10, 111, 512)
    assert cost.refusal == (
        "The pictures' tokens and 111 of text and the reply's are 8,193 together, and 8,192 are "
        "held. Send the first only, a contact sheet of all, or let only the text in them be read."
    )
    assert not cost.warning  # one sentence is enough
    alone = picture_cost.of(many, [FRAME], 0, 8_000)
    assert alone.refusal.endswith("Ask for a shorter reply, or let only the text in them be read.")


def test_the_context_is_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_CONTEXT", "2000")
    assert "2,000 are held" in picture_cost.of(phi(), [(640, 480)], 0, 80).refusal
    assert not picture_cost.of(phi(), [(640, 480)], 0, 79).refusal


def test_more_pictures_than_it_takes_are_refused() -> None:
    one = deployment("phi-3-vision-128k-instruct@onnx")
    refusal = picture_cost.of(one, [FRAME] * 3).refusal
    assert refusal.startswith("It takes one picture in a conversation, and there are 3. Send the")
    assert not picture_cost.of(one, [FRAME]).refusal
    blind = picture_cost.of(deployment("smollm2-135m-instruct@onnx"), [FRAME])
    assert blind.refusal == (
        "It takes no pictures in a conversation, and there is 1. Let only the text in them be read."
    )
    assert blind.arithmetic == ""


def test_what_a_server_makes_of_a_picture_is_not_known() -> None:
    cost = picture_cost.of(deployment("phi-3-vision-128k-instruct@nim"), [FRAME])
    assert (cost.known, cost.words, cost.total, cost.refusal) == (False, "tokens not known", 0, "")
    assert cost.arithmetic == "Only the server knows how many tokens a picture takes."
    assert (
        "takes one picture"
        in picture_cost.of(deployment("phi-3-vision-128k-instruct@nim"), [FRAME] * 2).refusal
    )


def test_without_pictures_nothing_is_said() -> None:
    server = deployment("phi-3-vision-128k-instruct@nim")
    for asked in (phi(), server, deployment("smollm2-135m-instruct@onnx")):
        cost = picture_cost.of(asked, [])
        assert (cost.known, cost.arithmetic, cost.warning, cost.refusal) == (False, "", "", "")
        assert picture_cost.sheet(asked, []) == cost


@pytest.mark.parametrize(
    "sizes", [[(64, 48)] * 8, [(40, 40), (90, 30), (20, 70)], [(2_000, 300)] * 2, [(300, 200)] * 21]
)
def test_a_contact_sheet_costs_what_the_real_one_does(sizes: list[tuple[int, int]]) -> None:
    real = images.contact_sheet([picture("PNG", *size) for size in sizes])
    _, width, height = images.sound(real)
    expected = picture_cost.of(phi(), [(width, height)], 5, 100)
    assert picture_cost.sheet(phi(), sizes, 5, 100) == expected
    assert len(expected.tokens) == 1
