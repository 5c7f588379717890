"""The reference interpreter against ONNX Runtime and torch, operator by operator."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from net import Net
from onnx import TensorProto, helper, numpy_helper

from prunedeploy.core.errors import UserError
from prunedeploy.graph import model as models
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator

POOL = {"kernel_shape": [3, 2], "strides": [2, 1]}
CASES: list[tuple[str, dict[str, object]]] = [
    ("MaxPool", POOL),
    ("MaxPool", {**POOL, "pads": [1, 0, 0, 1]}),
    ("MaxPool", {**POOL, "ceil_mode": 1}),
    ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 1]}),
    ("AveragePool", POOL),
    ("AveragePool", {**POOL, "pads": [1, 1, 1, 1]}),
    ("AveragePool", {**POOL, "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", {**POOL, "pads": [0, 1, 1, 0]}),
    ("AveragePool", {**POOL, "auto_pad": "SAME_UPPER"}),
    ("GlobalAveragePool", {}),
    ("Softmax", {"axis": 1}),
]


def both(net: Net, *outputs: str) -> verify.Difference:
    """The interpreter's outputs against ONNX Runtime's."""
    model = net.model(*outputs)
    feeds = verify.random_feeds(models.specs(model)[0], batch=2)
    proto = onnx_bytes(model)
    session = onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"])
    expected = dict(zip(outputs, session.run(list(outputs), feeds), strict=True))
    return verify.compare(expected, Evaluator(model).run(feeds))


def onnx_bytes(model: models.ir.Model) -> bytes:
    return models.ir.to_proto(model).SerializeToString()


@pytest.mark.parametrize(("operator", "attributes"), CASES)
def test_operators(operator: str, attributes: dict[str, object]) -> None:
    net = Net(channels=3, size=9, dtype=np.float32)
    assert both(net, net.node(operator, "input", **attributes)).passed


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 0, 2, 1], "strides": [2, 1]},
        {"dilations": [2, 3]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"auto_pad": "VALID"},
        {"group": 3},
    ],
)
def test_convolutions(attributes: dict[str, object]) -> None:
    net = Net(channels=6, size=9, dtype=np.float32)
    group = int(attributes.get("group", 1))  # type: ignore[call-overload]
    w = net.weight(net.random.standard_normal((9, 6 // group, 3, 2)))
    b = net.weight(net.random.standard_normal(9))
    assert both(net, net.node("Conv", "input", w, b, **attributes)).passed


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 2]},
        {"pads": [1, 0, 1, 0]},
        {"pads": [0, 1, 1, 0], "group": 2},
        {"strides": [2, 2], "output_padding": [1, 1], "group": 2},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 2], "output_shape": [10, 10]},
        {"dilations": [2, 1], "group": 4},
    ],
)
def test_transposed_convolutions(attributes: dict[str, object]) -> None:
    net = Net(channels=4, size=5, dtype=np.float32)
    w = net.weight(net.random.standard_normal((4, 3, 3, 3)))
    assert both(net, net.node("ConvTranspose", "input", w, **attributes)).passed


@pytest.mark.parametrize("shape", [(1, 5, 7, 7), (2, 5, 3, 7), (2, 9, 7, 4), (1, 1, 1, 1)])
def test_gather_elements(shape: tuple[int, ...]) -> None:
    net = Net(batch=2)
    indices = net.random.integers(-5, 5, shape)
    assert both(net, str(net.node("GatherElements", "input", net.weight(indices), axis=1))).passed
    table = net.weight(net.random.standard_normal((1, 20)))
    picked = net.node("GatherElements", table, net.weight(np.array([[3, -1, 3]])), axis=1)
    assert both(net, str(picked)).passed


def test_subgraph_reads_from_outside() -> None:
    net = Net(channels=3, dtype=np.float32)
    x = net.node("Relu", "input")

    def branch(op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, [str(x)], ["y"])], op, [], [out])

    y = net.node(
        "If", net.weight(np.array(True)), then_branch=branch("Exp"), else_branch=branch("Neg")
    )
    assert both(net, str(y)).passed


@pytest.mark.parametrize("condition", [True, False, None])
def test_loop(condition: bool | None) -> None:
    """Without a condition it runs; what is scanned gets an axis of its own."""
    net = Net(channels=3, dtype=np.float32)
    x = str(net.node("Relu", "input"))

    def info(name: str, kind: int, shape: list[int] | None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    scanned = [] if condition is False else [info("each", TensorProto.FLOAT, None)]
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["state", x], ["each"]),
            helper.make_node("Cast", ["step"], ["number"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["each", "number"], ["next"]),
            helper.make_node("Less", ["number", "three"], ["go"]),
        ],
        "body",
        [
            info("step", TensorProto.INT64, []),
            info("before", TensorProto.BOOL, []),
            info("state", TensorProto.FLOAT, None),
        ],
        [info("go", TensorProto.BOOL, []), info("next", TensorProto.FLOAT, None), *scanned],
    )
    net.weight(np.array(3.0), "three")
    given = "" if condition is None else net.weight(np.array(condition))
    count = net.weight(np.array(7))
    found = net.node("Loop", count, given, x, outputs=1 + len(scanned), body=body)
    outputs = [found] if isinstance(found, str) else found
    assert both(net, *outputs).passed


def test_float64_is_the_exact_answer() -> None:
    net = Net(channels=3, dtype=np.float32)
    model = net.model(net.conv("input", (3, 4)))
    feeds = verify.random_feeds(models.specs(model)[0])
    exact = Evaluator(model, float64=True).run(feeds)
    rounded = Evaluator(model).run(feeds)
    (name,) = exact
    assert exact[name].dtype == np.float64
    assert 0 < verify.compare(exact, rounded, 1e-5).max_rel < 1e-6


def test_unknown_operator_is_named() -> None:
    net = Net(channels=3)
    model = net.model(net.node("SparseRelu", "input", domain="odd"))
    with pytest.raises(UserError, match="odd::SparseRelu"):
        Evaluator(model)


def normalised(net: Net, shape: tuple[int, ...], outputs: int = 1, **attributes: object) -> str:
    """A BatchNormalization of the input with statistics far from the batch's own."""
    parameters = [net.random.standard_normal(shape), net.random.standard_normal(shape)]
    parameters += [net.random.standard_normal(shape) + 2, net.random.random(shape) + 0.5]
    names = [net.weight(array) for array in parameters]
    found = net.node("BatchNormalization", "input", *names, outputs=outputs, **attributes)
    return found if isinstance(found, str) else found[0]


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 14, 15])
def test_batch_normalization_is_that_of_inference(opset: int) -> None:
    net = Net(channels=3, dtype=np.float32, opset=opset)
    assert both(net, normalised(net, (3,), epsilon=0.1, momentum=0.7)).passed


def test_batch_normalization_per_element() -> None:
    net = Net(channels=3, size=4, dtype=np.float32, opset=7)
    model = net.model(normalised(net, (3, 4, 4), spatial=0, epsilon=0.1))
    feeds = verify.random_feeds(models.specs(model)[0])
    scale, bias, mean, var = net.weights.values()
    expected = (feeds["input"] - mean) * scale / np.sqrt(var + 0.1) + bias  # ORT has no spatial=0
    (found,) = Evaluator(model).run(feeds).values()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_batch_normalization_is_exact_in_float64() -> None:
    net = Net(channels=3, dtype=np.float32, opset=9)
    model = net.model(normalised(net, (3,)))
    feeds = verify.random_feeds(models.specs(model)[0])
    (found,) = Evaluator(model, float64=True).run(feeds).values()
    x = feeds["input"].astype(np.float64)
    scale, bias, mean, var = (w.astype(np.float64).reshape(-1, 1, 1) for w in net.weights.values())
    expected = (x - mean) * scale / np.sqrt(var + float(np.float32(1e-5))) + bias
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("opset", [7, 9, 13])
def test_batch_normalization_with_five_outputs_trains_below_opset_14(opset: int) -> None:
    """Whether or not somebody reads them."""
    net = Net(channels=3, dtype=np.float32, opset=opset)
    y = normalised(net, (3,), outputs=5, momentum=0.7)
    for shown in (1, 4):
        assert both(net, *(y.replace("_0", f"_{i}") for i in range(shown))).passed
    feeds = verify.random_feeds(models.specs(net.model(y))[0])
    with pytest.raises(UserError, match=r"BatchNormalization .* output 4 is read"):
        Evaluator(net.model(y, y.replace("_0", "_4"))).run(feeds)


def test_batch_normalization_with_three_outputs_is_neither_form_below_opset_14() -> None:
    net = Net(channels=3, opset=9)
    model = net.model(normalised(net, (3,), outputs=3))
    with pytest.raises(UserError, match=r"BatchNormalization .* one and training five"):
        Evaluator(model).run(verify.random_feeds(models.specs(model)[0]))


def narrow_net(dtype: type) -> Net:
    """Every kind of kernel; its weights are numbers that bfloat16 and float16 both hold."""
    net = Net(channels=4, size=8, dtype=dtype)
    conv = net.weight(net.random.integers(-8, 8, (6, 4, 3, 3)) / 32.0)
    x = net.node("Relu", net.node("Conv", "input", conv, pads=[1, 1, 1, 1]))
    x = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("ConvTranspose", x, net.weight(net.random.integers(-8, 8, (6, 3, 2, 2)) / 32.0))
    x, _ = net.node("Split", x, axis=2, num_outputs=2, outputs=2)
    x = net.node("Softmax", net.node("Flatten", x))
    net.node("MatMul", x, net.weight(net.random.integers(-8, 8, (18, 5)) / 16.0))
    return net


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_floats_compute_in_float32_and_round(dtype: type) -> None:
    wide, narrow = narrow_net(np.float32), narrow_net(dtype)
    # Net keeps what NumPy does not call a float as it is
    narrow.weights = {k: w.astype(dtype) for k, w in narrow.weights.items()}
    name = wide.nodes[-1].output[0]
    model = narrow.model(name)
    feeds = verify.random_feeds(models.specs(model)[0])
    assert feeds["input"].dtype == dtype
    session = onnxruntime.InferenceSession(
        onnx_bytes(wide.model(name)), providers=["CPUExecutionProvider"]
    )
    expected = session.run([name], {k: v.astype(np.float32) for k, v in feeds.items()})[0]
    found = Evaluator(model).run(feeds)
    assert found[name].dtype == dtype
    assert verify.compare({name: expected.astype(dtype)}, found).passed
    exact = Evaluator(model, float64=True).run(feeds)
    assert verify.compare({name: expected}, exact, 1e-5).passed


def test_casts_keep_the_type_they_ask_for() -> None:
    net = Net(channels=2, dtype=np.float32)
    narrow = net.node("Cast", "input", to=TensorProto.BFLOAT16)
    back = net.node("Cast", net.node("Add", narrow, narrow), to=TensorProto.FLOAT)
    model = net.model(str(narrow), str(back))
    x = np.full((1, 2, 7, 7), 1.001, np.float32)
    found = Evaluator(model).run({"input": x})
    assert found[str(narrow)].dtype == ml_dtypes.bfloat16
    assert found[str(back)].dtype == np.float32
    assert (found[str(back)] == 2).all()


def proto(
    nodes: list[onnx.NodeProto], shape: list[int | str], opset: int = 13, domain: str = ""
) -> onnx.ModelProto:
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "net", [info], [out])
    imports = [helper.make_opsetid(domain, opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def test_sparse_initializers_are_refused() -> None:
    model = proto([helper.make_node("Add", ["x", "w"], ["y"], "sum")], [3])
    values = numpy_helper.from_array(np.array([1, 2], np.float32), "w")
    places = numpy_helper.from_array(np.array([0, 2]), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3]))
    with pytest.raises(UserError, match=r"w, read by operator Add \(node sum\).*sparse"):
        Evaluator(models.ir.from_proto(model))


def test_the_standard_domain_by_its_long_name() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"], domain="ai.onnx")]
    nodes += [helper.make_node("Neg", ["r"], ["y"])]
    model = models.ir.from_proto(proto(nodes, [2], domain="ai.onnx"))
    found = Evaluator(model).run({"x": np.array([-1, 2], np.float32)})
    assert found["y"].tolist() == [0, -2]


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
@pytest.mark.parametrize("pads", [[0, 0, -1, 2, 0, 0, 1, -3], [0, -1, 0, 0, 0, 0, -2, 0]])
@pytest.mark.parametrize("opset", [2, 13])
def test_negative_pads_cut(mode: str, pads: list[int], opset: int) -> None:
    net = Net(channels=3, dtype=np.float32, opset=opset)
    if opset == 2:
        y = net.node("Pad", "input", pads=pads, mode=mode, value=1.5)
    else:
        y = net.node(
            "Pad", "input", net.weight(np.array(pads)), net.weight(np.array(1.5)), mode=mode
        )
    assert both(net, str(y)).passed


def test_negative_pads_of_some_axes() -> None:
    net = Net(channels=3, dtype=np.float32)
    pads, axes = net.weight(np.array([-1, 2, 3, -2])), net.weight(np.array([-1, 2]))
    assert both(net, str(net.node("Pad", "input", pads, "", axes))).passed


@pytest.mark.parametrize("opset", [7, 9])
@pytest.mark.parametrize(
    ("mode", "factors"),
    [
        ("nearest", [1, 1, 2, 3]),
        ("nearest", [1, 1, 1.1, 1.7]),
        ("nearest", [1, 2, 1.3, 1]),
        ("linear", [1, 1, 2, 2]),
        ("linear", [1, 1, 1.3, 2.5]),
    ],
)
def test_upsample(opset: int, mode: str, factors: list[float]) -> None:
    net = Net(channels=3, size=10, dtype=np.float32, opset=opset)
    if opset == 7:
        y = net.node("Upsample", "input", scales=[float(f) for f in factors], mode=mode)
    else:
        y = net.node("Upsample", "input", net.weight(np.array(factors, float)), mode=mode)
    assert both(net, str(y)).passed


@pytest.mark.parametrize(
    "operator", ["Conv", "MaxPool", "AveragePool", "BatchNormalization", "Relu", "Pad"]
)
def test_a_batch_of_no_samples(operator: str) -> None:
    net = Net(channels=3, dtype=np.float32)
    if operator == "Conv":
        y = net.conv("input", (3, 4))
    elif operator == "BatchNormalization":
        y = normalised(net, (3,))
    elif operator == "Pad":
        y = str(net.node("Pad", "input", net.weight(np.array([0, 0, -1, 1, 0, 0, 0, 0]))))
    else:
        y = str(
            net.node(operator, "input", **({"kernel_shape": [2, 2]} if "P" in operator else {}))
        )
    model = net.model(y)
    feeds = {"input": np.zeros((0, 3, 7, 7), np.float32)}
    session = onnxruntime.InferenceSession(onnx_bytes(model), providers=["CPUExecutionProvider"])
    assert Evaluator(model).run(feeds)[y].shape == session.run([y], feeds)[0].shape


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [("MaxPool", {"kernel_shape": [3, 3]}), ("AveragePool", {"kernel_shape": [3, 3]}), ("Pad", {})],
)
def test_a_node_that_cannot_run_is_named(operator: str, attributes: dict[str, object]) -> None:
    net = Net(channels=3, size="n", dtype=np.float32)
    more = [net.weight(np.array([0, 0, -1, 0, 0, 0, 0, 0]))] if operator == "Pad" else []
    model = net.model(str(net.node(operator, "input", *more, **attributes)))
    shape = r"\[2, 3, 0, 0\]"
    with pytest.raises(UserError, match=rf"operator {operator} \(node .*shapes {shape}") as raised:
        Evaluator(model).run({"input": np.zeros((2, 3, 0, 0), np.float32)})
    assert raised.value.__cause__ is not None


def test_a_missing_feed_is_named() -> None:
    net = Net(channels=3)
    with pytest.raises(UserError, match="its input input"):
        Evaluator(net.model(str(net.node("Relu", "input")))).run({})


@pytest.mark.parametrize("opset", [13, 18])
def test_quantised_networks_of_older_opsets(opset: int) -> None:
    net = Net(dtype=np.float32, opset=opset)
    w = net.weight(net.random.integers(-9, 9, (4, 5, 3, 3)).astype(np.int8))
    scales, zeros = np.linspace(0.01, 0.1, 4, dtype=np.float32), np.arange(4, dtype=np.int8)
    w = net.node("DequantizeLinear", w, net.weight(scales), net.weight(zeros), axis=0)
    step, zero = net.weight(np.array(0.05)), net.weight(np.array(120, np.uint8))
    x = net.node("QuantizeLinear", "input", step, zero)
    x = net.node("DequantizeLinear", x, step, zero)
    assert both(net, net.node("Conv", x, w)).passed


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(3, 1, 1), (3, 2, 0), (2, 2, 0), (3, 2, 1)])
def test_max_pool_with_ceil_mode_is_that_of_onnxruntime(
    size: int, kernel: int, stride: int, pad: int
) -> None:
    net = Net(channels=2, size=size, dtype=np.float32)
    attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
    model = net.model(net.node("MaxPool", "input", ceil_mode=1, **attributes))
    feeds = verify.random_feeds(models.specs(model)[0])
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    (expected,) = session.run(None, feeds)
    (found,) = Evaluator(model).run(feeds).values()
    assert np.array_equal(found, expected)
