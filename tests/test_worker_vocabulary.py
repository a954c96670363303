"""Single tokens of the real kinds of tokenizers: joined, their bytes are the text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_tokenizers
from tokenizers import Tokenizer

from slm_backends import catalog, store
from slm_backends.worker.text import ChatText
from slm_backends.worker.vocabulary import Piece, Vocabulary

SENTENCES = (
    "Gut: 👨‍👩‍👧‍👦 🇩🇪 漢字と한국어, naïve e\u0301.",
    "say hello\tworld\n\n  two  spaces, ▁ and <0x41>\x00\x7f\u00ad",
    " a space in front",
    "   three of them",
    "👋",
)


@pytest.fixture(scope="module")
def embedded_text(embedded: tuple[str, ...]) -> ChatText:
    return ChatText(store.folder(catalog.load().deployment(embedded[0])))


@pytest.fixture(scope="module")
def like_llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Vocabulary]:
    folder = tiny_tokenizers.files("phi-3.5", tmp_path_factory.mktemp("phi"))
    return opened(folder)


def opened(folder: Path) -> tuple[Tokenizer, Vocabulary]:
    file = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    return tokenizer, Vocabulary(tokenizer, json.loads(file.read_text())["decoder"])


def joined(vocabulary: Vocabulary, ids: list[int]) -> bytes:
    pieces = [vocabulary.piece(token, first=place == 0) for place, token in enumerate(ids)]
    return b"".join(piece.bytes or b"" for piece in pieces)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_byte_letters_join_to_the_text(embedded_text: ChatText, sentence: str) -> None:
    ids = embedded_text.tokens(sentence)
    assert joined(embedded_text.vocabulary, ids) == sentence.encode()


@pytest.mark.parametrize("family", ["phi-3-small", "phi-4", "phi-4-mini", "smollm2"])
def test_and_those_of_other_families(family: str, tmp_path: Path) -> None:
    tokenizer, vocabulary = opened(tiny_tokenizers.files(family, tmp_path))
    for sentence in SENTENCES:
        ids = tokenizer.encode(sentence, add_special_tokens=False).ids
        assert joined(vocabulary, ids) == sentence.encode()


@pytest.mark.parametrize("sentence", SENTENCES)
def test_sentencepiece_joins_to_what_its_decoder_says(
    like_llama: tuple[Tokenizer, Vocabulary], sentence: str
) -> None:
    tokenizer, vocabulary = like_llama
    ids = tokenizer.encode(sentence, add_special_tokens=False).ids
    assert joined(vocabulary, ids) == tokenizer.decode(ids).encode()
    assert len(ids) > len(joined(vocabulary, ids).decode()) / 6


def test_the_space_of_a_first_word_is_dropped_where_the_decoder_drops_it(
    like_llama: tuple[Tokenizer, Vocabulary], embedded_text: ChatText
) -> None:
    tokenizer, vocabulary = like_llama
    token = tokenizer.token_to_id("▁hello")
    assert vocabulary.piece(token) == Piece(" hello", b" hello")
    assert vocabulary.piece(token, first=True) == Piece("hello", b"hello")
    word = embedded_text.tokens(" hello")[0]
    assert embedded_text.vocabulary.piece(word, first=True).text == " hello"


def test_half_a_character_has_its_bytes_and_a_replacement_character(
    like_llama: tuple[Tokenizer, Vocabulary], embedded_text: ChatText
) -> None:
    tokenizer, vocabulary = like_llama
    assert vocabulary.piece(tokenizer.token_to_id("<0xF0>")) == Piece("\ufffd", b"\xf0")
    halves = [embedded_text.vocabulary.piece(token) for token in embedded_text.tokens("👋")]
    assert len(halves) > 1
    assert all("\ufffd" in half.text for half in halves)


def test_special_tokens_have_a_name_and_no_bytes(
    like_llama: tuple[Tokenizer, Vocabulary], embedded_text: ChatText
) -> None:
    tokenizer, vocabulary = like_llama
    assert vocabulary.piece(tokenizer.token_to_id("<|end|>")) == Piece("<|end|>", None)
    assert embedded_text.vocabulary.piece(2) == Piece("<|im_end|>", None)
    assert vocabulary.piece(1_000_000) == Piece("", None)  # a row of the weights without a token
