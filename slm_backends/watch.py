"""How far a fetch is, and whether its caller still wants it.

Knows steps and shares. Does not know what is fetched, nor how progress is shown (cli_models.py,
ui).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from slm_backends import child

#: Where each step of bytes begins in the whole and how much of it it is, roughly by the time that
#: they take: alone, and before a conversion.
ALONE = {
    "checking what is here": (0.0, 0.05),
    "downloading": (0.05, 0.85),
    "unpacking": (0.9, 0.05),
    "checking": (0.9, 0.1),
}
BEFORE_A_CONVERSION = {
    "checking what is here": (0.0, 0.02),
    "downloading": (0.02, 0.48),
    "unpacking": (0.5, 0.05),
    "checking": (0.5, 0.05),
}
CONVERSION = (0.55, 0.45)

Unit = Literal["bytes", "steps"]


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of this step (total None: unknown); `fraction` of it all, 0 to 1."""

    step: str
    done: int
    total: int | None
    unit: Unit
    fraction: float


class Watch:
    """Tells the caller of a fetch how far it is, and the fetch whether to go on."""

    def __init__(
        self,
        progress: Callable[[Progress], None] | None,
        cancelled: Callable[[], bool] | None,
        *,
        converts: bool,
    ) -> None:
        self.cancelled = cancelled
        self._progress = progress
        self._parts = BEFORE_A_CONVERSION if converts else ALONE
        self._last: Progress | None = None

    def check(self) -> None:
        """ChildCancelled where the caller wants no more."""
        if self.cancelled is not None and self.cancelled():
            raise child.ChildCancelled

    def bytes(self, step: str, done: int, total: int) -> None:
        self._report(step, done, total, "bytes", self._parts[step])

    def steps(self, step: str, done: int, total: int) -> None:
        self._report(step, done, total, "steps", CONVERSION)

    def waiting(self, step: str = "waiting for another process") -> None:
        self.check()
        fraction = self._last.fraction if self._last else 0.0
        self._tell(Progress(step, 0, None, "steps", fraction))

    def finished(self) -> None:
        self._tell(Progress("ready", 1, 1, "steps", 1.0))

    def _report(
        self, step: str, done: int, total: int, unit: Unit, part: tuple[float, float]
    ) -> None:
        self.check()
        begin, share = part
        fraction = begin + share * min(done / total, 1.0) if total else begin
        # Never backwards: the conversion counts several things one after the other.
        fraction = max(fraction, self._last.fraction if self._last else 0.0)
        self._tell(Progress(step, done, total, unit, fraction))

    def _tell(self, now: Progress) -> None:
        if self._progress is not None and now != self._last:
            self._progress(now)
        self._last = now
