"""What was measured as charts: which numbers each shows, and how they were got.

    for chart in charts.drawn(results, counts):     # counts: of premium.py, where there are any
        chart.title, chart.caption, chart.spec      # for a page, as wide as its place
        drawing.png(chart)                          # for a file

Deployments have numbers where there are several, the same in all charts. Knows what scores.py and
premium.py count. How marks are drawn is drawing.py's matter. Asks no server.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from slm_backends.multilingual import drawing, noise, premium, scores
from slm_backends.multilingual.drawing import Chart, Frame
from slm_backends.multilingual.noise import Interval
from slm_backends.multilingual.premium import Counts
from slm_backends.multilingual.results import Results
from slm_backends.multilingual.scores import Row

#: fidelity's badge -> its words and its colour, of Okabe and Ito's
BADGES: Mapping[str, tuple[str, str]] = {
    "right": ("right language", "#009E73"),
    "mixed": ("mixed", "#E69F00"),
    "english": ("English", "#D55E00"),
    "other": ("another language", "#CC79A7"),
    "unclear": ("unclear", "#999999"),
}
_LONGEST = 60  # characters of a deployment's name; a file from anywhere may have longer ones
_PREMIUM = "times the tokens of English"
_INTERVAL = (
    f"A line is the 95 % bootstrap interval over the prompts ({noise.RESAMPLES:,} resamples); "
    f"fewer than {noise.FEWEST} prompts have none."
)


def drawn(results: Results, counts: Sequence[Counts] = ()) -> tuple[Chart, ...]:
    """All charts for which there is something to draw."""
    made = (
        fidelity(results),
        usable(results),
        token_premium(results, counts),
        sent_premium(results, {found.deployment for found in counts}),
        correctness(results),
        overlap(results),
        characters_per_second(results),
        tokens_per_second(results),
        first_token(results),
    )
    return tuple(chart for chart in made if chart is not None)


def fidelity(results: Results) -> Chart | None:
    """In which language the replies are."""
    frame = _frame(
        results,
        "fidelity",
        "In which language replies are",
        "share of replies",
        "Share of whole replies by the language of their lines and words: right language where "
        "every line and word is in the wanted one, mixed where some are not, else the language of "
        "most letters.",
    )
    names = deployment_names(results.plan.deployments)
    values = [
        {
            "language": row.language,
            "deployment": names[row.deployment],
            "part": badge,
            "replies": count,
            "share": count / row.done,
        }
        for row in scores.table(results)
        for badge, count in row.badges.items()
    ]
    return drawing.stacked(frame, values, BADGES)


def token_premium(results: Results, counts: Sequence[Counts]) -> Chart | None:
    """What the shipped set costs in tokens beside English: a bar for each language and tokenizer,
    which deployments may share."""
    order = results.plan.deployments
    names = deployment_names(order)
    sharing: dict[str, list[Counts]] = {}
    for found in sorted(counts, key=lambda found: order.index(found.deployment)):
        sharing.setdefault(found.tokenizer, []).append(found)
    values = []
    for group in sharing.values():
        first, *others = (found.deployment for found in group)
        same = "".join(f"{order.index(other) + 1} = " for other in others)
        names[first] = same + names[first]
        values += [
            {"language": code, "deployment": names[first], "value": cost.premium}
            for code, cost in group[0].costs.items()
        ]
    frame = Frame(
        "token-premium",
        "Tokens for the same content",
        _PREMIUM,
        "Tokens of the shipped set in a language / its tokens in English, by the deployment's own "
        "tokenizer, without a template (Petrov et al. 2023). The line is English. Deployments that "
        "share a tokenizer, with = between their numbers, share a bar.",
        results.plan.languages,
        tuple(names.values()),
    )
    return drawing.bars(frame, values, line=1)


def sent_premium(results: Results, known: Collection[str] = ()) -> Chart | None:
    """What prompts of the run cost beside the same in English, as they were counted when they were
    sent; without the deployments that are `known` better."""
    frame = _frame(
        results,
        "sent-premium",
        "Tokens of the prompts as sent",
        _PREMIUM,
        "Tokens of the prompts of this run in a language / tokens of the same prompts in English, "
        "as the runtime or server counted them. The template is in both, so that of short prompts "
        "it comes out nearer to 1 than it is. The line is English.",
    )
    names = deployment_names(results.plan.deployments)
    values = [
        {"language": code, "deployment": names[deployment], "value": found.premium}
        for deployment, costs in premium.measured(results).items()
        if deployment not in known
        for code, found in costs.items()
    ]
    return drawing.bars(frame, values, line=1)


def usable(results: Results) -> Chart | None:
    """How many replies somebody may have something of, with intervals."""
    frame = _frame(
        results,
        "usable",
        "Usable replies",
        "share usable",
        "Replies in the right language, every line and word, that are neither empty nor mostly the "
        "prompt again nor go round in circles / replies. Whether they are true is not in it. "
        f"{_INTERVAL}",
    )
    return _intervals(results, frame, lambda row: row.usable, top=1)


def correctness(results: Results) -> Chart | None:
    """How many numbers are right, with intervals."""
    frame = _frame(
        results,
        "correct",
        "Word problems with the right number",
        "share right",
        "Replies whose last number is the answer / replies to problems with an answer; a reply "
        f"without a number is not right. {_INTERVAL}",
    )
    return _intervals(results, frame, lambda row: row.accuracy, top=1)


def overlap(results: Results) -> Chart | None:
    """chrF against the references, with intervals."""
    frame = _frame(
        results,
        "chrf",
        "Likeness to the reference (chrF)",
        "chrF, 0 to 100",
        "chrF = 5 P R / (4 P + R), with P and R the share of n-grams of 1 to 6 characters in the "
        "reply and in the reference that both have (Popović 2015), over all replies of a row "
        f"together; compare deployments in a language, not languages. {_INTERVAL}",
    )
    return _intervals(results, frame, lambda row: row.chrf, top=100)


def characters_per_second(results: Results) -> Chart | None:
    """Comparable where tokenizers differ."""
    frame = _frame(
        results,
        "characters-per-second",
        "Speed a reader feels",
        "characters per second",
        "Median over replies of characters / time from the first token to the last. It can be "
        "compared where tokenizers differ, but not between scripts: a Chinese character says more.",
    )
    return _medians(results, frame, lambda row: row.characters_per_second)


def tokens_per_second(results: Results) -> Chart | None:
    """As every model's speed is told."""
    frame = _frame(
        results,
        "tokens-per-second",
        "Speed of the model",
        "tokens per second",
        "Median over replies of (tokens - 1) / time from the first token to the last.",
    )
    return _medians(results, frame, lambda row: row.tokens_per_second)


def first_token(results: Results) -> Chart | None:
    """How long a reader waits."""
    frame = _frame(
        results,
        "first-token",
        "Time to the first token",
        "seconds",
        "Median over replies of the time from the prompt to the first token; where a server sends "
        "no times of its own, its queue and the network are in it.",
    )
    return _medians(results, frame, lambda row: row.wait_s)


def deployment_names(deployments: Sequence[str]) -> dict[str, str]:
    """Deployment -> what charts and reports call it: with its number where there are several."""
    if len(deployments) == 1:
        return {deployments[0]: deployments[0][:_LONGEST]}
    return {name: f"{number} {name[:_LONGEST]}" for number, name in enumerate(deployments, 1)}


def _frame(results: Results, name: str, title: str, unit: str, caption: str) -> Frame:
    plan = results.plan
    deployments = tuple(deployment_names(plan.deployments).values())
    return Frame(name, title, unit, caption, plan.languages, deployments)


def _medians(results: Results, frame: Frame, median: Callable[[Row], float | None]) -> Chart | None:
    names = deployment_names(results.plan.deployments)
    values = [
        {"language": row.language, "deployment": names[row.deployment], "value": value}
        for row in scores.table(results)
        if (value := median(row)) is not None
    ]
    return drawing.bars(frame, values)


def _intervals(
    results: Results, frame: Frame, interval: Callable[[Row], Interval | None], *, top: float
) -> Chart | None:
    names = deployment_names(results.plan.deployments)
    values = [
        {
            "language": row.language,
            "deployment": names[row.deployment],
            "value": found.value,
            "low": found.low,
            "high": found.high,
            "prompts": found.counted,
        }
        for row in scores.table(results)
        if (found := interval(row)) is not None
    ]
    return drawing.intervals(frame, values, top=top)
