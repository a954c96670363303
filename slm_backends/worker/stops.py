"""Which tokens end a reply, from the files beside a model's weights; the same for every runtime.

Publishers say it in several places and in none completely: a config.json often names the token that
ends a text and not the one that ends a turn. So what any of them names counts, and so does the
token that the chat template itself writes after a reply.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from slm_backends.errors import SLMError
from slm_backends.worker.template import ChatTemplate

CONFIGS = ("generation_config.json", "config.json", "genai_config.json")


def stop_ids(folder: Path) -> frozenset[int]:
    """Token ids that end a reply of the model in `folder`. SLMError where nothing says so."""
    found: set[int] = set()
    for name in CONFIGS:
        file = folder / name
        if file.exists():
            config = json.loads(file.read_text(encoding="utf-8"))
            found |= _ids(config) | _ids(config.get("model"))
    found |= _written(folder)
    if not found:
        raise SLMError(f"Nothing in {folder} says which token ends a reply.")
    return frozenset(found)


def _ids(config: Any) -> set[int]:
    value = config.get("eos_token_id") if isinstance(config, dict) else None
    values = value if isinstance(value, list) else [value]
    return {number for number in values if isinstance(number, int)}


def _written(folder: Path) -> set[int]:
    """The tokens that the tokenizer calls the end, and that the template writes after a reply."""
    source = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["content"]: int(token["id"]) for token in source["added_tokens"]}
    template = ChatTemplate(folder)
    spelled = sorted(map(re.escape, added), key=len, reverse=True)
    turn = re.search("|".join(spelled) or r"(?!)", template.after_reply())
    names = {template.names.get("eos_token"), turn.group() if turn else None}
    return {added[name] for name in names if name in added}
