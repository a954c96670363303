"""A mixture of experts beside its dense twin: right answers, perplexity, balance, speed, memory.

    python -m benchmarks.moe_nano --seed 5 --items 200

phi-moe-nano and phi-dense-nano as they are shipped. Answers are judged in this process, in float32,
by one pass over each expected answer; "new" are those questions that were in none of the lessons of
the training, word for word. The first few questions of each kind are then asked of the workers too,
as a person would, in turns: that the replies agree, how fast they come and what memory the workers
take is measured there, and which experts worked. An answer is right if it is the expected one to
the last character. Each seed gives questions of its own. Wanted: 90 % of each kind.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from benchmarks.browser import ROOT
from recipes.phi_moe_nano import examine, kinds
from recipes.phi_moe_nano.examine import Answer
from slm_backends import run, selector, shipped_weights
from slm_backends.chat import ChatRequest, Message, Sampling
from slm_backends.moe import figures, nano
from slm_backends.moe.trace import Trace, trace
from slm_backends.routing import Experts
from slm_backends.run import Reply

MODELS = (nano.MIXTURE, nano.TWIN)
SEED, ITEMS = 5, 200
WORKERS = 10  # questions of each kind that workers are asked
TOKENS = 200
PATIENCE = 120.0  # seconds for one reply

Judged = dict[str, list[Answer]]


# --- in this process ------------------------------------------------------------------------------


def judged(model_id: str, items: int, seed: int) -> Judged:
    folder = shipped_weights.folder(model_id)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return {
        kind: [
            examine.answer(model.eval(), tokenizer, lesson)
            for lesson in examine.fresh(kind, items, seed)
        ]
        for kind in kinds.KINDS
    }


def taught() -> frozenset[str]:
    """The questions of the training."""
    file = shipped_weights.folder(nano.MIXTURE) / nano.TRAINING
    notes = json.loads(file.read_text(encoding="utf-8"))
    first = kinds.LESSONS_A_SEED * notes["seed"]
    return frozenset(kinds.lesson(first + n).question for n in range(notes["lessons"]))


def print_answers(found: Mapping[str, Judged]) -> None:
    known = taught()
    print(f"{'':12}  {'asked':>6} {'mixture':>8} {'twin':>8}  {'new':>6} {'mixture':>8} {'twin':>8}"
          f"  perplexity: {'mixture':>8} {'twin':>8}")  # fmt: skip
    every: dict[str, list[Answer]] = {model_id: [] for model_id in MODELS}
    for kind in kinds.KINDS:
        both = [found[model_id][kind] for model_id in MODELS]
        if both[0][0].lesson.checked:
            for model_id, answers in zip(MODELS, both, strict=True):
                every[model_id] += answers
        print(_line(kind, both, known))
    print(_line("all checked", list(every.values()), known))


def _line(name: str, both: Sequence[Sequence[Answer]], known: frozenset[str]) -> str:
    new = [[each for each in answers if each.lesson.question not in known] for answers in both]
    cells = [_share(answers) for answers in both]
    fresh = [_share(answers) for answers in new]
    costs = [examine.summary(answers).perplexity for answers in both]
    return (
        f"{name:12}  {len(both[0]):6} {cells[0]:>8} {cells[1]:>8}  {len(new[0]):6} {fresh[0]:>8} "
        f"{fresh[1]:>8}  {'':11} {costs[0]:8.3f} {costs[1]:8.3f}"
    )


def _share(answers: Sequence[Answer]) -> str:
    if not answers or not answers[0].lesson.checked:
        return "-"
    return f"{sum(each.right for each in answers) / len(answers):.1%}"


def write(found: Mapping[str, Judged], seed: int) -> None:
    """Into the shipped folders, for the page."""
    for model_id, by_kind in found.items():
        scores = {kind: asdict(examine.summary(answers)) for kind, answers in by_kind.items()}
        file = shipped_weights.folder(model_id) / nano.RESULTS
        content = json.dumps({"seed": seed, "kinds": scores}, indent=2) + "\n"
        file.write_text(content, encoding="utf-8")
        print(f"written: {file.relative_to(ROOT)}")


# --- of the workers -------------------------------------------------------------------------------


def ask(model_id: str, question: str, experts: Experts | None = None) -> Reply:
    sampling = Sampling(max_tokens=TOKENS, temperature=0.0, top_p=1.0)
    request = ChatRequest((Message("user", question),), sampling, experts=experts)
    reply = run.start(selector.backend(f"{model_id}@transformers"), request).wait(PATIENCE)
    if reply.error is not None:
        raise reply.error
    return reply


def print_workers(found: Mapping[str, Judged]) -> None:
    same, count = dict.fromkeys(MODELS, 0), 0
    speeds: dict[str, list[float]] = {model_id: [] for model_id in MODELS}
    for kind in kinds.KINDS:
        for place in range(min(WORKERS, len(found[nano.MIXTURE][kind]))):
            count += 1
            for model_id in MODELS:
                judgement = found[model_id][kind][place]
                reply = ask(model_id, judgement.lesson.question)
                same[model_id] += (reply.text == judgement.lesson.answer) == judgement.right
                if kind == "stories" and place and reply.tokens_per_second:  # the first warms up
                    speeds[model_id].append(reply.tokens_per_second)
    alike = ", ".join(f"{same[model_id]} of {model_id}" for model_id in MODELS)
    print(f"of {count} replies of each worker, judged as here: {alike}")
    told = nano.comparison()
    held = {worker.deployment_id: worker.memory_bytes for worker in selector.workers()}
    memory = [held[f"{model_id}@transformers"] / 1e6 for model_id in MODELS]
    for name, each in (
        ("tokens/s of stories", [statistics.median(speeds[model_id]) for model_id in MODELS]),
        ("MB of the weights", [each.bytes / 1e6 for each in (told.mixture, told.twin)]),
        ("MB of the worker", memory),
    ):
        ratio = each[0] / each[1]
        print(f"{name:20} mixture {each[0]:6.1f}  twin {each[1]:6.1f}  ratio {ratio:.2f}")


def print_balance(found: Mapping[str, Judged]) -> None:
    traces = []
    for answers in found[nano.MIXTURE].values():
        for each in answers[:WORKERS]:
            asked = Experts(reply=each.lesson.answer)
            reply = ask(nano.MIXTURE, each.lesson.question, asked)
            told = trace(reply.routing, reply.prompt_tokens)
            assert told is not None
            traces.append(told)
    whole = Trace(
        tuple(token for told in traces for token in told.ids),
        tuple(text for told in traces for text in told.tokens),
        0,
        traces[0].experts,
        numpy.concatenate([told.chosen for told in traces]),
    )
    print(f"load of the experts, {len(whole):,} tokens of {len(traces)} lessons:")
    print("layer   max/mean   entropy   never used")
    for layer, item in enumerate(figures.balance(whole)):
        unused = ", ".join(map(str, item.unused)) or "none"
        print(f"{layer:5} {item.max_over_mean:10.2f} {item.entropy:9.3f}   {unused}")


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.moe_nano")
    parser.add_argument("--seed", type=int, choices=range(1, 1000), default=SEED, metavar="1-999")
    parser.add_argument("--items", type=int, default=ITEMS, help="questions of each kind")
    parser.add_argument("--write", action="store_true", help="keep the results for the page")
    given = parser.parse_args(arguments)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    found = {model_id: judged(model_id, given.items, given.seed) for model_id in MODELS}
    print(f"{given.items} questions of each kind, seed {given.seed}")
    print_answers(found)
    if given.write:
        write(found, given.seed)
    print_workers(found)
    print_balance(found)
    for model_id in MODELS:
        selector.unload(f"{model_id}@transformers")


if __name__ == "__main__":
    main(sys.argv[1:])
