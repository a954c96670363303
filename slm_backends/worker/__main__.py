"""The worker process: `python -m slm_backends.worker DEPLOYMENT FOLDER CONTEXT MEMORY`.

Started by process.py; CONTEXT is the number of tokens that it shall hold at most, MEMORY the bytes
of weights, either may be empty.
Speaks to its parent in JSON lines on standard output ({"port"}, {"fraction", "step"}, {"ready"},
{"failed"}) and reads its token from the environment. It ends when standard input closes, which the
operating system does for a parent that was killed.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import uvicorn

from slm_backends import catalog
from slm_backends.errors import SLMError
from slm_backends.worker import TOKEN_VARIABLE, wire
from slm_backends.worker.server import Service, build, send_at_once


def main() -> None:
    deployment_id, folder, context, memory = sys.argv[1:]
    parent = _take_standard_output()
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    deployment = catalog.load().deployment(deployment_id)
    service = Service(
        deployment,
        Path(folder),
        int(context) if context else None,
        int(memory) if memory else None,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    send_at_once(listener)
    _tell(parent, port=listener.getsockname()[1])

    def load() -> None:
        try:
            service.load(lambda fraction, step: _tell(parent, fraction=fraction, step=step))
        except SLMError as error:
            _tell(parent, failed=wire.write_error(error)["error"])
        else:
            ready = asdict(service.about) | {"context": service.capabilities.context}
            _tell(parent, ready=ready)

    threading.Thread(target=load, name="load", daemon=True).start()
    app = build(service, os.environ.pop(TOKEN_VARIABLE))
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])


def _take_standard_output() -> TextIO:
    """Standard output for our lines alone; what libraries print there goes to standard error."""
    ours = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return ours


def _tell(parent: TextIO, **message: Any) -> None:
    parent.write(json.dumps(message) + "\n")
    parent.flush()


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
