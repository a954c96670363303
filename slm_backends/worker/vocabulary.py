"""Single tokens: the bytes that each adds to a reply, and a name for it.

Knows the two ways in which a tokenizer.json spells bytes: one letter a byte (GPT-2's byte-level
BPE), or words with ▁ for a space and <0x0A> for a byte that no word has (SentencePiece). How tokens
become whole characters is text.py's matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from tokenizers import Tokenizer

_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")


class Piece(NamedTuple):
    """A token as text, with a replacement character for what is no whole one; a special token has
    its name there and no bytes, since it adds nothing to a reply."""

    text: str
    bytes: bytes | None


class Vocabulary:
    """The tokens of one tokenizer; `decoder` is that part of its tokenizer.json."""

    def __init__(self, tokenizer: Tokenizer, decoder: Mapping[str, Any] | None) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._special = {token for token, about in added.items() if about.special}
        steps: list[Mapping[str, Any]] = (decoder or {}).get("decoders", [decoder or {}])
        kinds = {step.get("type") for step in steps}
        self._letters = _byte_letters() if "ByteLevel" in kinds else None
        self._fallback = "ByteFallback" in kinds
        self._replaced = [
            (step["pattern"]["String"], step["content"])
            for step in steps
            if step.get("type") == "Replace" and "String" in step["pattern"]
        ]
        self._stripped = any(
            step.get("type") == "Strip" and step["content"] == " " and step["start"]
            for step in steps
        )

    def piece(self, token: int, *, first: bool = False) -> Piece:
        """What a token is; `first` for one that no text of its reply comes before: some tokenizers
        drop the space there."""
        name = self._tokenizer.id_to_token(token)
        if name is None:  # models have more rows than tokens
            return Piece("", None)
        if token in self._special:
            return Piece(name, None)
        spelled = self._bytes(name, token)
        if first and self._stripped:
            spelled = spelled.removeprefix(b" ")
        return Piece(spelled.decode("utf-8", "replace"), spelled)

    def _bytes(self, name: str, token: int) -> bytes:
        if self._letters is not None:
            if all(letter in self._letters for letter in name):
                return bytes(self._letters[letter] for letter in name)
            return name.encode()  # an added token is spelled as it is
        if self._fallback:
            if byte := _FALLBACK.fullmatch(name):
                return bytes([int(byte[1], 16)])
            for written, meant in self._replaced:
                name = name.replace(written, meant)
            return name.encode()
        return str(self._tokenizer.decode([token])).encode()


def _byte_letters() -> dict[str, int]:
    """GPT-2's letter for each byte: itself where it can be seen, else the next one past a byte."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {
        chr(256 + place): byte for place, byte in enumerate(hidden)
    }
