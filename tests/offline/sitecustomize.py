"""Keeps a Python process on this machine: to connect to another, or to look one up, raises.

Python imports a module of this name when it starts, so whoever has this folder on PYTHONPATH is
watched, and so are its children. tests/conftest.py puts it there, and imports it for itself.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from typing import Any

# Where Python has run it at its start, as in the processes of pytest-xdist, the tests that import
# it shall find that one and not begin a second watch.
sys.modules["offline.sitecustomize"] = sys.modules[__name__]

attempts: list[str] = []  # what this process tried, refused each time


class Offline(OSError):
    """A test wanted to leave this machine."""


def _is_here(host: Any) -> bool:
    if isinstance(host, (bytes, bytearray)):
        host = host.decode("ascii", "replace")
    if not isinstance(host, str) or host in ("", "localhost"):
        return True  # None: any address of this machine; numbers: a socket of the kernel's own
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _is_nowhere(host: Any) -> bool:
    name = host.decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else host
    return isinstance(name, str) and name.endswith(".invalid")


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # a string: a Unix socket
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0]
    else:
        return
    if _is_nowhere(host):
        # What every resolver says of such a name, said without asking one (RFC 6761, 6.4).
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    if not _is_here(host):
        attempts.append(f"{event} {host!r}")
        raise Offline(f"{event}: tests stay on this machine, {host!r} is beyond it")


sys.addaudithook(_watch)
