"""Where the weights of a checkpoint go that Transformers reads, and how far it has come with them.

What finds no room in memory can stay on the disk, and is read from there each time it is needed:
slow, but it answers. accelerate does that; experts, which the library packs as it reads them, are
written anew for it, into a folder that lasts as long as the process. Imports no runtime before a
model is read.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from slm_backends import disk, store
from slm_backends.worker.engines import Progress

INDEX = "model.safetensors.index.json"  # of a checkpoint in several files: which holds what
WATCHED = "Loading weights"  # what the library calls the loop that fills the model
CARD_SHARE = 0.9  # of a graphics card's free memory that weights may take; the cache needs some
LOCK = ".lock"  # of a folder, held by the process that it belongs to
FULL = os.strerror(errno.ENOSPC)

_held: list[filelock.BaseFileLock] = []  # as long as this process lives


@contextmanager
def told(folder: Path, progress: Progress, begin: float, end: float) -> Iterator[None]:
    """While it is open, `progress` hears between these two fractions of the weights that
    Transformers reads from `folder`, and of which of its files they are."""
    from transformers.utils import logging

    index = folder / INDEX
    holds = json.loads(index.read_text(encoding="utf-8"))["weight_map"] if index.exists() else {}

    def watched(make: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if named.get("desc") != WATCHED:
            return make(*given, **named)
        return _counted(given[0], holds, lambda done, step: progress(_at(begin, end, done), step))

    before = logging.set_tqdm_hook(watched)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def _at(begin: float, end: float, done: float) -> float:
    return begin + done * (end - begin)


def _counted(weights: Any, holds: dict[str, str], progress: Progress) -> Iterator[Any]:
    """The items of the library's loop: weights of the model, and what each is made of."""
    files = len(set(holds.values()))
    begun: set[str] = set()
    told = 0.0
    for number, (name, made_of) in enumerate(weights):
        before = len(begun)
        begun.update(holds[source] for source in _sources(made_of) if source in holds)
        done = number / len(weights)
        if (files > 1 and len(begun) > before) or done - told >= 0.01:
            shard = f", shard {len(begun)} of {files}" if files > 1 else ""
            progress(done, f"reading weights{shard}")
            told = done
        yield name, made_of


def _sources(made_of: Any) -> Iterable[str]:
    """The checkpoint's names of what a weight of the model is made of."""
    return (name for names in made_of.layer_targets.values() for name in names)


# --- what stays on the disk -----------------------------------------------------------------------


def read_in_part(read: Callable[..., Any], folder: Path, place: str, memory: int) -> Any:
    """What `read`, a from_pretrained, makes of `folder` with at most `memory` bytes of weights in
    memory, beside those that a graphics card takes, and the rest on the disk. Raises DiskFull."""
    import torch

    room: dict[int | str, int] = {"cpu": memory}
    if place == "cuda":
        room[0] = int(CARD_SHARE * torch.cuda.mem_get_info()[0])
    home = store.home() / "offload"
    try:
        return read(folder, device_map="auto", max_memory=room, offload_folder=str(_folder(home)))
    except Exception as error:  # of the library that writes them, which has no kind for that
        if FULL in str(error):
            raise disk.filled_up(
                "weights were put there that memory has no room for", home
            ) from error
        raise


def _folder(home: Path) -> Path:
    """A new folder in `home` that is this process's as long as it lives."""
    sweep()
    home.mkdir(parents=True, exist_ok=True)
    made = home / secrets.token_hex(8)
    lock = filelock.FileLock(made.with_suffix(LOCK))
    lock.acquire()
    _held.append(lock)
    made.mkdir()
    return made


def sweep() -> None:
    """Delete what processes have left that have ended."""
    for file in (store.home() / "offload").glob(f"*{LOCK}"):
        with suppress(filelock.Timeout), filelock.FileLock(file).acquire(timeout=0):
            shutil.rmtree(file.with_suffix(""), ignore_errors=True)
            file.unlink(missing_ok=True)


def share_on_disk(model: Any) -> float:
    """Of the bytes of its weights."""
    places = getattr(model, "hf_device_map", {})  # none where all of them found room after all
    # The whole model is called by an empty name.
    away = tuple(f"{name}." if name else "" for name, place in places.items() if place == "disk")
    sizes: dict[str, int] = {
        name: each.numel() * each.element_size() for name, each in model.named_parameters()
    }
    return sum(size for name, size in sizes.items() if name.startswith(away)) / sum(sizes.values())
