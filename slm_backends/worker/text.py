"""Between text and tokens: the chat template, the tokenizer, stop strings.

Knows that what a person typed is text: a special token spelled out in a message is tokenised as
the characters it is made of, while the template's own special tokens stay control. Where nobody
typed one, the tokens are exactly those of transformers' `apply_chat_template`: the model's files
decide about a token at the beginning, nothing is added. Knows nothing of the model that reads them.
"""

from __future__ import annotations

import codecs
import functools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from slm_backends import images
from slm_backends.chat import Message
from slm_backends.worker.pieces import Piece, Words, picture
from slm_backends.worker.template import PICTURE, ChatTemplate
from slm_backends.worker.vocabulary import Vocabulary

# Marks around a message's content while the template is rendered. Code points that Unicode reserves
# for a program's own use and that never stand in text.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
PICTURE_LINE = f"{PICTURE}\n"  # as Phi-3-vision wants them, before the text
_CONTENT = re.compile(f"({OPEN}[^{CLOSE}]*{CLOSE})")
_CONTROL = re.compile(r"<[^<>\s]+>")
#: What a special token swallows beside it: Unicode's white space, of which Python's is a little
#: more.
_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)


class ChatText:
    """`tokenizer.json` and the chat template of a model, from the folder with its weights."""

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
        self._template = ChatTemplate(folder)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation, to be answered. BadRequest if the template refuses."""
        whole = self.rendered(messages)
        rendered = self._template.render(
            [(message.role, _marked(message.content)) for message in messages]
        )
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

    def pieces(self, messages: Sequence[Message]) -> list[Piece]:
        """A conversation with pictures, to be answered: runs of text and the pictures between them.

        Each run is tokenised by itself, as Phi-3-vision's authors do, with what its tokenizer puts
        at a beginning; nothing is put there where the template itself writes the pictures.
        BadRequest for a picture that cannot be read, or if the template refuses.
        """
        pictures = [
            picture(*images.sound(image)) for message in messages for image in message.images
        ]
        written = self._template.picture
        mark = PICTURE if written else PICTURE_LINE
        rendered = self._template.render(
            [(item.role, mark * len(item.images) + _marked(item.content)) for item in messages]
        )
        if written:
            rendered = "".join(
                part if part.startswith(OPEN) else part.replace(written, PICTURE)
                for part in _CONTENT.split(rendered)
            )
        beginning = self._tokenizer.encode("", add_special_tokens=not written).ids
        found: list[Piece] = []
        for number, part in enumerate(rendered.split(PICTURE)):
            if number:
                found.append(pictures[number - 1])
            text = _CONTENT.sub(lambda match: match[0][1:-1], part)
            found.append(Words(text, self._run(part, beginning)))
        return found

    def _run(self, rendered: str, beginning: list[int]) -> tuple[int, ...]:
        """The tokens of one run between pictures."""
        tokens = list(beginning)
        for text, special in self._split(rendered):
            if special is not None:
                if not (tokens == beginning == [int(special["id"])]):  # the template has written it
                    tokens.append(int(special["id"]))
            elif text:
                tokens += self._ids(OPEN + text)[1:] if tokens else self._ids(text)
        return tuple(tokens)

    def rendered(self, messages: Sequence[Message]) -> str:
        """A conversation as the model's own template writes it, special tokens spelled out."""
        return self._template.render(
            [(message.role, _unmarked(message.content)) for message in messages]
        )

    def tokens(self, text: str) -> list[int]:
        """The tokens of plain text, nothing added."""
        return self._ids(_unmarked(text))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def reply(self, stop: Iterable[str] = ()) -> ReplyText:
        return ReplyText(self.vocabulary, tuple(stop), self._before_reply)

    @functools.cached_property
    def _before_reply(self) -> str:
        return self._template.before_reply()

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """What the single tokens of a reply are."""
        return Vocabulary(self._tokenizer, self._source.get("decoder"))

    @functools.cached_property
    def _plain(self) -> Tokenizer:
        """The tokenizer for which special tokens are text, and OPEN is a token; rarely needed."""
        plain = Tokenizer.from_str(json.dumps(self._source))
        plain.encode_special_tokens = True
        plain.add_tokens([AddedToken(OPEN, normalized=False)])
        return plain

    def _split(self, rendered: str) -> Iterable[tuple[str, dict[str, Any] | None]]:
        """The rendered text as runs of plain text and single special tokens of the template's."""
        text = ""
        strip_next = False
        for part in _CONTENT.split(rendered):
            if part.startswith(OPEN):
                text += part[1:-1]
                strip_next = False
                continue
            position = 0
            for match in self._special_pattern.finditer(part):
                special = self._special[match.group()]
                text += self._after(part[position : match.start()], strip_next and not text)
                yield (text.rstrip(_SPACE) if special["lstrip"] else text), None
                yield "", special
                text, position, strip_next = "", match.end(), special["rstrip"]
            text += self._after(part[position:], strip_next and not text)
            strip_next = strip_next and not text
        yield text, None

    @staticmethod
    def _after(text: str, strip: bool) -> str:
        return text.lstrip(_SPACE) if strip else text


class ReplyText:
    """Grows the text of one reply, token by token.

    Characters that need several tokens appear when they are whole; bytes that are no character, as
    a model may well sample them, become a replacement character and change nothing around them.
    Text that may be the beginning of a stop string is held back until it is certain; `stopped` is
    True once one was found. `lead`, with which the first token may begin, is left out: the template
    writes it when the reply is part of a conversation.
    """

    def __init__(self, vocabulary: Vocabulary, stop: tuple[str, ...], lead: str = "") -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = False
        self._stop = stop
        self._lead = lead
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
        spelled = self._vocabulary.piece(token, first=not self._begun).bytes
        if spelled is None:  # a special token, which is no text
            return ""
        text = self._decoder.decode(spelled)
        if not self._begun:
            text = text.removeprefix(self._lead)
        self._begun = True
        return text

    @property
    def held(self) -> int:
        """Characters that are held back for a stop string that may come."""
        return len(self._held)

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


def _marked(content: str) -> str:
    """A message's content between marks. White space at its ends stays outside, where a template
    may take it away; and a message that is empty stays empty, which a template may ask for."""
    content = _unmarked(content)
    core = content.strip()
    if not core:
        return content
    start = content.index(core)
    return f"{content[:start]}{OPEN}{core}{CLOSE}{content[start + len(core) :]}"


def _unmarked(content: str) -> str:
    return content.replace(OPEN, "").replace(CLOSE, "").replace(PICTURE, "")
