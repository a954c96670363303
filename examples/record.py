"""Ask phi-moe-nano two questions and keep which of its experts worked.

python -m examples.record [FOLDER]
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from slm_backends import run, selector, shipped_weights
from slm_backends.chat import ChatRequest, Message, Sampling
from slm_backends.moe import export
from slm_backends.moe.nano import MIXTURE
from slm_backends.moe.trace import trace
from slm_backends.routing import Experts

QUESTIONS = {
    "story.parquet": "Tell me a very short story about a fox.",
    "days.json": "What day is two days after Monday?",
}


def record(folder: Path) -> None:
    """Write a file for each of QUESTIONS. Raises an SLMError where the model does not answer."""
    backend = selector.backend(f"{MIXTURE}@transformers")
    for name, question in QUESTIONS.items():
        asked = ChatRequest(
            (Message("user", question),),
            Sampling(temperature=0, max_tokens=120),
            experts=Experts(),
        )
        reply = run.start(backend, asked).wait()
        if reply.error is not None:
            raise reply.error
        found = trace(reply.routing, reply.prompt_tokens)
        assert found is not None
        facts = {
            "model": MIXTURE,
            "revision": revision(),
            "prompt": question,
            "reply": reply.text,
            "temperature": 0,
        }
        write = export.as_json if name.endswith(".json") else export.as_parquet
        (folder / name).write_bytes(write(found, facts))
        print(f"{name}: {len(found)} tokens. {reply.text}")


def revision() -> str:
    """Of weights that no hub numbers: their SHA-256."""
    weights = shipped_weights.folder(MIXTURE) / "model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()


if __name__ == "__main__":
    record(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
