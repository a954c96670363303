"""Many conversations at once with any OpenAI-compatible server: how soon, how fast, how many fail.

    python -m benchmarks.load http://127.0.0.1:8000/v1 --conversations 16 --turns 4

Each conversation grows its own history, as people's do, so a server that keeps what it has read is
quicker from the second turn on. Times are those of arrival here, the network included. A key comes
from the variable that --key-variable names, goes to that address alone, and is never printed.
Without an address, as in `make bench`, it drives a `serve` of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from benchmarks.browser import ROOT

DEPLOYMENT = "smollm2-135m-instruct@openvino"
CROWDS = (1, 4, 16)  # conversations at once with a `serve` of our own

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 120.0  # without a byte, then the request has failed
PAUSE_SECONDS = 0.5  # after a failure, so that a server that refuses is not flooded
PERCENTS = (50, 90, 99)
PIECES = ("content", "reasoning_content", "reasoning")  # where servers put the text of a reply

TOPICS = (
    "the tides", "bread", "earthquakes", "chess", "bees", "bridges", "sleep", "the printing press",
    "volcanoes", "paper", "glaciers", "maps", "salt", "lighthouses", "migrating birds", "clocks",
)  # fmt: skip
QUESTIONS = (
    "Which of these matters most, and why?",
    "Give me an example of it from daily life.",
    "What do people often get wrong about it?",
    "Now say all that in one sentence that a child understands.",
)


@dataclass(frozen=True)
class Reply:
    """A reply that came to its end.

    first    seconds from the request to the first token; None where it had none
    decode   seconds from the first token to the last
    counted  the server sent no usage, so `tokens` is the number of its chunks
    """

    first: float | None
    decode: float
    tokens: int
    counted: bool


@dataclass
class Load:
    """What to ask of whom, and what has come of it so far.

    seconds  for how long new requests begin; 0: until each conversation has had its turns once
    errors   kind -> how often
    """

    url: str
    model: str = ""
    conversations: int = 8
    turns: int = 4
    seconds: float = 0.0
    max_tokens: int = 128
    replies: list[Reply] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    begun: float = 0.0
    ended: float = 0.0

    def report(self) -> dict[str, Any]:
        """The numbers, as in the JSON; None where there was nothing to measure."""
        wall = self.ended - self.begun
        tokens = sum(reply.tokens for reply in self.replies)
        speeds = [
            (reply.tokens - 1) / reply.decode
            for reply in self.replies
            if reply.tokens > 1 and reply.decode > 0
        ]
        return {
            "url": self.url,
            "model": self.model,
            "conversations": self.conversations,
            "seconds": wall,
            "done": len(self.replies),
            "failed": sum(self.errors.values()),
            "errors": dict(self.errors.most_common()),
            "tokens": tokens,
            "without_usage": sum(reply.counted for reply in self.replies),
            "first_token_s": _percentiles(
                [reply.first for reply in self.replies if reply.first is not None]
            ),
            # From the fast end: nine replies of ten were at least as fast as p90.
            "reply_tokens_per_s": _percentiles(speeds, falling=True),
            "tokens_per_s": tokens / wall if tokens else None,
        }


def _percentiles(values: Sequence[float], *, falling: bool = False) -> dict[str, float] | None:
    """By nearest rank: each is a value that was measured."""
    if not values:
        return None
    ordered = sorted(values, reverse=falling)
    return {f"p{p}": ordered[math.ceil(p / 100 * len(ordered)) - 1] for p in PERCENTS}


# --- asking ---------------------------------------------------------------------------------------


class _Failure(Exception):
    """A request failed in a way that the openai package does not call one."""


async def drive(load: Load, key: str = "") -> None:
    """Ask until the end that `load` sets; what has come is in it, also after a cancellation.

    Raises openai.OpenAIError where the server does not list its models, and SystemExit where it
    lists none or several and `load` names none of them.
    """
    async with openai.AsyncOpenAI(
        base_url=load.url,
        api_key=key or "none",
        organization="",  # else it tells every server what the environment says of one
        project="",
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(
            timeout=openai.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(),  # none: the number of conversations is the limit
            follow_redirects=False,
        ),
    ) as client:
        load.model = load.model or await _only_model(client)
        load.begun = time.perf_counter()
        try:
            await asyncio.gather(
                *(_converse(client, load, place) for place in range(load.conversations))
            )
        finally:
            load.ended = time.perf_counter()


async def _only_model(client: openai.AsyncOpenAI) -> str:
    names = [model.id async for model in client.models.list()]
    if len(names) != 1:
        listed = ", ".join(names[:8]) or "none"
        sys.exit(f"Name a model with --model; the server lists {listed}.")
    return names[0]


async def _converse(client: openai.AsyncOpenAI, load: Load, place: int) -> None:
    number = place
    while True:
        # The number keeps a conversation apart from all others also where prompts are cached.
        opening = f"Conversation {number}. Tell me about {TOPICS[number % len(TOPICS)]}."
        messages = []
        for turn in range(load.turns):
            if load.seconds and time.perf_counter() - load.begun >= load.seconds:
                return
            question = QUESTIONS[(turn - 1) % len(QUESTIONS)] if turn else opening
            messages.append({"role": "user", "content": question})
            try:
                text, reply = await _ask(client, load, messages)
            except (openai.OpenAIError, _Failure) as error:
                load.errors[_kind(error)] += 1
                messages.pop()
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                load.replies.append(reply)
                messages.append({"role": "assistant", "content": text})
        if not load.seconds:
            return
        number += load.conversations


async def _ask(client: openai.AsyncOpenAI, load: Load, messages: list[Any]) -> tuple[str, Reply]:
    begun = time.perf_counter()
    first = last = 0.0
    pieces: list[str] = []
    usage = finished = None
    async with await client.chat.completions.create(
        model=load.model,
        messages=messages,
        max_tokens=load.max_tokens,
        stream=True,
        stream_options={"include_usage": True},
    ) as chunks:
        async for chunk in chunks:
            usage = chunk.usage or usage
            for choice in chunk.choices or ():
                finished = choice.finish_reason or finished
                found = [text for name in PIECES if (text := getattr(choice.delta, name, None))]
                if found:
                    last = time.perf_counter()
                    first = first or last
                    pieces += found
    if not finished:
        raise _Failure("cut off before its end")
    return "".join(pieces), Reply(
        first=first - begun if first else None,
        decode=last - first,
        tokens=usage.completion_tokens if usage else len(pieces),
        counted=usage is None,
    )


def _kind(error: Exception) -> str:
    """A failure in a few words, the same for all of its kind. Never what a server wrote: it may
    repeat the key."""
    if isinstance(error, openai.APIStatusError):
        return f"HTTP {error.status_code}"
    if isinstance(error, openai.APITimeoutError):
        return "no answer in time"
    if isinstance(error, openai.APIConnectionError):
        return f"connection ({type(error.__cause__ or error).__name__})"
    return str(error) if isinstance(error, _Failure) else "an error inside the reply"


# --- on the command line --------------------------------------------------------------------------


def show(report: dict[str, Any]) -> str:
    """The report for people."""
    first, speed = report["first_token_s"], report["reply_tokens_per_s"]
    lines = [
        f"{report['model']} at {report['url']}, {report['conversations']} conversations at once",
        f"requests          {report['done']:,} done, {report['failed']:,} failed "
        f"in {report['seconds']:.1f} s",
    ]
    if first:
        row = "   ".join(f"{name} {value:.3f} s" for name, value in first.items())
        lines.append(f"first token       {row}")
    if speed:
        row = "   ".join(f"{name} {value:.1f}" for name, value in speed.items())
        lines.append(f"tok/s per reply   {row}   (p90: 9 of 10 were as fast, or faster)")
    if report["tokens_per_s"]:
        lines.append(f"tok/s in total    {report['tokens_per_s']:.1f}, {report['tokens']:,} tokens")
    if report["without_usage"]:
        lines.append(
            f"                  {report['without_usage']:,} replies came without usage: their "
            "chunks were counted, which may hold several tokens"
        )
    lines += [f"failed            {count:,} x {kind}" for kind, count in report["errors"].items()]
    return "\n".join(lines)


def command(arguments: Sequence[str]) -> int:
    """1 where nothing was answered, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("url", help="where it answers, with /v1")
    parser.add_argument("--model", default="", help="as the server calls it; its only one")
    parser.add_argument("--conversations", type=_count, default=8, metavar="N", help="at once; 8")
    parser.add_argument("--turns", type=_count, default=4, metavar="T", help="of each; 4")
    parser.add_argument(
        "--seconds", type=_count, default=0, metavar="S",
        help="go on with new conversations for so long; without it each has its turns once",
    )  # fmt: skip
    parser.add_argument("--max-tokens", type=_count, default=128, metavar="M", help="a reply; 128")
    parser.add_argument("--key-variable", default="", metavar="NAME", help="that holds the key")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    asked = parser.parse_args(arguments)
    address = urlsplit(asked.url)
    if address.scheme not in ("http", "https") or not address.hostname or address.username:
        parser.error("an address looks like http://127.0.0.1:8000/v1, and holds no key")
    load = Load(
        asked.url, asked.model, asked.conversations, asked.turns, asked.seconds, asked.max_tokens
    )
    try:
        asyncio.run(drive(load, _key(asked.key_variable)))
    except KeyboardInterrupt:
        print("Stopped; these are the numbers until then.", file=sys.stderr)
    except openai.OpenAIError as error:
        sys.exit(f"{asked.url} does not list its models: {_kind(error)}.")
    report = load.report()
    print(json.dumps(report, indent=2) if asked.json else show(report), flush=True)
    return 0 if load.replies else 1


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _key(variable: str) -> str:
    if not variable:
        return ""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        sys.exit("--key-variable takes the name of a variable, not a key.")
    key = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        sys.exit(f"The variable {variable} holds no key.")
    return key


@contextlib.contextmanager
def _serving() -> Iterator[str]:
    """The address of our own `serve`, with the model loaded, while it runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "slm_backends", "serve", DEPLOYMENT, "--port", "0"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=os.environ | {"SLM_API_KEY": ""},
        encoding="utf-8",
    )
    assert process.stdout is not None
    try:
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("Ready"):
                break
        found = re.search(r"http://\S+/v1", said)
        assert found, "serve has ended"
        yield found[0]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def main() -> None:
    with _serving() as url:
        for crowd in CROWDS:
            load = Load(url, conversations=crowd)
            asyncio.run(drive(load))
            print(show(load.report()), flush=True)


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
