"""Phi-3-vision's architecture, preprocessing and checkpoints.

The preprocessing is compared with one that is written here from its description, by another route:
padding and cutting as arrays, crop by crop.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import PIL.Image
import pytest
import tiny_phi3v
import torch
from safetensors.torch import load_file, save_file

from slm_backends.errors import SLMError
from slm_backends.picture_tokens import SIGHTS, phi3_vision_grid, phi3_vision_tokens
from slm_backends.worker.engines import phi3v

SIZES = [(1, 1), (17, 1000), (2000, 300), (336, 336), (640, 480), (300, 700), (337, 335)]
#: Tokens with 16 crops and with 4: of the published processor.
TOKENS = {
    (336, 336): (2509, 757),
    (1280, 720): (2353, 757),
    (720, 1280): (2377, 757),
    (640, 480): (1921, 757),
    (300, 700): (None, 469),
    (2000, 300): (None, 745),
}
MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]


def noise(size: tuple[int, int]) -> PIL.Image.Image:
    pixels = numpy.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype="uint8")
    return PIL.Image.fromarray(pixels)


def published(image: PIL.Image.Image, most: int) -> torch.Tensor:
    """Crops [1 + rows * columns, 3, 336, 336], by the published steps one after the other."""
    upright = image.width < image.height
    if upright:
        image = PIL.Image.fromarray(numpy.asarray(image).transpose(1, 0, 2).copy())
    ratio = image.width / image.height
    scale = max(k for k in range(1, most + 1) if k * numpy.ceil(k / ratio) <= most)
    size = 336 * scale, int(336 * scale / ratio)
    pixels = numpy.asarray(image.resize(size, PIL.Image.Resampling.BILINEAR))
    missing = -len(pixels) % 336
    top = missing // 2
    pixels = numpy.pad(
        pixels, ((top, missing - top), (0, 0), (0, 0)), mode="constant", constant_values=255
    )
    if upright:
        pixels = pixels.transpose(1, 0, 2)
    planes = []
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        plane = torch.tensor(pixels[..., channel].astype(numpy.float32)) / 255
        planes.append((plane - torch.tensor(mean)) / torch.tensor(std))
    whole = torch.stack(planes)
    small = torch.nn.functional.interpolate(whole[None], size=(336, 336), mode="bicubic")
    tiles = [
        whole[:, y : y + 336, x : x + 336]
        for y in range(0, whole.shape[1], 336)
        for x in range(0, whole.shape[2], 336)
    ]
    return torch.stack([small[0], *tiles])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_phi3v.write(tmp_path_factory.mktemp("phi3v") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> phi3v.Phi3Vision:
    return phi3v.load(folder, torch.float32)


@pytest.mark.parametrize("most", [1, 4, 16])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_preprocessing_is_the_published_one_bit_for_bit(size: tuple[int, int], most: int) -> None:
    crops, grid = phi3v.crops_of(noise(size), most)
    assert torch.equal(crops, published(noise(size), most))
    assert len(crops) == grid.crops


@pytest.mark.parametrize("size", TOKENS, ids=str)
def test_a_picture_takes_the_published_number_of_tokens(size: tuple[int, int]) -> None:
    for most, expected in zip((16, 4), TOKENS[size], strict=True):
        if expected is not None:
            assert phi3_vision_tokens(phi3_vision_grid(*size, most)) == expected


def test_the_catalog_reckons_with_the_same_numbers() -> None:
    sight = SIGHTS["phi-3-vision"]
    assert [sight.tokens(grid) for grid in sight.grids([(640, 480)])] == [1921]
    assert [sight.tokens(grid) for grid in sight.grids([(640, 480), (2000, 300)])] == [757, 745]


@pytest.mark.parametrize("size", [(300, 80), (80, 300), (60, 60)], ids=str)
def test_crops_lie_where_they_were_cut_out_and_rows_have_their_ends(
    model: phi3v.Phi3Vision, size: tuple[int, int]
) -> None:
    """By a loop over places, with separators that differ."""
    eyes = model.vision
    crops, grid = phi3v.crops_of(noise(size), 4, eyes.side)
    with torch.inference_mode():
        seen = eyes.look(crops)
        n, patches = eyes.across, 2 * eyes.across

        def token(crop: int, y: int, x: int) -> torch.Tensor:
            four = [(2 * y + dy) * patches + 2 * x + dx for dy in (0, 1) for dx in (0, 1)]
            return seen[crop, four].flatten()

        rows = []
        for y in range(grid.rows * n):
            for x in range(grid.columns * n):
                rows.append(token(1 + y // n * grid.columns + x // n, y % n, x % n))
            rows.append(eyes.sub_GN[0, 0, 0])
        rows.append(eyes.glb_GN[0, 0])
        for y in range(n):
            rows += [token(0, y, x) for x in range(n)] + [eyes.sub_GN[0, 0, 0]]
        expected = eyes.img_projection(torch.stack(rows))
        found = eyes.arrange(seen, grid)
    assert len(found) == phi3_vision_tokens(grid, n)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(eyes.sub_GN.flatten(), eyes.glb_GN.flatten())


def test_clip_gives_its_last_layer_but_one(model: phi3v.Phi3Vision) -> None:
    crops, _ = phi3v.crops_of(noise((100, 90)), 4, model.side)
    with torch.inference_mode():
        whole = model.vision.img_processor(crops, output_hidden_states=True)
        seen = model.vision.look(crops)
    torch.testing.assert_close(seen, whole.hidden_states[-2][:, 1:], atol=1e-5, rtol=0)


def test_a_crop_alone_is_seen_as_in_a_batch(model: phi3v.Phi3Vision) -> None:
    crops, _ = phi3v.crops_of(noise((300, 80)), 16, model.side)
    with torch.inference_mode():
        together = model.vision.look(crops)
        alone = torch.cat([model.vision.look(crop[None]) for crop in crops])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


def test_the_full_size_has_the_published_keys() -> None:
    config = {
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "img_processor": {"name": "clip_vision_model", "image_dim_out": 1024},
    }
    with torch.device("meta"):
        model = phi3v.Phi3Vision(config)
    names = {phi3v._hub(name) for name in model.state_dict()}
    assert len(names) == 592
    assert "model.layers.31.mlp.gate_up_proj.weight" in names
    clip = "model.vision_embed_tokens.img_processor.vision_model."
    assert f"{clip}encoder.layers.23.self_attn.out_proj.bias" in names
    assert f"{clip}embeddings.class_embedding" in names
    assert sum(values.numel() for values in model.parameters()) == 4_146_621_440


def test_a_checkpoint_round_trips(tmp_path: Path, folder: Path, model: phi3v.Phi3Vision) -> None:
    phi3v.save(model, tmp_path)
    before, after = (
        load_file(folder / "model.safetensors"),
        load_file(tmp_path / "model.safetensors"),
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def shards(tmp_path: Path, weights: dict[str, Any], folder: Path) -> Path:
    """The checkpoint in two files, as the hub has it."""
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    names = sorted(weights)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = tmp_path / f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, file, metadata={"format": "pt"})
    return tmp_path


def test_a_checkpoint_may_be_in_parts_in_other_numbers_and_have_what_is_counted(
    tmp_path: Path, folder: Path
) -> None:
    weights = {name: it.bfloat16() for name, it in load_file(folder / "model.safetensors").items()}
    clip = "model.vision_embed_tokens.img_processor.vision_model.embeddings"
    weights[f"{clip}.position_ids"] = torch.arange(17)[None]
    words = weights["model.embed_tokens.weight"]
    weights["model.vision_embed_tokens.wte.weight"] = words.clone()
    model = phi3v.load(shards(tmp_path, weights, folder), torch.float32)
    assert torch.equal(model.language.model.embed_tokens.weight, words.float())
    assert {it.dtype for it in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_another_checkpoint_is_refused_in_words(tmp_path: Path, folder: Path, change: str) -> None:
    weights = load_file(folder / "model.safetensors")
    name = "model.vision_embed_tokens.glb_GN"
    if change == "missing":
        del weights[name]
    elif change == "unknown":
        name = "model.layers.0.self_attn.q_proj.weight"
        weights[name] = torch.zeros(1)
    else:
        weights[name] = torch.zeros(1, 1, 3)
    with pytest.raises(SLMError) as caught:
        phi3v.load(shards(tmp_path, weights, folder), torch.float32)
    assert name.removeprefix("model.vision_embed_tokens.") in caught.value.message
    assert caught.value.hint


def test_its_config_is_read_as_published() -> None:
    config = {
        "hidden_size": 64,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "su", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
    }
    rope = phi3v.language_config(config | {"num_attention_heads": 4}).rope_parameters
    assert rope["rope_type"] == "longrope"
    assert rope["original_max_position_embeddings"] == 4096
    assert json.dumps(rope)  # plain numbers
