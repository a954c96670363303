"""From a task and languages to questions, out of the shipped set.

    tasks.questions("translate", ["de", "zh"], names=["museum"], other="en", into=False)

Knows what each task puts around a text, in which language the reply should be and what is known
of a right one. Knows neither models nor a person's own file, which is table_file.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slm_backends.errors import BadRequest
from slm_backends.multilingual import parallel
from slm_backends.multilingual.languages import LANGUAGES, language
from slm_backends.multilingual.plan import Question

#: task -> the part of the set that it asks
PARTS: Mapping[str, str] = {
    "ask": "ask",
    "answer in": "ask",
    "translate": "sentences",
    "summarise": "passages",
    "solve": "problems",
}


def names(task: str) -> tuple[str, ...]:
    """What there is to choose from for a task, the same in every language. Raises BadRequest for a
    task that the set has nothing for, as "file"."""
    return tuple(_part(task, "en"))


def questions(
    task: str,
    languages: Sequence[str],
    *,
    names: Sequence[str] = (),
    other: str = "en",
    into: bool = True,
) -> tuple[Question, ...]:
    """The questions of a task, language by language in the order given.

    languages  codes or names; one given twice counts once
    names      some of `names(task)`; empty: all of them
    other      of "translate", the language that stays: with `into`, texts in it are to be put into
               each of `languages`, else texts in each of those into it. It is no row of its own.

    Raises BadRequest for a task, language or name that is not known and where none is left, and
    CatalogError where a file of the set has a mistake.
    """
    chosen = _chosen(task, names)
    fixed = language(other).code
    codes = dict.fromkeys(language(code).code for code in languages)
    if task == "translate":
        codes.pop(fixed, None)
    if not codes:
        raise BadRequest(
            f"There is nothing to translate but from {LANGUAGES[fixed].name} into itself."
            if task == "translate" and languages
            else "No language is chosen.",
            field="languages",
            hint="Choose one more language.",
        )
    if task == "translate":
        pairs = [(fixed, code) if into else (code, fixed) for code in codes]
        return tuple(
            _translate(name, source, target, row=code)
            for (source, target), code in zip(pairs, codes, strict=True)
            for name in chosen
        )
    return tuple(_question(task, name, code) for code in codes for name in chosen)


def _question(task: str, name: str, code: str) -> Question:
    told_in = "en" if task == "answer in" else code
    content = _part(task, told_in)[name]
    say = parallel.texts(told_in).say
    prompts = {
        "ask": content,
        "answer in": f"{content} Answer in {LANGUAGES[code].name}.",
        "summarise": f"{say['summarise']}\n\n{content}",
        "solve": f"{say['solve']}\n\n{content}",
    }
    answer = str(parallel.answers()[name]) if task == "solve" else ""
    return Question(
        f"{task}/{name}/{code}", code, code, prompts[task], answer=answer, content=content
    )


def _translate(name: str, source: str, target: str, row: str) -> Question:
    content = parallel.texts(source).sentences[name]
    return Question(
        f"translate/{name}/{source}-{target}",
        row,
        target,
        f"{parallel.texts(target).say['translate']}\n\n{content}",
        reference=parallel.texts(target).sentences[name],
        content=content,
    )


def _chosen(task: str, wanted: Sequence[str]) -> tuple[str, ...]:
    known = names(task)
    if not wanted:
        return known
    for name in wanted:
        if name not in known:
            raise BadRequest(
                f"The set has nothing called {name[:40]!r} for the task {task!r}.",
                field="names",
                hint=f"It has {', '.join(known)}.",
            )
    return tuple(name for name in known if name in wanted)


def _part(task: str, code: str) -> Mapping[str, str]:
    if task not in PARTS:
        raise BadRequest(
            f"There is no task called {task[:40]!r} in the shipped set.",
            field="task",
            hint=f"It has {', '.join(PARTS)}.",
        )
    part: Mapping[str, str] = getattr(parallel.texts(code), PARTS[task])
    return part
