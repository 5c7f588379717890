"""Requests as arrays, and all that is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("orjson", reason="orjson is not installed (extra serve)")

from prunedeploy.core.records import TensorSpec
from prunedeploy.serving.http.decode import decode
from prunedeploy.serving.http.refusal import Refusal

OUTPUTS = (TensorSpec("a", "float32", (1,)), TensorSpec("b", "float32", (1,)))


def request(*inputs: dict, **more: object) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def one(**fields: object) -> dict:
    return {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2.5], **fields}


def test_json_nested_or_flat():
    for data in ([1, 2, 3, 4], [[1, 2], [3, 4]]):
        found = decode(request(one(shape=[2, 2], data=data)), None, OUTPUTS)
        assert found.feeds["x"].dtype == np.float32
        assert found.feeds["x"].tolist() == [[1, 2], [3, 4]]
    assert found.outputs == ("a", "b")
    assert not found.binary


@pytest.mark.parametrize(
    ("datatype", "dtype", "value"),
    [
        ("BOOL", "bool", True),
        ("UINT8", "uint8", 255),
        ("INT64", "int64", -(2**63)),
        ("UINT64", "uint64", 2**64 - 1),
        ("FP16", "float16", 0.1),
        ("FP64", "float64", 0.1),
    ],
)
def test_types_in_json_and_in_bytes(datatype, dtype, value):
    as_json = request(one(datatype=datatype, shape=[1], data=[value]))
    raw = np.array([value], dtype).tobytes()
    head = {"name": "x", "datatype": datatype, "shape": [1]}
    text = request({**head, "parameters": {"binary_data_size": len(raw)}})
    for body, length in ((as_json, None), (text + raw, len(text))):
        array = decode(body, length, OUTPUTS).feeds["x"]
        assert array.dtype == np.dtype(dtype)
        assert array[0] == np.array(value, dtype)


def test_several_tensors_as_bytes_in_order():
    arrays = {"x": np.arange(3, dtype=np.float32), "y": np.array([[7]], np.int32)}
    heads = [
        {"name": n, "datatype": t, "shape": list(a.shape),
         "parameters": {"binary_data_size": a.nbytes}}
        for (n, a), t in zip(arrays.items(), ("FP32", "INT32"), strict=True)
    ]  # fmt: skip
    text = request(*heads)
    body = text + b"".join(a.tobytes() for a in arrays.values())
    found = decode(body, len(text), OUTPUTS).feeds
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())


def test_outputs_by_name_and_form():
    asked = [{"name": "b", "parameters": {"binary_data": True}}, {"name": "a"}]
    found = decode(request(one(), outputs=asked, id="7"), None, OUTPUTS)
    assert (found.id, found.outputs, found.binary) == ("7", ("b", "a"), {"b"})
    every = decode(request(one(), parameters={"binary_data_output": True}), None, OUTPUTS)
    assert every.binary == {"a", "b"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "is not JSON"),
        (b"[]", "is no JSON object"),
        (b'{"inputs": 1}', "'inputs' should be of JSON's arrays"),
        (b'{"inputs": [1]}', "should be an array of objects"),
        (b"[" * 5000, "is not JSON"),
        (request({"datatype": "FP32"}), "has no 'name'"),
        (request(one(datatype="FP8")), "has datatype 'FP8': choose from BOOL, UINT8"),
        (request(one(shape=[-1])), "no 'shape' of numbers from 0"),
        (request(one(shape=[True, 2])), "no 'shape' of numbers from 0"),
        (request(one(shape=[10**12])), "should have 1000000000000 values, found 2"),
        (request(one(shape=[1] * 70, data=[1])), "has 70 axes, 32 are the most"),
        (request(one(shape=[10**18] * 300)), "has 300 axes"),
        (request(one(shape=[0, 2**63], data=[])), "is too large"),
        (request(one(data=None)), "has no 'data'"),
        (request(one(data=[1, [2]])), "arrays of different lengths"),
        (request(one(data=["1", "2"])), "values in 'data' that are no float32"),
        (request(one(data=[None, 1])), "values in 'data' that are no float32"),
        (request(one(data=[1e39, 1])), "do not fit into float32"),
        (request(one(datatype="INT32", data=[1, 2.5])), "values in 'data' that are no int32"),
        (request(one(datatype="UINT8", data=[1, 256])), "do not fit into uint8"),
        (request(one(datatype="UINT8", data=[1, -1])), "do not fit into uint8"),
        (request(one(datatype="BOOL", data=[1, 0])), "values in 'data' that are no bool"),
        (request(one(), one()), "is twice"),
        (request(one(), outputs=[{"name": "c"}]), "no output is called 'c': the model gives a, b"),
        (request(one(parameters={"shared_memory_region": "r"})), "does not have"),
        (request(one(), outputs=[{"name": "a", "parameters": {"classification": 1}}]),
         "does not have"),
        (request(one(parameters={"binary_data_size": 8})), "either 'data' or"),
        (request(one(), id=7), "'id' should be of JSON's strings"),
    ],
)  # fmt: skip
def test_what_is_refused(body, said):
    with pytest.raises(Refusal, match=said.replace("[", r"\[")) as refused:
        decode(body, None, OUTPUTS)
    assert refused.value.status == 400
    assert "\n" not in refused.value.reason


@pytest.mark.parametrize(
    ("size", "extra", "said"),
    [
        (8, b"", "says 8 bytes, and 4 are left"),
        (4, b"", "should have 2 values, found 1"),
        (-4, b"", "says -4 bytes"),
        (3, b"", "says 3 bytes"),
        (8, b"12345", "1 bytes behind the JSON belong to no tensor"),
    ],
)
def test_bytes_that_are_not_as_said(size, extra, said):
    head = {"name": "x", "datatype": "FP32", "shape": [2]}
    text = request({**head, "parameters": {"binary_data_size": size}})
    with pytest.raises(Refusal, match=said):
        decode(text + b"\0" * 4 + extra, len(text), OUTPUTS)


def test_bytes_that_are_no_truth_values():
    head = {"name": "x", "datatype": "BOOL", "shape": [2]}
    text = request({**head, "parameters": {"binary_data_size": 2}})
    assert decode(text + b"\0\1", len(text), OUTPUTS).feeds["x"].tolist() == [False, True]
    with pytest.raises(Refusal, match="bytes that are neither 0 nor 1") as refused:
        decode(text + b"\1\2", len(text), OUTPUTS)
    assert refused.value.status == 400


def test_a_length_of_json_beyond_the_body():
    with pytest.raises(Refusal, match="is 999, the body has"):
        decode(request(one()), 999, OUTPUTS)
