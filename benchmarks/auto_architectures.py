"""The runtime that ``build`` takes by itself for many architectures at 90 % zeros, and its speed.

    python benchmarks/auto_architectures.py FOLDER [-o RESULTS.json]

FOLDER holds what ``benchmarks/operators.py export FOLDER`` wrote. Of each architecture the default
export is taken (``dynamo-sdpa``), else the first there is. Every runtime that can compute the model
is built, verified and timed in turn by ``build``, on one thread and on all. A result is kept as
soon as it is there, so that an interrupted run goes on. Ends with status 1 where an engine is
slower than 0.97 times ONNX Runtime, or none was built.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import atomic_path
from prunedeploy.core.records import Engine
from prunedeploy.engines import building
from prunedeploy.measure.environment import environment
from prunedeploy.runtimes.hybrid.engine import read_placement

RESULTS = Path(__file__).parent / "results" / "auto_architectures.json"
PREFERRED = "dynamo-sdpa"
SLOWEST = 0.97


def exports(folder: Path) -> dict[str, Path]:
    """One file for each architecture."""
    chosen: dict[str, Path] = {}
    for path in sorted(folder.glob("*.onnx")):
        name, _, how = path.stem.rpartition("@")
        if how == PREFERRED or name not in chosen:
            chosen[name] = path
    return chosen


def row(path: Path) -> dict[str, Any]:
    """The runtime, the seconds that building took, and speeds by the number of threads."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            engine = building.build(path, output=Path(folder) / "e")
        except UserError as error:
            return {"export": path.stem, "refused": str(error)}
        return {
            "export": path.stem,
            "runtime": engine.manifest.runtime,
            "seconds": round(time.perf_counter() - begin, 1),
            "speed": speeds(engine),
            **shares(engine),
        }


def speeds(engine: Engine) -> dict[str, float]:
    """Relative to ONNX Runtime on the same model; 1 where nothing else was to be compared."""
    choice = engine.manifest.choice
    times = {(x.runtime, x.threads): x.seconds for x in choice.times} if choice else {}
    return {
        str(threads): round(times["ort", threads] / seconds, 3)
        for (runtime, threads), seconds in times.items()
        if runtime == engine.manifest.runtime and ("ort", threads) in times
    }


def shares(engine: Engine) -> dict[str, Any]:
    """Of a hybrid engine: the share of the multiply-adds that its sparse parts have."""
    if engine.manifest.runtime != "hybrid":
        return {}
    return {"sparse share": round(read_placement(engine).share, 3)}


def main() -> int:
    """Build what is not known yet; print a line for each and the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows: dict[str, Any] = {}
    if arguments.output.is_file():
        rows = json.loads(arguments.output.read_text())["rows"]
    for name, path in exports(arguments.folder).items():
        if name not in rows:
            rows[name] = row(path)
            with atomic_path(arguments.output) as file:
                file.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1))
        print(f"{name:36}", json.dumps({k: v for k, v in rows[name].items() if k != "export"}))
    slow = [x for x, r in rows.items() if min(r.get("speed", {}).values(), default=1.0) < SLOWEST]
    refused = [name for name, each in rows.items() if "refused" in each]
    print(Counter(each.get("runtime", "refused") for each in rows.values()), "slower:", slow)
    return 1 if slow or refused else 0


if __name__ == "__main__":
    sys.exit(main())
