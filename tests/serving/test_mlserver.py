"""Engines behind a real MLServer: both protocols, fifty clients, nothing lost, clear errors."""

from __future__ import annotations

import http.client
import importlib.util
import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import engines
import numpy as np
import pytest

import prunedeploy
from prunedeploy.core.errors import MissingExtra
from prunedeploy.serving.mlserver import EngineModel

needs_mlserver = pytest.mark.skipif(
    importlib.util.find_spec("mlserver") is None,
    reason="mlserver is not installed (extra mlserver)",
)
CLIENTS, REQUESTS = 50, 4


@pytest.mark.skipif(
    importlib.util.find_spec("mlserver") is not None, reason="mlserver is installed"
)
def test_without_mlserver_the_extra_is_named():
    with pytest.raises(MissingExtra, match=r"prunedeploy\[mlserver\]"):
        EngineModel(None)


def free_ports() -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Ports of REST and gRPC, and the engine; two models, sparse and of ONNX Runtime."""
    folder = tmp_path_factory.mktemp("served")
    model = engines.network(folder / "model.onnx", seed=4)
    sparse = engines.build(model, folder / "sparse.engine", batch=(1, 4), threads=1)
    stock = prunedeploy.build(model, "host", "ort", folder / "ort.engine")
    for name, engine, sessions in (("sparse", sparse, 2), ("ort", stock, 1)):
        (folder / name).mkdir()
        settings = {
            "name": name,
            "implementation": "prunedeploy.serving.mlserver.EngineModel",
            "parameters": {
                "uri": f"../{engine.path.name}",
                "extra": {"threads": 1, "sessions": sessions},
            },
        }
        (folder / name / "model-settings.json").write_text(json.dumps(settings))
    rest, grpc, metrics = free_ports()
    ports = {"http_port": rest, "grpc_port": grpc, "metrics_port": metrics}
    settings = {"host": "127.0.0.1", "parallel_workers": 0, **ports}
    (folder / "settings.json").write_text(json.dumps(settings))
    command = [sys.executable, "-c", "import mlserver.cli; mlserver.cli.main()", "start", folder]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for name in ("sparse", "ort"):
            wait(rest, name, folder / "log")
        yield rest, grpc, sparse
    finally:
        server.terminate()
        server.wait(30)


def wait(port: int, name: str, log) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if get(port, f"/v2/models/{name}/ready")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    pytest.fail(f"{name} is not ready: {log.read_text()[-2000:]}")


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def post(connection, name: str, inputs, **more) -> tuple[int, dict]:
    body = json.dumps({"inputs": inputs, **more})
    headers = {"Content-Type": "application/json"}
    connection.request("POST", f"/v2/models/{name}/infer", body, headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def tensor(array: np.ndarray, name: str = "input", datatype: str = "FP32") -> dict:
    data = array.ravel().tolist()
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": data}


def wanted_of(engine, feeds) -> list[np.ndarray]:
    with prunedeploy.open(engine, threads=1) as session:
        return [engines.output(session, one) for one in feeds]


@needs_mlserver
@pytest.mark.parametrize("name", ["sparse", "ort"])
def test_rest_under_fifty_clients(served, name):
    port, _, engine = served
    feeds = [engines.feed(engine, 1 + n % 6, seed=n) for n in range(CLIENTS)]

    def client(number: int) -> list[np.ndarray]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        found = []
        for _ in range(REQUESTS):
            status, answer = post(connection, name, [tensor(feeds[number]["input"])])
            assert status == 200, answer
            (output,) = answer["outputs"]
            found.append(np.array(output["data"], np.float32).reshape(output["shape"]))
        return found

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(client, range(CLIENTS)))
    for found, wanted in zip(answers, wanted_of(engine, feeds), strict=True):
        assert len(found) == REQUESTS
        for one in found:
            np.testing.assert_allclose(one, wanted, rtol=0, atol=1e-5)


@needs_mlserver
@pytest.mark.parametrize("name", ["sparse", "ort"])
def test_grpc_under_fifty_clients(served, name):
    import grpc
    from mlserver.grpc import dataplane_pb2 as messages
    from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

    _, port, engine = served
    feeds = [engines.feed(engine, 1 + n % 6, seed=n) for n in range(CLIENTS)]

    def client(number: int) -> list[np.ndarray]:
        array = feeds[number]["input"]
        one = messages.ModelInferRequest.InferInputTensor(
            name="input", datatype="FP32", shape=array.shape
        )
        request = messages.ModelInferRequest(
            model_name=name, inputs=[one], raw_input_contents=[array.tobytes()]
        )
        found = []
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = GRPCInferenceServiceStub(channel)
            for _ in range(REQUESTS):
                answer = stub.ModelInfer(request, timeout=60)
                data = np.frombuffer(answer.raw_output_contents[0], np.float32)
                found.append(data.reshape(answer.outputs[0].shape))
        return found

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(client, range(CLIENTS)))
    for found, wanted in zip(answers, wanted_of(engine, feeds), strict=True):
        assert len(found) == REQUESTS
        for one in found:
            np.testing.assert_allclose(one, wanted, rtol=0, atol=1e-5)


@needs_mlserver
def test_it_says_what_it_takes(served):
    port, _, engine = served
    found = json.loads(get(port, "/v2/models/sparse")[1])
    assert found["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 5, 9, 9]}]
    (output,) = found["outputs"]
    assert output["name"] == engine.manifest.outputs[0].name
    assert output["shape"] == [-1, 10]


@needs_mlserver
def test_mistakes_are_answers_of_one_line(served):
    port, _, _ = served
    good = np.zeros((1, 5, 9, 9), np.float32)
    cut = tensor(good) | {"data": [0.0] * 4}
    cases = [
        ([tensor(good[..., :8])], {}, "input 'input' takes batch x 5 x 9 x 9"),
        ([tensor(good, name="x")], {}, "no input is called 'x'"),
        ([tensor(good, datatype="FP64")], {}, "input 'input' takes float32"),
        ([cut], {}, "input 'input' is not what it says"),
        ([], {}, "input 'input' is missing"),
        ([tensor(good)], {"outputs": [{"name": "no"}]}, "no output is called 'no'"),
    ]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for inputs, more, message in cases:
        status, answer = post(connection, "sparse", inputs, **more)
        assert status == 400
        assert message in answer["error"]
        assert "\n" not in answer["error"]
    assert post(connection, "sparse", [tensor(good)])[0] == 200
