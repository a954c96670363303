"""Children that fail, are stopped, or lose their parent."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from slm_backends import child


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a module called `errand`."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "errand.py"


def test_lines_come_in_order_and_arguments_arrive(module: Path) -> None:
    module.write_text("import sys\nfor word in sys.argv[1:]: print(word)\n")
    lines: list[str] = []
    child.run("errand", ["one", "zwei 😀", "three"], on_line=lines.append)
    assert lines == ["one", "zwei 😀", "three"]


def test_failure_keeps_a_short_tail(module: Path) -> None:
    module.write_text(
        "import sys\nfor n in range(1000): print(n, file=sys.stderr)\nprint('x' * 10**6)\n"
        "sys.exit('the reason')\n"
    )
    with pytest.raises(child.ChildFailed) as caught:
        child.run("errand", [])
    assert caught.value.code == 1
    assert len(caught.value.tail) <= child.TAIL_LINES
    assert max(map(len, caught.value.tail)) <= child.LINE_CHARACTERS


def test_reason_is_the_last_line(module: Path) -> None:
    module.write_text("import sys\nsys.exit('the reason')\n")
    with pytest.raises(child.ChildFailed) as caught:
        child.run("errand", [], on_line=lambda _: None)
    assert caught.value.tail[-1] == "the reason"


def test_signal_is_reported(module: Path) -> None:
    module.write_text("import os\nos.abort()\n")
    with pytest.raises(child.ChildFailed, match="exit code -6"):
        child.run("errand", [])


def test_cancel_ends_a_stubborn_child(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "GRACE", 0.3)
    module.write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready')\ntime.sleep(60)\n"
    )
    lines: list[str] = []
    before = time.monotonic()
    with pytest.raises(child.ChildCancelled):
        child.run("errand", [], on_line=lines.append, cancelled=lambda: bool(lines))
    assert time.monotonic() - before < 10


def test_child_ends_with_its_parent(module: Path, tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    module.write_text(
        "import time, pathlib\n"
        f"while True: pathlib.Path({str(beat)!r}).write_text(str(time.time())); time.sleep(0.02)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", "from slm_backends import child; child.run('errand', [])"],
        cwd=Path(child.__file__).parents[1],
    )
    deadline = time.monotonic() + 20
    while not beat.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    time.sleep(0.5)
    last = beat.read_text()
    time.sleep(0.5)
    assert beat.read_text() == last
