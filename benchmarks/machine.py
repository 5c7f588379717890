"""The peak rates of this machine: FMA, and bytes read and written by cache, in Markdown.

    python benchmarks/machine.py [--threads 1,2] [--seconds 0.05]

A small C program (``machine.c``), compiled for the host when it is needed, measures the rates that
``layers.py`` holds every layer against. Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prunedeploy import targets
from prunedeploy.core.errors import UserError

T = TypeVar("T")

SOURCE = Path(__file__).with_name("machine.c")
NEAR = 200  # ns, see round_trip
ATTEMPTS = 4  # at a run whose cores stay near each other
PAUSE = 3.0  # s
ROUND_TRIP = Path(__file__).with_name("round_trip.c")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
LEVELS = ("L1", "L2", "L3", "DRAM")
USUAL = {1: 1 << 15, 2: 1 << 20, 3: 1 << 25}  # bytes, where the system tells nothing
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-ffp-contract=fast", "-pthread")


@dataclass(frozen=True)
class Machine:
    """Rates of ``threads`` together: GFLOP/s from registers and from L1, GB/s by level.

    ``clock`` is one core's, in GHz.
    """

    threads: int
    clock: float
    fma: float
    fma_load: float
    read: tuple[float, ...]
    write: tuple[float, ...]


def measure(threads: int, seconds: float = 0.05) -> Machine:
    """Compile and run.

    Raises:
        UserError: there is no C compiler.
    """
    lines = _output(SOURCE, str(threads), str(seconds), *map(str, _sizes(threads)))
    rows: dict[str, list[float]] = {}
    for line in lines.splitlines():
        name, value = line.split()
        rows.setdefault(name, []).append(float(value))
    rates = (tuple(rows[name]) for name in ("read", "write"))
    clock = round(rows["cycles"][0] / threads, 2)
    return Machine(threads, clock, rows["fma"][0], rows["fma_load"][0], *rates)


def round_trip() -> int:
    """Nanoseconds in which a cache line goes from one core to another and back.

    A virtual machine's cores may share their last cache now and not a minute later. That does not
    change what each of them can do, but what two do together: see NOTES.md.

    Raises:
        UserError: there is no C compiler.
    """
    return int(_output(ROUND_TRIP))


def settled(run: Callable[[], T], threads: int, patience: float) -> tuple[T, tuple[int, ...]]:
    """The result of ``run`` while the cores were near each other, and how far they were around it.

    A run of several threads waits for cores that are far apart, ``patience`` seconds in all, and is
    repeated where they moved while it ran. Once patience has ended, a run counts as it is.

    Raises:
        UserError: there is no C compiler.
    """
    if threads == 1:
        return run(), ()
    for left in reversed(range(ATTEMPTS)):
        start = time.monotonic()
        before = _near_cores(patience)
        patience -= time.monotonic() - start
        result, after = run(), round_trip()
        if before > NEAR or after <= NEAR or not left:
            break
    return result, (before, after)


def _near_cores(patience: float) -> int:
    end = time.monotonic() + patience
    while (cycles := round_trip()) > NEAR and time.monotonic() < end:
        time.sleep(PAUSE)  # cores at rest are put elsewhere
    return cycles


def _output(source: Path, *arguments: str) -> str:
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise UserError("no C compiler: install gcc or clang")
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as folder:
        program = f"{folder}/program"
        subprocess.run([compiler, *FLAGS, str(source), "-o", program], check=True)
        command = [program, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _sizes(threads: int) -> tuple[int, ...]:
    """Bytes of each thread that lie well within a level, the last ones well beyond all."""
    cache = _caches()
    first, second, third = (cache.get(level, USUAL[level]) for level in (1, 2, 3))
    # the third level is shared, and whoever else runs has a part of it
    return first // 2, second // 2, third // 4 // threads, max(4 * third // threads, 1 << 26)


def _caches() -> dict[int, int]:
    sizes = {}
    for folder in CACHES.glob("index*"):
        if (folder / "type").read_text().strip() != "Instruction":
            size = (folder / "size").read_text().strip()
            sizes[int((folder / "level").read_text())] = int(size.removesuffix("K")) << 10
    return sizes


def _head(machine: Machine) -> str:
    return f"{machine.threads} thread{'s' * (machine.threads > 1)}"


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description="the peaks of this machine")
    usual = ",".join(map(str, sorted({1, targets.cores()})))
    parser.add_argument("--threads", default=usual)
    parser.add_argument("--seconds", type=float, default=0.05)
    options = parser.parse_args()
    machines = [measure(int(count), options.seconds) for count in options.threads.split(",")]
    print(f"| | {' | '.join(map(_head, machines))} |")
    print(f"|---|{'---:|' * len(machines)}")
    print(f"| clock, GHz | {' | '.join(f'{m.clock:.2f}' for m in machines)} |")
    print(f"| FMA, registers, GFLOP/s | {' | '.join(f'{m.fma:.0f}' for m in machines)} |")
    print(f"| FMA, an operand in L1 | {' | '.join(f'{m.fma_load:.0f}' for m in machines)} |")
    for direction in ("read", "write"):
        cells = (" / ".join(f"{rate:.0f}" for rate in getattr(m, direction)) for m in machines)
        print(f"| {direction} {' / '.join(LEVELS)}, GB/s | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
