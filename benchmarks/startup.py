"""How long ``prunedeploy --help`` takes, next to the bare interpreter; the budget is 0.3 s.

python benchmarks/startup.py [--runs 20]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import prunedeploy": ["-c", "import prunedeploy"],
    "prunedeploy --help": ["-m", "prunedeploy", "--help"],
    "prunedeploy shrink --help": ["-m", "prunedeploy", "shrink", "--help"],
}


def seconds(arguments: list[str]) -> float:
    """Wall time of one fresh interpreter."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Run the commands in turn, the first round not counted, and print median and maximum."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    rounds = [[seconds(arguments) for arguments in COMMANDS.values()] for _ in range(runs + 1)]
    for name, samples in zip(COMMANDS, zip(*rounds[1:], strict=True), strict=True):
        median, worst = statistics.median(samples), max(samples)
        print(f"{name:28} median {1e3 * median:4.0f} ms   longest of {runs} {1e3 * worst:4.0f} ms")


if __name__ == "__main__":
    main()
