"""The memory that local workers share: who may load, who must go for it, and the line of those who
wait. First come, first served.

Knows bytes and who uses what. Does not know what a worker is, nor what it computes. Everything here
happens on the background loop.

Whoever is first in line and does not fit chooses who shall leave: the least recently used among the
idle, then among the busy. From then on, new requests to those wait in line too, behind the one that
chose. So it waits for the replies that were being written when its turn came, never for later ones,
and nobody waits for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from slm_backends import fit, settings
from slm_backends.catalog import Deployment
from slm_backends.chat import Queued
from slm_backends.errors import MemoryExceeded

POLL_SECONDS = 0.05  # between two looks at those that shall leave


class Tenant(Protocol):
    """What a backend shows of itself here.

    held     bytes that are set aside for it while its worker runs
    leaving  written here: no new request may use its worker
    """

    leaving: bool

    @property
    def id(self) -> str: ...

    @property
    def deployment(self) -> Deployment: ...

    @property
    def held(self) -> int: ...

    @property
    def loaded(self) -> bool: ...

    @property
    def in_use(self) -> bool: ...

    async def end_worker(self) -> None: ...


class Memory:
    """`tenants` gives those whose worker runs, least recently used first."""

    def __init__(self, tenants: Callable[[], Sequence[Tenant]]) -> None:
        self._tenants = tenants
        self._line: list[Tenant] = []
        self._turn = asyncio.Lock()  # which gives turns in the order in which they are asked for

    @asynccontextmanager
    async def turn(self, wanted: Tenant) -> AsyncGenerator[None, None]:
        """Wait in line until `wanted` fits, or is loaded after all. Within the block nobody else
        may load: it ends when the worker of `wanted` counts.

        Raises MemoryExceeded, at once, where it can never fit.
        """
        _check(wanted)
        self._line.append(wanted)
        try:
            async with self._turn:
                try:
                    await self._make_room(wanted)
                    yield
                finally:
                    for tenant in self._tenants():
                        tenant.leaving = False
        finally:
            self._line.remove(wanted)

    def queued(self, waiting: Tenant) -> Queued:
        """The place in line of one that waits, and for whom it does."""
        if waiting not in self._line:
            return Queued(reason="waiting for memory")
        place = self._line.index(waiting) + 1
        if place > 1:
            return Queued(place, f"waiting for memory, behind {self._line[0].id}")
        busy = [tenant for tenant in self._tenants() if tenant.leaving and tenant.in_use]
        if not busy:
            return Queued(place, "making room in memory")
        names = " and ".join(tenant.id for tenant in busy)
        return Queued(place, f"waiting for memory: {names} {'are' if busy[1:] else 'is'} in use")

    async def _make_room(self, wanted: Tenant) -> None:
        while not wanted.loaded:
            _check(wanted)  # again, as the budget may have changed
            others = [tenant for tenant in self._tenants() if tenant is not wanted]
            needed = fit.fits(wanted.deployment).held
            excess = _held(others) + needed - fit.memory_budget()
            if excess <= 0:
                return
            idle = [tenant for tenant in others if not tenant.in_use]
            if _held(idle) >= excess:
                await idle[0].end_worker()
                continue
            busy = [tenant for tenant in others if tenant.in_use]
            _choose([*idle, *busy], excess)
            await asyncio.sleep(POLL_SECONDS)


def _check(wanted: Tenant) -> None:
    verdict = fit.fits(wanted.deployment)
    if not verdict.fits:
        raise MemoryExceeded(
            f"{wanted.id} does not fit here: it {verdict.reason}.",
            hint=_way_out(wanted.deployment),
        )


def _way_out(deployment: Deployment) -> str:
    if fit.can_offload(deployment) and not settings.flag(fit.OFFLOAD, default=False):
        return (
            f"Set {fit.OFFLOAD}=1, and what finds no room is read from the disk for each token, "
            "which is slow; or choose a smaller model."
        )
    return "Set SLM_MEMORY_GB higher or SLM_CONTEXT lower, or choose a smaller model."


def _choose(tenants: Sequence[Tenant], excess: int) -> None:
    """Mark as many as must leave, in this order. Those chosen before stay chosen: a choice that
    moved from one to another could go on for ever."""
    for tenant in tenants:
        if _held([other for other in tenants if other.leaving]) >= excess:
            return
        tenant.leaving = True


def _held(tenants: Sequence[Tenant]) -> int:
    return sum(tenant.held for tenant in tenants)
