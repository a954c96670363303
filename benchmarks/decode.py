"""Decode speed and first token through Run and worker, against the raw runtime.

Both hold the same weights and answer the same prompt at temperature 0, in turns within one run, so
that a noisy machine is noisy to both. Through the worker, times are taken where a caller sees the
text: they include the protocol, the chunks and the process boundary.
Wanted: at least 0.95 of the raw tokens a second, at most 30 ms more to the first token.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from slm_backends import background, catalog, selector, store
from slm_backends.chat import ChatRequest, Delta, Message, Sampling
from slm_backends.worker.text import ChatText

ROUNDS = 7
TOKENS = 200
PROMPT = "Write a long story about a dragon who learns to read."

Measured = tuple[float, float]  # seconds to the first token, tokens a second after it


def raw_onnx(folder: str, prompt: list[int]) -> Callable[[], Measured]:
    import onnxruntime_genai as og

    model = og.Model(folder)

    def answer() -> Measured:
        begun = time.perf_counter()
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(max_length=len(prompt) + TOKENS, do_sample=False)
        generator = og.Generator(model, parameters)
        generator.append_tokens(prompt)
        times = []
        while not generator.is_done():
            generator.generate_next_token()
            generator.get_next_tokens()
            times.append(time.perf_counter())
        return times[0] - begun, (len(times) - 1) / (times[-1] - times[0])

    return answer


def raw_openvino(folder: str, prompt: list[int]) -> Callable[[], Measured]:
    import numpy
    import openvino
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.enable_prefix_caching = True
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        f"{folder}/model.gguf", scheduler, "CPU", {}
    )
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = TOKENS
    config.ignore_eos = True
    keys = iter(range(1, 1_000))

    def answer() -> Measured:
        begun = time.perf_counter()
        ids = openvino.Tensor(numpy.array([prompt], dtype=numpy.int64))
        handle = pipeline.add_request(next(keys), ids, config)
        times = []
        while pipeline.has_non_finished_requests():
            pipeline.step()
            while handle.can_read():
                handle.read()
                times.append(time.perf_counter())
        return times[0] - begun, (len(times) - 1) / (times[-1] - times[0])

    return answer


async def through_worker(deployment_id: str) -> Measured:
    """What a caller of `Backend.stream` sees, by its own clock."""
    request = ChatRequest(
        (Message("user", PROMPT),), Sampling(max_tokens=TOKENS, temperature=0, top_p=1)
    )
    begun = time.perf_counter()
    first = last = 0.0
    at_first = count = 0
    async for event in selector.backend(deployment_id).stream(request):
        if isinstance(event, Delta):
            last = time.perf_counter()
            count = event.timings.predicted_n if event.timings else 0
            if not first:
                first, at_first = last, count
    return first - begun, (count - at_first) / (last - first)


def compare(deployment_id: str, raw: Callable[[str, list[int]], Callable[[], Measured]]) -> None:
    folder = store.folder(catalog.load().deployment(deployment_id))
    prompt = ChatText(folder).prompt((Message("user", PROMPT),))
    answer = raw(str(folder), prompt)
    rounds: list[tuple[Measured, Measured]] = []
    for number in range(ROUNDS + 1):
        pair = (answer(), background.submit(through_worker(deployment_id)).result())
        if number:  # the first one warms both up
            rounds.append(pair)
    selector.unload(deployment_id)
    raw_first, raw_speed = (
        statistics.median(pair[0][index] for pair in rounds) for index in (0, 1)
    )
    our_first, our_speed = (
        statistics.median(pair[1][index] for pair in rounds) for index in (0, 1)
    )
    ratio = statistics.median(pair[1][1] / pair[0][1] for pair in rounds)
    more = statistics.median(pair[1][0] - pair[0][0] for pair in rounds)
    print(
        f"{deployment_id:34} raw {raw_speed:6.1f} tok/s  worker {our_speed:6.1f} tok/s  "
        f"ratio {ratio:.3f}\n{'':34} first token: raw {1000 * raw_first:.0f} ms, "
        f"worker {1000 * our_first:.0f} ms, {1000 * more:+.0f} ms "
        f"(medians of {ROUNDS} pairs, {TOKENS} tokens)",
        flush=True,
    )


def main() -> None:
    compare("smollm2-135m-instruct@onnx", raw_onnx)
    compare("smollm2-135m-instruct@openvino", raw_openvino)


if __name__ == "__main__":
    main()
