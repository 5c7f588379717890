"""The service of one's own in ``examples/service``, started as its first lines say."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import pytest

import prunedeploy

pytest.importorskip("uvicorn", reason="uvicorn is not installed (extra serve)")
FOLDER = Path(__file__).parents[2] / "examples" / "service"


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Path:
    """Ten scores: the sums of ten rows of the image, so that the brightest row wins."""
    folder = tmp_path_factory.mktemp("service")
    graph = onnx.parser.parse_graph(
        """net (float[batch, 1, 32, 32] input) => (float[batch, 10] output) {
            f = Flatten(input)
            output = Gemm(f, w)
        }"""
    )
    weight = np.zeros((32, 32, 10), np.float32)
    for row in range(10):
        weight[row, :, row] = 1
    graph.initializer.append(onnx.numpy_helper.from_array(weight.reshape(1024, 10), "w"))
    opsets = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.save(model, folder / "m.onnx")
    return prunedeploy.build(folder / "m.onnx", "host", "ort", folder / "engine").path


@pytest.fixture(scope="module")
def url(engine):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--app-dir", FOLDER, "app:app", "--port", str(port)]
    process = subprocess.Popen(command, env={**os.environ, "ENGINE": str(engine)})
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/docs", timeout=60).close()
                break
            except urllib.error.URLError:
                assert process.poll() is None, "the service ended"
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def ask(url: str, pixels: list) -> dict:
    request = urllib.request.Request(
        f"{url}/digits",
        json.dumps({"pixels": pixels}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_it_classifies(url, engine):
    for row in (0, 1):  # of 8, which are 4 rows of the network's each: the first of these wins
        pixels = [[0.0] * 8 for _ in range(8)]
        pixels[row] = [16.0] * 8
        answer = ask(url, pixels)
        assert answer["digit"] == 4 * row
        assert answer["probability"] == pytest.approx(0.25 if row < 2 else 0.5, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("pixels", [[[0] * 8] * 7, [[0] * 7] * 8, [[17] * 8] * 8, "none"])
def test_it_refuses_what_is_no_digit(url, pixels):
    with pytest.raises(urllib.error.HTTPError, match="422"):
        ask(url, pixels)
