"""Answers of the V2 protocol: JSON, and tensors as bytes behind it where they were asked for so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.serving.http.datatypes import DATATYPES, HEADER_LENGTH
from prunedeploy.serving.http.decode import InferRequest
from prunedeploy.serving.http.refusal import Refusal

VERSION = "1"  # of every model: a server has one


def encode(
    model: str, request: InferRequest, results: Mapping[str, Array]
) -> tuple[bytes, dict[str, str]]:
    """The body of the answer, and its headers.

    Raises:
        Refusal: 400, JSON has no way to write an output's numbers.
    """
    import orjson

    behind: list[bytes] = []
    outputs = []
    for name in request.outputs:
        array = np.ascontiguousarray(results[name]).reshape(results[name].shape)
        head: dict[str, Any] = {"name": name, "datatype": DATATYPES[array.dtype.name]}
        head["shape"] = list(array.shape)
        if name in request.binary:
            behind.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
            head["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            head["data"] = _numbers(name, array)
        outputs.append(head)
    answer: dict[str, Any] = {"model_name": model, "model_version": VERSION, "outputs": outputs}
    if request.id is not None:
        answer["id"] = request.id
    text = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if not request.binary:
        return text, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    return b"".join((text, *behind)), headers


def _numbers(name: str, array: Array) -> Array:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refusal(
            400,
            f"output {name!r} has numbers that JSON lacks, infinite or none: "
            'ask for it with "parameters": {"binary_data": true}',
        )
    return array.ravel()
