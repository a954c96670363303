"""Which tokens end a reply, from files that each say only a part of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_tokenizers

from slm_backends.errors import SLMError
from slm_backends.worker.stops import stop_ids


def write(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def test_all_that_any_file_names_ends_a_reply(tmp_path: Path) -> None:
    tiny_tokenizers.files("smollm2", tmp_path)
    number = tiny_tokenizers.ids(tmp_path)
    end = {number["<|im_end|>"]}
    assert stop_ids(tmp_path) == end  # from the template and the tokenizer
    write(tmp_path, "config.json", {"eos_token_id": 5})
    assert stop_ids(tmp_path) == end | {5}
    write(tmp_path, "generation_config.json", {"eos_token_id": [6, 7], "pad_token_id": 8})
    assert stop_ids(tmp_path) == end | {5, 6, 7}
    write(tmp_path, "genai_config.json", {"model": {"eos_token_id": [9], "bos_token_id": 10}})
    assert stop_ids(tmp_path) == end | {5, 6, 7, 9}
    for name in ("config.json", "generation_config.json"):
        write(tmp_path, name, {"eos_token_id": None})
    write(tmp_path, "genai_config.json", {"model": {"eos_token_id": 11}})
    assert stop_ids(tmp_path) == end | {11}


@pytest.mark.parametrize(
    ("family", "ends"),
    [
        ("phi-3-mini", {"<|end|>", "<|endoftext|>"}),
        ("phi-3-medium", {"<|end|>", "<|endoftext|>"}),
        ("phi-3-small", {"<|end|>", "<|endoftext|>"}),
        ("phi-4-mini", {"<|end|>", "<|endoftext|>"}),
        ("phi-4", {"<|im_end|>"}),
    ],
)
def test_the_template_tells_the_end_of_a_turn(family: str, ends: set[str], tmp_path: Path) -> None:
    """As for Phi-3-vision, whose config.json names only </s>."""
    tiny_tokenizers.files(family, tmp_path)
    number = tiny_tokenizers.ids(tmp_path)
    write(tmp_path, "config.json", {"eos_token_id": 2})
    assert stop_ids(tmp_path) == {2} | {number[name] for name in ends}


def test_a_folder_that_tells_nothing_is_an_error(tmp_path: Path) -> None:
    tiny_tokenizers.files("smollm2", tmp_path)
    write(tmp_path, "tokenizer_config.json", {"chat_template": "{{ messages[0].content }}"})
    (tmp_path / "special_tokens_map.json").unlink()
    with pytest.raises(SLMError, match="ends a reply"):
        stop_ids(tmp_path)
