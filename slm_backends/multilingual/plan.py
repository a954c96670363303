"""What a comparison asks: questions in several languages, of several deployments.

Knows no model and no file of a person's. A plan is all that is needed to do the same again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from slm_backends.chat import PARAMETERS, ChatRequest, Message, Sampling
from slm_backends.errors import BadRequest
from slm_backends.multilingual.languages import LANGUAGES

#: task -> what it is, in a few words. "file" is a file of one's own.
TASKS: Mapping[str, str] = {
    "ask": "a question in each language",
    "answer in": "one question, the reply wanted in each language",
    "translate": "the same sentences, from one language or into one",
    "summarise": "a text in each language, to be made short",
    "solve": "word problems, checked by their number",
    "file": "prompts of your own",
}
MAX_QUESTIONS = 5_000
MAX_DEPLOYMENTS = 8
MAX_AT_ONCE = 64
MAX_CHARACTERS = 20_000  # of a prompt

#: Greedy, as a warm model slips into other languages by chance.
SAMPLING = Sampling(max_tokens=200, temperature=0.0, top_p=1.0)

Key = tuple[str, str]  # (question's id, deployment's id): a cell


@dataclass(frozen=True)
class Question:
    """One prompt, asked of every deployment.

    id         unique in its plan, as "ask/rain/de"
    language   the row that it belongs to: a code of LANGUAGES
    expected   the language in which the reply should be
    reference  a good reply, for chrF; empty: none
    answer     the number that a right reply ends with, as decimal digits; empty: none
    content    the part of the prompt that means the same in every language
    line       of the file that it came from, 0 where it came from none
    """

    id: str
    language: str
    expected: str
    prompt: str
    system: str = ""
    reference: str = ""
    answer: str = ""
    content: str = ""
    line: int = 0

    def request(self, sampling: Sampling) -> ChatRequest:
        first = (Message("system", self.system),) if self.system.strip() else ()
        return ChatRequest((*first, Message("user", self.prompt)), sampling)


@dataclass(frozen=True)
class Plan:
    """Raises BadRequest for what cannot be run: a language that is not known, an id twice, too much
    of anything.

    title    for people
    at_once  requests that each deployment has under way, 0 for as many as go well: speeds are those
             of replies that are written beside each other
    """

    task: str
    deployments: tuple[str, ...]
    questions: tuple[Question, ...]
    sampling: Sampling = SAMPLING
    title: str = ""
    at_once: int = 0

    def __post_init__(self) -> None:
        for name in ("deployments", "questions"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if type(self.at_once) is not int or not 0 <= self.at_once <= MAX_AT_ONCE:
            raise BadRequest(
                f"at_once must be a whole number between 0 and {MAX_AT_ONCE}.", field="at_once"
            )
        if self.task not in TASKS:
            raise BadRequest(f"There is no task called {self.task!r}.", field="task")
        if not self.questions:
            raise BadRequest("There is nothing to ask.", field="questions")
        if not 1 <= len(self.deployments) <= MAX_DEPLOYMENTS:
            raise BadRequest(
                f"Choose 1 to {MAX_DEPLOYMENTS} deployments, not {len(self.deployments)}.",
                field="deployments",
            )
        if len(set(self.deployments)) < len(self.deployments):
            raise BadRequest("A deployment is named twice.", field="deployments")
        if len(self.questions) > MAX_QUESTIONS:
            raise BadRequest(
                f"A run has at most {MAX_QUESTIONS:,} prompts, not {len(self.questions):,}.",
                field="questions",
                hint="Choose fewer languages or prompts.",
            )
        seen: set[str] = set()
        for question in self.questions:
            self._check(question, seen)

    @staticmethod
    def _check(question: Question, seen: set[str]) -> None:
        if not question.id:
            raise BadRequest("A prompt has no id.", field="questions")
        if question.id in seen:
            raise BadRequest(f"Two prompts are called {question.id!r}.", field="questions")
        seen.add(question.id)
        for code in (question.language, question.expected):
            if code not in LANGUAGES:
                raise BadRequest(f"There is no language called {code!r}.", field="questions")
        if not 0 < len(question.prompt.strip()) <= MAX_CHARACTERS:
            raise BadRequest(
                f"A prompt has 1 to {MAX_CHARACTERS:,} characters; {question.id} does not.",
                field="questions",
            )

    @property
    def languages(self) -> tuple[str, ...]:
        """Of the rows, in the order in which they are asked."""
        return tuple(dict.fromkeys(question.language for question in self.questions))

    @property
    def keys(self) -> tuple[Key, ...]:
        """All cells, deployment by deployment, each in the order of the questions."""
        return tuple(
            (question.id, deployment)
            for deployment in self.deployments
            for question in self.questions
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON; fields that say nothing are left out of questions."""
        questions = [
            {name: value for name, value in asdict(question).items() if value not in ("", 0)}
            for question in self.questions
        ]
        return asdict(self) | {"questions": questions}

    @classmethod
    def from_json(cls, given: Any) -> Plan:
        """Raises BadRequest for what `to_json` would not have written."""
        try:
            known = (*PARAMETERS, "stop", "left_out")
            sampling = {name: value for name, value in given["sampling"].items() if name in known}
            sampling["left_out"] = _texts(sampling.get("left_out", []))
            return cls(
                given["task"],
                _texts(given["deployments"]),
                tuple(_question(item) for item in given["questions"]),
                Sampling(**sampling),
                str(given.get("title", "")),
                given.get("at_once", 0),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise BadRequest(f"This is no plan of a comparison: {error}.", field="plan") from None


def _texts(given: Any) -> tuple[str, ...]:
    if not isinstance(given, (list, tuple)) or not all(isinstance(item, str) for item in given):
        raise TypeError("a list of texts is something else")
    return tuple(given)


def _question(given: Mapping[str, Any]) -> Question:
    names = {field.name for field in fields(Question)}
    if unknown := sorted(given.keys() - names):
        raise BadRequest(f"A prompt has no field called {unknown[0]!r}.", field="questions")
    for name, value in given.items():
        if not isinstance(value, int if name == "line" else str):
            raise BadRequest(f"{name} of a prompt is of the wrong kind.", field="questions")
    return Question(**given)
