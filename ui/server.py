"""The web server: Streamlit's app with security headers. `streamlit run ui/server.py`.

Model output may try to load a remote picture whose address carries a secret; the policy below lets
a browser refuse whatever the renderer missed. Ends the workers when the server ends.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# `streamlit run` puts this file's folder there, where our code.py would be taken for Python's.
OURS = (str(ROOT), str(ROOT / "ui"))
sys.path[:] = [str(ROOT), *(place for place in sys.path if place not in OURS)]

import streamlit as st  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402
from starlette.types import ASGIApp, Message, Receive, Scope, Send  # noqa: E402
from streamlit import net_util  # noqa: E402

from slm_backends import selector  # noqa: E402

HEADERS = {
    b"content-security-policy": (
        b"img-src 'self' data: blob:; media-src 'self' data: blob:; object-src 'none'; "
        b"frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
    ),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}


class SecurityHeaders:
    """Adds HEADERS to every HTTP response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS.items()]
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)


@asynccontextmanager
async def lifespan(_: st.App) -> AsyncIterator[None]:
    yield
    selector.close()


# Streamlit asks a public service for this computer's address when a page of another origin knocks.
# The playground calls nobody unasked.
net_util.get_external_ip = lambda: None

app = st.App(ROOT / "app.py", middleware=[Middleware(SecurityHeaders)], lifespan=lifespan)
