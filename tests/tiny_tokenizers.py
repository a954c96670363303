"""Small tokenizers of the real makes, with the models' own special tokens and chat templates.

    files(family, folder)  writes tokenizer.json, tokenizer_config.json, special_tokens_map.json
    FAMILIES               "phi-3-mini", "phi-3.5", "phi-3-medium", "phi-3-small", "phi-4-mini",
                           "phi-4", "olmoe", "smollm2"
    template(family)       its chat template
    ids(folder)            token -> id, of a folder with a tokenizer.json

Two makes: Llama's (▁ for a space, a token a byte for what the vocabulary lacks), which Phi-3 has,
and the byte-level one that Phi-3-small, Phi-4 and SmolLM2 have. A vocabulary is 256 bytes, some
words, and the model's special tokens with their real flags; so their ids are others than the real
ones, and tests name tokens, not ids.

The templates in tests/templates/ are written for these tests; each renders every conversation to
the same characters as the one that the model's publisher ships (MIT; SmolLM2 and OLMoE:
Apache-2.0).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"
#: Each of them is one token, with a space before it or without.
WORDS = """
    the and a of to in is it that you name colour blue red sea sky what why how do not
    say hello world answer short word list because light water sun day night green
"""
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;?!-'\"()<|>/_"
#: How tiktoken's cl100k vocabulary, which Phi-3-small and Phi-4 use, cuts text into words.
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Special:
    content: str
    lstrip: bool = False
    rstrip: bool = False
    special: bool = True


@dataclass(frozen=True)
class Family:
    """How one family of models reads and writes text. `eos` ends a text, not a turn."""

    make: str  # "llama" or "bytes"
    tokens: tuple[Special, ...]
    bos: str
    eos: str
    tokenizer_class: str
    config: tuple[tuple[str, Any], ...] = ()


def _eats(*names: str, lstrip: bool = False, special: bool = True) -> tuple[Special, ...]:
    return tuple(Special(f"<|{name}|>", lstrip, True, special) for name in names)


_LLAMA = (Special("<unk>"), Special("<s>"), Special("</s>", rstrip=True, special=False))
_PHI_3 = (
    *_LLAMA,
    Special("<|endoftext|>"),
    *_eats("assistant", *(f"placeholder{n}" for n in range(1, 5)), "system", "end"),
    *_eats("placeholder5", "placeholder6", "user"),
)
_PHI_4_MINI = (
    Special("<|endoftext|>"),
    Special("<|endofprompt|>"),
    *_eats("assistant", "end", "user", "system"),
    *_eats("tool", "/tool", "tool_call", "/tool_call", "tool_response", special=False),
    *_eats("tag"),
)
_PHI_4 = _eats("endoftext", "fim_prefix", "im_start", "im_end", "im_sep", "dummy_0", lstrip=True)
_PHI_3_SMALL = tuple(
    Special(f"<|{name}|>") for name in ("endoftext", "endofprompt", "system", "user", "assistant")
) + (Special("<|end|>"),)
_OLMOE = (Special("<|endoftext|>"), Special("<pad>"))
_SMOLLM2 = tuple(
    Special(name)
    for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<jupyter_text>")
)
_LIKE_LLAMA = (("add_bos_token", False), ("legacy", False), ("sp_model_kwargs", {}))

FAMILIES = {
    "phi-3-mini": Family("llama", _PHI_3, "<s>", "<|endoftext|>", "LlamaTokenizer", _LIKE_LLAMA),
    "phi-3.5": Family("llama", _PHI_3, "<s>", "<|endoftext|>", "LlamaTokenizer", _LIKE_LLAMA),
    "phi-3-medium": Family("llama", _PHI_3, "<s>", "<|endoftext|>", "LlamaTokenizer", _LIKE_LLAMA),
    "phi-3-small": Family(
        "bytes", _PHI_3_SMALL, "<|endoftext|>", "<|endoftext|>", "Phi3SmallTokenizer"
    ),
    "phi-4-mini": Family(
        "bytes", _PHI_4_MINI, "<|endoftext|>", "<|endoftext|>", "GPT2TokenizerFast"
    ),
    "phi-4": Family("bytes", _PHI_4, "<|endoftext|>", "<|im_end|>", "GPT2Tokenizer"),
    "olmoe": Family("bytes", _OLMOE, "<|endoftext|>", "<|endoftext|>", "GPTNeoXTokenizer"),
    "smollm2": Family("bytes", _SMOLLM2, "<|im_start|>", "<|im_end|>", "GPT2Tokenizer"),
}


def files(family: str, folder: Path) -> Path:
    """The tokenizer's files in `folder`, which is made; the template is in the second, as most
    publishers have it."""
    about = FAMILIES[family]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _llama(about) if about.make == "llama" else _bytes(about, digits=family)
    names = {"bos_token": about.bos, "eos_token": about.eos, "pad_token": about.eos}
    if about.make == "llama":
        names["unk_token"] = "<unk>"
    config = {
        "added_tokens_decoder": {
            str(token.pop("id")): token for token in map(dict, tokenizer["added_tokens"])
        },
        **names,
        "chat_template": template(family),
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "tokenizer_class": about.tokenizer_class,
        **dict(about.config),
    }
    _write(folder / "tokenizer.json", tokenizer)
    _write(folder / "tokenizer_config.json", config)
    _write(folder / "special_tokens_map.json", names)
    return folder


def template(family: str) -> str:
    return (TEMPLATES / f"{family}.jinja").read_text(encoding="utf-8")


def ids(folder: Path) -> dict[str, int]:
    source = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["content"]: token["id"] for token in source["added_tokens"]}
    return source["model"]["vocab"] | added


def size(family: str) -> int:
    """How many tokens: the vocab_size of a model that has just these."""
    about = FAMILIES[family]
    tokenizer = _llama(about) if about.make == "llama" else _bytes(about, digits=family)
    known = set(tokenizer["model"]["vocab"])
    return len(known | {token["content"] for token in tokenizer["added_tokens"]})


def _llama(family: Family) -> dict[str, Any]:
    """Byte-fallback BPE: words begin with ▁, and so does each text between two special tokens."""
    vocabulary = [token.content for token in _LLAMA]
    vocabulary += [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary += ["▁", *LETTERS]
    merges = _merges("▁", vocabulary) + _merges("", vocabulary) + [("▁", "▁")]
    vocabulary.append("▁▁")
    return _tokenizer(
        family,
        vocabulary,
        merges,
        fallback=True,
        normalizer={
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
    )


def _bytes(family: Family, digits: str) -> dict[str, Any]:
    """Byte-level BPE, words cut as the family cuts them: SmolLM2 takes every digit alone."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if digits == "smollm2":
        first: dict[str, Any] = {"type": "Digits", "individual_digits": True}
    else:
        first = {
            "type": "Split",
            "pattern": {"Regex": CL100K},
            "behavior": "Removed",
            "invert": True,
        }
    vocabulary = list(_byte_letters().values())
    merges = _merges("Ġ", vocabulary) + _merges("", vocabulary)
    cut = {**level, "use_regex": digits == "smollm2"}
    return _tokenizer(
        family,
        vocabulary,
        merges,
        fallback=False,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [first, cut]},
        decoder={**level, "use_regex": True},
    )


def _tokenizer(
    family: Family,
    vocabulary: list[str],
    merges: list[tuple[str, str]],
    *,
    fallback: bool,
    **parts: Any,
) -> dict[str, Any]:
    numbers = {word: number for number, word in enumerate(vocabulary)}
    added = []
    for token in family.tokens:
        number = numbers.get(token.content)
        if number is None:
            number = len(vocabulary) + sum(entry["id"] >= len(vocabulary) for entry in added)
        added.append(
            {
                "id": number,
                "content": token.content,
                "single_word": False,
                "lstrip": token.lstrip,
                "rstrip": token.rstrip,
                "normalized": False,
                "special": token.special,
            }
        )
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>" if fallback else None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": fallback,
        "byte_fallback": fallback,
        "ignore_merges": False,
        "vocab": numbers,
        "merges": [" ".join(pair) for pair in merges],
    }
    empty = {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        **empty,
        **parts,
        "model": model,
    }


def _merges(start: str, vocabulary: list[str]) -> list[tuple[str, str]]:
    """Each word letter by letter from its beginning; what that makes is added to `vocabulary`."""
    merges = []
    for word in WORDS.split():
        letters = [start, *word] if start else list(word)
        made = letters[0]
        for letter in letters[1:]:
            if made + letter not in vocabulary:
                vocabulary.append(made + letter)
                merges.append((made, letter))
            made += letter
    return merges


def _byte_letters() -> dict[int, str]:
    """A printable letter for each byte, as GPT-2's tokenizer has them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    return letters | {byte: chr(256 + place) for place, byte in enumerate(others)}


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
