"""Many cells: replies a minute through the runner against the runtime's own batches.

The same prompts, in eight languages, at temperature 0: once through Campaign, workers and file, and
once by the runtime's own loop (raw.py) with all of them in one batch, in turns in the same run. The
loop writes replies as long as ours, which the model ended where it would; a batch of ONNX Runtime
is a rectangle and goes on until the longest has ended. Wanted: at least 0.85 of its cells a minute,
which onnx does not reach (0.73): it has one sequence computed after the other, not in a batch.
Then how time and memory grow from 10 to 1,000 cells, on a scripted deployment, so that nothing but
the runner is measured.
"""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

from benchmarks.runtimes import Raw
from slm_backends import catalog, selector, store
from slm_backends.multilingual import tasks
from slm_backends.multilingual.plan import SAMPLING, Plan
from slm_backends.multilingual.results import Results
from slm_backends.multilingual.runner import Campaign
from slm_backends.worker.text import ChatText

MODEL = "smollm2-135m-instruct"
LANGUAGES = ("en", "de", "fr", "es", "zh", "ar", "ru", "hi")
NAMES = ("rain", "tea", "bicycle", "moon")
TOKENS = 48
ROUNDS = 3
SCRIPTED = "fake@tokens=40,rate=0,first=0"


def main() -> None:
    for runtime in ("onnx", "openvino"):
        _beside_the_runtime(runtime)
    _growth()


def _beside_the_runtime(runtime: str) -> None:
    name = f"{MODEL}@{runtime}"
    deployment = catalog.load().deployment(name)
    folder = store.fetch(deployment)
    text = ChatText(folder)
    questions = tasks.questions("ask", LANGUAGES, names=NAMES)
    plan = Plan("ask", (name,), questions, replace(SAMPLING, max_tokens=TOKENS))
    prompts = [text.prompt(question.request(plan.sampling).messages) for question in questions]
    if runtime == "onnx":
        prompts = _padded(prompts, folder)
    raw = Raw(runtime, folder, "")
    raw.answer(prompts[:2], 4)
    _run(replace(plan, questions=questions[:2]))  # loads the worker
    ours, theirs = [], []
    for _ in range(ROUNDS):
        results, seconds = _run(plan)
        ours.append(60 * len(results.cells) / seconds)
        written = {cell.question: cell.completion_tokens or 1 for cell in results.cells.values()}
        _, seconds = raw.answer(prompts, [written[question.id] for question in questions])
        theirs.append(60 * len(prompts) / seconds)
    raw.close()
    selector.unload(name)
    print(
        f"{runtime:9} {len(prompts)} cells of {statistics.mean(written.values()):.0f} tokens: "
        f"{statistics.median(ours):4.0f} a minute, the runtime alone "
        f"{statistics.median(theirs):4.0f}; "
        f"ratio {statistics.median(ours) / statistics.median(theirs):.2f}",
        flush=True,
    )


def _padded(prompts: list[list[int]], folder: Path) -> list[list[int]]:
    """At their beginning, to one length: a batch of ONNX Runtime GenAI is a rectangle."""
    model = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
    longest = max(map(len, prompts))
    return [[model["pad_token_id"]] * (longest - len(prompt)) + prompt for prompt in prompts]


def _run(plan: Plan) -> tuple[Results, float]:
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Results(plan), Path(folder) / "run.jsonl")
        begun = time.perf_counter()
        campaign.start()
        campaign.wait()
        seconds = time.perf_counter() - begun
    assert campaign.results.complete, campaign.progress
    return campaign.results, seconds


def _growth() -> None:
    question = tasks.questions("ask", ["en"], names=["rain"])[0]
    for count in (10, 100, 1_000):
        questions = tuple(replace(question, id=f"ask/{number}/en") for number in range(count))
        gc.collect()
        tracemalloc.start()
        results, seconds = _run(Plan("ask", (SCRIPTED,), questions))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        characters = sum(len(cell.text) for cell in results.cells.values())
        print(
            f"{count:5,} cells  {1000 * seconds / count:5.1f} ms a cell  "
            f"at most {peak / 1e6:5.1f} MB held for {characters / 1e6:.2f} MB of replies",
            flush=True,
        )


if __name__ == "__main__":
    main()
