"""Called like slm_backends.convert, but copies: quick, and able to be slow or to crash on demand.

It notes every call in $STAND_IN_LOG as "kind pid", so that a test can count them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    kind, file, out = sys.argv[1:]
    with Path(os.environ["STAND_IN_LOG"]).open("a", encoding="utf-8") as log:
        log.write(f"{kind} {os.getpid()}\n")
    folder = Path(out)
    folder.mkdir()
    (folder / "half").write_bytes(b"half")
    print("not JSON, as a chatty library would print")
    print(json.dumps({"step": "converting", "done": 1, "total": 2}))
    time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0")))
    if os.environ.get("STAND_IN_CRASH"):
        print("the library's last words", file=sys.stderr)
        sys.stderr.flush()
        os.abort()
    (folder / "half").unlink()
    (folder / "tokenizer.json").write_bytes(Path(file).read_bytes()[:100])
    if kind == "onnx-int4":
        (folder / "model.onnx").write_bytes(Path(file).read_bytes()[::-1])
    print(json.dumps({"step": "converting", "done": 2, "total": 2}))


main()
