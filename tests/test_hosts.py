"""Which addresses stay on this computer."""

from __future__ import annotations

import pytest

from slm_backends.hosts import is_this_computer


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.10", "::1", "[::1]"])
def test_ours(host: str) -> None:
    assert is_this_computer(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "192.168.1.20", "example.com", "localhost.example.com", "127.1"]
)
def test_others(host: str) -> None:
    assert not is_this_computer(host)
