"""How much phi-vision-nano knows of fresh scenes: accuracy by kind of question.

An answer is right if it is the expected one to the last character.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from tokenizers import Tokenizer

from recipes.phi_vision_nano import scenes
from recipes.phi_vision_nano.layout import CROPS
from slm_backends.worker.engines import phi3v

FRESH = 900_000_000  # seeds from here on are not trained on
LONGEST = 90  # tokens of an answer

Counts = dict[str, tuple[int, int]]  # kind of question -> (right, asked)


@torch.inference_mode()
def examine(model: phi3v.Phi3Vision, tokenizer: Tokenizer, seeds: Sequence[int]) -> Counts:
    """Of each scene, one question of each kind is asked."""
    found: Counts = dict.fromkeys(scenes.KINDS, (0, 0))
    for seed in seeds:
        made = scenes.scene(seed)
        by_kind: dict[str, list[scenes.Pair]] = {}
        for pair in made.pairs:
            by_kind.setdefault(pair.kind, []).append(pair)
        pairs = [alike[seed % len(alike)] for alike in by_kind.values()]
        replies = _ask(model, tokenizer, made, [pair.question for pair in pairs])
        for pair, reply in zip(pairs, replies, strict=True):
            right, asked = found[pair.kind]
            found[pair.kind] = right + (reply == pair.answer), asked + 1
    return found


def _ask(
    model: phi3v.Phi3Vision, tokenizer: Tokenizer, made: scenes.Scene, questions: Sequence[str]
) -> list[str]:
    """Replies to each question alone; the pictures are read once."""
    ids = tokenizer.encode("<|user|>\n").ids
    features = []
    for number, picture in enumerate(made.pictures):
        crops, grid = phi3v.crops_of(picture.image, CROPS, model.side)
        seen = model.vision.look(crops.to(model.language.dtype))
        features.append(model.vision.arrange(seen, grid))
        ids += (tokenizer.encode("\n").ids if number else []) + [-1] * len(features[-1])
    embedded = model.embed(torch.tensor(ids), torch.cat(features))
    read = model.language(inputs_embeds=embedded[None], use_cache=True).past_key_values
    end = tokenizer.token_to_id("<|end|>")
    replies = []
    for question in questions:
        tokens = tokenizer.encode(f"\n{question}<|end|>\n<|assistant|>\n").ids
        reply: list[int] = []
        while len(reply) < LONGEST:
            logits = model.language(input_ids=torch.tensor([tokens]), past_key_values=read).logits
            tokens = [int(logits[0, -1].argmax())]
            if tokens == [end]:
                break
            reply += tokens
        read.crop(len(ids) - read.get_seq_length())
        replies.append(tokenizer.decode(reply, skip_special_tokens=False))
    return replies


def table(found: Mapping[str, tuple[int, int]]) -> str:
    right, asked = (sum(column) for column in zip(*found.values(), strict=True))
    return "\n".join(
        f"{kind:12} {right / max(1, asked):6.1%} of {asked}"
        for kind, (right, asked) in [*found.items(), ("all", (right, asked))]
    )
