"""Whether a reply is in the wanted language: badges, lines, words and rates against examples."""

from __future__ import annotations

import time
from itertools import product

import pytest
from test_identify import SENTENCES

from slm_backends.multilingual import parallel
from slm_backends.multilingual.fidelity import (
    UNKNOWN,
    Fidelity,
    Rates,
    fidelity,
    pass_rates,
)
from slm_backends.multilingual.languages import LANGUAGES

GERMAN = "Die Hauptstadt von Frankreich ist Paris."
ENGLISH = "The city is known for its museums and its food."


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_sentence_that_is_wanted_is_right(code: str) -> None:
    found = fidelity(SENTENCES[code], code)
    assert (found.badge, found.language, found.line_pass) == ("right", code, True)
    assert found.word_pass is (None if "Latn" in LANGUAGES[code].scripts else True)
    assert found.words == f"All of it is {LANGUAGES[code].name}."


@pytest.mark.parametrize("code", [code for code in LANGUAGES if code != "en"])
def test_an_english_reply_to_another_question(code: str) -> None:
    found = fidelity(SENTENCES["en"], code)
    assert (found.badge, found.language, found.line_pass) == ("english", "en", False)
    assert found.word_pass is None
    assert found.words == f"Most of it is English, not {LANGUAGES[code].name}."


def test_a_sentence_that_is_not_wanted_is_never_right() -> None:
    related = {("da", "nb"), ("nb", "da")}  # may pass for each other where all is one sentence
    for given, wanted in product(LANGUAGES, LANGUAGES):
        if given != wanted and (given, wanted) not in related:
            badge = fidelity(SENTENCES[given], wanted).badge
            assert badge == ("english" if given == "en" else "other"), (given, wanted)


def test_the_shipped_texts_pass_in_their_own_language_and_fail_in_others() -> None:
    codes = sorted(file.stem for file in parallel.FOLDER.glob("??.toml"))
    contents = {code: list(parallel.texts(code).contents.values()) for code in codes}
    own = [(text, fidelity(text, code).badge) for code in codes for text in contents[code]]
    assert sum(badge == "right" for _, badge in own) >= 0.99 * len(own)
    others = [
        fidelity(text, codes[number - 1]).line_pass
        for number, code in enumerate(codes)
        for text in contents[code]
    ]
    assert sum(passes is True for passes in others) <= 0.01 * len(others)
    for code in codes:  # all as one reply: a line that leaves it open goes with the others
        assert fidelity("\n".join(contents[code]), code).badge == "right"


@pytest.mark.parametrize(
    ("text", "wanted", "badge"),
    [
        ("はい", "ja", "right"),
        ("はい", "zh", "other"),
        ("東京", "ja", "right"),
        ("東京", "zh", "right"),
        ("東京", "ko", "other"),
        ("Ja.", "de", "right"),
        ("Yes.", "de", "english"),
        ("Yes, I do.", "zh", "english"),
        ("答案：15", "zh", "right"),
        ("คำตอบคือ 15", "th", "right"),
        ("Es sind 15.", "de", "right"),
        ("נכון", "he", "right"),
        ("شكرا", "ar", "right"),
        ("شكرا", "he", "other"),
        ("Спасибо, это хорошо", "uk", "other"),
        ("Дякую їм", "ru", "other"),
        # Names tell nothing.
        ("Paris", "fr", "unclear"),
        ("Paris", "zh", "unclear"),
        ("New York, Berlin, Zürich", "de", "unclear"),
        ("Москва", "ru", "right"),
        ("Москва", "de", "other"),
        ("iPhone 15", "ja", "unclear"),
        # Nor do these.
        ("15", "de", "unclear"),
        ("१५", "hi", "unclear"),
        ("", "ja", "unclear"),
        (" \n\n ", "ja", "unclear"),
        ("😀 👍🏽", "th", "unclear"),
        ("https://example.org/this/is/not/read?by=anyone", "de", "unclear"),
        ("somebody.there@example.org", "de", "unclear"),
        ("$x^2 + y_1 = \\frac{speed}{time}$", "fr", "unclear"),
        ("\\[ \\text{this is the area of the circle} \\]", "fr", "unclear"),
        ("```python\nfor word in the_list_of_words:\n    print(word)\n```", "de", "unclear"),
        ("```\nthe reply ends within the block of code", "de", "unclear"),
        ("<br><this is a tag>", "de", "unclear"),
        # A language that is none of those that are known.
        ("Η Αθήνα είναι η πρωτεύουσα.", "de", "other"),
        ("این یک متن فارسی است که می‌خوانید", "ar", "other"),
    ],
)
def test_short_and_empty_replies(text: str, wanted: str, badge: str) -> None:
    assert fidelity(text, wanted).badge == badge


def test_nothing_told_is_neither_pass_nor_fail() -> None:
    found = fidelity("15\n\n20", "de")
    assert (found.line_pass, found.word_pass, found.language) == (None, None, "")
    assert [line.right for line in found.lines] == [None, None]
    assert found.words == "Nothing in it tells a language."


def test_lines_are_told_apart() -> None:
    found = fidelity(f"{GERMAN}\n\n# 2\n{ENGLISH}\nSie liegt an der Seine in Frankreich.\n", "de")
    assert [(line.language, line.right) for line in found.lines] == [
        ("de", True),
        ("", None),
        ("en", False),
        ("de", True),
    ]
    assert found.lines[2].text == ENGLISH
    assert (found.badge, found.language, found.line_pass) == ("mixed", "de", False)
    assert found.words == "Of 3 lines that were to be German, 1 English."


def test_a_sentence_within_a_line_fails_it() -> None:
    found = fidelity(f"{GERMAN} Die Stadt ist groß und alt. {ENGLISH}", "de")
    assert (found.badge, found.language) == ("mixed", "de")
    assert [(line.language, line.right) for line in found.lines] == [("en", False)]


def test_mostly_english_is_english_though_it_begins_otherwise() -> None:
    found = fidelity(f"{GERMAN}\n{ENGLISH}\n{ENGLISH} You should go there.", "de")
    assert (found.badge, found.language) == ("english", "en")
    assert [line.right for line in found.lines] == [True, False, False]


def test_code_between_lines_does_not_count() -> None:
    text = f"{GERMAN}\n```\n{ENGLISH}\n```\nSo steht es auch im `known for its food` Buch."
    found = fidelity(text, "de")
    assert found.badge == "right"
    assert [line.right for line in found.lines] == [True, None, None, None, True]


def test_marks_do_not_count() -> None:
    text = (
        "## **Die Antwort**\n"
        "- *Paris* ist die [Hauptstadt](https://example.org/the-capital-of-france) des Landes.\n"
        "| Stadt | Land |\n|---|---|\n"
        "> 1. Sie liegt an der Seine, siehe https://example.org/what/is/the/city."
    )
    assert fidelity(text, "de").badge == "right"


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("nb", "Jeg vet ikke hva jeg skal gjøre etter skolen.\nVi spiser brød og ost sammen."),
        ("da", "Jeg ved ikke, hvad jeg skal lave efter skolen.\nVi spiser brød og ost sammen."),
        ("ru", "Вчера мы долго гуляли, это было хорошо.\nМама купила молоко и масло."),
        ("uk", "Вчора ми довго гуляли в лісі, було її багато.\nМама купила молоко та масло."),
        ("ja", "東京は日本の首都です。とても大きいです。\n主要観光地一覧、東京都庁展望台"),
    ],
)
def test_a_line_that_fits_two_languages_goes_with_the_reply(wanted: str, text: str) -> None:
    assert fidelity(text, wanted).badge == "right"


@pytest.mark.parametrize(
    ("wanted", "text", "words"),
    [
        ("zh", "我喜欢machine learning，因为它很有意思。", ("machine", "learning")),
        ("zh", "我 想 understand 这个问题。", ("understand",)),
        ("ru", "Мы используем this method для анализа.", ("this", "method")),
        ("ja", "この方法は very good だと思います。", ("very", "good")),
        # Names, units, abbreviations, files and addresses are no English words.
        ("zh", "RNA 分子的长度大约是 5 km，人们在 Berlin 使用 GPS 和 iPhone。", ()),
        ("zh", "请先打开文件 readme.txt 和 src/main，然后再填写您的 user_name。", ()),
        ("zh", "请看 https://example.org/some/english/words 。", ()),
        ("zh", "真随机数（True Random Numbers）", ()),
        ("ja", "主演は Tom Hanks と Robin Wright と Gary Sinise です。", ()),
        # Not in three letters or less, as in the benchmark.
        ("ru", "Это the он and она.", ()),
        # Of other scripts than Latin.
        ("zh", "我喜欢 книга 和书。", ("книга",)),
        ("ko", "저는 かんじ 공부를 좋아합니다.", ("かんじ",)),
        ("de", "Das Wort 学习 bedeutet lernen, das ist alles.", ("学习",)),
        ("de", "Der Winkel α ist größer als der Winkel β.", ()),
    ],
)
def test_words_of_another_language(wanted: str, text: str, words: tuple[str, ...]) -> None:
    found = fidelity(text, wanted)
    assert found.line_pass is True
    assert found.lines[0].words == words
    assert found.badge == ("mixed" if words else "right")
    english = any(word.isascii() for word in words)
    assert found.word_pass is (None if wanted == "de" else not english)


def test_many_words_are_told_shortly() -> None:
    words = "machine learning with neural networks from large language"
    told = fidelity(
        f"我们今天在学校里一起学习了很多关于计算机的知识和方法，例如：{words}。", "zh"
    ).words
    assert told.startswith("Chinese with words of another language: machine, learning, with,")
    assert told.count(",") == 4 and "more" in told


def test_english_that_is_wanted_is_right() -> None:
    assert fidelity(ENGLISH, "en").badge == "right"
    assert fidelity(GERMAN, "en").badge == "other"
    assert fidelity("", "en").badge == "unclear"


def test_an_unknown_language_has_a_code_of_its_own() -> None:
    found = fidelity("Η Αθήνα είναι η πρωτεύουσα.", "de")
    assert (found.language, found.line_pass) == (UNKNOWN, False)
    assert found.words == "Most of it is another language, not German."


def test_what_may_be_two_languages_is_neither_where_a_third_was_wanted() -> None:
    """Danish and Norwegian alike: sure is only that it is not French."""
    text = "Det er en bil og et hus i den lille by ved fjorden, og han bor der."
    found = fidelity(text, "fr")
    assert (found.badge, found.line_pass) == ("other", False)
    assert fidelity(text, "nb").badge == fidelity(text, "da").badge == "right"


def test_a_language_must_be_known() -> None:
    with pytest.raises(KeyError):
        fidelity("text", "xx")


def reply(line: bool | None, word: bool | None) -> Fidelity:
    return Fidelity("zh", "right", (), line, word, "zh", "")


def test_rates_by_hand() -> None:
    """10 replies, 1 of which tells nothing: 9 count, 6 pass by line, and 4 of these by word.
    LPR 6/9, WPR 4/6, and as both are 2/3, so is their harmonic mean."""
    found = [reply(None, None), *[reply(False, None)] * 3, *[reply(True, False)] * 2]
    found += [reply(True, True)] * 4
    rates = pass_rates(found)
    assert rates == Rates(pytest.approx(6 / 9), pytest.approx(4 / 6), pytest.approx(2 / 3), 9)


def test_the_mean_of_the_two_is_the_harmonic_one() -> None:
    """LPR 1/2 and WPR 1: 2 * 1/2 * 1 / (1/2 + 1) = 2/3."""
    assert pass_rates([reply(True, True), reply(False, None)]) == Rates(
        0.5, 1.0, pytest.approx(2 / 3), 2
    )


def test_rates_of_nothing() -> None:
    assert pass_rates([]) == Rates(None, None, None, 0)
    assert pass_rates([reply(None, None)]) == Rates(None, None, None, 0)
    assert pass_rates([reply(False, None)]) == Rates(0.0, None, None, 1)
    assert pass_rates([reply(True, False)]) == Rates(1.0, 0.0, 0.0, 1)


def test_rates_of_real_replies() -> None:
    """Chinese: right, an English word, English, nothing to tell; German has no rate by word."""
    chinese = [
        fidelity("昨天我在图书馆借了三本书。", "zh"),
        fidelity("我很喜欢研究 machine learning 这个题目。", "zh"),
        fidelity(ENGLISH, "zh"),
        fidelity("15", "zh"),
    ]
    german = [fidelity(GERMAN, "de"), fidelity(ENGLISH, "de")]
    assert pass_rates(chinese) == Rates(
        pytest.approx(2 / 3), 0.5, pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5)), 3
    )
    assert pass_rates(german) == Rates(0.5, None, None, 2)
    assert pass_rates(iter(chinese + german)).counted == 5


def test_a_text_is_worked_out_once() -> None:
    assert fidelity(GERMAN + " ", "de") is fidelity(GERMAN + " ", "de")


@pytest.mark.parametrize(
    "text",
    [
        "天" * 100_000,
        "word " * 20_000,
        f"{GERMAN}\n" * 2_500,
        "1. " * 33_000,
        "[a" * 50_000,
        "\\[" * 50_000,
        "$x=" * 33_000,
        "<a" * 50_000,
        "a@b" * 33_000,
        "`" * 100_000,
        "我喜欢random" * 11_000,
        "😀" * 100_000,
    ],
    ids=lambda text: text[:6].strip(),
)
def test_a_hundred_thousand_characters(text: str) -> None:
    fidelity("This loads the model.", "en")
    started = time.process_time()
    fidelity(text, "zh")
    assert time.process_time() - started < 5


def test_a_thousand_replies_of_two_hundred_words() -> None:
    sentences = [SENTENCES[code] for code in ("de", "en", "fr", "pl")]
    replies = [
        "\n".join(f"{number} {sentences[(number + line) % 4]} " * 5 for line in range(5))
        for number in range(200)
    ]
    assert sum(len(text.split()) for text in replies) / len(replies) > 150
    started = time.process_time()
    for text in replies:
        fidelity(text, "de")
    assert time.process_time() - started < 3  # 0.5 s where nothing else runs


def test_a_prompt_that_is_repeated_makes_no_right_language() -> None:
    asked = "Was ist die Hauptstadt von Frankreich und wofür ist sie bekannt?"
    assert fidelity(f'The answer to this question is "{asked}"', "de").badge == "mixed"
    assert fidelity(f'Die Antwort auf diese Frage ist nicht "{asked}"', "de").badge == "right"
