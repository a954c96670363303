"""A runtime's own loop, without anything of ours: `python -m benchmarks.raw RUNTIME FOLDER DTYPE`.

A process of its own, so that its memory can be compared with a worker's. Reads one JSON object a
line, {"prompts": [[ids], ...], "tokens": [n, ...]}, answers all prompts together, greedily, each
with exactly its number of tokens (with the largest of them where a batch is a rectangle: onnx, mlx,
transformers), and writes {"first": seconds to the first token of all, "last": to the last one}.
The first line it writes is {"load": seconds}. DTYPE is for Transformers. runtimes.py asks it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

Prompts = list[list[int]]
# Prompts of the same length, unless the runtime is openvino, and the tokens of each reply.
Answer = Callable[[Prompts, list[int]], tuple[float, float]]


def onnx(folder: Path, dtype: str) -> Answer:
    import onnxruntime_genai as og

    model = og.Model(str(folder))

    def answer(prompts: Prompts, tokens: list[int]) -> tuple[float, float]:
        begun = time.perf_counter()
        parameters = og.GeneratorParams(model)
        length = len(prompts[0]) + max(tokens)
        parameters.set_search_options(
            max_length=length, min_length=length, batch_size=len(prompts), do_sample=False
        )
        generator = og.Generator(model, parameters)
        generator.append_tokens(prompts)
        first = 0.0
        while not generator.is_done():
            generator.generate_next_token()
            generator.get_next_tokens()
            first = first or time.perf_counter()
        return first - begun, time.perf_counter() - begun

    return answer


def openvino(folder: Path, dtype: str) -> Answer:
    import numpy
    import openvino
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.enable_prefix_caching = True
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        str(folder / "model.gguf"), scheduler, "CPU", {}
    )
    keys = iter(range(1, 1_000_000))

    def answer(prompts: Prompts, tokens: list[int]) -> tuple[float, float]:
        begun = time.perf_counter()
        handles = []
        for prompt, count in zip(prompts, tokens, strict=True):
            config = openvino_genai.GenerationConfig()
            config.max_new_tokens = count
            config.ignore_eos = True
            ids = openvino.Tensor(numpy.array([prompt], dtype=numpy.int64))
            handles.append(pipeline.add_request(next(keys), ids, config))
        first = 0.0
        while pipeline.has_non_finished_requests():
            pipeline.step()
            for handle in handles:
                while handle.can_read():
                    handle.read()
                    first = first or time.perf_counter()
        return first - begun, time.perf_counter() - begun

    return answer


def transformers(folder: Path, dtype: str) -> Answer:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig
    from transformers.generation.streamers import BaseStreamer

    packed = {"gguf_file": "model.gguf", "quantization_config": GgufConfig(dequantize=True)}
    options = packed if (folder / "model.gguf").exists() else {}
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), trust_remote_code=False, **options
    ).eval()

    class Clock(BaseStreamer):
        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, value: torch.Tensor) -> None:
            self.times.append(time.perf_counter())

        def end(self) -> None:
            pass

    def answer(prompts: Prompts, tokens: list[int]) -> tuple[float, float]:
        begun = time.perf_counter()
        clock = Clock()  # takes one sequence: of several, the first token is not timed
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max(tokens),
                min_new_tokens=max(tokens),
                do_sample=False,
                pad_token_id=0,
                streamer=clock if len(prompts) == 1 else None,
            )
        ended = time.perf_counter()
        # The streamer is given the prompt first.
        first = clock.times[1] - begun if clock.times else 0.0
        return first, ended - begun

    return answer


def mlx(folder: Path, dtype: str) -> Answer:
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model

    model, _ = load_model(folder)

    def answer(prompts: Prompts, tokens: list[int]) -> tuple[float, float]:
        begun = time.perf_counter()
        cache = make_prompt_cache(model)
        logits = model(mx.array(prompts), cache=cache)[:, -1]
        first = 0.0
        for _ in range(max(tokens)):
            token = mx.argmax(logits, axis=-1)
            mx.eval(token)
            first = first or time.perf_counter()
            logits = model(token[:, None], cache=cache)[:, -1]
        return first - begun, time.perf_counter() - begun

    return answer


def main() -> None:
    runtime, folder, dtype = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply
    begun = time.perf_counter()
    answer: Answer = globals()[runtime](Path(folder), dtype)
    print(json.dumps({"load": time.perf_counter() - begun}), file=replies, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        first, last = answer(asked["prompts"], asked["tokens"])
        print(json.dumps({"first": first, "last": last}), file=replies, flush=True)


if __name__ == "__main__":
    main()
