"""Start-up: the command line's help, and what importing the package loads."""

from __future__ import annotations

import subprocess
import sys

from common import interleaved, milliseconds, ratio, table

ROUNDS = 15
HEAVY = ("torch", "onnxruntime", "onnx", "optuna", "pandas", "plotly", "scipy")


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)
    return done.stdout


def main() -> None:
    calls = {
        "python alone": lambda: run("-c", "pass"),
        "import autocompress": lambda: run("-c", "import autocompress"),
        "autocompress --help": lambda: run("-m", "autocompress", "--help"),
    }
    times = interleaved(calls, ROUNDS)
    rows = [(key, milliseconds(values), ratio(values, times["python alone"])) for key, values in times.items()]
    table("Whole processes", ("", "ms", "of python alone"), rows)
    code = f"import sys, autocompress; print([name for name in {HEAVY} if name in sys.modules])"
    print(f"\nheavy modules that importing autocompress loads: {run('-c', code).strip()}")


if __name__ == "__main__":
    main()
