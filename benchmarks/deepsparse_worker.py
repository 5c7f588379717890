"""DeepSparse in a process and an environment of its own, which runs when it is told to.

    ENV/bin/python benchmarks/deepsparse_worker.py MODEL.onnx INPUTS.npz OUTPUTS.npz BATCH THREADS

A line in, a line out: ``outputs`` writes what the engine computes to OUTPUTS.npz, ``run`` computes
once and answers with nanoseconds by its own clock, so that the pipe is not measured. The first
line out has the version and the instruction set. Imports nothing of prunedeploy: it runs in
Python 3.10 (requirements-deepsparse.txt).
"""

from __future__ import annotations

import os
import sys
import time

os.environ.setdefault("NM_DISABLE_ANALYTICS", "1")

import numpy as np


def main() -> None:
    """Compile, then answer until there is no more to answer."""
    # the engine prints to the terminal as it likes: the answers have a descriptor of their own
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    model, inputs, outputs, batch, threads = sys.argv[1:]

    import deepsparse

    engine = deepsparse.Engine(model, batch_size=int(batch), num_cores=int(threads))
    with np.load(inputs) as arrays:
        feeds = [np.ascontiguousarray(arrays[name]) for name in engine.input_names]
    print(deepsparse.__version__, deepsparse.cpu.cpu_architecture().isa, file=answers)
    for line in sys.stdin:
        start = time.perf_counter_ns()
        computed = engine.run(feeds, val_inp=False)
        took = time.perf_counter_ns() - start
        if line.strip() == "outputs":
            np.savez(outputs, **dict(zip(engine.output_names, computed)))  # noqa: B905
        print(took, file=answers)


if __name__ == "__main__":
    main()
