"""Whether a server can answer: what it said when it was last asked, and how long ago that was.

A Board belongs to those who share connections: all who use the owner's have one, every visitor has
another for what is theirs. It is told what a probe found, and what became of real prompts. Knows
connections and errors; who is asked, and in which dialect, is the caller's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from slm_backends.access import Connection
from slm_backends.errors import (
    BadRequest,
    Busy,
    ContextOverflow,
    Filtered,
    NotFound,
    Retired,
    SLMError,
    Unauthorized,
    Unavailable,
)

SOONEST = 5.0  # seconds: a server that says "at once" is not asked again and again
FRESH_SECONDS = 300.0  # after that a configured server is asked again when somebody looks


@dataclass(frozen=True)
class Health:
    """What is known of a server, or of one model on it.

    word          ready, needs key, not reachable, rate limited, retired or unknown
    reason        in a sentence, or empty; `hint` says what to do about it
    until         of a rate limit, seconds since the epoch; 0 where the server did not say
    on            the day that it was retired, as in 2026-07-30, or empty
    models        names that the server lists; None where it was not asked or does not say
    round_trip_s  from a request that costs no tokens to its answer, None where not measured
    at            when this was learnt, seconds since the epoch; 0 where nothing was
    of_model      whether it was learnt of the model itself, and not only of its server
    """

    word: str = "unknown"
    reason: str = ""
    until: float = 0.0
    on: str = ""
    models: tuple[str, ...] | None = None
    round_trip_s: float | None = None
    at: float = 0.0
    of_model: bool = False
    hint: str = ""

    @property
    def label(self) -> str:
        """The word as it is shown, with its time or day."""
        if self.word == "rate limited" and self.until:
            return f"rate limited until {time.strftime('%H:%M', time.localtime(self.until))}"
        if self.word == "retired" and self.on:
            return f"retired on {self.on}"
        return self.word

    @property
    def fresh(self) -> bool:
        if self.word == "rate limited" and self.until and time.time() >= self.until:
            return False
        return time.time() - self.at < FRESH_SECONDS


UNKNOWN = Health()


class Board:
    """The health of servers and of models on them, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[Connection, Health]] = {}
        self._asking: set[str] = set()

    def server(self, connection: Connection) -> Health:
        """What was learnt of the server through that very connection."""
        return self._get(connection, "")

    def model(self, connection: Connection, served_as: str) -> Health:
        """What was learnt of one model; of its server, where nothing was of the model."""
        server, model = self.server(connection), self._get(connection, served_as)
        # Servers list also what they have ended.
        if model.word == "retired" or (model.fresh and model.at >= server.at):
            return replace(model, models=server.models, round_trip_s=server.round_trip_s)
        return server

    def listed(self, connection: Connection, models: Sequence[str], round_trip_s: float) -> Health:
        """The server has answered a probe."""
        now = Health("ready", models=tuple(models), round_trip_s=round_trip_s, at=time.time())
        self._set(connection, "", now)
        return now

    def failed(self, connection: Connection, error: SLMError, served_as: str = "") -> Health:
        """A probe has failed, or a prompt for the model `served_as`; a prompt may have failed for
        reasons that say nothing of the server, and then nothing changes."""
        found = health_of(error)
        if found is None and served_as:
            return self.model(connection, served_as)
        found = found or Health("unknown", error.message, at=time.time())
        of_server = found.word in ("needs key", "not reachable")
        before = self.server(connection)
        found = replace(found, models=before.models, round_trip_s=before.round_trip_s)
        of_model = bool(served_as) and not of_server
        found = replace(found, of_model=of_model, hint=error.hint)
        self._set(connection, served_as if found.of_model else "", found)
        return found

    def answered(self, connection: Connection, served_as: str) -> None:
        """A prompt was answered, in whatever way."""
        now = time.time()
        self._set(connection, served_as, Health("ready", at=now, of_model=True))
        before = self.server(connection)
        if before.word != "ready":
            known = replace(before, word="ready", reason="", hint="", until=0.0, at=now)
            self._set(connection, "", known)

    def begin(self, connection: Connection) -> bool:
        """Whether a probe may begin: not while another one is under way."""
        with self._lock:
            if connection.provider.place in self._asking:
                return False
            self._asking.add(connection.provider.place)
            return True

    def end(self, connection: Connection) -> None:
        with self._lock:
            self._asking.discard(connection.provider.place)

    def asking(self, connection: Connection) -> bool:
        """Whether a probe is under way."""
        with self._lock:
            return connection.provider.place in self._asking

    def _get(self, connection: Connection, served_as: str) -> Health:
        with self._lock:
            found = self._known.get((connection.provider.place, served_as))
        # Learnt with another address or key, it says nothing of this one.
        return found[1] if found and found[0] == connection else UNKNOWN

    def _set(self, connection: Connection, served_as: str, health: Health) -> None:
        with self._lock:
            self._known[connection.provider.place, served_as] = (connection, health)


def health_of(error: SLMError) -> Health | None:
    """What a failure says of the server's health; None where it says nothing."""
    now = time.time()
    if isinstance(error, Unauthorized):
        return Health("needs key", error.message, at=now)
    if isinstance(error, Retired):
        return Health("retired", error.message, on=error.on, at=now)
    if isinstance(error, Unavailable):
        return Health("not reachable", error.message, at=now)
    if isinstance(error, Busy):
        until = now + max(error.retry_after, SOONEST) if error.retry_after is not None else 0.0
        return Health("rate limited", error.message, until=until, at=now)
    if isinstance(error, NotFound):
        return Health("unknown", error.message, at=now)
    if isinstance(error, (BadRequest, ContextOverflow, Filtered)):
        return None
    return Health("unknown", error.message, at=now)
