"""Phi-3-vision and Phi-3.5-vision on CLIPVisionModel and Phi3ForCausalLM of Transformers.

Knows the architecture, the names in the published checkpoints and the published preprocessing. Does
not know prompts, caches or sampling. All sizes come from the configuration, so that a small model
runs the same code. Imports torch, so only those who need a model import this module.

Sources: the checkpoints' config.json and keys; the Phi-3 report (arXiv 2404.14219), section 6, for
crops, separators and their order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, Phi3Config, Phi3ForCausalLM
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from slm_backends.errors import SLMError
from slm_backends.picture_tokens import Grid, phi3_vision_grid
from slm_backends.worker.engines.phi3v_crops import MEAN, STD, laid_out

#: CLIP ViT-L/14 for 336 pixels, which the published configurations only name.
CLIP = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
#: What some exports have besides: numbers that are counted, and the word embeddings once more.
ALSO_THERE = ("embeddings.position_ids", "vision_embed_tokens.wte.weight")
FETCH_AGAIN = "Fetch the weights again, or use them where their own code is."
VISION = "model.vision_embed_tokens."
LANGUAGE = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "max_position_embeddings",
    "original_max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "sliding_window",
    "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip


class Phi3Vision(nn.Module):
    """The whole model. `config` is the content of a config.json in the published layout, where
    `img_processor` may hold a `vision_config` that differs from CLIP's."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = dict(config)
        self.language = Phi3ForCausalLM(language_config(config))
        self.vision = VisionEmbedding(vision_config(config), config["hidden_size"])

    def embed(self, tokens: torch.Tensor, features: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings [n, hidden] of tokens [n]. The negative ones are the places of pictures: they
        take the rows of `features` [places, hidden], in order."""
        place = tokens < 0
        embedded: torch.Tensor = self.language.model.embed_tokens(tokens.clamp_min(0))
        if features is not None:
            embedded = embedded.clone()
            embedded[place] = features.to(embedded.dtype)
        return embedded

    @property
    def side(self) -> int:
        """Pixels along a side of a crop."""
        return self.vision.side


class VisionEmbedding(nn.Module):
    """From crops of a picture to rows among the embeddings of tokens."""

    def __init__(self, config: Any, hidden: int) -> None:
        super().__init__()
        self.img_processor = CLIPVisionModel(config)
        merged = 4 * config.hidden_size
        self.sub_GN = nn.Parameter(torch.zeros(1, 1, 1, merged))  # ends a row
        self.glb_GN = nn.Parameter(torch.zeros(1, 1, merged))  # between the grid and the whole
        self.img_projection = nn.Sequential(
            nn.Linear(merged, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )
        self.side = int(config.image_size)
        self.across = self.side // int(config.patch_size) // 2  # tokens along a crop's side

    def look(self, crops: torch.Tensor) -> torch.Tensor:
        """What CLIP sees in crops [n, 3, side, side]: [n, patches, size], after its last layer but
        one. The last layer, which nobody asks, is not computed."""
        clip = self.img_processor
        seen: torch.Tensor = clip.pre_layrnorm(clip.embeddings(crops))
        for layer in clip.encoder.layers[:-1]:
            seen = layer(seen, None)
        return seen[:, 1:]  # without the class token

    def arrange(self, seen: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Rows for the language model [tokens, hidden] from look() at one picture's crops: first
        the whole, then the grid's row by row. In the result the grid comes first."""
        rows: torch.Tensor = self.img_projection(
            torch.cat(
                [
                    self._rows(seen[1:], grid.rows, grid.columns),
                    self.glb_GN[0],
                    self._rows(seen[:1], 1, 1),
                ]
            )
        )
        return rows

    def _rows(self, seen: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """Two by two patches become one token; crops are put together; each row gets its end."""
        n = self.across
        tokens = seen.reshape(rows, columns, n, 2, n, 2, -1).permute(0, 2, 1, 4, 3, 5, 6)
        tokens = tokens.reshape(rows * n, columns * n, -1)
        ends = self.sub_GN[0].expand(rows * n, 1, -1)
        return torch.cat([tokens, ends], dim=1).flatten(0, 1)


# --- pictures -------------------------------------------------------------------------------------


def crops_of(picture: PIL.Image.Image, most: int, side: int = 336) -> tuple[torch.Tensor, Grid]:
    """Crops [1 + rows * columns, 3, side, side] of an RGB picture, float32: the whole, made small,
    and then those of the grid row by row."""
    grid = phi3_vision_grid(*picture.size, most, side)
    return cut(torch.from_numpy(laid_out(picture, grid, side))[None], side)[0], grid


def cut(papers: torch.Tensor, side: int) -> torch.Tensor:
    """Crops [pictures, 1 + rows * columns, 3, side, side] of what laid_out() gave."""
    count, height, width, _ = papers.shape
    pixels = papers.to(torch.float32).div(255).permute(0, 3, 1, 2)
    pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    whole = nn.functional.interpolate(
        pixels, size=(side, side), mode="bicubic", align_corners=False
    )
    rows, columns = height // side, width // side
    grid = pixels.reshape(count, 3, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
    return torch.cat([whole[:, None], grid.reshape(count, rows * columns, 3, side, side)], dim=1)


# --- checkpoints ----------------------------------------------------------------------------------


def language_config(config: Mapping[str, Any]) -> Phi3Config:
    """The language model's part of a published config.json, in today's words."""
    given = {name: config[name] for name in LANGUAGE if name in config}
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.get("rope_theta", 10000.0)}
    if scaling := config.get("rope_scaling"):
        rope |= {
            "rope_type": "longrope",  # the older name of the same is su
            "short_factor": scaling["short_factor"],
            "long_factor": scaling["long_factor"],
            "original_max_position_embeddings": config["original_max_position_embeddings"],
        }
    return Phi3Config(**given, rope_parameters=rope)


def vision_config(config: Mapping[str, Any]) -> CLIPVisionConfig:
    return CLIPVisionConfig(**{**CLIP, **config.get("img_processor", {}).get("vision_config", {})})


def load(folder: Path, dtype: torch.dtype) -> Phi3Vision:
    """The checkpoint in `folder`, every key of it and no other. SLMError where they differ."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):  # room for weights is not taken twice
        model = Phi3Vision(config)
    own: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118, it is no mapping
                if not name.endswith(ALSO_THERE):
                    own[_own(name)] = weights.get_tensor(name).to(dtype)
    if model.language.config.tie_word_embeddings:
        own.setdefault("language.lm_head.weight", own["language.model.embed_tokens.weight"])
    _must_be_the_same(folder, {_hub(name) for name in model.state_dict()}, set(map(_hub, own)))
    try:
        model.load_state_dict(own, strict=True, assign=True)
    except RuntimeError as error:  # a tensor of another shape
        reason = str(error).partition("\n")[2].strip()
        raise SLMError(
            f"The weights in {folder} are not those of its config.json: {reason}", hint=FETCH_AGAIN
        ) from None
    # What is computed and not stored has to be made where the weights are.
    model.language.model.rotary_emb = Phi3RotaryEmbedding(model.language.config)
    embeddings = model.vision.img_processor.embeddings
    places = torch.arange(embeddings.num_positions)[None]
    embeddings.register_buffer("position_ids", places, persistent=False)
    return model.eval()


def _must_be_the_same(folder: Path, wanted: set[str], found: set[str]) -> None:
    """SLMError with the first key that is missing or that nobody knows."""
    for word, names in (("lacks", wanted - found), ("has no use for", found - wanted)):
        if names:
            raise SLMError(
                f"The checkpoint in {folder} is not Phi-3-vision's: it {word} {len(names)} of its "
                f"weights, such as {min(names)}.",
                hint=FETCH_AGAIN,
            )


def save(model: Phi3Vision, folder: Path) -> None:
    """config.json and model.safetensors, in the layout in which the hub has the published ones."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(model.config, indent=2, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    weights = {_hub(name): tensor.contiguous() for name, tensor in model.state_dict().items()}
    if model.language.config.tie_word_embeddings:
        del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _own(name: str) -> str:
    """A key of the hub's as it is called here."""
    if name.startswith(VISION):
        own = name.removeprefix(VISION)
        return "vision." + own.replace("img_processor.vision_model.", "img_processor.")
    return f"language.{name}"


def _hub(name: str) -> str:
    if name.startswith("vision."):
        own = name.removeprefix("vision.")
        return VISION + own.replace("img_processor.", "img_processor.vision_model.")
    return name.removeprefix("language.")
