"""ONNX files that a stranger makes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from hostile_containers import HUGE, written
from hostile_pickles import Maker
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

SIDE = 1 << 17


def node(operator: str, inputs: str, outputs: str = "c", **attributes: object) -> NodeProto:
    return helper.make_node(
        operator, ["" if x == "-" else x for x in inputs.split()], outputs.split(), **attributes
    )


def values(weights: dict[str, object]) -> list[TensorProto]:
    return [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]


def _info(
    name: str, of: int = TensorProto.FLOAT, shape: Sequence[object] | None = ("n", 16)
) -> object:
    return helper.make_tensor_value_info(name, of, shape)


def save(
    folder: Path,
    nodes: Sequence[NodeProto],
    weights: Sequence[TensorProto] = (),
    functions: Sequence[object] = (),
    shape: Sequence[object] = ("n", 16),
) -> Path:
    graph = helper.make_graph(
        nodes, "g", [_info("x", shape=shape)], [_info("y", shape=None)], list(weights)
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    return folder / "net.onnx"


LINEAR = [node("MatMul", "x w", "m")]
ADDED = [*LINEAR, node("ReduceMax", "c", "r", keepdims=0), node("Add", "m r", "y")]
WEIGHTS: dict[str, object] = {"w": np.ones((16, 16), np.float32)}


def _constant(made: NodeProto, **weights: object) -> Maker:
    """``made`` gives c of the weights; its largest element is added to the outputs of a layer."""
    return lambda folder: save(folder, [made, *ADDED], values({**WEIGHTS, **weights}))


def _nodes(nodes: Callable[[], Sequence[NodeProto]], **weights: object) -> Maker:
    return lambda folder: save(folder, [*LINEAR, *nodes()], values({**WEIGHTS, **weights}))


def _tensor(name: str, dims: Sequence[int], **external: str) -> TensorProto:
    made = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims)
    if external:
        made.data_location = TensorProto.EXTERNAL
        for key, value in external.items():
            made.external_data.add(key=key, value=value)
    return made


def _weight(made: Callable[[], TensorProto], *, pipe: str = "") -> Maker:
    def make(folder: Path) -> Path:
        if pipe:
            os.mkfifo(folder / pipe)
        return save(folder, [node("MatMul", "x w", "y")], [made()])

    return make


def _body(made: NodeProto, level: int) -> GraphProto:
    """What a loop runs, its names those of its ``level``: s is given and t results."""
    i, c, k, s, t = (f"{name}{level}" for name in "ickst")
    states = [_info(i, TensorProto.INT64, []), _info(c, TensorProto.BOOL, []), _info(s)]
    results = [_info(k, TensorProto.BOOL, []), _info(t)]
    return helper.make_graph([node("Identity", c, k), made], "b", states, results)


def _loop(depth: int) -> list[NodeProto]:
    body = _body(node("Add", "s0 s0", "t0"), 0)
    for level in range(1, depth):
        body = _body(node("Loop", f"trips - s{level}", f"t{level}", body=body), level)
    return [node("Loop", "trips - m", "y", body=body)]


def _endless() -> list[NodeProto]:
    """A loop whose condition is computed anew in each step."""
    body = _body(node("Add", "s0 s0", "t0"), 0)
    body.node[0].CopyFrom(node("Equal", "c0 c0", "k0"))
    return [node("Loop", "trips - m", "y", body=body)]


def _scan() -> list[NodeProto]:
    results = [_info("t", shape=[4]), _info("o", shape=[4])]
    body = helper.make_graph(
        [node("Add", "s e", "t"), node("Identity", "t", "o")],
        "b",
        [_info("s", shape=[4]), _info("e", shape=[4])],
        results,
    )
    whole = node("Expand", "one size", "many")
    made = node("Scan", "zero many", "last all", body=body, num_scan_inputs=1)
    return [whole, made, node("ReduceMax", "all", "c"), node("Add", "m c", "y")]


def _branches(depth: int) -> list[NodeProto]:
    leaf = helper.make_graph([node("Identity", "m", "z")], "e", [], [_info("z", shape=None)])
    graph = leaf
    for _ in range(depth):
        made = node("If", "k", "z", then_branch=graph, else_branch=leaf)
        graph = helper.make_graph([made], "g", [], [_info("z", shape=None)])
    return [node("If", "k", "y", then_branch=graph, else_branch=leaf)]


def _functions(levels: int, end: str) -> Maker:
    """Each function calls the next one twice; the last one calls ``end``."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]

    def function(level: int) -> object:
        to = {"domain": "d"} if level < levels - 1 or end.startswith("f") else {}
        name = f"f{level + 1}" if level < levels - 1 else end
        nodes = [node(name, "a", "b", **to), node(name, "b", "e", **to)]
        return helper.make_function("d", f"f{level}", ["a"], ["e"], nodes, opsets)

    def make(folder: Path) -> Path:
        made = [function(level) for level in range(levels)]
        return save(folder, [*LINEAR, node("f0", "m", "y", domain="d")], values(WEIGHTS), made)

    return make


def _chain(count: int, operator: str = "Relu", operands: int = 1) -> list[NodeProto]:
    names = ["m", *(f"v{k}" for k in range(count - 1)), "y"]
    extra = {"axis": 1} if operator == "Concat" else {}
    return [
        node(operator, " ".join([names[k]] * operands), names[k + 1], **extra) for k in range(count)
    ]


def _sparse_weight(folder: Path) -> Path:
    path = save(folder, [node("MatMul", "x w", "y")])
    model = onnx.load(path)
    value = numpy_helper.from_array(np.ones(1, np.float32), "w")
    at = numpy_helper.from_array(np.zeros(1, np.int64), "w_at")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(value, at, [16, HUGE]))
    path.write_bytes(model.SerializeToString())
    return path


def _truncated_text(name: str, begin: str, inside: str) -> Maker:
    return written(name, lambda: (begin + inside * 60_000).encode())


SHAPE = np.array([SIDE, SIDE], np.int64)
ONE = np.float32(1)
MODELS: dict[str, Maker] = {
    "constant-of-shape": _constant(node("ConstantOfShape", "s"), s=SHAPE),
    "expand": _constant(node("Expand", "a s"), a=ONE, s=SHAPE),
    "tile": _constant(node("Tile", "a s"), a=np.ones((2, 2), np.float32), s=SHAPE),
    "range": _constant(node("Range", "a b d"), a=np.float32(0), b=np.float32(1e11), d=ONE),
    "one-hot": _constant(
        node("OneHot", "a d v"), a=np.arange(999), d=np.int64(1 << 28), v=np.float32([0, 1])
    ),
    "pad": _constant(node("Pad", "a s"), a=np.ones((2, 2), np.float32), s=np.array([0, 0, *SHAPE])),
    "resize": _constant(
        node("Resize", "a - s"), a=np.ones((1, 1, 2, 2), np.float32), s=np.float32([1, 1, 1e5, 1e5])
    ),
    "random": _constant(node("RandomNormal", "", shape=[SIDE, SIDE])),
    "outer-product": _constant(
        node("Mul", "a b"), a=np.ones((1 << 16, 1), np.float32), b=np.ones((1, 1 << 16), np.float32)
    ),
    "einsum": _constant(
        node("Einsum", "a b", equation="ij,kl->ijkl"),
        a=np.ones((400, 400), np.float32),
        b=np.ones((400, 400), np.float32),
    ),
    "loop": _nodes(lambda: _loop(1), trips=np.int64(1 << 62)),
    "endless-loop": _nodes(_endless, trips=np.int64(1 << 62)),
    "loops-in-loops": _nodes(lambda: _loop(3), trips=np.int64(4_000)),
    "scan": _nodes(
        _scan, one=ONE, zero=np.zeros(4, np.float32), size=np.array([1 << 22, 4], np.int64)
    ),
    "nested-branches": _nodes(lambda: _branches(30), k=np.array(True)),
    "doubling-functions": _functions(30, "Relu"),
    "cyclic-functions": _functions(5, "f0"),
    "doubling-values": _nodes(lambda: _chain(40, "Concat", 2)),
    "many-nodes": _nodes(lambda: _chain(200_000)),
    "cyclic-nodes": _nodes(lambda: [node("Add", "m q", "p"), node("Relu", "p", "q"), *_chain(1)]),
    "one-name": _nodes(lambda: [node("Relu", "m", "p") for _ in range(20_000)] + _chain(1)),
    "long-node-name": _nodes(lambda: [node("Relu", "m", "y", name="a" * (1 << 24))]),
    "many-outputs": _nodes(
        lambda: [node("Split", "m", " ".join(f"p{k}" for k in range(200_000)), axis=0), *_chain(1)]
    ),
    "many-inputs": _nodes(lambda: [node("Concat", " ".join(["m"] * 300_000), "y", axis=1)]),
    "many-axes": _nodes(
        lambda: [node("Reshape", "m s", "p"), *_chain(1)], s=np.ones(500_000, np.int64)
    ),
    "absent-data": _weight(lambda: _tensor("w", [1 << 31, 1 << 31])),
    "overflowing-size": _weight(lambda: _tensor("w", [1 << 33, 1 << 33, 1 << 33])),
    "negative-size": _weight(lambda: _tensor("w", [-16, -16])),
    "tensor-of-many-axes": _weight(lambda: _tensor("w", [1] * 500_000)),
    "external-length": _weight(
        lambda: _tensor("w", [16, 16], location="net.onnx", offset="0", length=str(HUGE))
    ),
    "external-offset": _weight(lambda: _tensor("w", [16, 16], location="net.onnx", offset="-4")),
    "external-number": _weight(
        lambda: _tensor("w", [16, 16], location="net.onnx", offset="9" * 100_000)
    ),
    "external-outside": _weight(lambda: _tensor("w", [16, 16], location="../../etc/passwd")),
    "external-device": _weight(lambda: _tensor("w", [16, 16], location="/dev/zero")),
    "external-pipe": _weight(lambda: _tensor("w", [16, 16], location="pipe"), pipe="pipe"),
    "sparse-initializer": _sparse_weight,
    "huge-input": lambda folder: save(
        folder, [node("MatMul", "x w", "y")], values(WEIGHTS), shape=[HUGE, 16]
    ),
    "large-input": lambda folder: save(
        folder, [node("MatMul", "x w", "y")], values(WEIGHTS), shape=[1 << 26, 16]
    ),
    "conv-pads": _constant(
        node("Conv", "a b", pads=[1 << 20] * 4),
        a=np.ones((1, 1, 4, 4), np.float32),
        b=np.ones((1, 1, 3, 3), np.float32),
    ),
    "pool": _constant(
        node("MaxPool", "a", kernel_shape=[3, 3], pads=[SIDE] * 4),
        a=np.ones((1, 1, 2, 2), np.float32),
    ),
    "text-nested": _truncated_text(
        "net.onnxtxt",
        '<ir_version: 8, opset_import: ["": 17]>\n'
        "g (float[n,16] x) => (float[n,16] y) { y = If(x) <a = ",
        "g () => (z) { z = If(x) <a = ",
    ),
    "textproto-nested": _truncated_text("net.textproto", "graph { ", "node { attribute { g { "),
    "json-model-nested": _truncated_text("net.json", '{"graph":{', '"node":[{"attribute":[{"g":{'),
    "wire-nested": written("net.onnx", lambda: _wire(2_000)),
}


def _wire(depth: int) -> bytes:
    """A model whose graph has a node whose attribute has a graph, and so on."""
    data = b""
    for _ in range(depth):
        for field in (6, 5, 1):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            data = bytes([field << 3 | 2]) + _varint(len(data)) + data
    return b"\x08\x08" + b"\x3a" + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = io.BytesIO()
    while value > 127:
        out.write(bytes([value & 127 | 128]))
        value >>= 7
    out.write(bytes([value]))
    return out.getvalue()
