"""Measures how much memory an engine takes, in a process that runs nothing else.

The child imports everything, makes the inputs, lets the kernel forget the peak so far
(``/proc/self/clear_refs``) and then opens the engine and runs it. What counts is the highest
resident size from there on less the resident size before: weights, packed copies, activations,
outputs and thread stacks, without the interpreter and the shared libraries. Measuring it in the
process that times several engines would charge each with the others' memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Dim, Engine

RUNS = 3
STATUS = Path("/proc/self/status")


def peak_bytes(engine: Engine, batch: int, threads: int) -> int:
    """Peak resident bytes that opening and running ``engine`` adds to a process.

    Raises:
        UserError: the process died, for want of memory say.
    """
    command = [
        sys.executable,
        "-P",  # nothing of the current folder in the place of a library
        "-m",
        "prunedeploy.measure.memory",
        str(engine.path),
        str(batch),
        str(threads),
        json.dumps({spec.name: spec.shape for spec in engine.manifest.inputs}),
    ]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode != 0:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"{engine.path} failed in a process of its own (status {child.returncode}): {last}"
        )
    return int(child.stdout.split()[-1])


def _measure(path: str, batch: int, threads: int, shapes: Mapping[str, Sequence[Dim]]) -> int:
    from prunedeploy.engines import engine_folder, opening
    from prunedeploy.reference.drawing import random_feeds
    from prunedeploy.runtimes.registry import by_name

    engine = engine_folder.read_engine(path)
    # the libraries are not the engine's, so they are loaded before the count starts
    by_name(engine.manifest.runtime).versions()
    inputs = tuple(replace(x, shape=tuple(shapes[x.name])) for x in engine.manifest.inputs)
    feeds = random_feeds(inputs, batch)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    with opening.open(engine, threads) as session:
        for _ in range(RUNS):
            session.run(feeds)
    return max(0, _status("VmHWM") - before)


def _status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    line = next(x for x in STATUS.read_text().splitlines() if x.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(_measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])))
