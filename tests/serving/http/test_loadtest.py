"""The load test finds what a server does wrong, and only that."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import engines
import numpy as np
import pytest

import prunedeploy
from prunedeploy.cli import main
from prunedeploy.core.files import from_json
from prunedeploy.serving.http.loadtest import LoadResult

pytest.importorskip("fastapi", reason="fastapi is not installed (extra serve)")


class Faulty(BaseHTTPRequestHandler):
    """Doubles its input; after its first requests it makes the faults that ``plan`` has in turn."""

    protocol_version = "HTTP/1.1"
    plan: tuple[str, ...] = ("right",)
    honest = 16
    lock = threading.Lock()
    did: Counter[str]

    def do_GET(self) -> None:
        shape = {"datatype": "FP32", "shape": [-1, 3]}
        model = {"inputs": [{"name": "x", **shape}], "outputs": [{"name": "y", **shape}]}
        self._answer(200, {"models": ["m"]} if self.path == "/v2/models" else model)

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"]))
        (given,) = json.loads(text)["inputs"]
        with self.lock:
            number = sum(self.did.values())
            kind = "right" if number < self.honest else self.plan[number % len(self.plan)]
            self.did[kind] += 1
        if kind == "lost":
            self.close_connection = True
            return
        if kind == "refused":
            self._answer(503, {"error": "full"}, {"Retry-After": "0"})
            return
        data = [2 * value for value in given["data"]]
        data = data[::-1] if kind == "wrong" else data
        output = {"name": "y", "datatype": "FP32", "shape": given["shape"], "data": data}
        self._answer(200, {"outputs": [output]})

    def _answer(self, status: int, document: object, more: dict[str, str] | None = None) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def faulty():
    """Starts a server with a plan of faults; its URL, and what it did."""
    running = []

    def start(*plan: str) -> tuple[str, Counter[str]]:
        handler = type("Handler", (Faulty,), {"plan": plan, "did": Counter()})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        running.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}", handler.did

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def test_every_fault_is_counted_once(faulty):
    url, did = faulty("right", "refused", "wrong", "right", "lost", "right", "right")
    result = prunedeploy.loadtest(url, clients=(4,), seconds=1.5, form="json")
    (level,) = result.levels
    assert did["lost"] > 0
    counted = {name: getattr(level, name) for name in ("right", "wrong", "refused", "lost")}
    assert counted == {**did, "right": did["right"] - Faulty.honest}
    assert "differs by" in level.problem or "RemoteDisconnected" in level.problem
    assert not result.passed


def test_refusals_are_no_faults(faulty):
    url, _ = faulty("right", "refused")
    result = prunedeploy.loadtest(url, clients=(2,), seconds=0.3, form="json")
    assert result.passed
    assert result.levels[0].refused > 0
    assert result.reference == url


def test_the_latencies_are_of_right_answers_in_order(faulty):
    url, _ = faulty("right")
    (level,) = prunedeploy.loadtest(url, clients=(3,), seconds=0.3, form="json").levels
    assert 0 < level.p50_ms <= level.p90_ms <= level.p99_ms <= level.max_ms
    assert level.requests_per_second == level.right / level.seconds
    assert level.seconds >= 0.3


def test_given_inputs_are_sent(faulty):
    url, did = faulty("right")
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    result = prunedeploy.loadtest(
        url, clients=(1,), seconds=0.2, form="json", batch=2, inputs={"x": x}
    )
    assert result.passed
    assert result.levels[0].right == did["right"] - 2  # asked once each before: 2 requests of 2
    with pytest.raises(prunedeploy.UserError, match="have 4 samples: a request takes 5"):
        prunedeploy.loadtest(url, batch=5, inputs=x)


def test_against_the_real_server(server, served_engines, tmp_path, capsys):
    output = tmp_path / "load.json"
    path = str(served_engines["sparse"].path)
    ask = ["loadtest", server.url, "--clients", "1,8", "--seconds", "0.5", "-o", str(output)]
    assert main([*ask, "--model", "ort", "--engine", path, "--batch", "2"]) == 0
    printed = capsys.readouterr().out
    assert "every answer was right, compared with sparse.engine" in printed
    result = from_json(LoadResult, output.read_text())
    assert [level.clients for level in result.levels] == [1, 8]
    assert all(level.right for level in result.levels)

    assert main([*ask]) == 2
    assert "models sparse, ort, fixed: name one with --model" in capsys.readouterr().err
    assert main([*ask, "--model", "none"]) == 2
    assert "status 404" in capsys.readouterr().err


def test_an_engine_of_other_weights_is_noticed(server, tmp_path, capsys):
    other = engines.network(tmp_path / "other.onnx", seed=5)
    prunedeploy.build(other, "host", "ort", tmp_path / "other.engine")
    ask = ["loadtest", server.url, "--model", "ort", "--clients", "2", "--seconds", "0.2"]
    assert main([*ask, "--engine", str(tmp_path / "other.engine")]) == 1
    printed = capsys.readouterr().out
    assert "NOT every answer was right" in printed
    assert "of its range" in printed


@pytest.mark.slow
def test_it_starts_a_server_for_an_engine(served_engines, capsys):
    path = str(served_engines["fixed"].path)
    assert main(["loadtest", path, "--clients", "4", "--seconds", "1", "--threads", "1"]) == 0
    assert "compared with fixed.engine" in capsys.readouterr().out


def test_what_cannot_be_asked(tmp_path):
    for url, said in (
        ("http://127.0.0.1:1", "does not answer: Connection refused"),
        ("ftp://there", "is no server's URL"),
        ("localhost:8000", "is no server's URL"),
        (str(tmp_path / "none"), "does not exist"),
    ):
        with pytest.raises(prunedeploy.UserError, match=said):
            prunedeploy.loadtest(url)
    with pytest.raises(prunedeploy.UserError, match="above 0"):
        prunedeploy.loadtest("http://127.0.0.1:1", clients=())
