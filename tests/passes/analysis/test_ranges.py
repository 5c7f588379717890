"""Ranges hold for everything a network computes, in the precision it computes in."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from net import Net

from prunedeploy.core.records import InputRange
from prunedeploy.graph import input_range, shapes
from prunedeploy.graph import model as models
from prunedeploy.passes.analysis import layer_ranges
from prunedeploy.passes.analysis.constants import find_constants
from prunedeploy.passes.analysis.ranges import Range, Ranges, everywhere, gamma
from prunedeploy.passes.analysis.zero import Zero
from prunedeploy.passes.operators.layers import Weights
from prunedeploy.passes.operators.table import OPERATORS
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator

UNIT = InputRange((0.0,), (1.0,))


def analyse(model: ir.Model, stated: InputRange | None = UNIT) -> tuple[dict[str, Range], Ranges]:
    """The ranges by the name of the value."""
    shapes.infer_shapes(model)
    given = {} if stated is None else {"input": stated}
    input_range.attach(model, given)
    ranges = Ranges(model.graph, given)
    find_constants(model.graph, Weights(Zero()), Zero(), ranges)
    values = [value for node in model.graph for value in node.outputs]
    return {str(value.name): ranges.of(value) for value in values}, ranges


def outside(model: ir.Model, stated: InputRange | None = UNIT, samples: int = 2) -> list[str]:
    """Values that left their range on random inputs and on the corners of the input's range."""
    ranges, _ = analyse(model, stated)
    left: list[str] = []

    def observe(name: str, array: np.ndarray) -> None:
        found = ranges[name]
        low, high = found.low, found.high
        if found.axis is not None:
            shape = [-1 if axis == found.axis else 1 for axis in range(array.ndim)]
            low, high = low.reshape(shape), high.reshape(shape)
        if not ((low <= array) & (array <= high) | np.isnan(array)).all():
            left.append(name)

    evaluator = Evaluator(model)
    specs, _ = models.specs(model)
    for seed in range(samples):
        feeds = verify.random_feeds(specs, seed=seed, size=9)
        evaluator.run(feeds, observe)
        if stated is not None:  # corners: each element on one of its bounds
            middle = (np.min(stated.low) + np.max(stated.high)) / 2
            sides = {
                name: np.where(array < middle, np.min(stated.low), np.max(stated.high))
                for name, array in feeds.items()
            }
            if len(stated.low) == 1:
                evaluator.run({k: v.astype(feeds[k].dtype) for k, v in sides.items()}, observe)
    return left


def unary(op: str, **attributes: object) -> ir.Model:
    net = Net(dtype=np.float32)
    x = net.conv("input", (5, 6), bias=2.0)
    return net.model(net.node(op, x, **attributes))


UNARY = [
    *("Abs", "Atan", "Asinh", "Ceil", "Cos", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid"),
    *("HardSwish", "Identity", "Log", "LogSoftmax", "Mish", "Neg", "Reciprocal", "Relu", "Round"),
    *("Sigmoid", "Sign", "Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Sqrt", "Tanh"),
    *("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"),
    *("ReduceL1", "ReduceL2", "ReduceSumSquare", "Flatten", "Transpose"),
]
UNBOUNDED = {"Log", "Reciprocal", "ReduceMean", "ReduceSum"}  # of any sign, any batch
WITH = [
    ("Celu", {"alpha": 0.7}),
    ("Elu", {"alpha": 1.3}),
    ("Elu", {"alpha": -1.3}),
    ("Selu", {}),
    ("LeakyRelu", {"alpha": 0.1}),
    ("LeakyRelu", {"alpha": -0.5}),
    ("Gelu", {"approximate": "tanh"}),
    ("HardSigmoid", {"alpha": -0.3, "beta": 0.2}),
    ("MaxPool", {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}),
    ("AveragePool", {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1]}),
    ("DepthToSpace", {"blocksize": 1}),
    ("Softmax", {"axis": 1}),
]


@pytest.mark.parametrize("stated", [UNIT, InputRange((-3.0,), (2.0,)), None], ids=str)
@pytest.mark.parametrize(
    ("op", "attributes"), [*((op, {}) for op in UNARY), *WITH], ids=lambda x: str(x)[:40]
)
def test_operators_of_one_operand(op: str, attributes: dict, stated: InputRange | None) -> None:
    assert outside(unary(op, **attributes), stated) == []


@pytest.mark.parametrize("op", sorted(set(UNARY) - UNBOUNDED))
def test_operators_of_one_operand_are_bounded(op: str) -> None:
    model = unary(op)
    ranges, _ = analyse(model)
    low, high = ranges[str(model.graph.outputs[0].name)].hull()
    assert math.isfinite(low) or math.isfinite(high)


@pytest.mark.parametrize("op", sorted({*UNARY, *(op for op, _ in WITH)} & set(OPERATORS)))
def test_a_range_that_is_too_narrow_is_noticed(monkeypatch: pytest.MonkeyPatch, op: str) -> None:
    """The middle of the range instead of its ends."""
    attributes = dict(WITH).get(op, {})
    model = unary(op, **attributes)
    ranges, _ = analyse(model)
    low, high = ranges[str(model.graph.outputs[0].name)].hull()
    middle = everywhere(*[(max(low, -1e3) + min(high, 1e3)) / 2] * 2)
    record = replace(OPERATORS[op], ranges=lambda *_: middle, moves_elements=False)
    monkeypatch.setitem(OPERATORS, op, record)
    assert outside(unary(op, **attributes)) != []


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "PRelu"])
@pytest.mark.parametrize("other", ["computed", "vector", "scalar", "map", "itself"])
def test_operators_of_two_operands(op: str, other: str) -> None:
    net = Net(dtype=np.float32)
    x = net.conv("input", (5, 6), bias=1.0)
    second = {
        "computed": lambda: net.node("Sigmoid", net.conv("input", (5, 6))),
        "vector": lambda: net.weight(net.random.standard_normal((6, 1, 1))),
        "scalar": lambda: net.weight(np.array(-0.7)),
        "map": lambda: net.weight(net.random.standard_normal((7, 7))),
        "itself": lambda: x,
    }[other]()
    assert outside(net.model(net.node(op, x, second)), InputRange((-2.0,), (1.0,))) == []


@pytest.mark.parametrize("exponent", [2.0, 3.0, 0.5, -1.0, -2.0, 0.0])
@pytest.mark.parametrize("shift", [-9.0, 0.0, 9.0])
def test_powers(exponent: float, shift: float) -> None:
    net = Net(dtype=np.float32)
    x = net.node("Add", net.conv("input", (5, 6)), net.weight(np.array(shift)))
    assert outside(net.model(net.node("Pow", x, net.weight(np.array(exponent))))) == []


@pytest.mark.parametrize("exponent", [-1.0, -2.0, -3.0])
@pytest.mark.parametrize("stated", [(-2.0, 0.0), (0.0, 2.0), (-2.0, -0.5), (-1.0, 2.0)], ids=str)
def test_powers_up_to_a_pole(exponent: float, stated: tuple[float, float]) -> None:
    """Close to zero they grow without bound, on the side that they come from."""
    net = Net(dtype=np.float32)
    model = net.model(net.node("Pow", "input", net.weight(np.array(exponent))))
    ranges, _ = analyse(model, InputRange((stated[0],), (stated[1],)))
    found = ranges["pow0_0"]
    x = np.linspace(*stated, 1001)
    y = x[x != 0] ** exponent
    assert (found.low <= y.min()).all()
    assert (y.max() <= found.high).all()


def test_layers_of_every_kind() -> None:
    for group, options in ((1, {}), (2, {}), (4, {}), (1, {"strides": [2, 2]})):
        net = Net(channels=4, dtype=np.float32)
        x = net.node("Relu", net.conv("input", (4, 8), group=group, **options))
        x = net.conv(x, (8, 8), group=8, pad=0)
        w = net.weight(net.random.standard_normal((8, 3, 2, 2)))
        x = net.node("ConvTranspose", x, w, strides=[2, 2])
        x = net.linear(net.node("Flatten", net.node("GlobalAveragePool", x)), (3, 5))
        x = net.node("Gemm", x, net.weight(net.random.standard_normal((5, 4))), alpha=-0.3)
        model = net.model(net.node("MatMul", x, net.weight(net.random.standard_normal((4, 6)))))
        assert outside(model) == []
        assert outside(model, InputRange((-2.0, 0.0, 1.0, 5.0), (-1.0, 0.0, 2.0, 5.5))) == []


def test_movements_and_joins() -> None:
    net = Net(dtype=np.float32, batch=2)
    x = net.conv("input", (5, 6), bias=3.0)
    y = net.node("Concat", x, net.node("Sigmoid", x), net.weight(np.ones((2, 2, 7, 7))), axis=1)
    pads = net.weight(np.array([0, 1, 2, 0, 0, 1, 0, 0]))
    y = net.node("Pad", y, pads, net.weight(np.array(-4.0)))
    left, right = net.node("Split", y, net.weight(np.array([7, 9])), outputs=2, axis=1)
    left = net.node("Slice", left, *(net.weight(np.array([n])) for n in (1, 6, 1)))
    right = net.node("Gather", right, net.weight(np.array([8, 0, 3, 3, 1])), axis=1)
    z = net.node("Where", net.node("Less", left, right), left, right)
    flat = net.node("Reshape", z, net.weight(np.array([2, 5 * 63])))
    z = net.node("Transpose", net.node("Reshape", flat, net.weight(np.array([2, 5, 63]))))
    assert outside(net.model(z)) == []


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("first", [-1, 1])
def test_pads_that_move_channels(mode: str, first: int) -> None:
    """As many channels as before, and none of them where it was."""
    net = Net(dtype=np.float32, batch=2)
    x = net.conv("input", (5, 6))
    net.weights["conv0.bias"][:] = [9, -9, 9, -9, 9, -9]
    pads = net.weight(np.array([0, first, 0, 0, 0, -first, 0, 0]))
    assert outside(net.model(net.node("Pad", x, pads, mode=mode))) == []


def test_resizing_that_moves_channels() -> None:
    """A scale of 1.2 leaves six channels seven; one of 1.1 leaves six, not where they were."""
    net = Net(dtype=np.float32, batch=2)
    x = net.conv("input", (5, 6))
    net.weights["conv0.bias"][:] = [9, -9, 9, -9, 9, -9]
    scales = net.weight(np.array([1, 1.1, 2, 1], np.float32))
    options = {"mode": "nearest", "nearest_mode": "floor"}
    assert outside(net.model(net.node("Resize", x, "", scales, **options))) == []


def test_what_half_precision_loses() -> None:
    net = Net(dtype=np.float32, batch=2)
    x = net.node(
        "Mul", net.node("Add", "input", net.weight(np.array(1.0))), net.weight(np.array(1e-9))
    )
    assert outside(net.model(net.node("Cast", x, to=10))) == []


@pytest.mark.parametrize(
    ("op", "dtype", "number"),
    [("Sub", np.uint8, 200), ("Mul", np.uint8, 3), ("Add", np.int8, 100), ("Div", np.int32, 2)],
)
def test_integers_wrap_around_and_truncate(op: str, dtype: type, number: int) -> None:
    net = Net(dtype=dtype, batch=2)
    model = net.model(net.node(op, "input", net.weight(np.array(number, dtype))))
    limits = np.iinfo(np.int8 if dtype is np.int32 else dtype)
    stated = InputRange((float(limits.min),), (float(limits.max),))
    assert outside(model, stated) == []


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resizing(mode: str) -> None:
    net = Net(dtype=np.float32, batch=2)
    x = net.conv("input", (5, 6), bias=3.0)
    scales = net.weight(np.array([1, 1, 2.0, 1.5], np.float32))
    model = net.model(net.node("Resize", x, "", scales, mode=mode))
    assert outside(model) == []
    ranges, _ = analyse(model)
    assert np.isinf(ranges["resize1_0"].low).all() == (mode == "cubic")


def test_normalisation() -> None:
    net = Net(dtype=np.float32)
    draw = net.random
    vectors = [draw.standard_normal(5) for _ in range(3)] + [draw.uniform(0.1, 2, 5)]
    vectors[0][2] = 0
    x = net.node("BatchNormalization", "input", *map(net.weight, vectors), epsilon=1e-3)
    model = net.model(x)
    assert outside(model) == []
    assert outside(model, None) == []
    ranges, _ = analyse(model)
    found = ranges["batchnormalization0_0"]
    assert found.low[2] == found.high[2] == np.float32(vectors[1][2])


def test_random_networks_in_single_precision() -> None:
    """Cancellation included: large weights whose sums nearly vanish."""
    for seed in range(20):
        net = Net(seed=seed, dtype=np.float32)
        x, width = "input", 5
        for _ in range(5):
            after = int(net.random.integers(3, 9))
            scale = 10.0 ** net.random.integers(-3, 4)
            x = net.conv(x, (width, after), bias=scale)
            x = net.node("Mul", x, net.weight(np.array(scale)))
            x = net.node(str(net.random.choice(["Relu", "Tanh", "HardSwish", "Identity"])), x)
            width = after
        assert outside(net.model(x)) == []


def test_rounding_of_long_sums() -> None:
    """Inputs that are known exactly: all that is left between the bounds is rounding."""
    net = Net(channels=400, size=3, dtype=np.float32)
    limit = net.weight(np.array(0.7))
    x = net.node("Clip", "input", limit, limit)
    assert outside(net.model(net.conv(x, (400, 50), kernel=1, bias=None))) == []


def test_bounds_are_tight() -> None:
    """No wider than ten roundings of what is reached."""
    net = Net(channels=2, size=3, dtype=np.float32)
    x = net.conv("input", (2, 3), kernel=1)
    model = net.model(x)
    found = analyse(model)[0][x]
    w, b = (model.graph.initializers[f"conv0.{k}"].const_value.numpy() for k in ("weight", "bias"))
    w = w.reshape(3, 2).astype(np.float64)
    assert np.abs(found.low - (np.minimum(w, 0).sum(1) + b)).max() < 1e-5
    assert np.abs(found.high - (np.maximum(w, 0).sum(1) + b)).max() < 1e-5


def test_one_side_alone_may_be_open() -> None:
    net = Net(channels=3)
    x = net.node("Relu", "input")
    w = np.array([[1.0, 2, 0], [-1, -2, 0], [1, -1, 0], [0, 0, 0]]).reshape(4, 3, 1, 1)
    conv = net.node("Conv", x, net.weight(w), net.weight(np.array([1.0, -1, 0, 5])))
    ranges, _ = analyse(net.model(conv), None)
    found = ranges[conv]
    assert found.low.tolist() == pytest.approx([1, -math.inf, -math.inf, 5])
    assert found.high.tolist() == pytest.approx([math.inf, -1, math.inf, 5])
    assert found.low[0] < 1  # what is added to a large number is rounded with it
    assert found.low[3] == found.high[3] == 5


def test_overflow_is_unbounded() -> None:
    net = Net(dtype=np.float32)
    x = net.node("Mul", "input", net.weight(np.array(3e38)))
    y = net.node("Mul", x, net.weight(np.array(3e38)))
    ranges, _ = analyse(net.model(net.node("Add", y, y)), InputRange((1.0,), (2.0,)))
    assert all(np.isinf(found.high).all() for found in ranges.values())


def test_what_is_unknown_is_unbounded() -> None:
    net = Net()
    x = net.node("Relu", net.node("Frobnicate", "input", domain="odd"))
    model = net.model(x)
    ranges, _ = analyse(model)
    assert ranges[x].hull() == (0.0, math.inf)


def test_gamma() -> None:
    assert gamma(1, 2.0**-24) == pytest.approx(2.0**-24)
    assert gamma(2**20, 2.0**-24) == pytest.approx(1 / 15)
    assert gamma(2**24, 2.0**-24) == math.inf


@pytest.mark.parametrize("wrong", ["_lower_bound", "gamma"])
def test_a_broken_analysis_is_noticed(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """Negative weights taken for positive ones; rounding forgotten."""
    right = layer_ranges._lower_bound
    broken = {
        "_lower_bound": lambda p, low, n, other, bias, error: right(p, low, n, -other, bias, error),
        "gamma": lambda *_: 0.0,
    }[wrong]
    monkeypatch.setattr(layer_ranges, wrong, broken)
    with pytest.raises(AssertionError):  # noqa: PT012 - either may notice
        test_random_networks_in_single_precision()
        test_rounding_of_long_sums()
