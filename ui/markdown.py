"""Model output as Markdown: made harmless, and split so that streaming stays cheap.

Pure functions on text; draws nothing. `safe` is the only way to the screen for what a model wrote:
it never lets a picture load, and takes fences that a renderer would execute for plain code.
"""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterator

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$")
_NAMED_FENCE = re.compile(r"(`{3,}|~{3,})(.*)$")
_NOT_OURS = ("$$", ":::", "```", "~~~")  # may open blocks in which our reading of fences is wrong
# What may take the backtick of a code span for itself: an escape, HTML, maths, a table's cell, a
# directive, a bare address.
_SPAN_EATER = re.compile(r"[\\<$|]|:[a-z][\w-]*[\[{]|https?:|www\.", re.IGNORECASE)
LONG = 2_000  # characters without a blank line, after which a piece is cut all the same


def safe(text: str) -> str:
    """`text` with pictures shown as their source and diagrams shown as code.

    Code stays as it is where it is code beyond doubt. Where the renderer might see it otherwise (in
    a quote, behind HTML, in a table), a picture in it gets its backslash too: better one too many.
    """
    lines: list[str] = []
    opened, indent = "", 0  # the mark of the fence that we are in
    doubt = False  # whether the renderer may see other fences than we do, from here on
    spans = True  # whether each line of this paragraph has its code spans for itself
    for line in textwrap.dedent(re.sub(r"\r\n?", "\n", text)).strip().split("\n"):
        bare = line.lstrip(" ")
        if opened and not doubt:
            # A line further left may end the list that the fence stands in, and the fence with it.
            doubt = bool(bare.strip("\t")) and len(line) - len(bare) < indent
            if not doubt:
                fence = _FENCE.match(line)
                if fence and fence[1].startswith(opened) and not fence[2].strip():
                    opened, spans = "", True
                lines.append(line)
                continue
        line = _NAMED_FENCE.sub(_without_diagram, line, count=1)
        fence = _FENCE.match(line)
        if fence and not doubt and not (fence[1][0] == "`" and "`" in fence[2]):
            opened, indent = fence[1], fence.start(1)
            lines.append(line)
            continue
        doubt = doubt or bare.startswith("<") or any(mark in line for mark in _NOT_OURS)
        outside = _outside_spans(line)
        if not bare.strip("\t"):
            spans = True
        elif outside is None or _SPAN_EATER.search("".join(outside[::2])):
            spans = False
        if spans and outside:
            outside[::2] = map(_escape, outside[::2])
            line = "".join(outside)
        else:
            line = _escape(line)
        lines.append(line)
    return "\n".join(lines)


class Pieces:
    """A growing text, cut into pieces of which only the last is ever drawn again.

    A piece ends at a blank line; in a block of LONG characters without one, at the end of a line or
    at a space, where a code fence is closed and opened again. Once the text is complete it is drawn
    anew as a whole, which puts such blocks together again.
    """

    def __init__(self) -> None:
        self._done = 0
        self._fence = ""

    def take(self, text: str) -> tuple[list[str], str]:
        """(pieces that are finished now, the unfinished rest), given the whole text so far."""
        finished: list[str] = []
        while True:
            rest = self._fence + text[self._done :]
            end = settled(rest)
            if not end and len(rest) > LONG:
                end = _cut(rest, len(self._fence))
            if end <= len(self._fence):
                return finished, rest
            piece = rest[:end]
            self._done += end - len(self._fence)
            self._fence = _open_fence(piece)
            if self._fence:
                mark = self._fence[0]
                closing = mark * (len(self._fence) - len(self._fence.lstrip(mark)))
                piece += closing if piece.endswith("\n") else f"\n{closing}"
            finished.append(piece)


def _cut(text: str, start: int) -> int:
    """Where to cut a block that has no good place: after a line, a space, or anywhere."""
    for mark in ("\n", " "):
        if end := text.rfind(mark, start, -1) + 1:
            return end
    return LONG


def _open_fence(text: str) -> str:
    """The line that opened the fence in which `text` ends, or empty."""
    opened = ""
    for _, fence, inside in _lines(text):
        if fence is not None:
            opened = "" if inside else f"{fence[0]}{fence[1]}\n"
    return opened


def settled(text: str) -> int:
    """Length of the beginning of `text` that more text cannot change: up to the last blank line
    outside code fences and $$ blocks. 0 where there is none."""
    end = position = 0
    in_maths = False
    for line, fence, inside in _lines(text):
        position += len(line) + 1
        if fence is None and not inside:
            if line.count("$$") % 2:
                in_maths = not in_maths
            if not line.strip() and not in_maths and position <= len(text):
                end = position
    return end


def _lines(text: str) -> Iterator[tuple[str, tuple[str, str] | None, bool]]:
    """(line, (mark, info) where it is a fence, whether it stands inside of one or closes it)."""
    opened = ""
    for line in text.split("\n"):
        match = _FENCE.match(line)
        if not opened:
            if match and not (match[1][0] == "`" and "`" in match[2]):
                opened = match[1]
                yield line, (match[1], match[2]), False
            else:
                yield line, None, False
        elif match and match[1].startswith(opened) and not match[2].strip():
            opened = ""
            yield line, (match[1], ""), True
        else:
            yield line, None, True


def _outside_spans(line: str) -> list[str] | None:
    """[text, code span, text, ... text]; None where a run of backticks has no partner."""
    parts: list[str] = []
    position = 0
    opening: re.Match[str] | None = None
    for run in re.finditer("`+", line):
        if opening is None:
            opening = run
        elif len(run[0]) == len(opening[0]):
            parts += [line[position : opening.start()], line[opening.start() : run.end()]]
            opening, position = None, run.end()
    return None if opening else [*parts, line[position:]]


def _without_diagram(fence: re.Match[str]) -> str:
    mark, info = fence.groups()
    named = html.unescape(info).replace("\\", "").lower()
    if "mermaid" not in named or (mark[0] == "`" and "`" in info):
        return fence[0]
    return f"{mark}text"


def _escape(text: str) -> str:
    return text.replace("![", r"!\[")


def literal(text: str) -> str:
    """Markdown that shows this text as it is, in one line: for what servers say in captions."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(text.split()))
