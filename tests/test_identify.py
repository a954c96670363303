"""In which language a text is: every language, the shipped set, short and odd texts."""

from __future__ import annotations

import subprocess
import sys
import time
import unicodedata

import pytest

from benchmarks import languages as benchmark
from slm_backends.multilingual import identify, parallel
from slm_backends.multilingual.identify import Guess
from slm_backends.multilingual.languages import LANGUAGES

SENTENCES = {
    "ar": "ذهبت الفتاة إلى السوق لتشتري الخبز.",
    "zh": "昨天我在图书馆借了三本书。",
    "cs": "Včera jsme byli na procházce v lese.",
    "da": "I går købte jeg en ny cykel til min søn.",
    "nl": "Gisteren hebben we een lange wandeling gemaakt.",
    "en": "Yesterday we went for a long walk in the woods.",
    "fi": "Eilen kävimme pitkällä kävelyllä metsässä.",
    "fr": "Hier, nous avons fait une longue promenade.",
    "de": "Gestern haben wir einen langen Spaziergang gemacht.",
    "he": "אתמול הלכנו לטיול ארוך ביער.",
    "hu": "Tegnap hosszú sétát tettünk az erdőben.",
    "it": "Ieri abbiamo fatto una lunga passeggiata.",
    "ja": "昨日は森の中を長く散歩しました。",
    "ko": "어제 우리는 숲에서 오래 걸었습니다.",
    "nb": "Jeg vet ikke hva jeg skal gjøre etter skolen.",
    "pl": "Wczoraj poszliśmy na długi spacer do lasu.",
    "pt": "Ontem não fizemos uma longa caminhada na floresta.",
    "ru": "Вчера мы долго гуляли в лесу.",
    "es": "Ayer dimos un largo paseo por el bosque.",
    "sv": "Igår gick vi en lång promenad i skogen.",
    "th": "เมื่อวานเราไปเดินเล่นในป่า",
    "tr": "Dün ormanda uzun bir yürüyüş yaptık.",
    "uk": "Вчора ми довго гуляли в лісі.",
    "bn": "গতকাল আমরা বনে অনেকক্ষণ হেঁটেছিলাম।",
    "hi": "कल हम जंगल में बहुत देर तक घूमे।",
    "id": "Kemarin kami berjalan jauh di dalam hutan.",
    "sw": "Jana tulitembea kwa muda mrefu msituni.",
    "vi": "Hôm qua chúng tôi đã đi dạo rất lâu trong rừng.",
}


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_sentence_in_every_language(code: str) -> None:
    guess = identify.identify(SENTENCES[code])
    assert guess.language == code
    assert guess.script in LANGUAGES[code].scripts
    assert 0.5 < guess.confidence <= 1.0


@pytest.mark.parametrize("code", LANGUAGES)
def test_capitals_and_letters_taken_apart_change_nothing(code: str) -> None:
    for text in (SENTENCES[code].upper(), unicodedata.normalize("NFD", SENTENCES[code])):
        assert identify.identify(text).language == code


def test_the_shipped_texts_are_identified() -> None:
    samples = benchmark.texts()
    assert {code for _, code in samples} == {file.stem for file in language_files()}
    wrong = [(text, code) for text, code in samples if identify.identify(text).language != code]
    assert len(wrong) <= 0.03 * len(samples), wrong
    for code in {code for _, code in samples}:
        of_it = [text for text, sampled in samples if sampled == code]
        missed = [text for text, sampled in wrong if sampled == code]
        assert len(missed) <= 0.1 * len(of_it), missed


def language_files() -> list:
    return [file for file in parallel.FOLDER.glob("*.toml") if file.stem != "answers"]


def test_most_pieces_of_one_to_three_words_are_identified() -> None:
    samples = benchmark.pieces(benchmark.texts())
    right = sum(identify.identify(text).language == code for text, code in samples)
    assert right >= 0.8 * len(samples)
    assert all(len(text.split()) <= 3 for text, _ in samples)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("はい", "ja"),
        ("是的，当然", "zh"),
        ("臺灣的首都在哪裡", "zh"),  # traditional characters
        ("ネコ", "ja"),
        ("네", "ko"),
        ("ใช่", "th"),
        ("כן", "he"),
        ("نعم", "ar"),
        ("হ্যাঁ", "bn"),
        ("हाँ", "hi"),
        ("это", "ru"),
        ("її", "uk"),
        ("це", "uk"),
        ("когда", "ru"),
        ("the", "en"),
        ("nicht", "de"),
        ("không", "vi"),
        ("kwa nini", "sw"),
    ],
)
def test_short_texts(text: str, language: str) -> None:
    assert identify.identify(text).language == language


@pytest.mark.parametrize(
    "text", ["", " \n", "15", "१५ + ৩ = ๑๘", "😀👍", "§ 3.14 %", "。、「」", "\u200b\ufeff"]
)
def test_without_letters_nothing_is_known(text: str) -> None:
    assert identify.identify(text) == Guess("", 0.0, "")
    assert identify.script_of(text) == ""


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Η Αθήνα είναι πόλη", "Grek"),
        ("தமிழ் ஒரு மொழி", "Taml"),
        ("ქართული ენა", "Geor"),
        ("አማርኛ ቋንቋ", "Ethi"),
        ("ᏣᎳᎩ", "Zzzz"),  # Cherokee, whose letters are not listed
    ],
)
def test_a_script_that_no_language_here_is_written_in(text: str, script: str) -> None:
    assert identify.identify(text) == Guess("", 1.0, script)


def test_persian_and_urdu_are_not_arabic() -> None:
    for text in ("این یک متن فارسی است که می‌خوانید", "یہ اردو کا ایک جملہ ہے"):
        assert identify.identify(text) == Guess("", 1.0, "Arab")


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("abc где", "Latn"),  # as many of both: the first that is listed
        ("ab где", "Cyrl"),
        ("我喜欢 GPS", "Hani"),
        ("GPS和 machine learning", "Latn"),
        ("ひらがなと漢字", "Hira"),
        ("コンピュータ", "Kana"),
        ("Größe", "Latn"),
        ("ＡＢＣ", "Latn"),
    ],
)
def test_the_script_of_most_letters(text: str, script: str) -> None:
    assert identify.script_of(text) == script


def test_letters_are_counted_by_what_they_say() -> None:
    assert identify.letters("ab 漢字 かな 한글 где 12!") == {
        "Latn": 2,
        "Hani": 6,
        "Hira": 4,
        "Hang": 4,
        "Cyrl": 3,
    }


def test_likelihoods_add_up_and_keep_to_the_script() -> None:
    for code, sentence in SENTENCES.items():
        script, likely = identify.likelihoods(sentence)
        assert sum(likely.values()) == pytest.approx(1.0)
        assert all(script in LANGUAGES[other].scripts or other in ("zh", "ja") for other in likely)
        assert code in likely


def test_han_alone_is_the_less_likely_japanese_the_longer_it_is() -> None:
    shares = [identify.likelihoods("東" * number)[1]["ja"] for number in (1, 2, 4, 8, 20)]
    assert shares == sorted(shares, reverse=True)
    assert shares[1] > 0.25 and shares[-1] < 0.02


def test_common_words_are_there_for_all_that_need_n_grams() -> None:
    needing = {code for code, one in LANGUAGES.items() if one.scripts[0] in ("Latn", "Cyrl")}
    assert identify._common_words().keys() == needing
    for words in identify._common_words().values():
        assert len(words) >= 25
        assert all(word == word.lower() and word.isalpha() for word in words)
    assert identify.is_common("nicht") and not identify.is_common("paris")


def test_a_long_text_takes_no_time() -> None:
    identify.identify("This loads the model.")
    started = time.process_time()
    assert identify.identify("Das ist ein ganz normaler Satz. " * 30_000).language == "de"
    assert time.process_time() - started < 2


def test_nothing_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys\n"
        "from slm_backends.multilingual import fidelity, identify\n"
        "assert identify.identify('漢字とかな').language == 'ja'\n"
        "assert 'py3langid' not in sys.modules and 'numpy' not in sys.modules\n"
        "assert identify.identify('This is English.').language == 'en'\n"
        "assert 'py3langid' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
