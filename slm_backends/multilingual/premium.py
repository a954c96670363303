"""What a language costs in tokens: the same content, by the tokenizer of a deployment.

The premium of a language is its tokens over those of English, of the same content (Petrov et al.
2023, arXiv 2305.15425, section 3, where it is over the FLORES-200 corpus). Here the content is the
shipped set, so that the numbers are close to published ones and not equal to them.

`counts` is exact, for deployments whose tokenizer.json is on this computer. `measured` is for all
others: from the tokens that replies of a run reported.

Knows tokenizers and the shipped set. Loads no runtime, downloads nothing, asks nobody.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from slm_backends import store
from slm_backends.access import EVERYONE, Access
from slm_backends.multilingual import parallel
from slm_backends.multilingual.languages import LANGUAGES
from slm_backends.multilingual.results import Results

ENGLISH = "en"
#: Tasks whose prompts mean the same in each language, with what stands around the content.
TASKS = ("ask", "summarise", "solve")


@dataclass(frozen=True)
class Cost:
    """Of the shipped set in one language.

    tokens      content -> its tokens, without a template; by the names of `Texts.contents`
    total       of all of them
    characters  of all of them
    premium     total / English total
    words       between spaces, in all of them; None where the language has no spaces
    """

    language: str
    tokens: Mapping[str, int]
    total: int
    characters: int
    premium: float
    words: int | None

    @property
    def tokens_per_character(self) -> float:
        return self.total / self.characters

    def characters_in(self, context: int) -> int:
        """How many characters of the language a context of so many tokens holds."""
        return int(context * self.characters / self.total)

    def words_in(self, context: int) -> int | None:
        """How many words it holds; None where the language has no spaces between them."""
        return None if self.words is None else int(context * self.words / self.total)


@dataclass(frozen=True)
class Counts:
    """By the tokenizer of one deployment.

    tokenizer  a name for its vocabulary and merges. Two of the same name give the same tokens, but
               for what a file may say to do with a text before: as to split digits
    entries    in its vocabulary
    context    tokens that the model takes; None where not known
    costs      language -> what the shipped set costs in it
    """

    deployment: str
    tokenizer: str
    entries: int
    context: int | None
    costs: Mapping[str, Cost]


@dataclass(frozen=True)
class Measured:
    """From prompts that a run really sent, by what the server reported.

    premium  tokens in the language / tokens in English, over the same questions. The template,
             which is the same in both, and the instruction are in it: of short prompts the
             premium comes out nearer to 1 than it is.
    counted  questions that were asked in both languages
    """

    language: str
    premium: float
    tokens: int
    english: int
    counted: int


def counts(deployment_id: str, access: Access = EVERYONE) -> Counts | None:
    """What the shipped set costs; None where the deployment's tokenizer is not on this computer.
    Raises CatalogError for a mistake in the shipped set."""
    deployment = access.catalog().deployments.get(deployment_id)
    if deployment is None:  # the made-up ones that tests ask have no entry and no tokenizer
        return None
    file = store.folder(deployment) / "tokenizer.json"
    if not deployment.local or not store.is_ready(deployment) or not file.is_file():
        return None
    state = file.stat()
    name, entries, costs = _counted(file, state.st_mtime_ns, state.st_size)
    return Counts(deployment_id, name, entries, deployment.model.context, costs)


def sharing(found: Iterable[Counts]) -> tuple[tuple[str, ...], ...]:
    """Deployments by tokenizer: a group for each that several of them share."""
    groups: dict[str, list[str]] = {}
    for one in found:
        groups.setdefault(one.tokenizer, []).append(one.deployment)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def measured(results: Results) -> dict[str, dict[str, Measured]]:
    """Deployment -> language -> what its prompts cost beside the same in English. Only for tasks
    whose prompts mean the same, and questions that were asked in English too."""
    if results.plan.task not in TASKS:
        return {}
    asked: dict[str, dict[str, str]] = {}  # what is asked -> language -> id
    for question in results.plan.questions:
        asked.setdefault(question.id.rpartition("/")[0], {})[question.language] = question.id
    found: dict[str, dict[str, Measured]] = {}
    for deployment in results.plan.deployments:
        for language in results.plan.languages:
            pairs = []
            for ids in asked.values():
                cells = (results.cells.get((ids.get(c, ""), deployment)) for c in
                         (language, ENGLISH))  # fmt: skip
                here, there = (cell.prompt_tokens if cell else None for cell in cells)
                if here and there:
                    pairs.append((here, there))
            if pairs and language != ENGLISH:
                tokens, english = (sum(numbers) for numbers in zip(*pairs, strict=True))
                one = Measured(language, tokens / english, tokens, english, len(pairs))
                found.setdefault(deployment, {})[language] = one
    return found


@lru_cache(maxsize=64)
def _counted(file: Path, changed: int, size: int) -> tuple[str, int, Mapping[str, Cost]]:
    """The tokenizer's name, its entries and the costs. `changed` and `size` are the file's: another
    file in its place is counted anew."""
    content = file.read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_str(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    costs: dict[str, Cost] = {}
    known = [code for code in LANGUAGES if (parallel.FOLDER / f"{code}.toml").is_file()]
    for code in sorted(known, key=lambda code: code != ENGLISH):
        contents = parallel.texts(code).contents
        # One by one: encode_batch starts threads that stay.
        tokens = {
            name: len(tokenizer.encode(text, add_special_tokens=False).ids)
            for name, text in contents.items()
        }
        total = sum(tokens.values())
        characters = sum(map(len, contents.values()))
        words = sum(len(text.split()) for text in contents.values())
        costs[code] = Cost(
            code,
            tokens,
            total,
            characters,
            total / (costs[ENGLISH].total if costs else total),
            words if LANGUAGES[code].spaced else None,
        )
    return (
        _name(json.loads(content)["model"]),
        tokenizer.get_vocab_size(),
        {code: costs[code] for code in known},
    )


def _name(model: Mapping[str, Any]) -> str:
    """Of a vocabulary and its merges, however a file writes and orders them. Not of what is
    added to it for one model: control tokens are never in plain text."""
    merges = [
        merge.split(" ", 1) if isinstance(merge, str) else merge
        for merge in model.get("merges", ())
    ]
    vocabulary = model["vocab"]
    entries = sorted(vocabulary.items()) if isinstance(vocabulary, dict) else vocabulary
    told = json.dumps([model.get("type"), entries, merges]).encode()
    return hashlib.sha256(told).hexdigest()[:16]
