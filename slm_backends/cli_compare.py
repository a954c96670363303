"""`compare`: ask several deployments the same prompts, tell where their replies part.

Knows files of prompts and how a comparison looks on a terminal and as JSON. What parts, and by how
much, is compare.py's matter.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from slm_backends import cli_images, compare
from slm_backends.compare import Comparison, Pair, Prompt
from slm_backends.errors import BadRequest, SLMError
from slm_backends.run import Reply
from slm_backends.terminal import WIDTH, Status, printable
from slm_backends.worker.wire import write_error

STOPPED = 130  # exit code, as for a process that Ctrl-C ended
PROMPTS = (
    Prompt("What is the capital of France?"),
    Prompt("Write two sentences about the sea."),
    Prompt("Count from one to ten in words."),
    Prompt("Translate into French: The cat is on the table."),
    Prompt("Why is the sky blue?", system="You are brief and exact."),
)
ABOUT_PICTURES = (
    Prompt("Describe this picture."),
    Prompt("How many objects are there?"),
    Prompt("Read the text in this picture."),
)


def show(
    ids: Sequence[str],
    file: str | None,
    *,
    images: Sequence[str],
    max_tokens: int,
    as_json: bool,
) -> int:
    """Print the comparison. The exit code: 0 also where replies part, 1 where one failed.

    images  names of files, whose pictures go with each prompt
    """
    prompts = read(Path(file)) if file else ABOUT_PICTURES if images else PROMPTS
    pictures = cli_images.read(images)
    prompts = tuple(replace(prompt, images=pictures) for prompt in prompts)
    status = Status(sys.stderr)

    def watch(deployment: int, prompt: int, reply: Reply) -> None:
        doing = reply.load_step if reply.state == "loading" else reply.queue_reason or reply.state
        status.show(f"{ids[deployment]}: prompt {prompt + 1} of {len(prompts)}", doing)

    try:
        found = compare.compare(ids, prompts, max_tokens=max_tokens, watch=watch)
    finally:
        status.clear()
    if as_json:
        print(json.dumps(_document(found), indent=2, ensure_ascii=False))
    else:
        for line in _lines(found):
            print(printable(line, sys.stdout))
    if found.stopped:
        return STOPPED
    return 1 if any(reply and reply.error for row in found.replies for reply in row) else 0


def read(file: Path) -> tuple[Prompt, ...]:
    """The prompts of a file: one a line, or, in a .jsonl file, an object with "prompt" and perhaps
    "system" a line. Blank lines do not count. Raises BadRequest with the line's number."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise BadRequest(f"Cannot read {file}: {error.strerror}.", field="prompts") from None
    except UnicodeDecodeError:
        raise BadRequest(f"{file} is not UTF-8 text.", field="prompts") from None
    parse = _from_json if file.suffix == ".jsonl" else Prompt
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            prompts.append(parse(line))
        except ValueError as error:
            raise BadRequest(f"{file}, line {number}: {error}.", field="prompts") from None
    if not prompts:
        raise BadRequest(f"{file} has no prompts.", field="prompts")
    return tuple(prompts)


def _from_json(line: str) -> Prompt:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    if not isinstance(entry, dict):
        raise ValueError("not a JSON object")
    if unknown := entry.keys() - {"prompt", "system"}:
        raise ValueError(f"there is no field called {min(unknown)!r}")
    prompt, system = entry.get("prompt"), entry.get("system", "")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError('"prompt" must be a text that is not blank')
    if not isinstance(system, str):
        raise ValueError('"system" must be a text')
    return Prompt(prompt, system)


# --- to read --------------------------------------------------------------------------------------


def _lines(found: Comparison) -> Iterator[str]:
    width = max(map(len, found.deployments))
    for place, deployment_id in enumerate(found.deployments):
        about = next((reply.about for reply in reversed(found.replies[place]) if reply), None)
        facts = (about.runtime, about.version, about.device) if about else ()
        yield f"{_name(place)}  {deployment_id:<{width}}  {' '.join(filter(None, facts))}".rstrip()
    yield ""
    for pair in found.pairs:
        yield from _wrapped(f"{_names(pair)}: {_summary(found, pair)}")
    for number, prompt in enumerate(found.prompts):
        yield ""
        yield textwrap.shorten(f"Prompt {number + 1}: {prompt.text}", WIDTH, placeholder=" …")
        for place, row in enumerate(found.replies):
            reply = row[number]
            if reply is not None and reply.error is not None:
                yield from _wrapped(f"{_name(place)} failed: {reply.error.message}", "  ")
        for pair in found.pairs:
            match = pair.matches[number]
            if match is not None:
                first, *more = compare.words(match, _name(pair.first), _name(pair.second))
                yield f"  {first}"
                yield from (f"    {line}" for line in more)
    if found.stopped:
        yield ""
        yield "Stopped before all prompts were asked."


def _summary(found: Comparison, pair: Pair) -> str:
    matches = [match for match in pair.matches if match is not None]
    if not matches:
        return f"{pair.words} No prompt was answered by both.".strip()
    ties = sum(match.tie for match in matches)
    said = f"{pair.words} Of {len(matches)} replies {len(matches) - pair.parted} are the same"
    said += f", {pair.parted} part" if pair.parted else ""
    said += f", {ties} of them at a tie" if ties else ""
    gaps = [match.difference for match in matches if match.difference is not None]
    if gaps:
        mean = sum(gaps) / len(gaps)
        said += f"; before that, log-probabilities differ by {mean:.2g} on average"
    return f"{said.strip()}."


def _name(place: int) -> str:
    """A, B ... Z, then A2, B2 ..."""
    again, letter = divmod(place, 26)
    return chr(ord("A") + letter) + (str(again + 1) if again else "")


def _names(pair: Pair) -> str:
    return f"{_name(pair.first)} and {_name(pair.second)}"


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_on_hyphens=False,
        replace_whitespace=False,
    )


# --- JSON -----------------------------------------------------------------------------------------


def _document(found: Comparison) -> dict[str, Any]:
    return {
        "deployments": list(found.deployments),
        "prompts": [
            {"text": prompt.text, "system": prompt.system, "images": len(prompt.images)}
            for prompt in found.prompts
        ],
        "replies": [[reply and _reply(reply) for reply in row] for row in found.replies],
        "pairs": [
            {
                "first": found.deployments[pair.first],
                "second": found.deployments[pair.second],
                "relation": pair.relation,
                "words": pair.words,
                "parted": pair.parted,
                "matches": [
                    match and asdict(match) | {"parted": match.sides is not None, "tie": match.tie}
                    for match in pair.matches
                ],
            }
            for pair in found.pairs
        ],
        "stopped": found.stopped,
    }


def _reply(reply: Reply) -> dict[str, Any]:
    error: SLMError | None = reply.error
    return {
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "completion_tokens": reply.completion_tokens,
        "about": asdict(reply.about),
    } | (write_error(error) if error is not None else {})
