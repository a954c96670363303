"""The languages that a comparison can be run in: their names, scripts and direction.

Data, and nothing else. Codes are BCP 47's; scripts are ISO 15924's, with Chinese, Japanese and
Korean as the scripts that their texts are really made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slm_backends.errors import BadRequest


@dataclass(frozen=True)
class Language:
    """`name` is English, `own` is what its speakers call it.

    scripts        that its texts are written in
    right_to_left  in which it is read
    spaced         whether spaces stand between its words
    phi            whether Phi-3.5's card names it: 23 of them
    """

    code: str
    name: str
    own: str
    scripts: tuple[str, ...] = ("Latn",)
    right_to_left: bool = False
    spaced: bool = True
    phi: bool = True


_ALL = (
    Language("ar", "Arabic", "العربية", ("Arab",), right_to_left=True),
    Language("zh", "Chinese", "中文", ("Hani",), spaced=False),
    Language("cs", "Czech", "Čeština"),
    Language("da", "Danish", "Dansk"),
    Language("nl", "Dutch", "Nederlands"),
    Language("en", "English", "English"),
    Language("fi", "Finnish", "Suomi"),
    Language("fr", "French", "Français"),
    Language("de", "German", "Deutsch"),
    Language("he", "Hebrew", "עברית", ("Hebr",), right_to_left=True),
    Language("hu", "Hungarian", "Magyar"),
    Language("it", "Italian", "Italiano"),
    Language("ja", "Japanese", "日本語", ("Hani", "Hira", "Kana"), spaced=False),
    Language("ko", "Korean", "한국어", ("Hang", "Hani")),
    Language("nb", "Norwegian", "Norsk bokmål"),
    Language("pl", "Polish", "Polski"),
    Language("pt", "Portuguese", "Português"),
    Language("ru", "Russian", "Русский", ("Cyrl",)),
    Language("es", "Spanish", "Español"),
    Language("sv", "Swedish", "Svenska"),
    Language("th", "Thai", "ไทย", ("Thai",), spaced=False),
    Language("tr", "Turkish", "Türkçe"),
    Language("uk", "Ukrainian", "Українська", ("Cyrl",)),
    Language("bn", "Bengali", "বাংলা", ("Beng",), phi=False),
    Language("hi", "Hindi", "हिन्दी", ("Deva",), phi=False),
    Language("id", "Indonesian", "Bahasa Indonesia", phi=False),
    Language("sw", "Swahili", "Kiswahili", phi=False),
    Language("vi", "Vietnamese", "Tiếng Việt", phi=False),
)

LANGUAGES: Mapping[str, Language] = {language.code: language for language in _ALL}

#: What people also write for a code.
_ALIASES = {"no": "nb", "zh-cn": "zh", "zh-hans": "zh", "pt-br": "pt", "pt-pt": "pt", "iw": "he"}


def language(text: str) -> Language:
    """The language of a code or a name, in English or its own. Raises BadRequest."""
    wanted = text.strip().replace("_", "-").lower()
    wanted = _ALIASES.get(wanted, wanted)
    for known in _ALL:
        if wanted in (known.code, known.name.lower(), known.own.lower()):
            return known
    raise BadRequest(
        f"There is no language called {text.strip()[:40]!r} here.",
        field="language",
        hint=f"Known are: {', '.join(LANGUAGES)}.",
    )
