"""Model output as Markdown: no picture and no diagram gets through, and streaming stays linear."""

from __future__ import annotations

import random
import re
import string

import pytest

from ui.markdown import LONG, Pieces, literal, safe, settled

PARAGRAPH = (
    "A paragraph with **bold** words, `code` and a [link](https://example.com) in it, long enough "
    "to fill more than one line on most screens that people use.\n\n"
)
LIST = "- first point\n- second point\n- third point\n\n"
CODE = "```python\ndef square(number):\n    return number * number\n\n\nprint(square(7))\n```\n\n"
TABLE = "| name | value |\n|---|---|\n| one | 1 |\n| two | 2 |\n\n"
MATHS = "$$\na + b\n\n= c\n$$\n\n"
REALISTIC = PARAGRAPH + LIST + CODE + PARAGRAPH + TABLE


# --- safe: pictures -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("![a](http://x/y)", r"!\[a](http://x/y)"),
        ("see ![a](http://x/y) and ![b](u)", r"see !\[a](http://x/y) and !\[b](u)"),
        ("![a][r]\n\n[r]: http://x/y", "!\\[a][r]\n\n[r]: http://x/y"),
        ("![r]\n\n[r]: http://x/y", "!\\[r]\n\n[r]: http://x/y"),
        ("# Title ![a](u)", r"# Title !\[a](u)"),
        ("- one ![a](u)\n  - two ![b](u)", "- one !\\[a](u)\n  - two !\\[b](u)"),
        ("> quoted ![a](u)", r"> quoted !\[a](u)"),
        ("| a | b |\n|---|---|\n| ![a](u) | 1 |", "| a | b |\n|---|---|\n| !\\[a](u) | 1 |"),
        ("[![a](u)](http://x)", r"[!\[a](u)](http://x)"),
        ("[text ![a](u) text](http://x)", r"[text !\[a](u) text](http://x)"),
        (r"\\![a](u)", r"\\!\[a](u)"),
        ("![a\nb](u)", "!\\[a\nb](u)"),
        ("!\\[a](u)", "!\\[a](u)"),
    ],
)
def test_a_picture_is_shown_as_its_source(text: str, shown: str) -> None:
    assert safe(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Nothing special! [a link](u) and (brackets) [too].",
        "`![a](u)` is how to write a picture",
        "use `vec![1, 2]` or ``a ` ![b]``",
        "```rust\nlet v = vec![1, 2];\n```",
        "~~~\n![a](u)\n```\n![b](u)\n~~~",
        "````markdown\n```\n![a](u)\n```\n````",
        "```\n![a](u)\n~~~\n![b](u)",  # not closed yet
        "1. Do this:\n   ```rust\n   vec![1]\n\n   vec![2]\n   ```\n2. Then that.",
        "```\nsquare\n```\n\n`matches![x]`\n\n```\nnot![x]\n```",
        "~~~python title=`x`\n![a](u)\n~~~",
    ],
)
def test_code_stays_as_it_is(text: str) -> None:
    assert safe(text) == text


@pytest.mark.parametrize(
    "text",
    [
        r"\`![a](u)\`",  # escaped backticks open nothing
        "`\n\n![a](u)\n\n`",  # a code span ends with its paragraph
        "a ` b\nc ` ![a](u) ` d",  # a code span goes over the end of a line
        "`` a ` b `` ![a](u) ` c `` d",
        "| a ` | ` b ` ![a](u) ` |\n|---|---|",  # a cell has its code spans for itself
        '<a b="`"> ![a](u) `',
        ":red[`] a ` b ` ![a](u) `",
        "http://x/` a ` b ` ![a](u) `",
        "$`$ a ` b ` ![a](u) `",
        "``` a ` b\n![a](u)",  # a backtick fence has no backtick behind it
        "```\ncode\n```\n![a](u)",
        "```\ncode\r```\r![a](u)",  # a lone carriage return ends a line too
        "- ```\n  code\n  ```\n\n![a](u)",  # a fence beside the bullet of its list
        "- one\n\n  ```\n  code\n\n![a](u)",  # the list ends, and its fence with it
        "1. one\n\n    ```\n    code\n   ```\n   ![a](u)",
        "> ```\n> code\n\n![a](u)",
        "> ```\n![a](u)",
        "<div>\n```\n</div>\n\n![a](u)",  # HTML is no place for a fence
        "<!--\n\n```\n-->\n![a](u)",
        "$$\n```\n$$\n\n![a](u)",
        ":::note\n```\n:::\n![a](u)",
        "   ```\n    ```\n   ![a](u)\n   ```",  # Streamlit takes common indentation away
        "a ` b\n\u00a0\n` ![a](u) ` c",  # a line with a no-break space is not blank
    ],
)
def test_a_picture_hidden_from_us_is_found(text: str) -> None:
    assert "![" not in safe(text)


@pytest.mark.parametrize("mark", ["```", "~~~", "`````"])
@pytest.mark.parametrize(
    "info",
    [
        "mermaid",
        " mermaid",
        "Mermaid",
        "mermaid {theme=dark}",
        "{.mermaid}",
        "mermaid{x}",
        "mermaid-x",
        "mer&#109;aid",
        "mermaid\\-x",
        "x-language-mermaid",
    ],
)
@pytest.mark.parametrize("before", ["", "  ", "- ", "> ", "1. > - "])
def test_a_diagram_is_shown_as_code(before: str, mark: str, info: str) -> None:
    text = f"before\n\n{before}{mark}{info}\ngraph TD\n{mark}\n\nafter"
    assert safe(text) == f"before\n\n{before}{mark}text\ngraph TD\n{mark}\n\nafter"


def test_a_diagram_named_inside_of_code_is_text() -> None:
    text = "````markdown\n```mermaid\ngraph TD\n```\n````"
    assert safe(text) == text


def test_the_language_of_other_code_stays() -> None:
    assert safe(CODE) == CODE.strip()
    assert safe("Use ```mermaid``` fences.") == "Use ```mermaid``` fences."


# --- settled --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("", 0),
        ("one line", 0),
        ("one line\n", 0),
        ("one\n\n", len("one\n\n")),
        ("one\n\ntwo", len("one\n\n")),
        ("one\n\ntwo\n\nthree\n", len("one\n\ntwo\n\n")),
        ("one\n \t\ntwo", len("one\n \t\n")),
        ("one\n\n```\na\n\nb", len("one\n\n")),  # a blank line inside of code is code
        ("```\na\n\nb\n```\n", 0),
        ("```\na\n\nb\n```\n\n", len("```\na\n\nb\n```\n\n")),
        ("````\n```\n\n````\n\nx", len("````\n```\n\n````\n\n")),
        ("~~~\n```\n\n~~~\n\nx", len("~~~\n```\n\n~~~\n\n")),
        ("$$\na\n\nb", 0),
        ("$$\na\n\nb\n$$\n\nx", len("$$\na\n\nb\n$$\n\n")),
        ("$$ a $$\n\nx", len("$$ a $$\n\n")),
    ],
)
def test_settled_is_what_more_text_cannot_change(text: str, end: int) -> None:
    assert settled(text) == end


# --- Pieces ---------------------------------------------------------------------------------------


def _chunks(text: str, chance: random.Random, longest: int) -> list[int]:
    """Lengths of the text so far, as it comes in."""
    ends = []
    end = 0
    while end < len(text):
        end = min(len(text), end + chance.randint(1, longest))
        ends.append(end)
    return ends


@pytest.mark.parametrize(
    "text",
    [REALISTIC * 3, CODE, MATHS + PARAGRAPH, "\n\n\n" + LIST, "no end", "~~~\n\n" * 3, "\n" * 9],
)
@pytest.mark.parametrize("longest", [1, 7, 200])
def test_pieces_together_are_the_text(text: str, longest: int) -> None:
    pieces = Pieces()
    finished: list[str] = []
    rest = ""
    for end in _chunks(text, random.Random(longest), longest):
        new, rest = pieces.take(text[:end])
        finished += new
        assert "".join(finished) + rest == text[:end]
    assert "".join(finished) + rest == text


def test_a_piece_ends_where_the_text_may_be_cut() -> None:
    pieces = Pieces()
    assert pieces.take("one\n") == ([], "one\n")
    assert pieces.take("one\n\ntw") == (["one\n\n"], "tw")
    assert pieces.take("one\n\ntwo\n\n```\na\n\nb") == (["two\n\n"], "```\na\n\nb")
    assert pieces.take("one\n\ntwo\n\n```\na\n\nb\n```\n\n") == (["```\na\n\nb\n```\n\n"], "")


@pytest.mark.parametrize("opening", ["```python", "~~~~ text", "  ```"])
@pytest.mark.parametrize("longest", [1, 50, 5_000])
def test_long_code_is_cut_into_blocks_of_code(opening: str, longest: int) -> None:
    code = "".join(f"line {number}\n\n" for number in range(1_500))
    mark = opening.split()[0].rstrip("python")
    text = f"{opening}\n{code}{mark}\n"
    pieces = Pieces()
    finished: list[str] = []
    rest = ""
    for end in _chunks(text, random.Random(longest), longest):
        new, rest = pieces.take(text[:end])
        finished += new
    if longest < LONG:
        assert len(finished) > len(text) / LONG - 2
    head = opening.strip()
    for number, block in enumerate([*finished, rest]):
        lines = block.split("\n")
        assert lines[0] == (opening if number == 0 else head)  # each block is whole in itself
        if block is not rest:
            assert lines[-1] == mark
    bodies = [block[len(opening if n == 0 else head) + 1 :] for n, block in enumerate(finished)]
    joined = "".join(body.removesuffix(mark) for body in bodies)
    assert f"{opening}\n{joined}{rest.removeprefix(head).removeprefix(chr(10))}" == text


@pytest.mark.parametrize("separator", ["\n", " ", ""])
@pytest.mark.parametrize("longest", [1, 300])
def test_a_long_paragraph_is_cut(separator: str, longest: int) -> None:
    text = separator.join(["word"] * 3_000)
    pieces = Pieces()
    finished: list[str] = []
    rest = ""
    for end in _chunks(text, random.Random(1), longest):
        new, rest = pieces.take(text[:end])
        finished += new
        assert len(rest) <= LONG
    assert "".join(finished) + rest == text
    assert all(piece.endswith(separator) for piece in finished)


def _drawn(text: str, step: int = 60) -> int:
    """Characters that go to the browser while the text comes in, `step` at each redraw."""
    pieces = Pieces()
    total = 0
    for end in range(step, len(text) + step, step):
        finished, rest = pieces.take(text[:end])
        total += sum(map(len, finished)) + len(rest)
    return total


def _of_length(unit: str, length: int) -> str:
    return (unit * (length // len(unit) + 1))[:length]


def test_drawing_grows_with_the_length_of_a_reply() -> None:
    short, long = (_drawn(_of_length(REALISTIC, 6 * tokens)) for tokens in (1_000, 4_000))
    assert long / short <= 4.5
    assert long < 8 * 24_000


@pytest.mark.parametrize(
    "unit",
    ["    print('one more line')\n", "    print('a line')\n\n", "words without any end ", "長い文"],
)
@pytest.mark.parametrize("head", ["", "```python\n"])
def test_drawing_one_long_block_is_linear_too(head: str, unit: str) -> None:
    short, long = (_drawn(head + _of_length(unit, length)) for length in (5_000, 20_000))
    assert long / short <= 4.8
    assert long < 20_000 * (LONG / 60)


# --- literal --------------------------------------------------------------------------------------


def test_a_literal_text_has_nothing_that_markdown_reads() -> None:
    text = "![x](u) [a](b) *c* _d_ `e` $f$ :red[g] <h> # ~~i~~ | \\ - 1. 2)"
    escaped = literal(text)
    assert re.sub(r"\\(.)", r"\1", escaped) == text
    assert not set(string.punctuation) & set(re.sub(r"\\[^\w ]|\\_", "", escaped))


def test_a_literal_text_is_one_line_of_any_script() -> None:
    assert literal("# Überschrift\n\n- 一\n\t二") == r"\# Überschrift \- 一 二"
