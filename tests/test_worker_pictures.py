"""A conversation with pictures as pieces, against the library's tokenizer on each run of text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_phi3v
import tiny_tokenizers
from transformers import PreTrainedTokenizerFast

from slm_backends.chat import Image, Message
from slm_backends.worker.pieces import Words
from slm_backends.worker.text import ChatText

ONE, TWO = (Image(tiny_phi3v.picture(seed, (30, 20)).data) for seed in (1, 2))
CONVERSATION = [
    Message("system", "be short"),
    Message("user", "  what is the red sea? \n", (ONE, TWO)),
    Message("assistant", "blue."),
    Message("user", "and the sky", (ONE,)),
]
BEGINS = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
}


@pytest.fixture(params=[False, True], ids=["no beginning", "a beginning"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """With a token at the beginning of each text, as Phi-3-vision's tokenizer has it, and not."""
    tiny_tokenizers.files("phi-3.5", tmp_path)
    if request.param:
        file = tmp_path / "tokenizer.json"
        source = json.loads(file.read_text(encoding="utf-8")) | {"post_processor": BEGINS}
        file.write_text(json.dumps(source), encoding="utf-8")
    return tmp_path


def runs(folder: Path, *messages: Message) -> list[Words]:
    return [part for part in ChatText(folder).pieces(messages) if isinstance(part, Words)]


def test_each_run_is_tokenised_by_itself_as_by_the_library(folder: Path) -> None:
    library = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    found = runs(folder, *CONVERSATION)
    assert len(found) == 4
    for words in found:
        assert list(words.tokens) == library(words.text)["input_ids"]


def test_pictures_stand_before_their_text_in_order(folder: Path) -> None:
    pieces = ChatText(folder).pieces(CONVERSATION)
    slots = [part.slot for part in pieces if not isinstance(part, Words)]
    assert slots[0] == slots[2] != slots[1]
    assert [isinstance(part, Words) for part in pieces] == [True, False] * 3 + [True]
    found = [part.text for part in pieces if isinstance(part, Words)]
    assert found[0].endswith("<|user|>\n")
    assert found[1] == "\n"
    assert "what is the red sea?" in found[2] and "blue." in found[2]


@pytest.mark.parametrize("typed", ["<|image_1|>", "<|user|>", "<|end|>", "<s>", "\ufdd3"])
def test_what_a_person_typed_stays_text(folder: Path, typed: str) -> None:
    plain, meant = (
        runs(folder, Message("user", f"say {word} please", (ONE,))) for word in ("x", typed)
    )
    special = {tiny_tokenizers.ids(folder)[name] for name in ("<|user|>", "<|end|>", "<s>")}
    for one, other in zip(plain, meant, strict=True):  # one picture, and the same control tokens
        assert [token for token in one.tokens if token in special] == [
            token for token in other.tokens if token in special
        ]
