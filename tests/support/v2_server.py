"""A server of the V2 protocol in a process of its own, and plain requests to it."""

from __future__ import annotations

import http.client
import json
import subprocess
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np


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
