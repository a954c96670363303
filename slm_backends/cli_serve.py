"""`serve`: one local deployment as an OpenAI-compatible server, in this process, until Ctrl-C.

Knows addresses, signals and who may connect. The protocol is worker/server.py's. A key is needed to
listen beyond this computer, and is never printed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import threading
import time
from typing import NoReturn

from slm_backends import catalog, fit, selector, store
from slm_backends.catalog import Deployment
from slm_backends.endpoints.fake import PREFIX
from slm_backends.errors import BadRequest, NotFetched, NotInstalled, SLMError
from slm_backends.hosts import is_this_computer
from slm_backends.terminal import Status, duration

LAST_WORDS = 3  # seconds that running replies may take to end after Ctrl-C
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1", "[::1]")
BACKLOG = 2048  # connections that the system holds; how many are answered is the scheduler's matter


def serve(deployment_id: str, host: str, port: int, api_key: str) -> NoReturn:
    """Serve until a signal comes; raises what stands in the way, and never returns."""
    deployment = _servable(deployment_id)
    _check_access(host, api_key)
    listener = _listen(host, port)
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the runtime is imported

    import uvicorn
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.types import ASGIApp

    from slm_backends.worker.server import Service, build

    kept = fit.fits(deployment).kept
    service = Service(deployment, store.folder(deployment), fit.context(deployment), kept)
    app: ASGIApp = build(service, api_key)
    if not api_key:
        # Without a key, the name that a caller used is what tells a program on this computer from a
        # web page that had its own name resolved to this address.
        app = TrustedHostMiddleware(app, [*LOOPBACK_NAMES, host], www_redirect=False)
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=LAST_WORDS,
    )
    server = uvicorn.Server(config)
    # A defect shows its traceback; replies that the end of serving cuts short are no defect.
    logging.getLogger("uvicorn.error").addFilter(lambda record: not server.should_exit)
    failures: list[SLMError] = []

    def load() -> None:
        begun = time.monotonic()
        status = Status(sys.stderr)
        try:
            service.load(lambda done, step: status.show(f"loading: {step}", f"{done:.0%}"))
        except SLMError as error:
            failures.append(error)
            server.should_exit = True
            return
        finally:
            status.clear()
        print(f"Ready after {duration(time.monotonic() - begun)}.", flush=True)

    print(_how_to_use(deployment, listener, keyed=bool(api_key)), flush=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    threading.Thread(target=load, name="load", daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        # It stops at a signal, then sends that signal again, to the handlers from before.
        server.run(sockets=[listener])
    if failures:
        raise failures[0]
    _leave()


def _servable(deployment_id: str) -> Deployment:
    if deployment_id.startswith(PREFIX):
        raise BadRequest(
            f"{deployment_id} is a script inside this program: there is nothing to serve.",
            hint=f"Try it with: python -m slm_backends chat {deployment_id}",
        )
    deployment = catalog.load().deployment(deployment_id)
    if not deployment.local:
        raise BadRequest(
            f"{deployment_id} is on a server already.",
            hint=f"python -m slm_backends show {deployment_id} tells its address.",
        )
    missing = selector.not_installed(deployment)
    if missing:
        raise NotInstalled(f"{deployment.runtime_name} is not installed here.", package=missing)
    if not store.is_ready(deployment):
        raise NotFetched(
            f"The weights of {deployment_id} are not on this computer.",
            hint=f"Fetch them with: python -m slm_backends fetch {deployment_id}",
        )
    return deployment


def _check_access(host: str, api_key: str) -> None:
    if api_key and (not api_key.isascii() or not api_key.isprintable() or " " in api_key):
        raise BadRequest("A key must be ASCII without spaces: it travels in a header.")
    if not api_key and not is_this_computer(host):
        raise BadRequest(
            f"Listening on {host} lets other computers use this model, so callers need a key.",
            hint="Set SLM_API_KEY, or leave --host out to serve this computer only.",
        )


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Bound before anything is loaded: a taken port is told at once."""
    if not 0 <= port <= 65_535:  # the system would take the remainder, without a word
        raise BadRequest(f"A port is a number from 0 to 65,535, not {port}.", field="port")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SLMError(
                f"Port {port} on {host} is taken by another program.",
                hint="Choose another with --port, or --port 0 for a free one.",
            ) from None
        raise SLMError(
            f"Cannot listen on {host}, port {port}: {error}.",
            hint="Check --host; ports below 1024 may need rights.",
        ) from None
    from slm_backends.worker.server import send_at_once

    send_at_once(listener)
    return listener


def _how_to_use(deployment: Deployment, listener: socket.socket, *, keyed: bool) -> str:
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
    header = ' -H "Authorization: Bearer $SLM_API_KEY"' if keyed else ""
    key = 'os.environ["SLM_API_KEY"]' if keyed else '"none"'
    return f"""\
Serving {deployment.id} at {url}   (Ctrl-C ends it)

  curl {url}/chat/completions{header} -H "Content-Type: application/json" \\
    -d '{{"messages": [{{"role": "user", "content": "Hello"}}]}}'

  client = openai.OpenAI(base_url="{url}", api_key={key})
"""


def _leave() -> NoReturn:
    """End now, with 0: a signal is how serving ends. The engine's thread may be inside native code,
    which an orderly end of the interpreter would pull the ground from under."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
