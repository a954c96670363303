"""The lesson's demo: Chinese prompts, Phi-3 mini beside Phi-3.5 mini, and their published scores.

    offer = lesson.offer(access)
    offer.plan               # of those of the two that can answer now; None where neither can
    offer.wanted[0].ways     # what brings a model that cannot, the shortest way first

Knows which models and prompts the demo has. Fetches nothing and asks no server.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from slm_backends import fit, selector
from slm_backends.access import EVERYONE, Access
from slm_backends.catalog import Deployment, Model
from slm_backends.errors import NotFetched
from slm_backends.multilingual import tasks
from slm_backends.multilingual.plan import Plan, Question

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MODELS = ("phi-3-mini-4k-instruct", "phi-3.5-mini-instruct")
LANGUAGE = "zh"
TITLE = "The lesson's demo: Chinese, Phi-3 mini beside Phi-3.5 mini"
#: States in which a deployment has an answer to give. A server that nobody has asked yet is none.
ANSWERS = ("loaded", "ready", "rate limited")
#: The prompt of generative-ai-for-beginners, 19-slm/python/phi35-instruct-demo.ipynb.
CHANGSHA = Question(
    "lesson/changsha/zh",
    LANGUAGE,
    LANGUAGE,
    "你知道长沙吗？",
    system="你是我的人工智能助手，协助我用中文解答问题.",
    content="你知道长沙吗？",
)
PUBLISHED = Path(__file__).with_name("published.toml")


@dataclass(frozen=True)
class Way:
    """How a deployment that cannot answer now comes to.

    what     to do, in a sentence; `command` is what to type for it, empty where nothing is typed
    size     bytes that a fetch brings, 0 where nothing is fetched here, or not known
    fits     whether this computer's memory holds it; what runs on a server takes none of it
    """

    deployment: str
    label: str
    what: str
    command: str = ""
    size: int = 0
    fits: bool = True


@dataclass(frozen=True)
class Wanted:
    """A model of the demo: the deployment that answers for it now, or "" and the ways to one."""

    model: Model
    deployment: str
    ways: tuple[Way, ...]


@dataclass(frozen=True)
class Offer:
    """The demo as it can be had now: `plan` asks those that can answer."""

    wanted: tuple[Wanted, ...]
    plan: Plan | None

    @property
    def whole(self) -> bool:
        return all(item.deployment for item in self.wanted)


@dataclass(frozen=True)
class Published:
    """Scores that others report. `scores` is test -> a number a model, in the order of `models`;
    `note` says how far they can be compared with what is measured here."""

    title: str
    source: str
    note: str
    models: tuple[str, ...]
    scores: Mapping[str, tuple[float, ...]]


def questions() -> tuple[Question, ...]:
    """The lesson's own prompt, then those that the shipped set asks in Chinese."""
    return (CHANGSHA, *tasks.questions("ask", [LANGUAGE]))


def offer(access: Access = EVERYONE) -> Offer:
    """What there is of the demo for this visitor. Where both models can answer on the same runtime,
    they do: then the model is all that differs."""
    known = access.catalog()
    of = {
        model: [item for item in known.deployments.values() if item.model.id == model]
        for model in MODELS
    }
    able = {model: _able(items, access) for model, items in of.items()}
    shared = set.intersection(*({item.place for item in items} for items in able.values()))
    place = next((item.place for item in able[MODELS[0]] if item.place in shared), "")
    wanted = []
    for model, items in of.items():
        chosen = next((item for item in able[model] if item.place == place), None)
        if chosen is None and able[model]:
            chosen = able[model][0]
        ways = () if chosen else _ways(items, access)
        wanted.append(Wanted(known.models[model], chosen.id if chosen else "", ways))
    ids = tuple(item.deployment for item in wanted if item.deployment)
    return Offer(tuple(wanted), Plan("ask", ids, questions(), title=TITLE) if ids else None)


def plan(access: Access = EVERYONE) -> Plan:
    """The plan of the offer. Raises NotFetched, with a command that helps, where there is none."""
    found = offer(access)
    if found.plan is None:
        commands = [item.ways[0].command for item in found.wanted if item.ways]
        raise NotFetched(
            "Neither model of the lesson's demo can answer here now.",
            hint=f"Run {' and '.join(filter(None, commands))}." if any(commands) else "",
        )
    return found.plan


@cache
def published() -> tuple[Published, ...]:
    """The tables of published.toml."""
    read = tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))
    return tuple(
        Published(
            table["title"],
            table["source"],
            table["note"],
            tuple(table["models"]),
            {test: tuple(map(float, scores)) for test, scores in table["scores"].items()},
        )
        for table in read["tables"].values()
    )


def _able(deployments: Sequence[Deployment], access: Access) -> list[Deployment]:
    """Those that can answer now, local ones first."""
    able = []
    for item in deployments:
        state = selector.state(item, access)
        too_large = item.local and bool(state.reason)
        if state.word in ANSWERS and not too_large:
            able.append(item)
    return sorted(able, key=lambda item: not item.local)


def _ways(deployments: Sequence[Deployment], access: Access) -> tuple[Way, ...]:
    """A way a runtime, in the catalog's order, which is that of all models: runtimes of this
    computer, servers, and last what does not fit its memory."""
    ways: dict[str, Way] = {}
    for item in sorted(deployments, key=lambda item: not item.local):
        way = _way(item, access)
        if way is not None and (item.runtime not in ways or not ways[item.runtime].fits):
            ways[item.runtime] = way
    return tuple(sorted(ways.values(), key=lambda way: not way.fits))


def _way(deployment: Deployment, access: Access) -> Way | None:
    """None where nothing that a person does here can help: hardware that is not there, a runtime
    that is not installed, a model that its provider has ended."""
    state = selector.state(deployment, access)
    if state.word == "ready":  # but too large, or it would be asked
        return Way(deployment.id, deployment.label, _sentence(state.reason), fits=False)
    if state.word == "fetchable":
        verdict = fit.fits(deployment)
        return Way(
            deployment.id,
            deployment.label,
            _sentence(verdict.reason) or "Fetch it to this computer.",
            f"python -m slm_backends fetch {deployment.id}",
            deployment.size,
            verdict.fits,
        )
    if deployment.local or state.word == "retired":
        return None
    dialect = deployment.provider.dialect if deployment.provider else ""
    pull = f"ollama pull {deployment.served_as}" if dialect == "ollama" else ""
    return Way(deployment.id, deployment.label, _sentence(state.reason), pull)


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if not text or text.endswith(".") else f"{text}."
