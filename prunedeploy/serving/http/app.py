"""The web application: the paths of the V2 protocol, ``/metrics`` and ``/docs``.

Annotations are evaluated where they stand, as FastAPI reads them: no ``annotations`` of
``__future__`` in here, so that FastAPI is imported only where an application is made.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from prunedeploy import __version__
from prunedeploy.serving.http.datatypes import DTYPES, HEADER_LENGTH
from prunedeploy.serving.http.encode import VERSION
from prunedeploy.serving.http.metrics import Metrics
from prunedeploy.serving.http.model import ServedModel
from prunedeploy.serving.http.refusal import Refusal

BODY_TIMEOUT = 60.0  # seconds for a client to send its request
RETRY_AFTER = 1  # seconds

_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"enum": list(DTYPES)},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}},
    },
}
_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {"type": "array", "items": {"type": "object"}},
    },
    "example": {
        "inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [0.5, -1.0]}]
    },
}
_OPENAPI = {"requestBody": {"content": {"application/json": {"schema": _REQUEST}}}}


@dataclass
class State:
    """What the paths look at: the models by name, and whether the server is about to end."""

    models: Mapping[str, ServedModel]
    metrics: Metrics
    max_body: int
    draining: bool = False

    def model(self, name: str, version: str) -> ServedModel:
        """The model that a path names.

        Raises:
            Refusal: 404, there is none.
        """
        if name not in self.models:
            raise Refusal(404, f"no model is called {name!r}: there is {', '.join(self.models)}")
        if version != VERSION:
            raise Refusal(404, f"model {name!r} has no version {version!r}: it has {VERSION}")
        return self.models[name]


def application(state: State, lifespan: AbstractAsyncContextManager[None]) -> Any:
    """The ASGI application.

    Args:
        state: the models, loaded.
        lifespan: entered before the first request, left after the last one.
    """
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    app = FastAPI(
        title="prunedeploy",
        version=__version__,
        description="Engines behind the V2 (Open Inference) protocol.",
        lifespan=lambda _: lifespan,
    )

    def headers() -> dict[str, str]:
        # clients then open a new connection, and find another server
        return {"Connection": "close"} if state.draining else {}

    def refused(_: Request, error: Exception) -> Response:
        status, reason, wait = 500, "the server failed: its log has the reason", 0
        if isinstance(error, Refusal):
            status, reason, wait = error.status, error.reason, error.retry_after
        elif isinstance(error, HTTPException):
            status, reason = error.status_code, str(error.detail)
        more = {"Retry-After": str(wait)} if wait else {}
        if status in (408, 413):
            more["Connection"] = "close"  # rather than read the rest of it
        return JSONResponse({"error": reason}, status, {**headers(), **more})

    async def infer(request: Request, name: str, version: str = VERSION) -> Response:
        """Compute the outputs for one request."""
        begin, status = time.perf_counter(), 500
        model = state.model(name, version)
        pending = state.metrics.pending.labels(name)
        model.pending += 1
        pending.set(model.pending)
        try:
            if model.pending > model.max_queue:
                raise Refusal(
                    503, f"{model.max_queue} requests are pending: try later", RETRY_AFTER
                )
            body = await _body(request, state.max_body)
            answer, more = await model.infer(body, _json_length(request.headers))
            status = 200
            return Response(answer, 200, {**headers(), **more})
        except ClientDisconnect:
            status = 499  # by custom; nobody reads it
            return Response(status_code=status)
        except Refusal as refusal:
            status = refusal.status
            raise
        finally:
            model.pending -= 1
            pending.set(model.pending)
            state.metrics.answered(name, status, time.perf_counter() - begin)

    async def describe(name: str, version: str = VERSION) -> dict[str, Any]:
        """Names, types and shapes of a model's inputs and outputs."""
        return state.model(name, version).describe()

    async def model_ready(name: str, version: str = VERSION) -> dict[str, Any]:
        """Whether a model takes requests."""
        return {"name": state.model(name, version).name, "ready": True}

    async def server() -> dict[str, Any]:
        """Name, version and extensions of the server."""
        extensions = ["binary_tensor_data"]
        return {"name": "prunedeploy", "version": __version__, "extensions": extensions}

    async def models() -> dict[str, Any]:
        """The names of the models."""
        return {"models": list(state.models)}

    async def live() -> dict[str, bool]:
        """Whether the server runs."""
        return {"live": True}

    async def ready() -> dict[str, bool]:
        """Whether the server takes requests: 503 once it was told to end."""
        if state.draining:
            raise Refusal(503, "the server is about to end")
        return {"ready": True}

    async def metrics() -> Response:
        """Figures for Prometheus."""
        text, kind = state.metrics.text()
        return Response(text, media_type=kind)

    for kind in (Refusal, HTTPException, Exception):
        app.add_exception_handler(kind, refused)
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        app.add_api_route(path, describe)
        app.add_api_route(f"{path}/ready", model_ready)
        app.add_api_route(f"{path}/infer", infer, methods=["POST"], openapi_extra=_OPENAPI)
    for path, answer in (
        *(("/v2", server), ("/v2/models", models), ("/metrics", metrics)),
        *(("/v2/health/live", live), ("/v2/health/ready", ready)),
    ):
        app.add_api_route(path, answer)
    return app


def _json_length(headers: Mapping[str, str]) -> int | None:
    text = headers.get(HEADER_LENGTH)
    if text is not None and not text.isdecimal():
        raise Refusal(400, f"{HEADER_LENGTH} is {text[:20]!r}, no number")
    return None if text is None else int(text[:20])


async def _body(request: Any, limit: int) -> bytes:
    """The whole body of a request.

    Raises:
        Refusal: 408, 413 or 415: it takes too long, is too large, or is compressed.
    """
    if (encoding := request.headers.get("Content-Encoding", "identity")) != "identity":
        raise Refusal(415, f"bodies are taken as they are, not with Content-Encoding {encoding}")
    size = int(request.headers.get("Content-Length", 0))
    chunks: list[bytes] = []
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            if size <= limit:
                size = 0
                async for chunk in request.stream():
                    chunks.append(chunk)
                    if (size := size + len(chunk)) > limit:
                        break
    except TimeoutError:
        raise Refusal(408, f"the request did not arrive within {BODY_TIMEOUT:.0f} s") from None
    if size > limit:
        raise Refusal(413, f"the body has more than {limit} bytes, which are allowed")
    return b"".join(chunks)
