"""Results as a Markdown document, for people: what was asked, what came of it, what to beware of.

What models, files and servers wrote stands in it as plain text: no Markdown of theirs gets live, no
picture loads, no link can be followed. Knows what scores.py counts. Draws nothing: charts are named
by their files, which report.py writes beside it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict

from slm_backends.export import seconds
from slm_backends.multilingual import overlap, premium, scores
from slm_backends.multilingual.charts import BADGES, deployment_names
from slm_backends.multilingual.drawing import Chart, language_name
from slm_backends.multilingual.noise import FEWEST, RESAMPLES, Interval
from slm_backends.multilingual.plan import TASKS
from slm_backends.multilingual.premium import Counts
from slm_backends.multilingual.results import Cell, Results
from slm_backends.multilingual.scores import Parting, Row

MOST_PARTINGS = 5
MOST_ERRORS = 10
LONGEST = 600  # characters of a prompt or a reply; the whole ones are in the other files

_LIVE = re.compile(r"[\\`*_\[\]<>#!|~&$]")
_LINK = re.compile(r"(?i)(?<=[a-z]):(?=//)|(?<=www)\.|(?<=mailto):|(?<!\w)@|@(?=[\w-]+\.)")


def markdown(results: Results, charts: Sequence[Chart] = (), counts: Sequence[Counts] = ()) -> str:
    """The document. `charts` are shown from files called charts/NAME.png beside it; `counts` are
    what languages cost in tokens, where that is known."""
    parts = (
        _head(results),
        _caveats(results),
        _deployments(results),
        _table(results),
        _verdicts(results),
        _tokens(results, counts),
        _charts(charts),
        _partings(results),
        _parameters(results),
        _repeat(),
    )
    return "\n".join(line for part in parts for line in part)


def _head(results: Results) -> Iterator[str]:
    plan = results.plan
    yield f"# {plain(plan.title) or 'The same in many languages'}"
    yield ""
    yield f"Made {plain(results.made)}. Task: {plan.task}, that is {TASKS[plan.task]}."
    languages = ", ".join(map(language_name, plan.languages))
    yield (
        f"{len(plan.questions):,} prompts for each of {len(plan.deployments)} deployments, in "
        f"{len(plan.languages)} languages: {languages}."
    )
    yield ""


def _caveats(results: Results) -> Iterator[str]:
    """What there is to beware of; the heading only where there is something."""
    told = list(_found_caveats(results))
    if told:
        yield from ("## Beware", "", *(f"- {line}" for line in told), "")


def _found_caveats(results: Results) -> Iterator[str]:
    total, failed = len(results.plan.keys), len(results.failed)
    unasked = len(results.missing) - failed
    if unasked:
        yield f"{unasked:,} of {total:,} replies are missing: the run did not come to its end."
    if failed:
        yield f"{failed:,} of {total:,} prompts have no whole reply, and no part in any number:"
        errors = Counter((key[1], results.cells[key].error) for key in results.failed)
        names = deployment_names(results.plan.deployments)
        for (deployment, error), count in errors.most_common(MOST_ERRORS):
            yield f"{plain(names[deployment])}, {count:,} times: {plain(_cut(error))}"
        if len(errors) > MOST_ERRORS:
            yield f"And {len(errors) - MOST_ERRORS:,} other errors."
    if results.damaged:
        yield "The file that these results come from has lines that could not be read:"
        yield from map(plain, results.damaged)
    if results.plan.sampling.temperature:
        yield "The temperature is above 0: the same again gives other replies."
    asked = Counter(question.language for question in results.plan.questions)
    few = sum(count < FEWEST for count in asked.values())
    if few:
        which = "all languages" if few == len(asked) else f"{few} of {len(asked)} languages"
        yield f"{which.capitalize()} have fewer than {FEWEST} prompts: too few to tell by chance."


def _deployments(results: Results) -> Iterator[str]:
    rows = []
    for deployment, name in deployment_names(results.plan.deployments).items():
        about = results.abouts.get(deployment)
        said = ("", "", "", "") if about is None else asdict(about).values()
        rows.append([name, *said])
    yield from ("## What answered", "")
    yield from _drawn(["deployment", "runtime", "version", "device", "artefact"], rows)


#: heading -> what of a row stands under it; a column without anything is left out
_COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "replies": lambda row: f"{row.done}/{row.asked}",
    **{
        words: lambda row, badge=badge: str(row.badges.get(badge, "") or "")  # type: ignore[misc]
        for badge, (words, _) in BADGES.items()
    },
    "usable": lambda row: _share(row.usable.value if row.usable else None),
    "lines pass": lambda row: _share(row.rates.line),
    "words pass": lambda row: _share(row.rates.word),
    "both": lambda row: _share(row.rates.both),
    "right numbers": lambda row: f"{row.correct}/{row.checked}" if row.checked else "",
    "no number": lambda row: str(row.not_found or ""),
    "chrF": lambda row: _interval(row.chrf),
    "chrF++": lambda row: _interval(row.chrf_plus),
    "first token": lambda row: "" if row.wait_s is None else seconds(row.wait_s),
    "tokens/s": lambda row: _number(row.tokens_per_second),
    "characters/s": lambda row: _number(row.characters_per_second),
    "flags": lambda row: ", ".join(f"{count} {flag}" for flag, count in row.flags.items()),
}


def _table(results: Results) -> Iterator[str]:
    names = deployment_names(results.plan.deployments)
    rows = scores.table(results)
    columns = [name for name, shown in _COLUMNS.items() if any(map(shown, rows))]
    yield from ("## By language and deployment", "")
    yield from _drawn(
        ["language", "deployment", *columns],
        [
            [
                language_name(row.language),
                names[row.deployment],
                *(_COLUMNS[name](row) for name in columns),
            ]
            for row in rows
        ],
    )
    yield (
        "Replies are whole ones of those that were asked for; all else is of them. Usable: in the "
        "right language, and neither empty, mostly the prompt, nor going round in circles; whether "
        "they are true is not in it. Lines pass: "
        "replies whose every line is in the wanted language, of those with a line that can be "
        "judged. Words pass: of these, replies free of English words, where the wanted language "
        "has another script than Latin. Both: their harmonic mean (Marchisio et al. 2024, arXiv "
        "2406.20052). Speeds and the time to the first token are medians; spans are 95 % bootstrap "
        f"intervals ({RESAMPLES:,} resamples)."
    )
    yield ""
    flags = {flag for row in rows for flag in row.flags}
    for flag, meaning in scores.FLAGS.items():
        if flag in flags:
            yield f"- {flag}: {meaning}"
    if any(row.chrf for row in rows):
        yield f"- chrF: `{overlap.signature()}`"
        yield f"- chrF++: `{overlap.signature(words=True)}`"
    yield ""


def _verdicts(results: Results) -> Iterator[str]:
    found = scores.verdicts(results)
    if not found:
        return
    yield from ("## Which differences tell something", "")
    counted = Counter(one.difference.verdict for one in found if one.language)
    for one in found:
        if not one.language or one.difference.verdict in ("more", "less"):
            yield f"- {plain(one.words)}"
    for verdict in ("within noise", "too few to tell"):
        if counted[verdict]:
            yield f"- {counted[verdict]:,} other comparisons, each in one language: {verdict}."
    yield ""
    yield (
        "Two deployments are compared over the prompts that both answered. A difference is within "
        "noise where its 95 % bootstrap interval holds 0, and nothing is ranked by it. Of many "
        "comparisons, one in twenty comes out as more than noise by chance alone."
    )
    yield ""


def _tokens(results: Results, counts: Sequence[Counts]) -> Iterator[str]:
    """By tokenizer, for the languages of the plan."""
    names = deployment_names(results.plan.deployments)
    rows = [
        [
            language_name(code),
            names[found.deployment],
            f"{cost.premium:.2f}",
            f"{cost.tokens_per_character:.2f}",
            "" if found.context is None else f"{cost.characters_in(found.context):,}",
        ]
        for code in results.plan.languages
        for found in counts
        if (cost := found.costs.get(code)) is not None
    ]
    if not rows:
        return
    yield from ("## What languages cost in tokens", "")
    heading = ["language", "deployment", "English = 1", "tokens a character"]
    yield from _drawn([*heading, "characters in its context"], rows)
    yield (
        "By the deployment's own tokenizer, over the shipped set, which says the same in all "
        "languages; without a template."
    )
    yield ""
    for group in premium.sharing(counts):
        yield f"- One tokenizer: {', '.join(plain(names[deployment]) for deployment in group)}."
    yield ""


def _charts(charts: Sequence[Chart]) -> Iterator[str]:
    if charts:
        yield from ("## Charts", "")
    for chart in charts:
        yield from (f"### {chart.title}", "", f"![{chart.title}](charts/{chart.name}.png)", "")
        yield from (chart.caption, "")


def _partings(results: Results) -> Iterator[str]:
    """The prompts over which the first deployment parts most from another one."""
    first, *others = results.plan.deployments
    found = [
        (parting, other)
        for other in others
        for parting in scores.partings(results, first, other)
        if parting.reasons
    ]
    found.sort(key=lambda each: -each[0].weight)
    most: dict[str, tuple[Parting, str]] = {}  # by prompt, so that none is told of twice
    for parting, other in found:
        most.setdefault(parting.question.id, (parting, other))
    if most:
        yield from ("## Where replies part most", "")
    for parting, other in list(most.values())[:MOST_PARTINGS]:
        yield from _parting(results, parting, first, other)


def _parting(results: Results, parting: Parting, *deployments: str) -> Iterator[str]:
    question = parting.question
    yield f"### {language_name(question.language)}: {plain(question.id)}"
    yield ""
    yield from (f"- {plain(reason)}" for reason in parting.reasons)
    yield ""
    yield from ("Prompt:", "", *_quoted(question.prompt))
    if question.reference:
        yield from ("Reference:", "", *_quoted(question.reference))
    for deployment in deployments:
        cell = results.cells[question.id, deployment]
        yield from (f"{plain(deployment)}:", "", *_reply(cell))


def _reply(cell: Cell) -> Iterator[str]:
    if cell.text:
        yield from _quoted(cell.text)
    if cell.error:
        yield from (f"Failed: {plain(_cut(cell.error))}", "")
    elif not cell.text:
        yield from ("An empty reply.", "")


def _parameters(results: Results) -> Iterator[str]:
    sampling = results.plan.sampling
    asked = sampling.asked()
    yield from ("## Parameters and versions", "")
    rows = [[name, repr(value)] for name, value in asdict(sampling).items() if name in asked]
    rows.append(["requests at once", str(results.plan.at_once or "as many as go well")])
    yield from _drawn(["parameter", "value"], rows)
    yield from _drawn(["of", "version"], [[name, text] for name, text in results.versions.items()])
    systems = dict.fromkeys(q.system for q in results.plan.questions if q.system.strip())
    if len(systems) == 1:
        yield from ("System prompt:", "", *_quoted(next(iter(systems))))


def _repeat() -> Iterator[str]:
    yield from (
        "## How to do it again",
        "",
        "The first line of results.jsonl is the plan: prompts, deployments and parameters, which "
        "is all that is needed. Either open the file on the page “Many languages” and press "
        "“Run this again”, or type:",
        "",
        "```",
        "python -m slm_backends multilingual --repeat results.jsonl",
        "```",
        "",
    )


def plain(text: str) -> str:
    """One line in which a reader of Markdown sees the text and nothing else."""
    line = " ".join(text.split())
    return _LINK.sub(r"\\\g<0>", _LIVE.sub(r"\\\g<0>", line))


def _quoted(text: str) -> list[str]:
    """As it was written, as code: its fence is longer than any in it."""
    shown = _cut(re.sub(r"\r\n?", "\n", text))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return [f"{fence}text", *shown.split("\n"), fence, ""]


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"


def _drawn(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heading)} |"
    yield f"|{'---|' * len(heading)}"
    for row in rows:
        yield f"| {' | '.join(map(plain, row))} |"
    yield ""


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _interval(found: Interval | None) -> str:
    if found is None:
        return ""
    span = f" ({found.low:.1f} to {found.high:.1f})" if found.counted >= FEWEST else ""
    return f"{found.value:.1f}{span}"
