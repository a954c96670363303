"""Between text and tokens: the chat template, the tokenizer, stop strings.

Knows that what a person typed is text: a special token spelled out in a message is tokenised as
the characters it is made of, while the template's own special tokens stay control. Knows nothing
of the model that reads the tokens.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import DecodeStream

from slm_backends.chat import Message
from slm_backends.errors import BadRequest

# Marks around a message's content while the template is rendered. Code points that Unicode reserves
# for a program's own use and that never stand in text.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
_CONTENT = re.compile(f"({OPEN}[^{CLOSE}]*{CLOSE})")
_CONTROL = re.compile(r"<[^<>\s]+>")


class ChatText:
    """`tokenizer.json` and `chat_template.jinja` of a model, from the folder with its weights."""

    def __init__(self, folder: Path) -> None:
        self._source = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        for token in self._source["added_tokens"]:
            # Some files do not call <|tool|> and the like special; to the model they are.
            token["special"] |= bool(_CONTROL.fullmatch(token["content"]))
        self._special = {
            token["content"]: token for token in self._source["added_tokens"] if token["special"]
        }
        spelled = sorted(self._special, key=len, reverse=True)
        self._special_pattern = re.compile("|".join(map(re.escape, spelled)) or r"(?!)")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        self._template = environment.from_string(source)
        self._names = _token_names(folder)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation, to be answered. BadRequest if the template refuses."""
        rendered = self._render(messages)
        whole = _unmarked(rendered)
        written = self._special_pattern.findall(_CONTENT.sub("\0", rendered))
        if self._special_pattern.findall(whole) == written:
            # Nobody typed a special token: exactly what the model's authors would give it.
            ids: list[int] = self._tokenizer.encode(whole, add_special_tokens=False).ids
            return ids
        tokens: list[int] = []
        for text, special in self._split(rendered):
            if special is not None:
                tokens.append(int(special["id"]))
            elif text:
                # A word after a special token is not always split as one at the very beginning.
                tokens += self._ids(OPEN + text)[1:] if tokens else self._ids(text)
        return tokens

    def tokens(self, text: str) -> list[int]:
        """The tokens of plain text, nothing added."""
        return self._ids(_unmarked(text))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def reply(self, stop: Iterable[str] = ()) -> ReplyText:
        return ReplyText(self._tokenizer, tuple(stop))

    @functools.cached_property
    def _plain(self) -> Tokenizer:
        """The tokenizer for which special tokens are text, and OPEN is a token; rarely needed."""
        plain = Tokenizer.from_str(json.dumps(self._source))
        plain.encode_special_tokens = True
        plain.add_tokens([AddedToken(OPEN, normalized=False)])
        return plain

    def _render(self, messages: Sequence[Message]) -> str:
        turns = [
            {"role": message.role, "content": f"{OPEN}{_unmarked(message.content)}{CLOSE}"}
            for message in messages
        ]
        try:
            return self._template.render(messages=turns, add_generation_prompt=True, **self._names)
        except jinja2.TemplateError as error:
            raise BadRequest(
                f"The model's chat template refuses this conversation: {error}", field="messages"
            ) from error

    def _split(self, rendered: str) -> Iterable[tuple[str, dict[str, Any] | None]]:
        """The rendered text as runs of plain text and single special tokens of the template's."""
        text = ""
        strip_next = False
        for part in _CONTENT.split(rendered):
            if part.startswith(OPEN):
                content = part[1:-1]
                text += content.lstrip() if strip_next and not text else content
                strip_next = strip_next and not content
                continue
            position = 0
            for match in self._special_pattern.finditer(part):
                special = self._special[match.group()]
                text += self._after(part[position : match.start()], strip_next and not text)
                yield (text.rstrip() if special["lstrip"] else text), None
                yield "", special
                text, position, strip_next = "", match.end(), special["rstrip"]
            rest = part[position:]
            text += self._after(rest, strip_next and not text)
            strip_next = strip_next and not text
        yield text, None

    @staticmethod
    def _after(text: str, strip: bool) -> str:
        return text.lstrip() if strip else text


class ReplyText:
    """Grows the text of one reply, token by token.

    Characters that need several tokens appear when they are whole. Text that may be the beginning
    of a stop string is held back until it is certain; `stopped` is True once one was found.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop = stop
        self._held = ""
        self.stopped = False

    def feed(self, token: int) -> str:
        """The text that is certain now, often empty."""
        if self.stopped:
            return ""
        self._held += self._decoded(token)
        if not self._stop:
            certain, self._held = self._held, ""
            return certain
        found = [at for at in (self._held.find(text) for text in self._stop) if at >= 0]
        if found:
            self.stopped = True
            certain, self._held = self._held[: min(found)], ""
            return certain
        keep = max(_overlap(self._held, text) for text in self._stop)
        cut = len(self._held) - keep
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain

    def _decoded(self, token: int) -> str:
        try:
            return self._decoder.step(self._tokenizer, token) or ""
        except Exception:  # bytes that are no character, after which that decoder is of no more use
            self._decoder = DecodeStream(skip_special_tokens=True)
            return self._decoder.step(self._tokenizer, token) or ""

    def end(self) -> str:
        """What was held back for a stop string that did not come."""
        certain, self._held = self._held, ""
        return certain


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


def _unmarked(content: str) -> str:
    return content.replace(OPEN, "").replace(CLOSE, "")


def _refuse(reason: str) -> None:
    raise jinja2.TemplateError(reason)


def _token_names(folder: Path) -> dict[str, str]:
    """bos_token and the like, which templates may refer to by name."""
    file = folder / "tokenizer_config.json"
    if not file.exists():
        return {}
    config = json.loads(file.read_text(encoding="utf-8"))
    names: dict[str, str] = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = config.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            names[name] = value
    return names
