"""Writes what a training has reached into a folder as it is shipped.

    python -m recipes.phi_moe_nano.export FOLDER TO

FOLDER is train.py's. Its training need not be over: then TO has what it knows so far. Knows what is
in training.pt, and which of the two architectures it belongs to by its weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from recipes import tokenizer
from recipes.phi_moe_nano import kinds, layout, tokens

KEPT = "training.pt"
TOLD = "training.json"


def export(folder: Path, to: Path) -> dict[str, Any]:
    """Write weights in bfloat16 with what belongs to them; what training.json says now:

    steps, lessons, seconds  of the training
    seed                     what lessons and first weights followed from
    parameters, active       of the model, and those that work on a token
    loss                     [step, mean loss of the answers since the step before it], in nats
    """
    state = torch.load(folder / KEPT, weights_only=True)
    mixed = any(".experts." in name for name in state["model"])
    model = (layout.mixture if mixed else layout.twin)(tokens.SIZE)
    model.load_state_dict(state["model"])
    parameters, active = layout.sizes(model)
    seed, lessons = divmod(state["seed"], kinds.LESSONS_A_SEED)
    told = {
        "steps": state["number"],
        "lessons": lessons,
        "seconds": round(state["seconds"]),
        "seed": seed,
        "parameters": parameters,
        "active": active,
        "loss": state["curve"],
    }
    to.mkdir(parents=True, exist_ok=True)
    model.eval().to(torch.bfloat16).save_pretrained(to)
    if to != folder:
        for name in tokenizer.FILES:
            shutil.copyfile(folder / name, to / name)
    (to / TOLD).write_text(json.dumps(told) + "\n", encoding="utf-8")
    return told


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("to", type=Path)
    given = parser.parse_args(arguments)
    told = export(given.folder, given.to)
    print(
        f"{told['steps']} steps, {told['lessons']:,} lessons, {told['seconds'] / 60:.0f} min; "
        f"{told['parameters']:,} parameters, {told['active']:,} at work on a token"
    )


if __name__ == "__main__":
    main()
