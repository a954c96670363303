"""A model's chat template: from turns to the one string that its authors would make of them.

Knows where publishers put templates and what they may use in them, which is what transformers'
`apply_chat_template` offers, and whether a content is a string to them or a list of parts. Of
tokens it knows the names only.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from slm_backends.errors import BadRequest, SLMError

NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
# A content whose way through the template is looked at: a code point that Unicode reserves for a
# program's own use.
_PROBE = "\ufdd2"
PICTURE = "\ufdd3"  # another one: stands in a content where one of its pictures comes

Turn = tuple[str, str]  # role ("system", "user" or "assistant") and content


class ChatTemplate:
    """The template of the model in `folder`. SLMError if it has none, or none that can be read.

    names   the special tokens that have a part to play: "eos_token" -> "</s>"
    """

    def __init__(self, folder: Path) -> None:
        config = _json(folder / "tokenizer_config.json")
        self.names = _token_names(_json(folder / "special_tokens_map.json") | config)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        environment.filters["tojson"] = _to_json
        try:
            self._template = environment.from_string(_source(folder, config))
        except jinja2.TemplateError as error:
            raise SLMError(f"The model's chat template cannot be read: {error}") from error

    def render(self, turns: Sequence[Turn]) -> str:
        """The conversation as the model reads it, with the cue for its reply.

        Where the template has no place for a system message, its text begins the next user turn,
        with a blank line after it. BadRequest if the template refuses the conversation.
        """
        if not self.takes_system:
            turns = _folded(turns)
        try:
            return self._render(turns)
        except Exception as error:  # a template is a program: it may stumble over anything
            raise BadRequest(
                f"The model's chat template refuses this conversation: {error}", field="messages"
            ) from error

    @functools.cached_property
    def takes_system(self) -> bool:
        """Whether the template has a place for a system message, found by rendering one."""
        question = ("user", "?")
        try:
            return _PROBE in self._render([("system", _PROBE), question])
        except Exception:
            try:
                self._render([question])
            except Exception:  # then it was not the system message that it refused
                return True
            return False

    @functools.cached_property
    def picture(self) -> str:
        """What the template writes for a picture, where it takes a content in parts and a string
        does not come through; else empty. Found by rendering both."""
        asked = [
            [{"role": "user", "content": content}]
            for content in (_PROBE, _parts(_PROBE + PICTURE + _PROBE))
        ]
        try:
            if _PROBE in self._written(asked[0]):
                return ""
        except Exception:  # it may stumble over a string
            pass
        try:
            between = self._written(asked[1]).split(_PROBE)[1:-1]
        except Exception:
            return ""
        return between[0] if between else ""

    def before_reply(self) -> str:
        """What stands between the cue and an assistant's turn that follows it, as a space that the
        model says by itself; empty where that cannot be said."""
        try:
            cue = self._render([("user", "?")])
            whole = self._render([("user", "?"), ("assistant", _PROBE)], cue=False)
        except Exception:
            return ""
        before = whole.partition(_PROBE)[0]
        return before.removeprefix(cue) if before.startswith(cue) else ""

    def after_reply(self) -> str:
        """What the template writes after an assistant's turn; empty where that cannot be said."""
        try:
            whole = self._render([("user", "?"), ("assistant", _PROBE)], cue=False)
        except Exception:
            return ""
        return whole.partition(_PROBE)[2]

    def _render(self, turns: Sequence[Turn], *, cue: bool = True) -> str:
        messages: list[dict[str, Any]] = [
            {"role": role, "content": _parts(content) if self.picture else content}
            for role, content in turns
        ]
        return self._written(messages, cue=cue)

    def _written(self, messages: Sequence[dict[str, Any]], *, cue: bool = True) -> str:
        return self._template.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=cue,
            **self.names,
        )


class _Generation(Extension):
    """`{% generation %}` marks, for training, what the model is to learn; it prints its inside."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _parts(content: str) -> list[dict[str, str]]:
    """A content as a list, its pictures parts of their own; never an empty list."""
    parts: list[dict[str, str]] = []
    for number, text in enumerate(content.split(PICTURE)):
        parts += [{"type": "image"}] if number else []
        parts += [{"type": "text", "text": text}] if text else []
    return parts or [{"type": "text", "text": ""}]


def _folded(turns: Sequence[Turn]) -> list[Turn]:
    """System turns at the beginning of the user turn that comes next; at the end, as one."""
    folded: list[Turn] = []
    waiting: list[str] = []
    for role, content in turns:
        if role == "system":
            waiting += [content] if content else []
        elif role == "user":
            folded.append((role, "\n\n".join([*waiting, content])))
            waiting = []
        else:
            folded.append((role, content))
    return folded + ([("user", "\n\n".join(waiting))] if waiting else [])


def _source(folder: Path, config: dict[str, Any]) -> str:
    """The template, from the places where hub repositories of different ages have it."""
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    found = config.get("chat_template") or _json(folder / "chat_template.json").get("chat_template")
    if isinstance(found, list):  # several, for other uses than a chat
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    if not isinstance(found, str):
        raise SLMError(
            "This model has no chat template.",
            hint="It continues texts and does not chat; choose a model that is called instruct.",
        )
    return found


def _token_names(config: dict[str, Any]) -> dict[str, str]:
    names: dict[str, str] = {}
    for name in NAMED:
        value = config.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            names[name] = value
    return names


def _json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return content


def _refuse(reason: str) -> None:
    raise jinja2.TemplateError(reason)


def _now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """Unlike jinja's own, without HTML escapes and in the order given."""
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)
