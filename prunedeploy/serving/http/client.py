"""A client of the V2 protocol over one connection that is kept."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, TensorSpec
from prunedeploy.serving.http.datatypes import DATATYPES, DTYPES, HEADER_LENGTH
from prunedeploy.serving.http.decode import tensors
from prunedeploy.serving.http.refusal import Refusal

Form = Literal["binary", "json"]
TIMEOUT = 60.0  # seconds


@dataclass(frozen=True)
class Message:
    """A request, ready to be sent any number of times."""

    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True)
class Reply:
    """What a server answered; ``problem`` says why there are no outputs."""

    status: int
    outputs: dict[str, Array]
    problem: str = ""
    retry_after: float = 0.0


def message(feeds: Mapping[str, Array], form: Form) -> Message:
    """A request for all outputs of these inputs."""
    inputs, behind = [], []
    for name, array in feeds.items():
        head: dict[str, Any] = {"name": name, "datatype": DATATYPES[array.dtype.name]}
        head["shape"] = list(array.shape)
        if form == "binary":
            behind.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
            head["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            head["data"] = array.ravel().tolist()
        inputs.append(head)
    request: dict[str, Any] = {"inputs": inputs}
    if form == "json":
        return Message(json.dumps(request).encode(), {"Content-Type": "application/json"})
    text = json.dumps({**request, "parameters": {"binary_data_output": True}}).encode()
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    return Message(b"".join((text, *behind)), headers)


class Client:
    """One connection to a server.

    Args:
        url: of the server, such as ``http://127.0.0.1:8000``.

    Raises:
        UserError: it is no such URL.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        try:
            known = parts.scheme in kinds and bool(parts.hostname)
            port = parts.port
        except ValueError:
            known = False
        if not known:
            raise UserError(f"{url} is no server's URL: give one like http://127.0.0.1:8000")
        self._url, self._prefix = url, parts.path.rstrip("/")
        self._connection = kinds[parts.scheme](parts.hostname or "", port, timeout=TIMEOUT)

    def get(self, path: str) -> Any:
        """The JSON document at ``path``.

        Raises:
            UserError: the server does not answer, or with another status than 200.
        """
        try:
            status, _, body = self._ask("GET", path, b"", {})
            document = json.loads(body)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{self._url} does not answer: {reason}") from None
        except ValueError:
            document = None
        if status != 200 or document is None:
            raise UserError(f"{self._url}{path} is not of the V2 protocol: status {status}")
        return document

    def inputs(self, model: str) -> tuple[TensorSpec, ...]:
        """What a model takes.

        Raises:
            UserError: there is no such model, or it takes types that have no numbers.
        """
        described = self.get(f"/v2/models/{quote(model)}")
        try:
            return tuple(
                TensorSpec(each["name"], DTYPES[each["datatype"]], _shape(each["shape"]))
                for each in described["inputs"]
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"cannot ask {model}: its metadata has no usable {error}") from None

    def infer(self, model: str, request: Message) -> Reply:
        """Send a request.

        Raises:
            OSError, http.client.HTTPException: there was no answer.
        """
        path = f"/v2/models/{quote(model)}/infer"
        status, headers, body = self._ask("POST", path, request.body, request.headers)
        if status != 200:
            wait = headers.get("Retry-After", "")
            problem = body[:200].decode(errors="replace")
            return Reply(status, {}, problem, float(wait) if wait.isdecimal() else 0.0)
        length = headers.get(HEADER_LENGTH)
        try:
            _, outputs = tensors(body, None if length is None else int(length), "outputs")
        except (Refusal, ValueError) as error:
            return Reply(status, {}, f"the answer cannot be read: {error}")
        return Reply(status, outputs)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def _ask(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        try:
            self._connection.request(method, self._prefix + path, body, dict(headers))
            answer = self._connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except BaseException:
            self._connection.close()  # the next request opens it again
            raise


def _shape(sizes: list[int]) -> tuple[int | str, ...]:
    return tuple(size if size >= 0 else "?" if axis else "batch" for axis, size in enumerate(sizes))
