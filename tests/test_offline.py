"""No test reaches beyond this machine, and the embedded model does not need to."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from offline import sitecustomize as offline

ROOT = Path(__file__).parents[1]
ELSEWHERE = "192.0.2.1"  # an address for documentation: nobody has it

CHILD = """
import socket
for attempt in (
    lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
    lambda: socket.getaddrinfo("example.com", 80),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
):
    try:
        attempt()
    except OSError as error:
        print(type(error).__name__)
"""

# In a namespace of its own: loopback is brought up, as `ip link set lo up` would, then the command.
ALONE = """
import fcntl, os, socket, struct, sys
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(probe, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up, running
assert [name for _, name in socket.if_nameindex()] == ["lo"]
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_this_process_is_kept_here() -> None:
    with pytest.raises(offline.Offline):
        socket.create_connection((ELSEWHERE, 80), timeout=1)
    with pytest.raises(offline.Offline):
        socket.getaddrinfo("example.com", 443)
    with pytest.raises(offline.Offline), socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.sendto(b"x", (ELSEWHERE, 53))
    assert len(offline.attempts) == 3
    offline.attempts.clear()  # this test is the one that may


def test_a_name_that_nobody_can_have_is_not_even_looked_up() -> None:
    with pytest.raises(socket.gaierror, match="not known"):
        socket.getaddrinfo("nobody.invalid", 443)
    assert not offline.attempts
    with pytest.raises(offline.Offline):
        socket.getaddrinfo("invalid.example.com", 443)
    offline.attempts.clear()


def test_loopback_and_unix_sockets_are_open(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1])).close()
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "unix"))
        server.listen()
        client.connect(str(tmp_path / "unix"))


def test_child_processes_are_kept_here() -> None:
    said = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert said.stdout.split() == ["Offline"] * 3


def _can_unshare() -> bool:
    tool = shutil.which("unshare")
    return bool(tool) and not subprocess.run([tool, "-rn", "true"], capture_output=True).returncode


@pytest.mark.skipif(not _can_unshare(), reason="this system gives no network namespaces to users")
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_the_embedded_model_answers_without_any_network(
    runtime: str, embedded: tuple[str, ...]
) -> None:
    """Also what native code might do is caught here: there is no network to do it on."""
    command = ["-m", "slm_backends", "chat", f"smollm2-135m-instruct@{runtime}"]
    said = subprocess.run(
        ["unshare", "-rn", sys.executable, "-c", ALONE, *command]
        + ["What is the capital of France?", "--temperature", "0", "--max-tokens", "12"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert said.returncode == 0, said.stderr[-2000:]
    assert "Paris" in said.stdout
