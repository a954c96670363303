"""One asyncio loop on one daemon thread, on which everything that waits for a model runs.

Knows nothing of models. A task on a loop can be cancelled in a millisecond; a thread that waits in
a blocking read cannot, which is why Runs live here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def loop() -> asyncio.AbstractEventLoop:
    """The loop; its thread is started at the first call."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="slm-loop", daemon=True).start()
        return _loop


def call(function: Callable[[], None]) -> None:
    """Call a function there, soon and in the order of the calls, from any other thread."""
    loop().call_soon_threadsafe(function)


def submit(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine there, from any other thread."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop())
