"""A program that does whatever could let a key out: test_keys.py searches what it writes.

    python leaking.py FOLDER        # the key on standard input; the environment has it too

Every logger is as talkative as it can be. Files go into the folder, the rest to both outputs.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slm_backends import access, background, catalog, doctor, export, run, selector, snippets
from slm_backends.__main__ import main
from slm_backends.access import EVERYONE, Access
from slm_backends.chat import ChatRequest, Message
from slm_backends.errors import SLMError
from slm_backends.export import Exchange
from slm_backends.remote import RemoteBackend

PATIENCE = 60.0
ASKED = ChatRequest((Message("user", "Hello"),))


def show(error: BaseException | None) -> None:
    """Its traceback, with the variables of every frame of ours."""
    if error is not None:
        print(repr(error), getattr(error, "hint", ""))
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
            frames = frames.tb_next  # this program holds the key, as who types it does
        told = traceback.TracebackException(type(error), error, frames, capture_locals=True)
        print("".join(told.format()))


def ours(start: object) -> Iterator[object]:
    """Every object of slm_backends that can be reached from there."""
    seen: set[int] = set()
    waiting = [start]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type(sys)):
            continue
        seen.add(id(item))
        if type(item).__module__.startswith("slm_backends"):
            yield item
            waiting += gc.get_referents(item)
        elif isinstance(item, (dict, list, tuple, set, frozenset)):
            waiting += gc.get_referents(item)


def commands(ids: list[str]) -> None:
    main(["list", "--runtime", "nim"])
    main(["list", "--probe", "--json"])
    for deployment_id in ids:
        main(["show", deployment_id])
        main(["chat", deployment_id, "Hello"])
        main(["chat", deployment_id, "Hello", "--json"])
    # Runtimes and weights have no keys, and take long.
    for title in ("Runtimes", "Embedded model", "Store", "Packages"):
        del doctor.CHECKS[title]
    doctor.show(as_json=False)
    doctor.show(as_json=True)


def pages(ids: list[str], visitor: Access, folder: Path) -> None:
    """What a page does: prompts, exports, programs, and what a debugger or a log would show."""
    exchanges = []
    for deployment_id in ids:
        backend = selector.backend(deployment_id, visitor)
        assert isinstance(backend, RemoteBackend)
        reply = run.start(backend, ASKED).wait(PATIENCE)
        show(reply.error)
        exchanges.append([Exchange(deployment_id, ASKED, reply)])
        print(background.submit(backend.probe(one_token=True)).result(PATIENCE))
        for item in ours(backend):
            print(repr(item), str(item))
        server = snippets.server(deployment_id, access=visitor)
        assert server is not None
        print(server, snippets.python(ASKED, server), snippets.curl(ASKED, server))
        print(selector.state(catalog.load().deployment(deployment_id), visitor))
        background.submit(backend.close()).result(PATIENCE)
    (folder / "comparison.md").write_text(export.to_markdown(exchanges))
    (folder / "comparison.json").write_text(export.to_json(exchanges))


def mistakes(key: str, visitor: Access) -> None:
    nim = catalog.load().providers["nim"]
    calls: list[Any] = [
        lambda: visitor.set_key(nim, f"{key}\n{key}"),
        lambda: visitor.add_server("http://127.0.0.1:9/v1", f"{key} {key}"),
        lambda: access.check_key(access.Secret(f"{key}\n"), nim),
        lambda: EVERYONE.connection(nim),
    ]
    os.environ["NVIDIA_API_KEY"] = f"{key}\n{key}"
    for call in calls:
        with contextlib.suppress(SLMError):
            try:
                call()
            except SLMError as error:
                show(error)
                raise
            raise AssertionError("it was taken")


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    for name in ("openai", "httpx", "httpx2", "httpcore", "azure", "ollama", "asyncio"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    planted = sys.stdin.read()
    known = catalog.load()
    failing = [item for item in known.deployments if item.startswith("m@")]
    commands(failing)
    pages(failing, EVERYONE, Path(sys.argv[1]))
    typed = Access()
    for deployment_id in failing:
        provider = known.deployments[deployment_id].provider
        assert provider is not None
        typed.set_key(provider, planted)
    for item in ours(typed):
        print(repr(item))
    pages(failing, typed, Path(sys.argv[1]))
    mistakes(planted, typed)
    print("done")
