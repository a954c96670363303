"""Run the benchmarks, all or those named: `python -m benchmarks runtimes traffic`."""

from __future__ import annotations

import importlib
import sys

NAMES = (
    "runtimes", "traffic", "first_character", "load", "nano", "vision", "ocr", "languages",
    "multilingual", "moe_nano", "routing",
)  # fmt: skip

if __name__ == "__main__":
    for name in sys.argv[1:] or NAMES:
        if name not in NAMES:
            sys.exit(f"There is no benchmark called {name}; there are {', '.join(NAMES)}.")
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"\n== {name}: {module.__doc__.splitlines()[0]}", flush=True)
        module.main()
