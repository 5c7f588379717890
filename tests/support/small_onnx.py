"""Small ONNX files as converters write them, and what ONNX Runtime makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
info = helper.make_tensor_value_info
node = helper.make_node


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers from N(0, 1)."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    ir_version: int = 8,
    **more: object,
) -> onnx.ModelProto:
    """A model that nobody checked; ``more`` goes to ``make_graph``."""
    stored = [numpy_helper.from_array(np.asarray(v), k) for k, v in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored, **more)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )


def graph(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[str],
    weights: Mapping[str, np.ndarray] | None = None,
) -> onnx.GraphProto:
    """A branch: no inputs, outputs without a shape."""
    stored = [numpy_helper.from_array(v, k) for k, v in (weights or {}).items()]
    return helper.make_graph(nodes, name, [], [info(x, FLOAT, None) for x in outputs], stored)


def conv_net(**more: object) -> onnx.ModelProto:
    """Conv, ReLU, Conv on [n, 3, 8, 8]; one channel of the first is dead."""
    first, second = draw(4, 3, 3, 3), draw(5, 4, 1, 1, seed=1)
    first[1] = 0
    return model(
        [
            node("Conv", ["x", "W"], ["a"], name="first"),
            node("Relu", ["a"], ["r"], name="act"),
            node("Conv", ["r", "V"], ["y"], name="second"),
        ],
        [info("x", FLOAT, ["n", 3, 8, 8])],
        [info("y", FLOAT, ["n", 5, 6, 6])],
        {"W": first, "V": second},
        **more,
    )


def sparse(array: np.ndarray, name: str, *, by_rank: bool = False) -> onnx.SparseTensorProto:
    """``array`` in coordinate form, its indices flat or one a dimension."""
    flat = np.flatnonzero(array)
    found = onnx.SparseTensorProto(dims=array.shape)
    found.values.CopyFrom(numpy_helper.from_array(array.ravel()[flat], name))
    indices = np.argwhere(array) if by_rank else flat
    found.indices.CopyFrom(numpy_helper.from_array(indices.astype(np.int64), f"{name}.indices"))
    return found


def external(name: str, shape: Sequence[int], **entries: object) -> TensorProto:
    """A float32 tensor that says its data are elsewhere: location, offset, length."""
    tensor = TensorProto(name=name, data_type=FLOAT, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        if value is not None:
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
    return tensor


def write(made: onnx.ModelProto, path: str | Path = "net.onnx") -> Path:
    """Write it as it is; ``onnx.save`` looks at external data."""
    Path(path).write_bytes(made.SerializeToString())
    return Path(path)


def in_ort(path: str | Path, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes, by name."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


def outputs_of(path: str | Path) -> list[str]:
    """The names of a model's outputs, in order."""
    return [x.name for x in onnx.load(path, load_external_data=False).graph.output]
