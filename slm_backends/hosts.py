"""Whether an address is this computer's own. Asks no network and looks no name up."""

from __future__ import annotations

import ipaddress


def is_this_computer(host: str) -> bool:
    """Whether nobody but programs of this computer is reached there, or listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
