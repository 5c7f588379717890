"""Answers are read back as what was computed."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("orjson", reason="orjson is not installed (extra serve)")

from prunedeploy.serving.http.decode import InferRequest, tensors
from prunedeploy.serving.http.encode import encode
from prunedeploy.serving.http.refusal import Refusal


def asked(*outputs: str, binary: tuple[str, ...] = (), id: str | None = None) -> InferRequest:
    return InferRequest(id, {}, outputs, frozenset(binary))


@pytest.mark.parametrize("binary", [(), ("a",), ("a", "b")])
def test_every_bit_comes_back(binary):
    random = np.random.default_rng(0)
    results = {
        "a": random.standard_normal((50, 7)).astype(np.float32),
        "b": np.array(2**62 + 1, np.int64),
        "c": np.zeros(3),
    }
    body, headers = encode("m", asked("b", "a", binary=binary, id="i"), results)
    length = headers.get("Inference-Header-Content-Length")
    document, found = tensors(body, None if length is None else int(length), "outputs")
    assert list(found) == ["b", "a"]
    for name, array in found.items():
        assert array.dtype == results[name].dtype
        assert np.array_equal(array, results[name])
    assert (document["model_name"], document["model_version"], document["id"]) == ("m", "1", "i")


def test_without_bytes_it_is_plain_json():
    body, headers = encode("m", asked("a"), {"a": np.array([True, False])})
    assert headers == {"Content-Type": "application/json"}
    (output,) = json.loads(body)["outputs"]
    assert output == {"name": "a", "datatype": "BOOL", "shape": [2], "data": [True, False]}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_json_lacks_go_as_bytes_only(value):
    results = {"a": np.array([1, value], np.float32)}
    with pytest.raises(Refusal, match="binary_data"):
        encode("m", asked("a"), results)
    body, _ = encode("m", asked("a", binary=("a",)), results)
    assert body.endswith(results["a"].tobytes())


def test_an_array_that_is_a_view_of_others():
    results = {"a": np.arange(12, dtype=np.float32).reshape(3, 4)[:, 1::2]}
    body, _ = encode("m", asked("a"), results)
    assert json.loads(body)["outputs"][0]["data"] == [1, 3, 5, 7, 9, 11]
