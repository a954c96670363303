"""The number that a reply ends with, in the digits of any script.

Read are decimal digits of every script, Han numerals (十五, 百二十, 3万), signs, fractions behind a
point or a comma, and thousands set apart by points, commas, spaces or apostrophes. Not read are
number words of other languages ("fifteen"), fractions with a stroke, powers and Roman numerals.

The last number counts, but for one that is marked: \\boxed{15}, "#### 15", "Answer: 15" in any
language that is known here, or **15** in the last line with a number. Of a calculation in such a
place what is behind the last equals sign counts. A comma before three digits sets thousands apart;
so does a point, where the language writes fractions with a comma. Dates, times, numbers in names
(A4, CO2) and the numbers of list items do not count, unless there is nothing else.

Knows texts. Knows no question.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal, InvalidOperation

#: Languages that write 1.5 for one and a half; all others write 1,5.
_POINT = {"ar", "bn", "en", "fa", "he", "hi", "ja", "ko", "sw", "th", "ur", "zh"}

_SIGNS = str.maketrans(
    {
        "\u066b": ".",  # Arabic signs: fraction, thousands
        "\u066c": ",",
        "\uff0e": ".",
        "\uff0c": ",",
        "\u2212": "-",
        "\uff0d": "-",
        "\ufe63": "-",
        "\u2019": "'",
        "\u066a": "%",
        "\uff1d": "=",
        "\uff1a": ":",
        **dict.fromkeys("\u00a0\u2007\u2009\u202f\u3000", " "),
        **dict.fromkeys("\u200e\u200f\u061c\u2066\u2067\u2068\u2069\u202a\u202b\u202c", ""),
    }
)

_BEFORE = r"(?<![A-Za-z_\d])(?<!\d[.,])"  # else it belongs to a name or to another number
_THOUSANDS = (
    r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)"
    r"|\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?(?!\d)"  # as in India
    r"|\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?(?!\d)"
    r"|\d{1,3}(?:\.\d{3})+,\d+"
    r"|\d{1,3}(?: \d{3})+(?:[.,]\d+)?(?!\d)"
    r"|\d{1,3}(?:'\d{3})+(?:[.,]\d+)?(?!\d)"
)
_NUMBER = re.compile(rf"{_BEFORE}(?:{_THOUSANDS}|\d+(?:[.,]\d+)?)(?:\s?[万萬億亿])?")

_DIGITS = {digit: value for value, digit in enumerate("〇一二三四五六七八九")} | {
    "零": 0, "两": 2, "兩": 2, "〡": 1,
}  # fmt: skip
_UNITS = {"十": 10, "百": 100, "千": 1_000}
_MYRIADS = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_HAN = re.compile(f"[{''.join((*_DIGITS, *_UNITS, *_MYRIADS))}]+")
_HAN_LONGEST = 30  # characters; past it somebody stutters
#: Words that a Han numeral stands in without being a number.
_HAN_WORDS = re.compile(
    "一(?:共|个|個|些|定|起|样|樣|般|直|切|边|邊|下|次|位|番|緒|方|部)|十分|千万别|万一|三角|星期[一二三四五六]|第[一二三四五六七八九十]+"
)

#: Dates and times of day.
_NOT_COUNTED = re.compile(
    r"\b\d{4}-\d{1,2}-\d{1,2}\b|\b\d{1,2}([./])\d{1,2}\1(?:\d{4}|\d{2})\b"
    r"|\b\d{1,2}:\d{2}(?::\d{2})?\b|\b\d{1,2}\.\d{2} ?(?:Uhr|[ap]\.?m\b)"
    r"|\d{4}年(?:\d{1,2}月)?(?:\d{1,2}日)?|\d{1,2}月\d{1,2}日"
)
_ITEM = re.compile(r"^[ \t]*(?:#+ +)?(?:\*\*)?\d{1,2}[.)](?:\*\*)?[ \t]+(?=\S)", re.MULTILINE)

_BOXED = re.compile(r"\\boxed\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")
_HASHES = re.compile(r"^####[ \t]*([^\n]{1,40})$", re.MULTILINE)
_BOLD = re.compile(r"(\*\*|__)(?=\S)(.{1,80}?)\1")
#: "answer" in the languages of the shipped set, and what may stand between it and the number.
_ANSWER = re.compile(
    r"(?:answer|antwort|lösung|réponse|respuesta|risposta|resposta|svar(?:et)?|antwoord|vastaus"
    r"|odpověď|odpowiedź|відповідь|ответ|válasz|cevap|yanıt|jawaban(?:nya)?|jibu|đáp (?:án|số)"
    r"|câu trả lời|الجواب|الإجابة|الاجابة|תשובה|答案|答え|答|정답|답|คำตอบ|उत्तर|উত্তর)"
    r"(?:\s*[*_]{1,2})?\s*(?:[:=]|\b(?:is|ist|est|es|è|é|är|er|on|to|jest|je|là|adalah|ni)\b"
    r"|は|是|为|為|은|는|คือ|है|হল|হলো|هو|هي|היא)(?![^\W\d_])([^\n]*)",
    re.IGNORECASE,
)


def last_number(text: str, language: str = "en") -> str:
    """The number that a reply ends with, as decimal digits: "1234.5". Empty where there is none.
    `language` is a code; it decides what 1.234 is."""
    plain = "".join(_digit(letter) for letter in text.translate(_SIGNS))
    for marked in _marked(plain):
        if found := _answer_of(marked, language):
            return found
    counted = _ITEM.sub(" ", _NOT_COUNTED.sub(" ", plain))
    for part in (counted, _NOT_COUNTED.sub(" ", plain), plain):
        if numbers := _numbers(part, language):
            return numbers[-1]
    return ""


def same(number: str, answer: str) -> bool:
    """Whether two numbers in decimal digits are equal: "15" and "15.0" are."""
    try:
        return Decimal(number) == Decimal(answer)
    except InvalidOperation:
        return False


def _digit(letter: str) -> str:
    value = unicodedata.decimal(letter, None)
    return letter if value is None else str(value)


def _marked(plain: str) -> list[str]:
    """Passages that say of themselves that the answer is in them, the surest first."""
    found = [each[-1:] for each in (_BOXED.findall(plain), _HASHES.findall(plain))]
    found[1] = [text for text in found[1] if not _ITEM.match(text)]  # a heading with a number
    found.append(_ANSWER.findall(plain)[-1:])
    numbered = [line for line in plain.splitlines() if _NUMBER.search(line)]
    bold = [text for _, text in _BOLD.findall(numbered[-1])] if numbered else []
    found.append([text for text in bold if re.match(r"\W*\d|.*[:=]\W*\d", text)][-1:])
    return [text for each in found for text in each]


def _answer_of(passage: str, language: str) -> str:
    """Its first number, or the first behind the last equals sign."""
    passage = _NOT_COUNTED.sub(" ", passage)
    for part in (passage.rpartition("=")[2], passage):
        if numbers := _numbers(part, language):
            return numbers[0]
    return ""


def _numbers(plain: str, language: str) -> list[str]:
    found = [_value(match, language) for match in _NUMBER.finditer(plain)]
    if not found:  # else the numerals are those in words such as 一个
        han = (_han(match.group()) for match in _HAN.finditer(_HAN_WORDS.sub(" ", plain)))
        found = [Decimal(value) for value in han if value is not None]
    return [f"{value.normalize():f}" if value else "0" for value in found]


def _value(match: re.Match[str], language: str) -> Decimal:
    digits = match.group()
    factor = _MYRIADS.get(digits[-1], 1)
    digits = digits.rstrip("".join(_MYRIADS)).strip()
    before = match.string[: match.start()]
    negative = before.endswith("-") and not re.search(r"(?:[\d)\]]\s*|\w)-$", before[-20:])
    value = Decimal(_plain(digits, language)) * factor
    return -value if negative else value


def _plain(digits: str, language: str) -> str:
    """With nothing between thousands, and a point before the fraction."""
    digits = digits.replace(" ", "").replace("'", "")
    marks = [mark for mark in digits if mark in ".,"]
    if not marks:
        return digits
    last = marks[-1]
    whole, _, fraction = digits.rpartition(last)
    thousands = (
        len(fraction) == 3 and whole.lstrip("0") != "" and (last == "," or language not in _POINT)
    )
    if len(set(marks)) == 1 and (len(marks) > 1 or thousands):
        return digits.replace(last, "")
    return f"{re.sub('[.,]', '', whole)}.{fraction}"


def _han(numeral: str) -> int | None:
    """百二十 is 120, 一二〇 too. None for what is no number."""
    if len(numeral) > _HAN_LONGEST:
        return None
    if all(letter in _DIGITS for letter in numeral):
        return int("".join(str(_DIGITS[letter]) for letter in numeral))
    total = section = digit = 0
    for letter in numeral:
        if letter in _DIGITS:
            digit = _DIGITS[letter]
        elif letter in _UNITS:
            section += (digit or 1) * _UNITS[letter]
            digit = 0
        else:
            if not section + digit:
                return None  # 万 alone is a word
            total += (section + digit) * _MYRIADS[letter]
            section = digit = 0
    return total + section + digit
