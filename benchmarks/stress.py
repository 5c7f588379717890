"""Sessions under stress: many threads, forks, reloads, and engines that are replaced while open.

    python benchmarks/stress.py [--seconds 60] [--reloads 5000] [--runtime sparse]

Every answer has to be the right one, or one clear line; what else happens is counted as wrong, and
the status is then 1.
"""

from __future__ import annotations

import argparse
import collections
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

import prunedeploy
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array

THREADS, SESSIONS, FORKS = 16, 2, 30
Counts = collections.Counter[str]


def network(path: Path, seed: int) -> Path:
    """Two convolutions, half of their weights zeros, on 8x24x24."""
    random = np.random.default_rng(seed)
    weights = {
        name: (random.standard_normal(shape) * (random.random(shape) < 0.5)).astype(np.float32)
        for name, shape in {"w": (32, 8, 3, 3), "v": (16, 32, 3, 3)}.items()
    }
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 8, 24, 24])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 16, 20, 20])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def inputs(seed: int) -> dict[str, Array]:
    """A batch of one to four."""
    random = np.random.default_rng(seed)
    return {"input": random.standard_normal((1 + seed % 4, 8, 24, 24)).astype(np.float32)}


def answer(engine: Path, feeds: dict[str, Array]) -> Array:
    """The output of an engine that is opened for it."""
    with prunedeploy.open(engine, 1) as session:
        return session.run(feeds)["output"]


def many_threads(engines: tuple[Path, Path], _folder: Path, seconds: float) -> Counts:
    """16 threads run two sessions, each with inputs of its own."""
    counts, end = Counts(), time.monotonic() + seconds
    sessions = [prunedeploy.open(engines[0], 1 + k, shared=True) for k in range(SESSIONS)]
    wanted = [sessions[0].run(inputs(k))["output"] for k in range(THREADS)]

    def work(k: int) -> None:
        while time.monotonic() < end:
            output = sessions[k % SESSIONS].run(inputs(k))["output"]
            counts["right" if close(output, wanted[k]) else "WRONG"] += 1

    threads = [threading.Thread(target=work, args=(k,)) for k in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for session in sessions:
        session.close()
    return counts


def forks(engines: tuple[Path, Path], _folder: Path, _: float) -> Counts:
    """Children of a process whose threads run a session: theirs is refused, a new one computes."""
    counts, stop = Counts(), threading.Event()
    with prunedeploy.open(engines[0], 2) as session:
        wanted = session.run(inputs(0))["output"]

        def work() -> None:
            while not stop.is_set():
                session.run(inputs(0))

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(FORKS):
            child = os.fork()
            if child == 0:
                os._exit(_in_child(engines[0], session, wanted))
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            counts["right" if code == 0 else f"WRONG: child ends with {code}"] += 1
        stop.set()
        for thread in threads:
            thread.join()
    return counts


def _in_child(engine: Path, session: prunedeploy.Session, wanted: Array) -> int:
    signal.alarm(120)
    try:
        session.run(inputs(0))
        return 3
    except UserError:
        session.close()
    return 0 if close(answer(engine, inputs(0)), wanted) else 4


def reloads(engines: tuple[Path, Path], folder: Path, count: float) -> Counts:
    """An engine is replaced by another one at its path, and opened, again and again."""
    counts, live = Counts(), folder / "live"
    wanted = [answer(engine, inputs(0)) for engine in engines]
    for k in range(int(count)):
        shutil.copytree(engines[k % 2], folder / "new")
        shutil.rmtree(live, ignore_errors=True)
        (folder / "new").rename(live)
        counts["right" if close(answer(live, inputs(0)), wanted[k % 2]) else "WRONG"] += 1
    return counts


def replaced(engines: tuple[Path, Path], folder: Path, seconds: float) -> Counts:
    """Files are written over, as ``cp`` does, while others open the engine and run it."""
    counts, live, end = Counts(), folder / "written", time.monotonic() + seconds
    wanted = [answer(engine, inputs(0)) for engine in engines]
    shutil.copytree(engines[0], live)
    kept = prunedeploy.open(live, 1)

    def write() -> None:
        while time.monotonic() < end:
            for engine in engines:
                for file in engine.iterdir():
                    shutil.copyfile(file, live / file.name)
                time.sleep(0.05)

    writer = threading.Thread(target=write)
    writer.start()
    while time.monotonic() < end:
        counts["right" if close(kept.run(inputs(0))["output"], wanted[0]) else "WRONG"] += 1
        try:
            output = answer(live, inputs(0))
            counts["right" if any(close(output, x) for x in wanted) else "WRONG"] += 1
        except UserError as error:
            counts["one line" if "\n" not in str(error) else "WRONG: lines"] += 1
    writer.join()
    kept.close()
    return counts


def close(output: Array, wanted: Array) -> bool:
    """Whether outputs are the same but for the order of sums, which threads change."""
    return bool(np.allclose(output, wanted, rtol=1e-4, atol=1e-4))


Case = Callable[[tuple[Path, Path], Path, float], Counts]


def main() -> int:
    """Each case in turn; its counts on one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--reloads", type=int, default=5000)
    parser.add_argument("--runtime", default="sparse")
    given = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads
    options = {"batch": (1, 2), "tune": "none"} if given.runtime == "sparse" else {}
    cases: dict[Case, float] = {
        many_threads: given.seconds,
        forks: 0,
        reloads: given.reloads,
        replaced: given.seconds,
    }
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = [network(folder / f"{seed}.onnx", seed) for seed in range(2)]
        first, second = (
            prunedeploy.build(x, runtime=given.runtime, output=folder / x.stem, **options).path  # type: ignore[arg-type]
            for x in models
        )
        for case, amount in cases.items():
            begin = time.monotonic()
            counts = case((first, second), folder, amount)
            wrong += sum(count for what, count in counts.items() if what.startswith("WRONG"))
            said = ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))
            print(f"{case.__name__:14} {said} in {time.monotonic() - begin:.0f} s", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
