"""The one loop that everything waits on."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from slm_backends import background


def test_ten_threads_get_one_loop_on_one_daemon_thread() -> None:
    with ThreadPoolExecutor(10) as threads:
        loops = set(threads.map(lambda _: background.loop(), range(10)))
    assert loops == {background.loop()}
    named = [thread for thread in threading.enumerate() if thread.name == "slm-loop"]
    assert len(named) == 1
    assert named[0].daemon


def test_submit_runs_a_coroutine_there() -> None:
    async def where() -> tuple[str, asyncio.AbstractEventLoop]:
        return threading.current_thread().name, asyncio.get_running_loop()

    assert background.submit(where()).result(5) == ("slm-loop", background.loop())


def test_calls_keep_their_order() -> None:
    seen: list[int] = []
    done = threading.Event()
    for number in range(100):
        background.call(lambda number=number: seen.append(number))
    background.call(done.set)
    assert done.wait(5)
    assert seen == list(range(100))
