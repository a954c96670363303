"""A server that fails in every way that there is, over plain sockets: what it sends is written down
byte by byte. It knows nothing of what it is asked, and no dialect."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asking import PATIENCE
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

MEGABYTE = 2**20
TLS_HANDSHAKE = b"\x16"  # the first byte of a client that wants TLS


class Cut:
    """The connection ends without a word."""


class Silence:
    """Nothing comes any more, and the connection stays."""


@dataclass(frozen=True)
class Flood:
    """The same bytes again and again, until this many megabytes were sent or the client left."""

    unit: bytes
    megabytes: int = 50


Part = bytes | Cut | Silence | Flood


@dataclass(frozen=True)
class Play:
    """An answer: `parts` are sent one after the other, as one chunk of the transfer each.

    status  of HTTP; 0 where `parts` are all that is sent, without a header
    """

    status: int = 200
    parts: tuple[Part, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


def answer(status: int, body: Any = b"", **headers: str) -> Play:
    """A body of bytes or text as it is, of anything else as JSON. `retry_after="1"` is a header."""
    if isinstance(body, str):
        body = body.encode()
    json_type = {} if isinstance(body, bytes) else {"content-type": "application/json"}
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Play(status, (sent,), json_type | named)


class FailingServer:
    """`play` is what every request gets; `asked` are the requests, each as its bytes; `sent` counts
    bytes of floods."""

    def __init__(self) -> None:
        self.play = Play()
        self.asked: list[bytes] = []
        self.sent = 0
        self.address = ""
        self.left = threading.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await reader.readexactly(1)
            if first == TLS_HANDSHAKE:
                writer.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
                await writer.drain()
            else:
                self.asked.append(first + await _request(reader))
                await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left, which with TLS is an OSError too, or the test is over
        finally:
            self.left.set()
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        play = self.play
        framed = play.status != 0
        if framed:
            lines = [f"HTTP/1.1 {play.status} Whatever", "transfer-encoding: chunked"]
            lines += [f"{name}: {value}" for name, value in play.headers.items()]
            writer.write("\r\n".join([*lines, "connection: close", "", ""]).encode())
        for part in play.parts:
            if isinstance(part, Cut):
                await writer.drain()
                await asyncio.sleep(0.02)  # or what came before may be lost with the connection
                writer.transport.abort()
                return
            if isinstance(part, Silence):
                await writer.drain()
                await reader.read()  # until the client leaves
                return
            for data in _units(part):
                writer.write(_chunk(data) if framed else data)
                await writer.drain()
                self.sent += len(data) if isinstance(part, Flood) else 0
        writer.write(b"0\r\n\r\n" if framed else b"")
        await writer.drain()


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.partition(b":")[2]))
    return head


def _units(part: bytes | Flood) -> Iterator[bytes]:
    if isinstance(part, bytes):
        if part:
            yield part
        return
    block = part.unit * max(1, MEGABYTE // 4 // len(part.unit))
    for _ in range(part.megabytes * MEGABYTE // len(block)):
        yield block


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@contextlib.contextmanager
def failing(tls: ssl.SSLContext | None = None) -> Iterator[FailingServer]:
    """The server on a free port of this machine, in a thread; `address` has no slash at its end."""
    made = FailingServer()
    loop = asyncio.new_event_loop()
    listening = loop.run_until_complete(asyncio.start_server(made._serve, "127.0.0.1", 0, ssl=tls))
    port = listening.sockets[0].getsockname()[1]
    made.address = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(_end(listening), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()


async def _end(listening: asyncio.Server) -> None:
    listening.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def self_signed(folder: Path) -> ssl.SSLContext:
    """For a server on this machine, with a certificate that nobody else has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(here, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    file = folder / "server.pem"
    file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context
