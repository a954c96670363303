"""Whether a reply is in the wanted language: by line, by word, and over many replies.

After the Language Confusion Benchmark (Marchisio et al. 2024, arXiv 2406.20052, section 3.2), with
identify.py in place of fastText and these differences, for replies of small models:

- A long line is judged sentence by sentence, so that it fails where one of them slips.
- A reply without a line that is long enough to be judged is judged as a whole, not skipped.
- What no language is told by is left out first: code, formulas, addresses, Markdown's marks, and
  names in Latin letters where others are wanted.
- What is wanted, and what most of the reply is, weigh in where a line leaves it open, so that one
  short line does not make Danish out of Norwegian.

Knows one text and what was wanted of it. Knows no model, no question and no file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from slm_backends.multilingual import identify
from slm_backends.multilingual.languages import LANGUAGES

#: A language that `identify` does not know, in a script that it does.
UNKNOWN = "?"

# How much likelier a language is before a line is read: that which was wanted, and that of most of
# the reply.
_WANTED = 3.0
_REPLY = 10.0
_SURE = 0.5  # from which a text is said to be in a language that was not wanted
_OUT = 0.05  # below which the expected languages are out of the question

# What a line must have to be judged by itself.
_LETTERS = 10  # as `identify.letters` counts them
_WORDS = 3
_SENTENCE = 25  # letters of a sentence that is judged by itself, as they would make a short line
_MANY = 60  # characters from which a line is cut into sentences

# Lengths have limits so that no text takes time in its square.
_BLOCKS = re.compile(
    r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)"  # code, also where the reply ends in it
    r"|\$\$.{0,500}?\$\$|\\\[.{0,500}?\\\]|\\\(.{0,500}?\\\)",  # formulas
    re.DOTALL,
)
_MARKS = re.compile(
    r"`[^`\n]*`"
    r"|\$[^$\n]{0,200}[\\^_={}][^$\n]{0,200}\$"
    r"|!?\[(?=[^\[\]\n]{0,200}\]\()|\]\([^()\s]*\)"  # a link's marks and address; its text stays
    r"|\b(?:https?://|www\.)[^\s<>)\]、。，]+"
    r"|(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,64}\.[\w.]+"
    r"|</?[A-Za-z][^<>\n]*>"
    r"|^[ \t]*(?:[#>|*+•-]+|\d+[.)])[ \t]*"
    r"|[*~|]+|(?<!\w)_+|_+(?!\w)",
    re.MULTILINE,
)
#: Sentences, and what is quoted in one: a prompt that is only repeated, say.
_SENTENCES = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？।؟])\s*|\s+(?=[\"“„«])|(?<=[\"”»])\s+")

#: A word that stands alone: no part of a name of a file, an address or an abbreviation.
_LATIN_WORD = re.compile(
    r"(?<![0-9A-Za-z\u00c0-\u024f_@/.\\-])[a-z]{4,}(?![0-9A-Za-z\u00c0-\u024f_@/\\-]|\.\w)"
)
_CAPITAL = re.compile(r"[A-Z\u00c0-\u00de][0-9A-Za-z\u00c0-\u024f]*")
_ANY_WORD = re.compile(r"[^\W\d_]+")
#: Of a language picked from those in Latin letters.
_CHANCE = 1 / sum("Latn" in language.scripts for language in LANGUAGES.values())
#: How likely English a word is that counts as an English one. In the benchmark's replies of ten
#: models this finds 99 % of the words that are in its list, and of what it finds 82 % are; most of
#: the others are cut or misspelt, or of a third language.
_ENGLISH = 0.03


@dataclass(frozen=True)
class Line:
    """A line of a reply, as it stands there.

    language  its code; UNKNOWN where none of LANGUAGES; empty where it is not judged
    right     whether that is the wanted one; None where it is not judged
    words     in it that are of another language: English ones, and those of another script
    """

    text: str
    language: str = ""
    right: bool | None = None
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fidelity:
    """How far a reply is in the language `expected`.

    badge      "right" every line and word; "mixed" some are not; "english", "other" most lines are
               in another language; "unclear" nothing tells
    lines      those with anything in them
    line_pass  whether every line that was judged is in the wanted language; None: none was
    word_pass  whether a reply whose lines pass is free of English words. None where they do not
               pass, and where the wanted language is written in Latin letters, as in the benchmark
    language   of most letters of the lines that were judged; UNKNOWN, or empty where none was
    words      a sentence for people
    """

    expected: str
    badge: str
    lines: tuple[Line, ...]
    line_pass: bool | None
    word_pass: bool | None
    language: str
    words: str


@dataclass(frozen=True)
class Rates:
    """Over replies, each 0 to 1; None where no reply counts.

    line     LPR: replies whose lines all pass / replies with a line that was judged
    word     WPR: replies without an English word / replies whose lines all pass, of those wanted in
             another script than Latin
    both     LCPR: 2 LPR WPR / (LPR + WPR), their harmonic mean
    counted  replies with a line that was judged
    """

    line: float | None
    word: float | None
    both: float | None
    counted: int


@lru_cache(maxsize=8192)
def fidelity(text: str, expected: str) -> Fidelity:
    """How far a reply is in the language of a code of LANGUAGES. Raises KeyError for another."""
    wanted = LANGUAGES[expected]
    plain = _plain(text)
    letters: Counter[str] = Counter()  # language -> in pieces that are in it
    lines = []
    cleaned = [_without_names(clean, expected) for _, clean in plain]
    for (shown, clean), pieces in zip(plain, _judged(cleaned, expected), strict=True):
        words = tuple(_foreign(clean, expected))
        for language, count in pieces:
            letters[language] += count
        wrong = [language for language, _ in pieces if language != expected]
        line = wrong[0] if wrong else expected if pieces else ""
        lines.append(Line(shown, line, not wrong if pieces else None, words))
    most = letters.most_common(1)[0][0] if letters else ""
    line_pass = all(line.right is not False for line in lines) if letters else None
    words = tuple(word for line in lines for word in line.words)
    word_pass = None
    if line_pass and "Latn" not in wanted.scripts:
        word_pass = not any(map(str.isascii, words))
    if not letters:
        badge = "unclear"
    elif most == expected:
        badge = "right" if line_pass and not words else "mixed"
    else:
        badge = "english" if most == "en" else "other"
    told = _sentence(badge, expected, most, lines)
    return Fidelity(expected, badge, tuple(lines), line_pass, word_pass, most, told)


def pass_rates(found: Iterable[Fidelity]) -> Rates:
    """The benchmark's rates over these replies; it takes them by language, and then their mean."""
    judged = [one for one in found if one.line_pass is not None]
    line = _share(one.line_pass for one in judged)
    word = _share(one.word_pass for one in judged if one.word_pass is not None)
    both = None
    if line is not None and word is not None:
        both = 2 * line * word / (line + word) if line + word else 0.0
    return Rates(line, word, both, len(judged))


def _share(passes: Iterable[bool | None]) -> float | None:
    known = list(passes)
    return sum(map(bool, known)) / len(known) if known else None


def _plain(text: str) -> list[tuple[str, str]]:
    """Lines with anything in them, and what is left of each to tell a language by."""
    blank = _BLOCKS.sub(lambda block: "\n" * block.group().count("\n"), text)
    clean = _MARKS.sub(" ", blank).split("\n")
    return [
        (shown, " ".join(left.split()))
        for shown, left in zip(text.split("\n"), clean, strict=True)
        if shown.strip()
    ]


def _without_names(clean: str, expected: str) -> str:
    """A line in another script than Latin without the Latin words in it that may be names."""
    scripts = LANGUAGES[expected].scripts
    if "Latn" in scripts or not identify.letters(clean).keys() & set(scripts):
        return clean
    return _CAPITAL.sub(lambda word: " " if _names_only(word.group()) else word.group(), clean)


def _judged(cleaned: Sequence[str], expected: str) -> list[list[tuple[str, int]]]:
    """For each line the languages of its pieces, with their letters: none where it is not judged.
    Where no line has enough to be judged, all are pieces of the language of the whole."""
    prior = {expected: _WANTED}
    whole = " ".join(cleaned)
    if most := _language(whole, prior):
        prior[most] = prior.get(most, 1.0) * _REPLY
    judged = [
        [
            (language, _size(piece))
            for piece in (_pieces(clean) if _telling(clean) else ())
            if (language := _language(piece, prior))
        ]
        for clean in cleaned
    ]
    if any(judged) or not most or _names_only(whole):
        return judged
    return [[(most, size)] if (size := _size(clean)) else [] for clean in cleaned]


def _size(clean: str) -> int:
    return sum(identify.letters(clean).values())


def _telling(clean: str) -> bool:
    """Whether a line has enough in it to be judged by itself."""
    counts = identify.letters(clean)
    if sum(counts.values()) < _LETTERS or _names_only(clean):
        return False
    spaced = max(counts, key=lambda script: counts[script]) in ("Latn", "Cyrl", "Grek")
    return not spaced or len(clean.split()) >= _WORDS


def _pieces(clean: str) -> Iterator[str]:
    """Sentences of a long line; one after another that are short go with what is before them, or
    are a piece of their own where they are enough together."""
    held: list[str] = []
    short: list[str] = []
    size = 0  # of `short`
    for sentence in _SENTENCES.split(clean) if len(clean) > _MANY else [clean]:
        if (own := _size(sentence)) >= _SENTENCE:
            if held:
                yield " ".join((*held, *short))
                held, short = [sentence], []
            else:
                held, short = [*short, sentence], []
            size = 0
            continue
        short.append(sentence)
        size += own
        if size >= _SENTENCE:
            if held:
                yield " ".join(held)
            held, short, size = short, [], 0
    yield " ".join((*held, *short))


def _language(text: str, prior: Mapping[str, float]) -> str:
    """The likeliest language after `prior`; empty where nothing tells. One that nobody expects has
    to be sure, or the expected ones out of the question: then it is UNKNOWN which it is."""
    script, likely = identify.likelihoods(text)
    if not likely:
        return UNKNOWN if script else ""
    weighed = {code: value * prior.get(code, 1.0) for code, value in likely.items()}
    best = max(weighed, key=lambda code: weighed[code])
    if best in prior:
        return best if likely[best] >= _CHANCE else ""
    total = sum(weighed.values())
    if weighed[best] >= _SURE * total:
        return best
    out = sum(weighed.get(code, 0.0) for code in prior) < _OUT * total
    return UNKNOWN if out and _size(text) >= _SENTENCE else ""


def _names_only(clean: str) -> bool:
    """Whether all of a text may be names: Latin words that all begin with a capital letter
    and are no common words of a language."""
    words = _ANY_WORD.findall(clean)
    return all(
        word[0].isupper()
        and identify.SCRIPTS["Latn"].fullmatch(word)
        and not identify.is_common(word.lower())
        for word in words
    )


def _foreign(clean: str, expected: str) -> Iterator[str]:
    """Words of another language that a line of the wanted one should not have.

    English ones: the benchmark looks up words of more than three small Latin letters in a list of
    English ones. Here such a word is English where `identify` does not rule it out; names, units
    and abbreviations are short or have capital letters. And words of two letters or more in a
    script that neither is Latin nor belongs to the language.
    """
    scripts = LANGUAGES[expected].scripts
    counts = identify.letters(clean)
    if "Latn" not in scripts and "Latn" in counts:
        for word in _LATIN_WORD.findall(clean):
            if identify.likelihoods(word)[1].get("en", 0.0) >= _ENGLISH:
                yield word
    for script in counts:
        if script not in ("Latn", "Zzzz", *scripts):
            yield from (word for word in identify.SCRIPTS[script].findall(clean) if len(word) > 1)


def _sentence(badge: str, expected: str, language: str, lines: Iterable[Line]) -> str:
    wanted = LANGUAGES[expected].name
    if badge == "unclear":
        return "Nothing in it tells a language."
    if badge == "right":
        return f"All of it is {wanted}."
    if badge in ("english", "other"):
        return f"Most of it is {_name(language)}, not {wanted}."
    judged = [line for line in lines if line.right is not None]
    wrong = Counter(line.language for line in judged if not line.right)
    if wrong:
        others = ", ".join(f"{count} {_name(code)}" for code, count in wrong.most_common())
        return f"Of {len(judged)} lines that were to be {wanted}, {others}."
    words = list(dict.fromkeys(word for line in lines for word in line.words))
    more = f" and {len(words) - 5} more" if len(words) > 5 else ""
    return f"{wanted} with words of another language: {', '.join(words[:5])}{more}."


def _name(code: str) -> str:
    return "another language" if code == UNKNOWN else LANGUAGES[code].name
