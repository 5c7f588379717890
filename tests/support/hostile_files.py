"""Files that a stranger makes to break who reads them: one function a kind.

Each is given an empty folder and returns the path that a command is to be given: of a
few megabytes at most.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

Maker = Callable[[Path], Path]
HUGE = 1 << 40
SIDE = 1 << 17

# -- pickles ---------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def dict_of(*pairs: tuple[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in pairs) + b"u"


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return f"c{module}\n{name}\n".encode() + tuple_of(*arguments) + b"R"


def tensor(kind: str, key: str, count: int, size: Sequence[int], stride: Sequence[int]) -> bytes:
    storage = tuple_of(
        text("storage"), f"ctorch\n{kind}\n".encode(), text(key), text("cpu"), number(count)
    )
    sizes = [tuple_of(*map(number, each)) for each in (size, stride)]
    return call(
        "torch._utils", "_rebuild_tensor_v2", storage + b"Q", number(0), *sizes, b"\x89", b"N"
    )


def archive(
    path: Path, body: bytes, data: dict[str, bytes], compress: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(path, "w", compress) as made:
        made.writestr("a/data.pkl", b"\x80\x02" + body + b".")
        for key, content in data.items():
            made.writestr(f"a/data/{key}", content)
    return path


def _checkpoint(body: bytes, data: dict[str, bytes] | None = None) -> Maker:
    given = {"0": bytes(16)} if data is None else data
    return lambda folder: archive(folder / "net.pt", body, given)


def _pickle(body: Callable[[], bytes]) -> Maker:
    def make(folder: Path) -> Path:
        (folder / "net.pt").write_bytes(b"\x80\x02" + body() + b".")
        return folder / "net.pt"

    return make


WEIGHT = tensor("FloatStorage", "0", 4, (2, 2), (2, 1))


def _other_type(dtype: str) -> bytes:
    storage = tuple_of(
        text("storage"), b"ctorch\nByteStorage\n", text("0"), text("cpu"), number(16)
    )
    pair = tuple_of(number(2), number(2))
    parts = (storage + b"Q", number(0), pair, tuple_of(number(2), number(1)), b"\x89", b"N")
    made = call("torch._utils", "_rebuild_tensor_v3", *parts, f"ctorch\n{dtype}\n".encode())
    return dict_of(("w.weight", made))


def _modules() -> bytes:
    """Forty modules, each of which has the next one twice."""
    body = WEIGHT
    fields = (("_modules", b"}"), ("_parameters", dict_of(("weight", body))))
    body = b"ctorch.nn\nM\n)\x81" + dict_of(*fields) + b"bq\x01"
    for at in range(1, 41):
        twice = dict_of(("a", b"h" + bytes([at])), ("b", b"h" + bytes([at])))
        body += b"0ctorch.nn\nM\n)\x81" + dict_of(("_modules", twice), ("_parameters", b"}"))
        body += b"bq" + bytes([at + 1])
    return body


def _fan_out() -> bytes:
    """Four levels of four hundred keys, all of one dictionary without a weight."""
    body = dict_of(*((f"k{k}", number(1)) for k in range(400))) + b"q\x01"
    for level in range(1, 5):
        inside = b"h" + bytes([level])
        body += b"0" + dict_of(*((f"k{k}", inside) for k in range(400))) + b"q" + bytes([level + 1])
    return body


def _sparse() -> bytes:
    """Eight sparse tensors of one number each."""
    at = tensor("LongStorage", "1", 2, (2, 1), (1, 1))
    value = tensor("FloatStorage", "0", 4, (1,), (1,))
    size = tuple_of(number(1 << 14), number(1 << 15))
    parts = (text("torch.sparse_coo"), tuple_of(at, value, size))
    made = call("torch._utils", "_rebuild_sparse_tensor", *parts)
    return dict_of(*((f"l{k}.weight", made) for k in range(8)))


def _overlapping_members(folder: Path) -> Path:
    """Ten thousand entries of the central directory that lead to the same megabyte."""
    path = archive(folder / "net.pt", dict_of(("w.weight", WEIGHT)), {"0": bytes(1 << 20)})
    raw = path.read_bytes()
    at, end = raw.rindex(b"PK\x01\x02"), raw.rindex(b"PK\x05\x06")
    entry, tail = raw[at:end], bytearray(raw[end:])
    length = struct.unpack_from("<H", entry, 28)[0]
    name = 46 + length
    parts = [entry[:46] + f"{k:0{length}}".encode() + entry[name:] for k in range(10_000)]
    start = struct.unpack_from("<I", tail, 16)[0]
    struct.pack_into(
        "<HHI", tail, 8, 10_002, 10_002, at - start + len(entry) + len(b"".join(parts))
    )
    path.write_bytes(raw[:end] + b"".join(parts) + bytes(tail))
    return path


def _many_members(folder: Path) -> Path:
    path = folder / "net.pt"
    with zipfile.ZipFile(path, "w") as made:
        for k in range(40_000):
            made.writestr(zipfile.ZipInfo(f"a/data/{k}"), b"")
    return path


def _string(folder: Path) -> Path:
    body = b"}X" + struct.pack("<I", 1 << 28) + b"a" * (1 << 28) + b"K\x01s"
    return archive(folder / "net.pt", body, {}, zipfile.ZIP_DEFLATED)


CHECKPOINTS: dict[str, Maker] = {
    "memo-writes": _pickle(
        lambda: b"N" + b"".join(b"r" + struct.pack("<I", k) for k in range(600_000))
    ),
    "nested-lists": _pickle(lambda: b"]" * 200_000 + b"a" * 199_999),
    "nested-dicts": _pickle(lambda: b"}K\x00" * 200_000 + b"}" + b"s" * 200_000),
    "nested-tuples": _pickle(lambda: b")" + b"\x85" * 2_000_000),
    "nested-objects": _pickle(
        lambda: b"cx\ny\nq\x000Nq\x010" + b"h\x00)\x81h\x01bq\x010" * 300_000 + b"h\x01"
    ),
    "equal-hashes": _pickle(
        lambda: (
            b"}(" + b"".join(number((k + 1) * ((1 << 61) - 1)) + b"N" for k in range(60_000)) + b"u"
        )
    ),
    "pickle-fan-out": _pickle(_fan_out),
    "module-graph": _checkpoint(_modules()),
    "long-name": _checkpoint(dict_of(("a." * 150_000 + "weight", WEIGHT))),
    "bits": _checkpoint(_other_type("bits16")),
    "complex-halves": _checkpoint(_other_type("complex32")),
    "quantised": _checkpoint(_other_type("quint4x2")),
    "zero-stride": _checkpoint(
        dict_of(("w.weight", tensor("FloatStorage", "0", 4, (1 << 14, 1 << 15), (0, 0))))
    ),
    "sparse-sizes": _checkpoint(_sparse(), {"0": bytes(16), "1": bytes(16)}),
    "deflated-string": _string,
    "overlapping-members": _overlapping_members,
    "many-members": _many_members,
}

# -- safetensors, npz, folders ---------------------------------------------------------------------


def _safetensors(header: Callable[[], bytes], length: int | None = None) -> Maker:
    def make(folder: Path) -> Path:
        data = header()
        size = len(data) if length is None else length
        (folder / "net.safetensors").write_bytes(struct.pack("<Q", size) + data)
        return folder / "net.safetensors"

    return make


def _entry(shape: Sequence[int], end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}


def _npz(header: bytes) -> Maker:
    def make(folder: Path) -> Path:
        data = header + b" " * (-(len(header) + 13) % 64) + b"\n"
        with zipfile.ZipFile(folder / "net.npz", "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr(
                "w.weight.npy", b"\x93NUMPY\x02\0" + struct.pack("<I", len(data)) + data + bytes(64)
            )
        return folder / "net.npz"

    return make


def _index(files: dict[str, str]) -> Maker:
    def make(folder: Path) -> Path:
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps({"weight_map": files}))
        return path

    return make


def _written(name: str, content: Callable[[], bytes]) -> Maker:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content())
        return folder / name

    return make


def _pipe(name: str) -> Maker:
    def make(folder: Path) -> Path:
        os.mkfifo(folder / name)
        return folder / name

    return make


def _linked(name: str, to: str) -> Maker:
    def make(folder: Path) -> Path:
        (folder / name).symlink_to(to)
        return folder if name == "model.safetensors" else folder / name

    return make


OTHERS: dict[str, Maker] = {
    "safetensors-header": _safetensors(lambda: b"{}", 1 << 62),
    "safetensors-nested": _safetensors(lambda: b'{"a":' * 200_000),
    "safetensors-shape": _safetensors(
        lambda: json.dumps({"w": _entry([1 << 32, 1 << 32, 1 << 32], 0)}).encode()
    ),
    "safetensors-empty-tensors": _safetensors(
        lambda: json.dumps({f"w{k}": _entry([0], 0) for k in range(90_000)}).encode()
    ),
    "npz-nested": _npz(b"{'descr': " + b"(" * 60_000),
    "npz-shape": _npz(b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 2), }" % HUGE),
    "npz-objects": _npz(b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }"),
    "index-outside": _index({"w.weight": "../../../../etc/passwd"}),
    "index-absolute": _index({"w.weight": "/dev/zero"}),
    "index-of-itself": _index({"w.weight": "model.safetensors.index.json"}),
    "index-nested": _written(
        "model.safetensors.index.json", lambda: b'{"weight_map":' + b'{"a":' * 200_000
    ),
    "json-nested": _written("result.json", lambda: b"[" * 200_000),
    "json-number": _written("result.json", lambda: b'{"samples": ' + b"9" * 400_000 + b"}"),
    "pipe": _pipe("net.pt"),
    "pipe-onnx": _pipe("net.onnx"),
    "link-to-device": _linked("net.pt", "/dev/zero"),
    "link-to-itself": _linked("net.onnx", "net.onnx"),
    "folder-with-device": _linked("model.safetensors", "/dev/zero"),
}

# -- ONNX ------------------------------------------------------------------------------------------


def node(operator: str, inputs: str, outputs: str = "c", **attributes: object) -> NodeProto:
    return helper.make_node(
        operator, ["" if x == "-" else x for x in inputs.split()], outputs.split(), **attributes
    )


def _values(weights: dict[str, object]) -> list[TensorProto]:
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
    return lambda folder: save(folder, [made, *ADDED], _values({**WEIGHTS, **weights}))


def _nodes(nodes: Callable[[], Sequence[NodeProto]], **weights: object) -> Maker:
    return lambda folder: save(folder, [*LINEAR, *nodes()], _values({**WEIGHTS, **weights}))


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
        return save(folder, [*LINEAR, node("f0", "m", "y", domain="d")], _values(WEIGHTS), made)

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
    return _written(name, lambda: (begin + inside * 60_000).encode())


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
        folder, [node("MatMul", "x w", "y")], _values(WEIGHTS), shape=[HUGE, 16]
    ),
    "large-input": lambda folder: save(
        folder, [node("MatMul", "x w", "y")], _values(WEIGHTS), shape=[1 << 26, 16]
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
    "wire-nested": _written("net.onnx", lambda: _wire(2_000)),
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


KINDS: dict[str, Maker] = {**CHECKPOINTS, **OTHERS, **MODELS}
