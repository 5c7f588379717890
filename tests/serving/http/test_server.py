"""The real server in a process: answers under load, mistakes, metrics, back pressure, its end."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import engines
import numpy as np
import pytest
from v2_server import array_of, post, tensor

import prunedeploy
from prunedeploy.serving.http import app
from prunedeploy.serving.http.client import Client, message
from prunedeploy.serving.http.refusal import Refusal

CLIENTS, REQUESTS = 50, 4
MODELS = ("sparse", "ort", "fixed")


def figures(server, model: str) -> dict[str, float]:
    """The metrics of a model; a label behind the model's is part of the name."""
    status, text = server.get("/metrics")
    assert status == 200
    lines = re.findall(rf'^prunedeploy_(\w+){{model="{model}",?([^}}]*)}} (\S+)$', text, re.M)
    return {f"{name} {label}".strip(): float(value) for name, label, value in lines}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("form", ["binary", "json"])
def test_fifty_clients_get_their_own_answers(server, served_engines, model, form):
    sparse = served_engines["sparse"]
    feeds = [engines.feed(sparse, 1 + n % 3, seed=n) for n in range(CLIENTS)]
    with prunedeploy.open(sparse, threads=1) as session:
        wanted = [engines.output(session, one) for one in feeds]
    before = figures(server, model)

    def ask(number: int) -> list[np.ndarray]:
        client, request = Client(server.url), message(feeds[number], form)
        replies = [client.infer(model, request) for _ in range(REQUESTS)]
        client.close()
        assert all(reply.status == 200 for reply in replies), replies
        return [array for reply in replies for array in reply.outputs.values()]

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(ask, range(CLIENTS)))
    for found, expected in zip(answers, wanted, strict=True):
        assert len(found) == REQUESTS
        for one in found:
            np.testing.assert_allclose(one, expected, rtol=0, atol=1e-5)

    after = figures(server, model)
    count, samples = CLIENTS * REQUESTS, REQUESTS * sum(len(f["input"]) for f in feeds)
    assert after['requests_total status="200"'] - before.get('requests_total status="200"', 0) == (
        count
    )
    assert after["batch_samples_sum"] - before.get("batch_samples_sum", 0) == samples
    assert after["queue_seconds_count"] - before.get("queue_seconds_count", 0) == count
    assert after["batch_samples_count"] - before.get("batch_samples_count", 0) < count
    assert after["pending_requests"] == 0


def test_it_says_what_it_has(server, served_engines):
    assert json.loads(server.get("/v2")[1])["extensions"] == ["binary_tensor_data"]
    assert json.loads(server.get("/v2/models")[1]) == {"models": list(MODELS)}
    for path in ("health/live", "health/ready", "models/ort/ready", "models/ort/versions/1/ready"):
        assert server.get(f"/v2/{path}")[0] == 200
    output = served_engines["sparse"].manifest.outputs[0].name
    for name in MODELS:
        found = json.loads(server.get(f"/v2/models/{name}")[1])
        assert found["platform"] == f"prunedeploy_{'sparse' if name == 'sparse' else 'ort'}"
        assert found["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 5, 9, 9]}]
        assert found["outputs"] == [{"name": output, "datatype": "FP32", "shape": [-1, 10]}]
    assert "/v2/models/{name}/infer" in json.loads(server.get("/openapi.json")[1])["paths"]
    assert server.get("/docs")[0] == 200


def test_mistakes_are_answers_of_one_line(server):
    good = np.zeros((1, 5, 9, 9), np.float32)
    five = np.zeros((5, 5, 9, 9), np.float32)
    cases = [
        ("sparse", {"inputs": [tensor(good[..., :8])]}, "input 'input' takes batch x 5 x 9 x 9"),
        ("ort", {"inputs": [tensor(good, name="x")]}, "no input is called 'x'"),
        ("ort", {"inputs": [tensor(good, datatype="FP64")]}, "input 'input' takes float32"),
        ("fixed", {"inputs": [tensor(five)]}, "takes 4 samples at most, found 5"),
        ("ort", {"inputs": []}, "input 'input' is missing"),
        ("ort", {"inputs": [tensor(good)], "outputs": [{"name": "no"}]}, "no output is called"),
        ("ort", b"nonsense", "is not JSON"),
    ]
    connection = server.connect()
    for model, document, said in cases:
        status, answer = post(connection, model, document)
        assert status == 400
        assert said in answer["error"]
        assert "\n" not in answer["error"]
    headers = {"Inference-Header-Content-Length": "x"}
    assert post(connection, "ort", {}, **headers)[1] == {
        "error": "Inference-Header-Content-Length is 'x', no number"
    }
    assert post(connection, "ort", b"", **{"Content-Encoding": "gzip"})[0] == 415
    status, answer = post(connection, "none", {"inputs": []})
    assert (status, answer["error"]) == (
        404,
        "no model is called 'none': there is sparse, ort, fixed",
    )
    assert server.get("/v2/models/ort/versions/2")[0] == 404
    assert json.loads(server.get("/v1")[1]) == {"error": "Not Found"}
    assert server.get("/v2/models/ort/infer")[0] == 405
    assert post(connection, "ort", {"inputs": [tensor(good)]})[0] == 200  # the same connection


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large(server, chunked):
    connection = server.connect()
    piece = b" " * 10_000
    body = (piece for _ in range(1000)) if chunked else piece * 1000
    try:
        connection.request("POST", "/v2/models/ort/infer", body)
        answer = connection.getresponse()
    except (BrokenPipeError, ConnectionResetError):
        return  # it did not listen to the end, as it should not
    assert answer.status == 413
    assert "more than 104857 bytes" in json.loads(answer.read())["error"]


def test_a_body_that_does_not_come(monkeypatch):
    monkeypatch.setattr(app, "BODY_TIMEOUT", 0.05)
    requests = pytest.importorskip("starlette.requests")

    async def never():
        await asyncio.sleep(60)

    scope = {"type": "http", "headers": [], "method": "POST", "path": "/"}
    with pytest.raises(Refusal) as refused:
        asyncio.run(app._body(requests.Request(scope, never), 100))
    assert refused.value.status == 408


@pytest.mark.slow
def test_a_full_queue_says_when_to_come_back(start, served_engines):
    server = start(served_engines["ort"].path, "--max-queue", "1", "--threads", "1")
    good = json.dumps({"inputs": [tensor(np.zeros((1, 5, 9, 9), np.float32))]}).encode()
    where = urlsplit(server.url)
    with socket.create_connection((where.hostname, where.port), 30) as slow:
        head = (
            f"POST /v2/models/ort.engine/infer HTTP/1.1\r\nHost: h\r\nContent-Length: {len(good)}"
        )
        slow.sendall(f"{head}\r\n\r\n".encode() + good[:100])
        other = server.connect()
        for _ in range(100):  # until the server has seen the slow one
            other.request("POST", "/v2/models/ort.engine/infer", good)
            answer = other.getresponse()
            text = json.loads(answer.read())
            if answer.status == 503:
                break
            time.sleep(0.05)
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "1"
        assert text == {"error": "1 requests are pending: try later"}
        slow.sendall(good[100:])
        assert slow.recv(100).startswith(b"HTTP/1.1 200")
    other.request("POST", "/v2/models/ort.engine/infer", good)
    assert other.getresponse().status == 200


def test_sigterm_loses_nothing(start, served_engines):
    """Clients go on until they are told to close; each request that was sent is answered."""
    sparse = served_engines["sparse"]
    server = start(f"net={sparse.path}", "--threads", "1", "--drain-s", "600")
    assert "torch" not in Path(f"/proc/{server.process.pid}/maps").read_text()
    feeds = [engines.feed(sparse, 1, seed=n) for n in range(20)]
    with prunedeploy.open(sparse, threads=1) as session:
        wanted = [engines.output(session, one) for one in feeds]

    def ask(number: int) -> int:
        connection, count = server.connect(), 0
        request = {"inputs": [tensor(feeds[number]["input"])]}
        body = json.dumps(request)
        while True:
            connection.request("POST", "/v2/models/net/infer", body)
            answer = connection.getresponse()
            output = json.loads(answer.read())["outputs"][0]
            np.testing.assert_allclose(array_of(output), wanted[number], rtol=0, atol=1e-5)
            count += 1
            if answer.headers.get("Connection") == "close":
                return count

    with ThreadPoolExecutor(len(feeds)) as pool:
        clients = [pool.submit(ask, number) for number in range(len(feeds))]
        time.sleep(0.5)
        assert server.get("/v2/health/ready")[0] == 200
        server.process.send_signal(signal.SIGTERM)
        counts = [client.result(60) for client in clients]
        assert server.get("/v2/health/ready")[0] == 503
        assert server.get("/v2/health/live")[0] == 200
    assert min(counts) > 1
    server.process.send_signal(signal.SIGTERM)  # the second one ends it at once
    assert server.process.wait(60) == 0
    with pytest.raises(OSError, match="refused"):
        server.get("/v2/health/live")


def test_what_cannot_be_served(served_engines, tmp_path):
    ort = served_engines["ort"].path
    with pytest.raises(prunedeploy.UserError, match="no engine to serve"):
        prunedeploy.serve([])
    with pytest.raises(prunedeploy.UserError, match="two engines are called"):
        prunedeploy.serve([ort, ort])
    with pytest.raises(prunedeploy.UserError, match="no name for a model"):
        prunedeploy.serve({"a/b": ort})
    with pytest.raises(prunedeploy.UserError, match="does not exist"):
        prunedeploy.serve([tmp_path / "none"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(prunedeploy.UserError, match=f":{port}: Address already in use; give"):
            prunedeploy.serve([ort], port=port)
    with pytest.raises(prunedeploy.UserError, match="max_queue must be at least 1"):
        prunedeploy.ServeOptions(max_queue=0)


def test_tritons_own_client(server, served_engines):
    """The client that most services of this protocol are used with."""
    triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
    feed = engines.feed(served_engines["sparse"], 3)["input"]
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("sparse")
    output = client.get_model_metadata("sparse")["outputs"][0]["name"]
    for binary in (True, False):
        given = triton.InferInput("input", feed.shape, "FP32")
        given.set_data_from_numpy(feed, binary_data=binary)
        asked = [triton.InferRequestedOutput(output, binary_data=binary)]
        found = client.infer("sparse", [given], outputs=asked, request_id="5")
        with prunedeploy.open(served_engines["sparse"], threads=1) as session:
            wanted = engines.output(session, {"input": feed})
        np.testing.assert_allclose(found.as_numpy(output), wanted, rtol=0, atol=1e-5)
        assert found.get_response()["id"] == "5"
    wrong = triton.InferInput("x", feed.shape, "FP32")
    wrong.set_data_from_numpy(feed)
    with pytest.raises(Exception, match="no input is called 'x'"):
        client.infer("sparse", [wrong])


def test_without_its_libraries_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(prunedeploy.MissingExtra, match=r"prunedeploy\[serve\]"):
        prunedeploy.serve(["x"])
