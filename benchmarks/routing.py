"""What it costs to be told which experts work: decode speed with that over the speed without it.

The engine alone, in this process, in turns in the same run: phi-moe-nano, whose steps are so short
that everything shows, and a Phi-MoE of half a billion parameters made by chance, as wide as a real
one and with fewer layers. Wanted: at least 0.90. And what a token's routing is in bytes.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PhimoeConfig, PhimoeForCausalLM

from slm_backends import shipped_weights
from slm_backends.chat import Sampling
from slm_backends.routing import Experts
from slm_backends.worker import engines
from slm_backends.worker.engines import Engine, Fired

NANO = shipped_weights.folder("phi-moe-nano")
ROUNDS, TOKENS, LARGE_TOKENS = 9, 120, 12
PROMPT = list(range(20, 60))


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing")
    parser.add_argument("--small", action="store_true", help="phi-moe-nano alone")
    given = parser.parse_args(arguments)
    print(f"phi-moe-nano: {_compared(NANO, TOKENS)}", flush=True)
    if given.small:
        return
    with tempfile.TemporaryDirectory() as folder:
        print(f"half a billion: {_compared(_large(Path(folder)), LARGE_TOKENS)}", flush=True)


def _large(folder: Path) -> Path:
    torch.manual_seed(1)
    config = PhimoeConfig(
        vocab_size=1_024, hidden_size=1_024, intermediate_size=1_600, num_hidden_layers=6,
        num_attention_heads=16, num_key_value_heads=4, num_local_experts=16,
        max_position_embeddings=2_048, rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )  # fmt: skip
    PhimoeForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(NANO / name, folder)
    return folder


def _compared(folder: Path, tokens: int) -> str:
    engine = engines.load("transformers", folder, lambda fraction, step: None)
    assert engine.mixture is not None
    _speed(engine, tokens // 2, None)
    told, untold = [], []
    for _ in range(ROUNDS):
        untold.append(_speed(engine, tokens, None))
        told.append(_speed(engine, tokens, Experts()))
    ratio = statistics.median(one / other for one, other in zip(told, untold, strict=True))
    layers, experts, k = engine.mixture
    size = layers * (2 * k + 4 * k + 2 * experts)
    return (
        f"{statistics.median(untold):.1f} tok/s, told {statistics.median(told):.1f}, "
        f"ratio {ratio:.2f}; {size:,} bytes a token"
    )


def _speed(engine: Engine, tokens: int, experts: Experts | None) -> float:
    """Tokens a second after the first."""
    more = {} if experts is None else {"experts": experts}
    engine.admit(1, PROMPT, Sampling(max_tokens=tokens, temperature=0.0), **more)
    made, begun = 0, 0.0
    while made < tokens:
        for _, news in engine.step():
            if isinstance(news, Exception):
                raise news
            if isinstance(news, list) and news:
                made += len(news)
                begun = begun or time.perf_counter()
            elif isinstance(news, Fired):
                assert experts is not None
    seconds = time.perf_counter() - begun
    engine.release(1)
    return (tokens - 1) / seconds


if __name__ == "__main__":
    main(sys.argv[1:])
