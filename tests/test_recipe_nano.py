"""The recipe of phi-vision-nano: true scenes, lessons that fit the model, weights that know."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy
import PIL.Image
import pytest
import torch
from command_line import ROOT
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from recipes.phi_vision_nano import drawing, examine, layout, lessons, scenes, train, words
from slm_backends import shipped_weights
from slm_backends.worker.engines import phi3v

HERE = shipped_weights.folder("phi-vision-nano")
LARGEST = 16_000_000  # bytes that may be shipped
NAMED = re.compile(rf"({'|'.join(drawing.COLOURS)}) ({'|'.join(drawing.SHAPES)})")
SEEDS = range(60)  # of each kind of scene
DIGEST = """
import hashlib
from recipes.phi_vision_nano import scenes
digest = hashlib.sha256()
for seed in range(40):
    made = scenes.scene(seed)
    for picture in made.pictures:
        digest.update(picture.image.tobytes())
    digest.update(repr((made.pairs, [picture.marks for picture in made.pictures])).encode())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(HERE / "tokenizer.json"))


@pytest.fixture(scope="module")
def pupil(tokenizer: Tokenizer) -> train.Pupil:
    """Untaught."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return train.Pupil(phi3v.Phi3Vision(layout.config(tokenizer.get_vocab_size()))).eval()


def python(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def by_place(picture: drawing.Picture, signs: str) -> str:
    """The signs among those given, from left to right."""
    found = sorted(
        (mark.x, mark.sign) for mark in picture.marks if mark.sign and mark.sign in signs
    )
    return "".join(sign for _, sign in found)


def names(picture: drawing.Picture) -> list[str]:
    return [f"{mark.colour} {mark.sign}" for mark in picture.marks]


# --- scenes ---------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_scene_in_every_process() -> None:
    assert python("-c", DIGEST, PYTHONHASHSEED="1") == python("-c", DIGEST, PYTHONHASHSEED="2")


def test_all_kinds_are_asked() -> None:
    asked = {pair.kind for seed in range(100) for pair in scenes.scene(seed).pairs}
    assert asked == set(scenes.KINDS)


def test_a_question_has_one_answer() -> None:
    for seed in range(400):
        pairs = {(pair.question, pair.answer) for pair in scenes.scene(seed).pairs}
        assert len(pairs) == len({question for question, _ in pairs})


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_said_of_shapes_is_what_is_drawn(seed: int) -> None:
    made = scenes.scene(seed, "shapes")
    picture = made.pictures[0]
    pixels = numpy.asarray(picture.image).astype(int)
    there = dict(zip(names(picture), picture.marks, strict=True))
    for mark in picture.marks:
        middle = pixels[int(mark.y * len(pixels)), int(mark.x * len(pixels[0]))]
        assert abs(middle - drawing.COLOURS[mark.colour]).max() <= 12
    for pair in made.pairs:
        named = [there.get(" ".join(found)) for found in NAMED.findall(pair.question)]
        if pair.answer in ("Left", "Right") and len(named) == 2:
            one, other = reversed(named) if pair.question[0] in "Ll" else named
            assert pair.answer == ("Left" if one.x < other.x else "Right")
        elif pair.answer in ("Above", "Below"):
            one, other = reversed(named) if pair.question[0] in "Aa" else named
            assert pair.answer == ("Above" if one.y < other.y else "Below")
        elif pair.kind == "positions":
            assert drawing.PLACES.index(pair.answer.lower()) == int(named[0].y * 3) * 3 + int(
                named[0].x * 3
            )
        elif pair.answer in ("Yes", "No"):
            assert pair.answer == ("Yes" if named[0] else "No")
        elif pair.kind == "counts":
            of = [
                word
                for word in (*drawing.COLOURS, *drawing.SHAPES)
                if re.search(rf"\b{word}s?\b", pair.question)
            ]
            assert len(of) < 2
            assert int(pair.answer) == sum(
                not of or of[0] in (mark.colour, mark.sign) for mark in picture.marks
            )
        elif pair.kind == "describe":
            assert NAMED.findall(pair.answer) == [tuple(name.split()) for name in names(picture)]


@pytest.mark.parametrize("seed", SEEDS)
def test_numbers_and_charts_say_what_is_drawn(seed: int) -> None:
    number = scenes.scene(seed, "a number")
    text = by_place(number.pictures[0], "0123456789")
    assert {pair.answer for pair in number.pairs if pair.kind == "numbers"} == {text}
    chart = scenes.scene(seed, "bars")
    letters = by_place(chart.pictures[0], drawing.LETTERS)
    values = by_place(chart.pictures[0], "0123456789")
    assert letters == drawing.LETTERS[: len(values)]
    answers = {pair.answer for pair in chart.pairs}
    rows = "\n".join(f"| {bar} | {value} |" for bar, value in zip(letters, values, strict=True))
    assert f"| Bar | Value |\n| --- | --- |\n{rows}" in answers
    bars = [mark for mark in chart.pictures[0].marks if not mark.sign]
    pixels = numpy.asarray(chart.pictures[0].image).astype(int)
    tall = []
    for bar in bars:
        strip = pixels[:, int((bar.x - bar.radius / 2) * len(pixels[0]))]
        # A bar's left half has its label's or value's strokes at most above and below it.
        same = abs(strip - pixels[int(bar.y * len(pixels)), int(bar.x * len(pixels[0]))]).max(1)
        tall.append(int((same == 0).sum()))
    for one, value in zip(tall, values, strict=True):
        for other, another in zip(tall, values, strict=True):
            assert (int(value) <= int(another)) or one > other
    for pair in chart.pairs:
        if re.fullmatch("Bar [A-E]", pair.answer):
            most = max if re.search("high|larg|tall", pair.question) else min
            assert pair.answer[-1] == letters[values.index(most(values))]


@pytest.mark.parametrize("seed", SEEDS)
def test_several_pictures_and_frames_say_what_is_drawn(seed: int) -> None:
    several = scenes.scene(seed, "several")
    for pair in several.pairs:
        if re.fullmatch("Image [1-3]", pair.answer):
            found = NAMED.search(pair.question)
            there = [names(picture) for picture in several.pictures]
            most = max(map(len, there))
            chosen = [found[0] in have if found else len(have) == most for have in there]
            assert chosen.index(True) == int(pair.answer[-1]) - 1 and sum(chosen) == 1
    frames = scenes.scene(seed, "frames")
    first, last = frames.pictures[0].marks[0], frames.pictures[-1].marks[0]
    still = [picture.marks[1:] for picture in frames.pictures]
    assert still[1:] == still[:-1]  # nothing else moves
    right, down = round(last.x - first.x, 1), round(last.y - first.y, 1)
    way = "right" * (right > 0) + "left" * (right < 0) + "down" * (down > 0) + "up" * (down < 0)
    told = f"The {first.colour} {first.sign} moves {way}." if way else "Nothing moves."
    assert told in {pair.answer for pair in frames.pairs}


def test_other_pictures_and_other_questions_have_one_answer() -> None:
    for seed in SEEDS:
        for pair in scenes.scene(seed, "nothing known").pairs:
            assert pair.answer == words.UNKNOWN
    for seed in range(200):
        for pair in scenes.scene(seed).pairs:
            assert (pair.kind == "unknown") == (pair.answer == words.UNKNOWN)


# --- lessons --------------------------------------------------------------------------------------


def test_each_place_is_labelled_with_what_is_drawn_there() -> None:
    picture = drawing.Picture(PIL.Image.new("RGB", (96, 72), "white"))
    picture.marks.append(drawing.Mark("star", 0.9, 0.5, 0.13, "blue"))
    picture.marks.append(drawing.Mark("7", 0.1, 0.9, 0.13, "red"))
    signs, colours, ninths = lessons.labels_of(picture)
    # 12 pixels of white are above it, and each place is 16 pixels wide and high.
    assert [*zip(*signs.nonzero(), strict=True)] == [(3, 5), (4, 0)]
    assert [drawing.SIGNS[sign] for sign in signs[signs > 0]] == ["star", "7"]
    tints = [0, *drawing.COLOURS]
    assert [*zip(*(colours == tints.index("blue")).nonzero(), strict=True)] == [(2, 5), (3, 5)]
    assert [*zip(*(colours == tints.index("red")).nonzero(), strict=True)] == [(4, 0)]
    assert [*zip(*ninths.nonzero(), strict=True)] == [(3, 5)]
    assert drawing.PLACES[ninths[3, 5] - 1] == "right"


def test_pairs_are_asked_of_a_scene_as_if_each_were_alone(
    tokenizer: Tokenizer, pupil: train.Pupil
) -> None:
    """What others ask of the same pictures is not seen, nor are they by what is asked without any;
    what follows comes after what it follows."""
    batch = next(
        batch
        for batch in lessons.Lessons(tokenizer, 7)
        if len(batch.ids) > 5 and (batch.group == lessons.ALONE).any()
    )
    asked, losses, follow, blind = 0, 0.0, 0, 0
    with torch.inference_mode():
        together = float(pupil(batch)[0])
        for pixels, ids, target, place, group in zip(
            batch.pixels, batch.ids, batch.target, batch.place, batch.group, strict=True
        ):
            features = pupil.pictures(pixels).flatten(0, 1)
            for own in group[(group > 0) | (group == lessons.ALONE)].unique():
                alone = group == own if own == lessons.ALONE else (group == 0) | (group == own)
                assert place[alone].tolist() == list(range(int(alone.sum())))
                shown = features if (ids[alone] < 0).any() else features[:0]
                blind += len(shown) == 0
                embedded = pupil.model.embed(ids[alone], shown)
                logits = pupil.model.language(inputs_embeds=embedded[None]).logits[0]
                losses += float(cross_entropy(logits, target[alone], reduction="sum"))
                asked += int((target[alone] >= 0).sum())
                follow += int((ids[alone] == tokenizer.token_to_id("<|user|>")).sum()) - 1
    assert asked > 50 and follow > 0 and blind > 0
    assert together == pytest.approx(losses / asked, rel=1e-4)


def test_to_look_alone_is_to_say_the_same_of_places(
    tokenizer: Tokenizer, pupil: train.Pupil
) -> None:
    batch = next(iter(lessons.Lessons(tokenizer, 11)))
    with torch.inference_mode():
        torch.testing.assert_close(pupil.look(batch), pupil(batch)[1:])


def test_pictures_are_seen_in_training_as_they_are_later(pupil: train.Pupil) -> None:
    pictures = [scenes.scene(seed, "shapes").pictures[0] for seed in range(6)]
    papers = torch.stack([torch.from_numpy(lessons.laid_out(picture)) for picture in pictures])
    with torch.inference_mode():
        together = pupil.pictures(papers)
        for picture, rows in zip(pictures, together, strict=True):
            crops, grid = phi3v.crops_of(picture.image, layout.CROPS, layout.SIDE)
            vision = pupil.model.vision
            torch.testing.assert_close(rows, vision.arrange(vision.look(crops), grid))


def test_steps_teach(tokenizer: Tokenizer) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = layout.config(tokenizer.get_vocab_size()) | {"num_hidden_layers": train.SEEN}
        pupil = train.Pupil(phi3v.Phi3Vision(small))
        optimizer = torch.optim.AdamW(pupil.parameters(), lr=1e-3)
        whole = next(iter(lessons.Lessons(tokenizer, 0)))
        batch = lessons.Batch(**{name: value[:4] for name, value in vars(whole).items()})
        told = [train.step(pupil, optimizer, batch, 1.0, only_look=False) for _ in range(4)]
    assert told[-1][0] < 0.9 * told[0][0] and told[-1][1] < told[0][1]


def test_the_rate_rises_and_falls() -> None:
    shares = [train.share_of_rate(step, 300, step / 3_000) for step in range(3_000)]
    assert shares[0] < 0.01 and shares[299] == 1.0 and shares[-1] == pytest.approx(train.LEAST, 0.1)
    assert shares[:300] == sorted(shares[:300])
    assert shares[300:] == sorted(shares[300:], reverse=True)


def test_two_steps_of_training_make_a_model(tmp_path: Path) -> None:
    python("-m", "recipes.phi_vision_nano.train", str(tmp_path), "--steps", "2")
    model = phi3v.load(tmp_path, torch.bfloat16)
    assert model.side == layout.SIDE
    made = {file.name for file in tmp_path.iterdir()}
    assert made - {"training.pt"} == {file.name for file in HERE.iterdir()} - {"README.md"}
    for name in made - {"training.pt", "model.safetensors"}:
        assert (tmp_path / name).read_text() == (HERE / name).read_text(), name


# --- what is shipped ------------------------------------------------------------------------------


def test_it_is_small_and_has_a_card() -> None:
    assert sum(file.stat().st_size for file in HERE.iterdir()) <= LARGEST
    weights = hashlib.sha256((HERE / "model.safetensors").read_bytes()).hexdigest()
    assert weights in (HERE / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("dtype", "count"), [(torch.bfloat16, 6), (torch.float32, 16)])
def test_the_weights_know_fresh_scenes(
    tokenizer: Tokenizer, dtype: torch.dtype, count: int
) -> None:
    model = phi3v.load(HERE, dtype)
    found = examine.examine(model, tokenizer, range(examine.FRESH, examine.FRESH + count))
    right, asked = (sum(column) for column in zip(*found.values(), strict=True))
    assert asked > 3 * count
    assert right / asked > 0.8, examine.table(found)


def test_one_step_of_two_answers_makes_no_accuracy_of_all() -> None:
    told = examine.table({"shapes": (1, 2), "counts": (0, 0)})
    assert told.splitlines() == [
        "shapes        50.0% of 2",
        "counts         0.0% of 0",
        "all           50.0% of 2",
    ]
