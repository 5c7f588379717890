"""Engines for GPUs, run in a process that finds the false libcuda."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from prunedeploy.core.records import Array

HERE = Path(__file__).parent
SCRIPT = """
import sys, numpy as np
sys.path.insert(0, sys.argv[1])
import session
feeds = dict(np.load(sys.argv[2]))
try:
    with session.open() as opened:
        for turn in range(int(sys.argv[4])):
            outputs = opened.run(feeds)
    np.savez(sys.argv[3], **outputs)
except session.EngineError as error:
    sys.exit(f"EngineError: {error}")
"""


def compile_library(folder: Path, graphs: int = 12) -> None:
    """Write the false libcuda.so.1 into ``folder``, with the CUDA graphs of a version (0: none)."""
    source, library = HERE / "ptx" / "false_cuda.c", folder / "libcuda.so.1"
    options = ["-O1", "-shared", "-fPIC", f"-DCUDA_GRAPHS={graphs}"]
    command = ["gcc", *options, "-o", str(library), str(source)]
    subprocess.run(command, check=True)


def run_engine(
    engine: Path,
    feeds: Mapping[str, Array],
    folder: Path,
    *,
    library: Path | None,
    fault: str = "",
    runs: int = 1,
) -> dict[str, Array] | str:
    """The outputs of ``engine``, opened by its own ``session.py``; of one that fails the message.

    Args:
        engine: an engine's folder.
        feeds: its inputs.
        folder: for files in between; the lines of ``log`` say which modules and graphs were used.
        library: the folder of the false libcuda; None for a machine that has none.
        fault: what FALSE_CUDA is to plant.
        runs: how often it runs.
    """
    given, made = folder / "feeds.npz", folder / "outputs.npz"
    np.savez(given, **feeds)
    server = shlex.join([sys.executable, "-P", str(HERE / "ptx" / "server.py")])
    paths = {"LD_LIBRARY_PATH": str(library)} if library is not None else {}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(engine), str(given), str(made), str(runs)],
        env={
            **os.environ,
            **paths,
            "FALSE_CUDA": fault,
            "FALSE_CUDA_LOG": str(folder / "log"),
            "FALSE_CUDA_PTX": str(engine / "model.ptx"),
            "FALSE_CUDA_SERVER": server,
            "PYTHONPATH": str(HERE),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return done.stderr.strip()
    with np.load(made) as outputs:
        return dict(outputs)
