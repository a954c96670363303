"""Every local runtime on the same weights: load, first token, decode alone and with 8, memory.

Each beside the runtime's own loop (raw.py) in the same run and in turns, at temperature 0. Ours is
what a caller of `Backend.stream` sees by its own clock, through protocol, chunks and process; every
prompt begins differently, so no cache helps. Then the tenth turn of a conversation against a first
turn with as many new tokens: there the cache is what is measured.
Wanted: at least 0.95 of the raw tokens a second alone, on openvino at least 0.9 with 8 at once, and
at most 1.5 times the first token at the tenth turn.
Some of them alone: `python -m benchmarks.runtimes onnx openvino`.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from slm_backends import background, catalog, selector, store
from slm_backends.chat import ChatRequest, Delta, Finished, Message, Sampling
from slm_backends.worker.text import ChatText

MODEL = "smollm2-135m-instruct"
RUNTIMES = ("onnx", "openvino", "transformers", "mlx")
SLOW = ("mlx",)  # on a processor: a word a tenth of a second, also to read. One round, no turns
TOGETHER = 8
TURNS = 10
TURN_TOKENS = 24

Conversation = tuple[Message, ...]


@dataclass
class Plan:
    """How often and how much, for one runtime."""

    rounds: int
    tokens: int
    tokens_together: int


@dataclass
class Column:
    """What was measured on one side, in seconds, tokens a second and bytes."""

    load: float = 0.0
    first: dict[int, list[float]] = field(default_factory=lambda: {32: [], 512: []})
    alone: list[float] = field(default_factory=list)
    together: list[float] = field(default_factory=list)
    memory: int = 0


class Raw:
    """The runtime's own loop in its process."""

    def __init__(self, runtime: str, folder: Path, dtype: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.raw", runtime, str(folder), dtype],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.load = self._read()["load"]

    def answer(self, prompts: list[list[int]], tokens: int | Sequence[int]) -> tuple[float, float]:
        """Seconds to the first token of all and to the last; `tokens` for each or for all."""
        assert self.process.stdin is not None
        each = [tokens] * len(prompts) if isinstance(tokens, int) else list(tokens)
        self.process.stdin.write(json.dumps({"prompts": prompts, "tokens": each}) + "\n")
        self.process.stdin.flush()
        said = self._read()
        return said["first"], said["last"]

    def _read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the raw loop ended"
        answer: dict[str, float] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


class Prompts:
    """Conversations of a wanted number of tokens that no two share a beginning."""

    def __init__(self, folder: Path) -> None:
        self.text = ChatText(folder)
        self._cases = iter(range(1_000, 1_000_000))

    def make(self, tokens: int) -> Conversation:
        case = next(self._cases)
        words = 0
        while True:
            made = (
                Message("system", f"{case}"),
                Message("user", "Tell a story." + " word" * words),
            )
            missing = tokens - len(self.text.prompt(made))
            if missing <= 0:
                return made
            words += missing

    def ids(self, conversation: Conversation) -> list[int]:
        return self.text.prompt(conversation)


class Watch:
    """The most memory that a process held, looked at twenty times a second."""

    def __init__(self, pid: int) -> None:
        self.most = 0
        self._process = psutil.Process(pid)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._end.wait(0.05):
            try:
                self.most = max(self.most, self._process.memory_info().rss)
            except psutil.NoSuchProcess:
                return

    def close(self) -> int:
        self._end.set()
        self._thread.join()
        return self.most


async def _stream(
    deployment_id: str, conversation: Conversation, tokens: int
) -> tuple[float, float, int, str, int | None]:
    """(seconds to the first text, to the last, tokens after the first text, text, cached)."""
    sampling = Sampling(max_tokens=tokens, temperature=0, top_p=1)
    begun = time.perf_counter()
    first = last = 0.0
    at_first = count = 0
    text = ""
    cached = None
    request = ChatRequest(conversation, sampling)
    async for event in selector.backend(deployment_id).stream(request):
        if isinstance(event, Delta):
            text += event.text
            last = time.perf_counter()
            count = event.timings.predicted_n if event.timings else 0
            if not first:
                first, at_first = last, count
        elif isinstance(event, Finished):
            cached = event.cached_tokens
            first = first or time.perf_counter()  # a token without text, or the end at once
    return first - begun, last - begun, count - at_first, text, cached


def _ask(deployment_id: str, conversation: Conversation, tokens: int):  # type: ignore[no-untyped-def]
    return background.submit(_stream(deployment_id, conversation, tokens)).result()


async def _all(deployment_id: str, conversations: list[Conversation], tokens: int) -> float:
    """Tokens a second over all of them, from the first request to the last word."""
    begun = time.perf_counter()
    made = await asyncio.gather(*(_stream(deployment_id, one, tokens) for one in conversations))
    return sum(count + 1 for _, _, count, _, _ in made) / (time.perf_counter() - begun)


def _rounds(deployment_id: str, raw: Raw, prompts: Prompts, plan: Plan) -> tuple[Column, Column]:
    theirs, ours = Column(raw.load), Column()
    for number in range(plan.rounds):
        for length in (32, 512):
            asked = prompts.make(length)
            first, _ = raw.answer([prompts.ids(asked)], 1)
            theirs.first[length].append(first)
            ours.first[length].append(_ask(deployment_id, prompts.make(length), 1)[0])
        asked = prompts.make(32)
        first, last = raw.answer([prompts.ids(asked)], plan.tokens)
        theirs.alone.append((plan.tokens - 1) / (last - first))
        first, last, count, _, _ = _ask(deployment_id, prompts.make(32), plan.tokens)
        ours.alone.append(count / (last - first))
        if number % 2 or plan.rounds == 1:  # takes longest
            many = [prompts.make(32) for _ in range(TOGETHER)]
            _, last = raw.answer([prompts.ids(one) for one in many], plan.tokens_together)
            theirs.together.append(TOGETHER * plan.tokens_together / last)
            many = [prompts.make(32) for _ in range(TOGETHER)]
            together = background.submit(_all(deployment_id, many, plan.tokens_together))
            ours.together.append(together.result())
        if not number and plan.rounds > 1:  # warms both up
            for side in (theirs, ours):
                side.alone.clear()
                for values in side.first.values():
                    values.clear()
    return theirs, ours


def _turns(deployment_id: str, prompts: Prompts) -> str:
    """The tenth turn's first token against that of a first turn with as many new tokens."""
    tenth, fresh = [], []
    new, whole, cached = 0, 0, None
    for _ in range(3):
        talk = prompts.make(1)[:1]
        known = 0  # tokens that the model has read or said
        for turn in range(TURNS):
            question = f"Go on with part {turn}, please, and be brief." + " so" * 20
            talk = (*talk, Message("user", question))
            whole = len(prompts.ids(talk))
            new = whole - known
            first, _, count, text, cached = _ask(deployment_id, talk, TURN_TOKENS)
            known = whole + count + 1
            talk = (*talk, Message("assistant", text))
        tenth.append(first)
        fresh.append(_ask(deployment_id, prompts.make(new), 1)[0])
    ratio = statistics.median(a / b for a, b in zip(tenth, fresh, strict=True))
    return (
        f"first token of the tenth turn ({whole} tokens, {new} of them new, "
        f"{'not reported' if cached is None else cached} cached) "
        f"{1000 * statistics.median(tenth):.0f} ms, of a first turn of {new} tokens "
        f"{1000 * statistics.median(fresh):.0f} ms: ratio {ratio:.2f}"
    )


def _load(deployment_id: str) -> float:
    begun = time.perf_counter()
    _ask(deployment_id, (Message("user", "Hi"),), 1)
    return time.perf_counter() - begun


def measure(runtime: str) -> None:
    deployment = catalog.load().deployment(f"{MODEL}@{runtime}")
    if not store.is_ready(deployment):
        print(f"{runtime}: not on this computer; python -m slm_backends fetch {deployment.id}")
        return
    plan = Plan(1, 40, 12) if runtime in SLOW else Plan(6, 120, 120)
    folder = store.folder(deployment)
    prompts = Prompts(folder)
    load = _load(deployment.id)
    worker = next(found for found in selector.workers() if found.deployment_id == deployment.id)
    dtype = "bfloat16" if "bfloat16" in worker.about.device else "float32"
    raw = Raw(runtime, folder, dtype)
    watches = Watch(raw.process.pid), Watch(worker.pid)
    theirs, ours = _rounds(deployment.id, raw, prompts, plan)
    theirs.memory, ours.memory = (watch.close() for watch in watches)
    ours.load = load
    turns = "" if runtime in SLOW else _turns(deployment.id, prompts)
    selector.unload(deployment.id)
    raw.close()
    _print(runtime, theirs, ours, turns)


def _print(runtime: str, theirs: Column, ours: Column, turns: str) -> None:
    def line(name: str, side: Column) -> str:
        first = "  ".join(f"{1000 * statistics.median(side.first[n]):7.0f}" for n in (32, 512))
        return (
            f"{name:22} {side.load:6.1f}  {first}  {statistics.median(side.alone):8.1f}  "
            f"{statistics.median(side.together):8.1f}  {side.memory / 1e6:8.0f}"
        )

    def ratio(a: list[float], b: list[float]) -> float:
        return statistics.median(x / y for x, y in zip(a, b, strict=True))

    print(line(f"{runtime} raw", theirs))
    print(line(f"{runtime} worker", ours))
    print(
        f"{'':22} {'ratio':>6}  "
        + "  ".join(f"{ratio(ours.first[n], theirs.first[n]):7.2f}" for n in (32, 512))
        + f"  {ratio(ours.alone, theirs.alone):8.2f}  {ratio(ours.together, theirs.together):8.2f}"
    )
    print(f"{'':22} {turns}", flush=True)


def main() -> None:
    print(f"{'':22} load s  1st ms: 32      512  alone t/s  8 tog. t/s  peak MB")
    for runtime in sys.argv[1:] if __name__ == "__main__" else RUNTIMES:
        measure(runtime)


if __name__ == "__main__":
    main()
