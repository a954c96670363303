"""Whether deployments answer alike, and where they part: greedy replies, lined up token by token.

    relation(a, b)                 same artefact, same model, different models
    match(reply, reply)            where two replies part, and how sure each was of its token there
    compare(ids, prompts)          both, for every pair of several deployments

Knows deployments and replies. Knows no runtime, no terminal and no page. Natural logarithms.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from slm_backends import catalog, convert, run, selector
from slm_backends.catalog import Deployment
from slm_backends.chat import MAX_TOP_LOGPROBS, ChatRequest, Image, Logprob, Message, Sampling
from slm_backends.errors import BadRequest
from slm_backends.run import Reply

#: Two tokens whose log-probabilities are this near are a tie: one is at most a tenth likelier than
#: the other, and the rounding of a runtime decides.
TIE = 0.1
MAX_TOKENS = 64
LOOK_EVERY = 0.1  # seconds between two looks at a reply
LEAD = 40  # characters that are shown of what comes before a parting

Relation = Literal["same artefact", "same model", "not known", "different models"]


def relation(first: Deployment, second: Deployment) -> Relation:
    """What a comparison of these two compares.

    same artefact     the same published weights, converted in the same way, exactly or not at all
    same model        in another quantisation, precision or conversion
    not known         the same model; what a server really holds, nobody can see from here
    different models
    """
    if first.model.id != second.model.id:
        return "different models"
    if first.id == second.id or _weights(first) == _weights(second):
        return "same artefact"
    return "same model" if first.local and second.local else "not known"


def _weights(deployment: Deployment) -> tuple[object, str]:
    """What is equal for equal weights."""
    if deployment.source is None:
        return deployment.provider, deployment.served_as
    kind = convert.KINDS.get(deployment.convert)
    converted = "" if kind and kind.exact else deployment.convert
    return replace(deployment.source, id="", size=0, download=0), converted


def describe(first: Deployment, second: Deployment) -> str:
    """Their relation as a sentence for people."""
    if first.id == second.id:
        return "The same deployment."
    found = relation(first, second)
    if found == "different models":
        return f"Different models: {first.model.name} and {second.model.name}."
    if found == "not known":
        return "The same model; whether it is the same artefact is not known."
    if found == "same artefact":
        return f"The same weights on {first.place} and {second.place}."
    artefacts = [item.artefact or item.precision or item.id for item in (first, second)]
    return f"The same model, quantised or converted differently: {' and '.join(artefacts)}."


# --- two replies ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """What one of two replies says where they part.

    text     its token there, or its next word where only texts are known; None where it ends
    logprob  of its own token there, None where it is not known
    other    its log-probability of the other's token, None where that is not among its likeliest
    margin   between its likeliest token and the next
    """

    text: str | None
    logprob: float | None = None
    other: float | None = None
    margin: float | None = None


@dataclass(frozen=True)
class Match:
    """Two replies, lined up.

    by          "tokens" where both gave the ids of one tokenizer, else "text"
    characters  of the text that both begin with, up to the token at which they part
    tokens      how many both begin with, None by text
    before      the end of that text
    difference  mean |difference| of the log-probabilities of those tokens, None by text
    sides       where they part; None where neither says anything else than the other, as far as
                both go
    prompts     tokens of the prompt that each had read, None where not reported
    """

    by: Literal["tokens", "text"]
    characters: int
    tokens: int | None
    before: str
    difference: float | None
    sides: tuple[Side, Side] | None
    prompts: tuple[int | None, int | None]

    @property
    def tie(self) -> bool:
        """Whether both found the other's token about as likely as their own: no error of either."""
        return self.sides is not None and all(
            side.logprob is not None and side.other is not None and side.logprob - side.other <= TIE
            for side in self.sides
        )


def match(first: Reply, second: Reply) -> Match:
    """Line two replies up: by token ids where both give them, else by characters."""
    mine, others = first.logprobs, second.logprobs
    prompts = first.prompt_tokens, second.prompt_tokens
    common = _common(first.text, second.text)
    if not _one_tokenizer(mine, others):
        sides = _word(first, common), _word(second, common)
        parted = _parted(first, second, common, len(first.text), len(second.text))
        before = _end(first.text[:common])
        return Match("text", common, None, before, None, sides if parted else None, prompts)
    same = _common([token.id for token in mine], [token.id for token in others])
    common = min(common, sum(len(token.token) for token in mine[:same]))
    gaps = [abs(mine[at].logprob - others[at].logprob) for at in range(same)]
    sides = _side(mine, others, same), _side(others, mine, same)
    return Match(
        "tokens",
        common,
        same,
        _end(first.text[:common]),
        sum(gaps) / same if same else None,
        sides if _parted(first, second, same, len(mine), len(others)) else None,
        prompts,
    )


def _common(first: Sequence[object], second: Sequence[object]) -> int:
    """Length of what both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(first), len(second)))


def _parted(first: Reply, second: Reply, same: int, length: int, other_length: int) -> bool:
    """Whether they differ after `same`. One that was cut there says nothing else than the other,
    one that ended by itself does."""
    if same < length and same < other_length:
        return True
    ended = first if same == length else second
    return length != other_length and ended.finish_reason == "stop"


def _one_tokenizer(first: Sequence[Logprob], second: Sequence[Logprob]) -> bool:
    """Whether ids mean the same in both replies, going by all tokens that both name."""
    names, others = _names(first), _names(second)
    if names is None or others is None:
        return False
    shared = names.keys() & others.keys()
    alike = sum(names[token] == others[token] for token in shared)
    return alike > 0.9 * len(shared)  # servers spell special tokens in several ways


def _names(tokens: Sequence[Logprob]) -> dict[int, str] | None:
    """Text by id. Without spaces in front, as some tokenizers drop those where a reply begins."""
    named = [*tokens, *itertools.chain.from_iterable(token.top for token in tokens)]
    names = {token.id: token.token.lstrip(" ") for token in named if token.id is not None}
    return None if any(token.id is None for token in tokens) else names


def _side(mine: Sequence[Logprob], others: Sequence[Logprob], at: int) -> Side:
    if at >= len(mine):
        return Side(None)
    token = mine[at]
    wanted = others[at].id if at < len(others) else None
    other = next((item.logprob for item in token.top if item.id == wanted), None)
    return Side(token.token, token.logprob, other, _margin(token))


def _margin(token: Logprob) -> float | None:
    return token.top[0].logprob - token.top[1].logprob if len(token.top) > 1 else None


def _word(reply: Reply, at: int) -> Side:
    """The word from that character on, with what is known of the token that it stands in."""
    rest = reply.text[at:]
    found = re.match(r"\s*\S{1,20}", rest)
    word = found[0] if found else rest or None
    end = 0
    for token in reply.logprobs:
        end += len(token.token)
        if "\ufffd" in token.token:  # half a character: which one is where cannot be told
            break
        if end > at:
            return Side(word, token.logprob, margin=_margin(token))
    return Side(word)


def _end(text: str) -> str:
    return f"…{text[-LEAD:]}" if len(text) > LEAD else text


def words(found: Match, first: str, second: str) -> list[str]:
    """A match in sentences; `first` and `second` are what the two are called."""
    if found.sides is None:
        said = [f"{first} and {second} are the same for {_length(found)}."]
    else:
        at = f"after {_length(found)}, {_quoted(found.before)}" if found.before else "at once"
        said = [f"{first} and {second} part {at}."]
        one, other = found.sides
        said += [f"{first} {_says(one)}", f"{second} {_says(other)}"]
    if found.difference is not None:
        gap = found.difference
        said.append(f"Log-probabilities up to there differ by {gap:.2g} on average.")
    read, other_read = found.prompts
    if None not in found.prompts and read != other_read:
        said.append(f"They read different prompts: {read:,} and {other_read:,} tokens.")
    if found.tie:
        said.append("A tie, not an error: each finds the other's token about as likely as its own.")
    return said


def _length(found: Match) -> str:
    if found.tokens is None:
        return f"{found.characters:,} characters"
    return f"{found.tokens:,} token{'' if found.tokens == 1 else 's'}"


def _says(side: Side) -> str:
    if side.text is None:
        return "ends."
    if side.logprob is None:
        return f"says {_quoted(side.text)}."
    sure = f"log-probability {side.logprob:.2f}"
    if side.other is not None:
        sure += f", of the other's {side.other:.2f}"
    if side.margin is not None:
        sure += f", margin {side.margin:.2f}"
    return f"says {_quoted(side.text)} ({sure})."


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # on one line, whatever is in it


# --- several deployments --------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompt:
    text: str
    system: str = ""
    images: tuple[Image, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Two of the deployments, by their places, and a match for each prompt.

    `relation` and `words` are None and empty for what is not in the catalog; a match is None where
    one of the two did not answer.
    """

    first: int
    second: int
    relation: Relation | None
    words: str
    matches: tuple[Match | None, ...]

    @property
    def parted(self) -> int:
        """Prompts on which they part."""
        return sum(found is not None and found.sides is not None for found in self.matches)


@dataclass(frozen=True)
class Comparison:
    """`replies` has a row for each deployment, with a reply for each prompt, None for those that
    `stopped` says were not asked any more."""

    deployments: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    replies: tuple[tuple[Reply | None, ...], ...]
    pairs: tuple[Pair, ...]
    stopped: bool


Watch = Callable[[int, int, Reply], None]  # the places of deployment and prompt, the reply so far


def compare(
    ids: Sequence[str],
    prompts: Sequence[Prompt],
    *,
    max_tokens: int = MAX_TOKENS,
    watch: Watch = lambda deployment, prompt, reply: None,
) -> Comparison:
    """Ask each deployment every prompt, greedily, and line up the replies of each pair.

    One deployment after the other, so that they need not fit into the memory together. A reply
    that fails is kept with its error; Ctrl-C ends the asking, and what there is is compared.
    Raises NotFound or Unauthorized before anything is asked, BadRequest for fewer than two.
    """
    if len(ids) < 2:
        raise BadRequest("A comparison needs at least two deployments.")
    backends = [selector.backend(deployment_id) for deployment_id in ids]
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0, top_p=1.0)
    replies: list[list[Reply | None]] = [[None] * len(prompts) for _ in ids]
    stopped = False
    try:
        for place, backend in enumerate(backends):
            top = MAX_TOP_LOGPROBS if backend.capabilities.logprobs else None
            for number, prompt in enumerate(prompts):
                running = run.start(backend, ChatRequest(_messages(prompt), sampling, top))
                try:
                    while not (reply := running.reply).ended:
                        watch(place, number, reply)
                        running.wait(LOOK_EVERY)
                except KeyboardInterrupt:
                    running.cancel()
                    running.wait()
                    raise
                replies[place][number] = reply
    except KeyboardInterrupt:
        stopped = True
    pairs = [
        _pair(ids, replies, first, second)
        for first, second in itertools.combinations(range(len(ids)), 2)
    ]
    return Comparison(tuple(ids), tuple(prompts), tuple(map(tuple, replies)), tuple(pairs), stopped)


def _messages(prompt: Prompt) -> tuple[Message, ...]:
    first = (Message("system", prompt.system),) if prompt.system else ()
    return (*first, Message("user", prompt.text, prompt.images))


def _pair(
    ids: Sequence[str], replies: Sequence[Sequence[Reply | None]], first: int, second: int
) -> Pair:
    known = catalog.load().deployments
    one, other = known.get(ids[first]), known.get(ids[second])
    return Pair(
        first,
        second,
        relation(one, other) if one and other else None,
        describe(one, other) if one and other else "",
        tuple(
            match(mine, others)
            if mine and others and mine.state == others.state == "done"
            else None
            for mine, others in zip(replies[first], replies[second], strict=True)
        ),
    )
