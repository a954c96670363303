"""`multilingual`: ask several deployments the same in many languages, from the command line.

Knows arguments, files and how a run looks on a terminal. What is asked is tasks.py's matter, how it
is worked through runner.py's, what is measured scores.py's, all in slm_backends/multilingual.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from slm_backends import selector
from slm_backends.chat import Sampling
from slm_backends.errors import BadRequest, SLMError
from slm_backends.multilingual import report, scores, table_file, tasks
from slm_backends.multilingual import results as files
from slm_backends.multilingual.languages import LANGUAGES
from slm_backends.multilingual.plan import Plan, Question
from slm_backends.multilingual.results import Results
from slm_backends.multilingual.runner import Campaign, Progress
from slm_backends.terminal import Status, duration, printable, say

STOPPED = 130  # exit code, as for a process that Ctrl-C ended
LOOK_EVERY = 0.2  # seconds between two looks at a run
FILES = (".csv", ".tsv", ".jsonl", ".xlsx")  # of prompts of one's own
FEW = ("en", "de", "es", "zh", "hi")  # without --languages
GROUPS = {
    "few": FEW,
    "phi": tuple(code for code, known in LANGUAGES.items() if known.phi),
    "all": tuple(LANGUAGES),
}
BADGES = {"right": "right", "mixed": "mixed", "english": "English", "other": "other"}


def main(options: argparse.Namespace) -> int:
    """As the command line's options say. Raises SLMErrors; the exit code is `run`'s."""
    given = [bool(options.deployments), bool(options.resume), bool(options.repeat)]
    if sum(given) != 1:
        raise BadRequest(
            "Name deployments, or a file with --resume or --repeat: one of the three.",
            hint="For example: python -m slm_backends multilingual smollm2-135m-instruct@onnx",
        )
    if options.resume:
        file = Path(options.resume)
        results = resumed(file, failed=options.failed)
    else:
        file = Path(options.out or time.strftime("multilingual-%Y%m%d-%H%M%S.jsonl"))
        if file.exists():
            raise BadRequest(
                f"{file} is there already.",
                field="out",
                hint="Choose another name, or go on with it: --resume.",
            )
        results = Results(repeated(Path(options.repeat)) if options.repeat else _asked(options))
    return run(results, file, as_json=options.json, report_file=options.report)


def _asked(options: argparse.Namespace) -> Plan:
    return plan(
        options.deployments,
        task=options.task,
        languages=options.languages,
        prompts=options.prompts,
        other=options.other,
        back=options.back,
        sampling=Sampling(
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            top_p=1.0,
            seed=options.seed,
        ),
        at_once=options.at_once,
    )


def plan(
    deployments: Sequence[str],
    *,
    task: str,
    languages: str,
    prompts: str,
    other: str,
    back: bool,
    sampling: Sampling,
    at_once: int,
) -> Plan:
    """What the options ask for. Raises BadRequest and NotFound.

    languages  codes or names with commas between them, or one of GROUPS
    prompts    names of the shipped set with commas between them, a file of one's own, or empty
    other      of "translate", the language at the other end; with `back` it is translated into
    """
    for deployment in deployments:
        selector.check(deployment)
    task = task.replace("-", " ")
    if Path(prompts).suffix.lower() in FILES:
        return Plan("file", tuple(deployments), _own(Path(prompts)), sampling, at_once=at_once)
    codes = GROUPS.get(languages) or [part for part in languages.split(",") if part.strip()]
    names = [part.strip() for part in prompts.split(",") if part.strip()]
    questions = tasks.questions(task, codes, names=names, other=other, into=not back)
    return Plan(task, tuple(deployments), questions, sampling, at_once=at_once)


def _own(file: Path) -> tuple[Question, ...]:
    table = table_file.read(_content(file), file.name)
    for problem in table.problems:
        say(problem)
    return table.questions


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadRequest(f"Cannot read {file}: {error.strerror}.", field="file") from None


def resumed(file: Path, *, failed: bool) -> Results:
    """The results in a file, to be gone on with; without `failed`, what failed stays as it is."""
    found = files.read(_content(file), str(file))
    for line in found.damaged:
        say(line)
    if failed:
        for key in found.failed:
            del found.cells[key]
    return found


def repeated(file: Path) -> Plan:
    """The plan of a results file, to be run again from the beginning."""
    return files.read(_content(file), str(file)).plan


def run(results: Results, file: Path, *, as_json: bool, report_file: str) -> int:
    """Work through what is missing, print what came of it. The exit code: 1 where a cell failed,
    or the file cannot be written any more. Raises SLMError where it never can."""
    campaign = Campaign(results, file)
    status = Status(sys.stderr)
    begun = time.monotonic()
    wanted = [key for key in results.missing if key not in results.cells]
    try:
        campaign.start(wanted)
        if not campaign.kept:  # from the first moment: a night's work would be lost
            campaign.stop()
            raise SLMError(campaign.problem)
        while not campaign.wait(LOOK_EVERY):
            status.show(*_told(campaign.progress))
    except KeyboardInterrupt:
        campaign.stop()
        campaign.wait(10)
    finally:
        status.clear()
    if campaign.problem:
        say(campaign.problem)
    if as_json:
        print(report.json_file(results).decode())
    else:
        for line in _lines(results):
            print(printable(line, sys.stdout))
    if report_file:
        _write_report(results, Path(report_file))
    left = len(results.missing) - len(results.failed)
    kept = "" if campaign.problem else f"; kept in {file}"
    say(f"{duration(time.monotonic() - begun)}{kept}")
    if left:
        again = f": python -m slm_backends multilingual --resume {file}" if kept else ""
        say(f"{left:,} are left{again}")
        return STOPPED
    return 1 if results.failed or campaign.problem else 0


def _told(progress: Progress) -> tuple[str, str]:
    ended = progress.done + progress.failed
    left = (
        f", about {duration(progress.seconds_left)} left"
        if progress.seconds_left is not None
        else ""
    )
    return f"{ended:,} of {progress.total:,} replies", f"{progress.doing}{left}"


def _write_report(results: Results, file: Path) -> None:
    try:
        file.write_bytes(report.archive(results))
    except OSError as error:
        raise SLMError(f"Cannot write {file}: {error.strerror}.") from None
    say(f"Report in {file}")


def _lines(results: Results) -> Iterator[str]:
    """A row a language, a column a deployment; then what else is known."""
    deployments = results.plan.deployments
    rows = {(row.language, row.deployment): row for row in scores.table(results)}
    cells = [
        ["", *deployments],
        *(
            [LANGUAGES[code].name, *(_cell(rows[code, deployment]) for deployment in deployments)]
            for code in results.plan.languages
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        yield "  ".join(padded).rstrip()
    yield ""
    for verdict in scores.verdicts(results):
        if not verdict.language:
            yield verdict.words
    for deployment in deployments:
        failed = [results.cells[key] for key in results.failed if key[1] == deployment]
        if failed:
            yield f"{deployment}: {len(failed):,} failed. {failed[0].error}"


def _cell(row: scores.Row) -> str:
    """In a few words: languages of the replies, right numbers, chrF, speed."""
    said = [f"{count} {BADGES.get(badge, badge)}" for badge, count in row.badges.items()]
    if row.usable is not None:
        said.append(f"{row.usable.value:.0%} usable")
    if row.failed:
        said.append(f"{row.failed} failed")
    if row.checked:
        said.append(f"{row.correct}/{row.checked} correct")
    if row.chrf is not None:
        said.append(f"chrF {row.chrf.value:.0f}")
    if row.characters_per_second is not None:
        said.append(f"{row.characters_per_second:.0f} char/s")
    return ", ".join(said) or "-"
