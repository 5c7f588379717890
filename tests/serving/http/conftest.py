"""Engines to serve, and one server for all tests that do not end it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import engines
import pytest
from v2_server import Server

import prunedeploy
from prunedeploy.core.records import Engine
from prunedeploy.engines import engine_folder

OPTIONS = ("--threads", "1", "--max-body-mb", "0.1")


@pytest.fixture(scope="session")
def served_engines(tmp_path_factory) -> dict[str, Engine]:
    """One network: sparse, of ONNX Runtime with any batch, and with batches of 4."""
    folder = tmp_path_factory.mktemp("served")
    model = engines.network(folder / "model.onnx", seed=4)
    fixed = engines.network(folder / "fixed.onnx", seed=4, batch=4)
    engines.build(model, folder / "sparse.engine", batch=(1, 4), threads=1)
    prunedeploy.build(model, "host", "ort", folder / "ort.engine")
    prunedeploy.build(fixed, "host", "ort", folder / "fixed.engine")
    names = ("sparse", "ort", "fixed")
    return {name: engine_folder.read_engine(folder / f"{name}.engine") for name in names}


@pytest.fixture(scope="session")
def start():
    """Starts servers, which end with the tests."""
    running: list[subprocess.Popen[str]] = []

    def started(*arguments: str | Path) -> Server:
        command = [*(sys.executable, "-P", "-m", "prunedeploy", "serve"), *map(str, arguments)]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            [*command, "--port", "0"], stdout=subprocess.PIPE, text=True, env=environment
        )
        running.append(process)
        first = process.stdout.readline()
        assert first.startswith("serving on "), first
        threading.Thread(target=process.stdout.read, daemon=True).start()
        return Server(first.split()[-1], process)

    yield started
    for process in running:
        process.terminate()
    for process in running:
        process.wait(60)


@pytest.fixture(scope="session")
def server(start, served_engines) -> Iterator[Server]:
    pytest.importorskip("fastapi", reason="fastapi is not installed (extra serve)")
    named = [f"{name}={engine.path}" for name, engine in served_engines.items()]
    return start(*named, *OPTIONS)
