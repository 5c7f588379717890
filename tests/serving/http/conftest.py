"""Engines to serve, one server for all tests that do not end it, and a plain client."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import engines
import numpy as np
import pytest

import prunedeploy
from prunedeploy.core.records import Engine
from prunedeploy.engines import engine_folder

OPTIONS = ("--threads", "1", "--max-body-mb", "0.1")


@dataclass(frozen=True)
class Server:
    """A server in a process of its own."""

    url: str
    process: subprocess.Popen[str]

    def connect(self) -> http.client.HTTPConnection:
        where = urlsplit(self.url)
        return http.client.HTTPConnection(where.hostname, where.port, timeout=60)

    def get(self, path: str) -> tuple[int, str]:
        connection = self.connect()
        connection.request("GET", path)
        answer = connection.getresponse()
        found = answer.status, answer.read().decode()
        connection.close()
        return found


def post(connection, name: str, document: object, **headers: str) -> tuple[int, dict]:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    connection.request("POST", f"/v2/models/{name}/infer", body, headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def tensor(array: np.ndarray, name: str = "input", datatype: str = "FP32") -> dict:
    data = array.ravel().tolist()
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": data}


def array_of(output: dict) -> np.ndarray:
    return np.array(output["data"], np.float32).reshape(output["shape"])


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
