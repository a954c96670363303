"""Numbers at the end of replies: scripts, separators, marks, and what is no answer."""

from __future__ import annotations

import time

import pytest

from slm_backends.multilingual import parallel
from slm_backends.multilingual.numerals import last_number, same


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Anna has 15 apples.", "15"),
        ("١٥ تفاحة", "15"),
        ("۱۵ سیب", "15"),
        ("१५ सेब", "15"),
        ("১৫টি আপেল", "15"),
        ("๑๕ ผล", "15"),
        ("１５個", "15"),
        ("有15个", "15"),
        ("15명", "15"),
        ("答案是十五。", "15"),
        ("十個", "10"),
        ("百二十個です", "120"),
        ("三百二十一", "321"),
        ("一千零五", "1005"),
        ("二〇〇", "200"),
        ("两百块", "200"),
        ("一万两千", "12000"),
        ("3万円", "30000"),
    ],
)
def test_digits_of_every_script(text: str, number: str) -> None:
    assert last_number(text, "ja") == number


@pytest.mark.parametrize(
    ("text", "language", "number"),
    [
        ("1,234", "en", "1234"),
        ("1,234", "de", "1234"),
        ("1.234", "de", "1234"),
        ("1.234", "en", "1.234"),
        ("1 234", "fr", "1234"),
        ("1\u202f234,5", "fr", "1234.5"),
        ("1'234", "de", "1234"),
        ("1.234,50 €", "de", "1234.5"),
        ("$1,234.56", "en", "1234.56"),
        ("1,234,567", "en", "1234567"),
        ("1.234.567", "en", "1234567"),
        ("1,00,000", "hi", "100000"),
        ("١٬٢٣٤٫٥", "ar", "1234.5"),
        ("12,5", "de", "12.5"),
        ("0,125", "de", "0.125"),
        ("0.125", "de", "0.125"),
        ("4.0", "en", "4"),
        ("100", "en", "100"),
        ("0", "en", "0"),
        ("15.", "en", "15"),
        ("12, 15", "en", "15"),
        ("-7", "en", "-7"),
        ("It is \u22127.", "en", "-7"),
        ("= -7", "en", "-7"),
        ("12 - 5", "en", "5"),
        ("12-5", "en", "5"),
        ("12 -5", "en", "5"),
        ("\u200f23\u200f ريال", "ar", "23"),
    ],
)
def test_separators_and_signs(text: str, language: str, number: str) -> None:
    assert last_number(text, language) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (r"So \boxed{15} after 3 days", "15"),
        (r"\boxed{\text{15 apples}}", "15"),
        (r"\boxed{12 - 5 = 7}, 99", "7"),
        ("#### 450\n\nCheck it 3 times.", "450"),
        ("#### 1. Find the total\nIt is 7", "7"),
        ("**15** apples: she started with 12.", "15"),
        ("12 - 5 + 8 = **15**", "15"),
        ("**Total: 15** (of 40)", "15"),
        ("**12** at first\nand 15 now", "15"),
        ("**Step 3:** so it is 15", "15"),
        ("Answer: 15 apples (12 - 5 + 8)", "15"),
        ("Answer: 12 - 5 + 8 = 15. She is 7.", "15"),
        ("**Answer:** 15 (of 40)", "15"),
        ("The answer is 15, since she had 12.", "15"),
        ("Answer\n15", "15"),
        ("To answer this, take 12. So 15", "15"),
        ("Antwort: 15, denn 12", "15"),
        ("答案：15，因为12", "15"),
        ("답은 15입니다. 처음에 12", "15"),
        ("คำตอบคือ 15 จาก 12", "15"),
        ("الجواب: ١٥ من ٤٠", "15"),
        ("उत्तर: १५ (४० में से)", "15"),
        ("The total is = 15 apples", "15"),
    ],
)
def test_a_marked_number_goes_before_the_last(text: str, number: str) -> None:
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1. Anna has 12\n2. She gives 5\n\nSo 15\n\n3. Done", "15"),
        ("15 people left at 10:30 on 2024-05-06", "15"),
        ("8 Tage, bis zum 12.05.2024, 10.30 Uhr", "8"),
        ("共8天，到2024年5月6日", "8"),
        ("200 km/h on the A4 with CO2", "200"),
        ("The area is 200 m²", "200"),
        ("她现在有15个苹果，一共", "15"),
        ("2. ", "2"),
    ],
)
def test_what_is_no_answer(text: str, number: str) -> None:
    assert last_number(text) == number


@pytest.mark.parametrize("text", ["", "no number", "fifteen", "十分好，万一", "一个", "A4 and CO2"])
def test_no_number(text: str) -> None:
    assert last_number(text, "zh") == ""


@pytest.mark.parametrize("name", parallel.answers())
def test_every_answer_of_the_set_is_found_in_its_sentence(name: str) -> None:
    answer = parallel.answers()[name]
    arabic = str(answer).translate({ord(str(d)): chr(0x660 + d) for d in range(10)})
    for text in (
        f"It is {answer}.",
        f"共{answer}个。",
        f"Das sind {answer},00 €.",
        f"{arabic} قطعة",
    ):
        assert same(last_number(text, "de"), str(answer))


def test_same() -> None:
    assert same("15", "15.0")
    assert same("-0.50", "-.5")
    assert not same("15", "16")
    assert not same("", "15")
    assert not same("15", "fifteen")


@pytest.mark.parametrize(
    "piece", ["1", "1,", "1.", "1 ", "**", "一", r"\boxed{", "answer: ", "=1", "0:"]
)
def test_long_replies_take_no_time(piece: str) -> None:
    begun = time.process_time()
    last_number(piece * 5_000)
    assert time.process_time() - begun < 1
