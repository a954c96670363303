"""The runs of this process, by the token in their address, and the files that keep them.

A token is a secret: who has it sees the run, and nothing lists them. A run goes on when nobody
looks. Knows files and campaigns; draws nothing.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from slm_backends import store
from slm_backends.access import Access
from slm_backends.multilingual import results as files
from slm_backends.multilingual.plan import Key
from slm_backends.multilingual.results import Results
from slm_backends.multilingual.runner import Campaign

KEEP_DAYS = 14  # since a file was last written
MOST = 20  # runs that are kept in memory beside those that go on
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22}")  # as of secrets.token_urlsafe(16)


@dataclass
class _Kept:
    """A run's results, and what works on them now: one campaign at a time."""

    results: Results
    campaign: Campaign | None = None

    @property
    def running(self) -> bool:
        return self.campaign is not None and self.campaign.running


_kept: dict[str, _Kept] = {}
_lock = threading.Lock()


def folder() -> Path:
    """Where the files are; for its owner's eyes alone. Raises OSError."""
    found = store.home() / "multilingual"
    found.mkdir(parents=True, exist_ok=True, mode=0o700)
    return found


def keep(results: Results) -> str:
    """Write them to a new file and return its token. Raises OSError."""
    place = folder()
    _sweep(place)
    token = secrets.token_urlsafe(16)
    files.write(results, place / f"{token}.jsonl")
    with _lock:
        ended = [known for known, item in _kept.items() if not item.running]
        for old in ended[:-MOST]:
            del _kept[old]
        _kept[token] = _Kept(results)
    return token


def find(token: str, access: Access, own: dict[str, Campaign]) -> Campaign | None:
    """The run of that token, also one that an earlier process began; None where there is none.

    `own` is what this visitor has to work on runs with: keys of theirs are used for what they begin
    and go with them. A run that is going on keeps those of who began it. Raises BadRequest for a
    file that is damaged, and OSError.
    """
    if not _TOKEN.fullmatch(token):
        return None
    file = store.home() / "multilingual" / f"{token}.jsonl"
    with _lock:
        known = _kept.get(token)
        if known is None:
            if not file.is_file():
                return None
            known = _kept[token] = _Kept(files.read(file.read_bytes()))
        if known.running:
            return known.campaign
        known.campaign = None
        mine = own.get(token)
        if mine is None or mine.results is not known.results:
            mine = own[token] = Campaign(known.results, file, access)
        return mine


def start(campaign: Campaign, only: Collection[Key] | None = None) -> None:
    """Have it ask for what is missing, or for these, unless another one is at that already. Raises
    Busy where another process is."""
    with _lock:
        known = next((one for one in _kept.values() if one.results is campaign.results), None)
        if known is not None and known.running:
            return
        campaign.start(only)
        if known is not None:
            known.campaign = campaign


def _sweep(place: Path) -> None:
    """Delete what is older than KEEP_DAYS."""
    oldest = time.time() - KEEP_DAYS * 86_400
    for file in place.glob("*.jsonl"):
        with _lock:
            known = _kept.get(file.stem)
            if file.stat().st_mtime < oldest and not (known and known.running):
                file.unlink(missing_ok=True)
                _kept.pop(file.stem, None)
