"""The tokenizers of the shipped models: made again they are the same, any text comes back, and a
conversation is written as it was taught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
from tokenizers import Tokenizer

import recipes.phi_moe_nano.tokens
import recipes.phi_vision_nano.tokens
from recipes.tokenizer import FILES, SPECIAL
from slm_backends import shipped_weights

MADE_BY = {
    "phi-vision-nano": recipes.phi_vision_nano.tokens,
    "phi-moe-nano": recipes.phi_moe_nano.tokens,
    "phi-dense-nano": recipes.phi_moe_nano.tokens,
}


@pytest.fixture(params=MADE_BY)
def model_id(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def tokenizer(model_id: str) -> Tokenizer:
    return Tokenizer.from_file(str(shipped_weights.folder(model_id) / "tokenizer.json"))


@pytest.mark.parametrize("model_id", ["phi-vision-nano", "phi-moe-nano"])
def test_made_again_it_is_the_same(model_id: str, tmp_path: Path) -> None:
    MADE_BY[model_id].make(tmp_path)
    for name in FILES:
        shipped = shipped_weights.folder(model_id) / name
        assert (tmp_path / name).read_bytes() == shipped.read_bytes()


def test_the_twin_has_that_of_the_mixture() -> None:
    mixture, twin = (shipped_weights.folder(one) for one in ("phi-moe-nano", "phi-dense-nano"))
    for name in FILES:
        assert (mixture / name).read_bytes() == (twin / name).read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        "Which bar is highest?",
        "Was heißt das: der grüne Apfel?",
        "两个圆\t🟥\r\n\n",
        "<|image_1|> <|endoftex",
        "".join(map(chr, range(0x250))),
        "  leading, trailing  ",
    ],
)
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_digits_and_marks_of_turns_are_tokens(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("4071").ids) == 4
    assert [tokenizer.encode(mark).ids for mark in SPECIAL] == [
        [number] for number in range(len(SPECIAL))
    ]


def test_a_conversation_is_written_as_it_was_taught(model_id: str) -> None:
    config = json.loads((shipped_weights.folder(model_id) / "tokenizer_config.json").read_text())
    talk = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "2 + 2"},
        {"role": "assistant", "content": "2 + 2 = 4"},
        {"role": "user", "content": "3 + 3"},
    ]
    written = jinja2.Template(config["chat_template"]).render(
        messages=talk, add_generation_prompt=True
    )
    assert written == (
        "<|system|>\nAnswer briefly.<|end|>\n<|user|>\n2 + 2<|end|>\n<|assistant|>\n"
        "2 + 2 = 4<|end|>\n<|user|>\n3 + 3<|end|>\n<|assistant|>\n"
    )
