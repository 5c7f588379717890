"""Layer normalisation written out: fused, idempotent, refused where it is not that, numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from net import Net

from prunedeploy import passes
from prunedeploy.graph import model as models
from prunedeploy.passes import FuseLayerNorm, PassError, run
from prunedeploy.passes.simplify import fuse_layernorm
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator

EPSILON = 2.0**-10  # which float32 can hold


def mean(net: Net, x: str, axes: list[int], keepdims: int = 1) -> str:
    if net.opset < 18:
        return str(net.node("ReduceMean", x, axes=axes, keepdims=keepdims))
    return str(net.node("ReduceMean", x, net.weight(np.array(axes)), keepdims=keepdims))


def written_out(
    net: Net,
    x: str,
    shape: tuple[int, ...],
    *,
    square: str = "Pow",
    twice: bool = False,
    reciprocal: bool = False,
    epsilon: float = EPSILON,
    affine: str = "MulAdd",
    front: int = 0,
) -> str:
    """The pattern over the last axes, in the forms that exporters have given it."""
    axes = [-1 - i for i in reversed(range(len(shape)))]
    centre = mean(net, x, axes)
    spread = net.node("Sub", x, centre)
    again = net.node("Sub", x, centre) if twice else spread
    if square == "Mul":
        power = net.node("Mul", spread, again)
    else:
        power = net.node("Pow", again, net.weight([2.0]))
    root = net.node("Sqrt", net.node("Add", mean(net, power, axes), net.weight(np.array(epsilon))))
    if reciprocal:
        y = net.node("Mul", net.node("Reciprocal", root), spread)
    else:
        y = net.node("Div", spread, root)
    for operator in ("Mul", "Add"):
        if operator in affine:
            vector = net.random.standard_normal((*[1] * front, *shape))
            y = net.node(operator, net.weight(vector), y)
    return str(y)


def fuse(model: ir.Model, tolerance: float = 1e-13) -> list[str]:
    """Run the pass, compare in float64, and say what operators are left."""
    feeds = verify.random_feeds(models.specs(model)[0], batch=3, seed=7)
    before = Evaluator(model).run(feeds)
    (report,) = run(model, (FuseLayerNorm(),), feeds)
    assert verify.compare(before, Evaluator(model).run(feeds), tolerance).passed
    names = [node.op_type for node in model.graph]
    assert report.result.changed == ("LayerNormalization" in names)
    return names


@pytest.mark.parametrize("square", ["Pow", "Mul"])
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("opset", [17, 20])
def test_forms(square: str, twice: bool, reciprocal: bool, opset: int) -> None:
    net = Net(opset=opset)
    y = written_out(net, "input", (7,), square=square, twice=twice, reciprocal=reciprocal)
    assert fuse(net.model(y)) == ["LayerNormalization"]


@pytest.mark.parametrize("affine", ["", "Mul", "Add", "MulAdd"])
@pytest.mark.parametrize(("shape", "front"), [((7,), 2), ((7, 7), 0), ((5, 7, 7), 1)])
def test_shapes_with_and_without_scale_and_bias(
    shape: tuple[int, ...], front: int, affine: str
) -> None:
    net = Net()
    assert fuse(net.model(written_out(net, "input", shape, affine=affine, front=front))) == [
        "LayerNormalization"
    ]


def test_what_reads_on_is_not_touched() -> None:
    """A sum behind the norm is not its bias; a norm behind a norm is one of its own."""
    net = Net()
    x = written_out(net, "input", (7,), affine="Mul")
    y = written_out(net, net.node("Add", x, "input"), (7,))
    names = fuse(net.model(y))
    assert names == ["LayerNormalization", "Add", "LayerNormalization"]


@pytest.mark.parametrize(
    "case",
    [
        *("opset", "epsilon", "rank", "axes", "keepdims", "cube", "another", "read", "unknown"),
        "half",
    ],
)
def test_what_is_left_as_it_is(case: str) -> None:
    net = Net(opset=16 if case == "opset" else 20, size="side" if case == "unknown" else 7)
    x = net.node("Cast", "input", to=10) if case == "half" else "input"
    if case == "half":
        net.dtype = np.dtype(np.float16)
    axes = [1] if case == "axes" else [-1]
    centre = mean(net, x, axes)
    spread = net.node("Sub", x, centre)
    other = net.node("Sub", x, net.node("Neg", centre)) if case == "another" else spread
    power = net.node("Pow", other, net.weight([3.0 if case == "cube" else 2.0]))
    square = net.node("Abs", mean(net, power, axes)) if case == "cube" else mean(net, power, axes)
    epsilon = np.array(1e-5 if case == "epsilon" else EPSILON)
    epsilon = epsilon.reshape(1, 1, 1, 1, 1) if case == "rank" else epsilon
    root = net.node("Sqrt", net.node("Add", square, net.weight(epsilon)))
    y = net.node("Div", spread, root)
    if case == "keepdims":
        net = Net()
        flat = mean(net, "input", [-2, -1], keepdims=0)
        wide = net.node("Unsqueeze", flat, net.weight(np.array([2, 3])))
        spread = net.node("Sub", "input", wide)
        square = mean(net, net.node("Mul", spread, spread), [-2, -1])
        root = net.node("Sqrt", net.node("Add", square, net.weight(np.array(EPSILON))))
        y = net.node("Div", spread, root)
    outputs = [y, root] if case == "read" else [y]
    if case == "half":
        outputs = [net.node("Cast", y, to=11)]
    assert "LayerNormalization" not in fuse(net.model(*outputs), 1e-2)


def test_channels_go_from_what_was_fused() -> None:
    net = Net()
    x = net.node("MatMul", "input", net.weight(net.random.standard_normal((7, 9)), "up"))
    net.weights["up"][:, [2, 5]] = 0
    y = written_out(net, x, (9,))
    scale, bias = list(net.weights)[-2:]
    net.weights[scale][[2, 5]] = net.weights[bias][[2, 5]] = 0
    model = net.model(net.node("MatMul", y, net.weight(np.ones((9, 2)))))
    feeds = verify.random_feeds(models.specs(model)[0], batch=3, seed=7)
    run(model, passes.DEFAULT, feeds)
    assert list(model.graph.initializers["up"].const_value.shape) == [7, 7]


def test_a_wrong_epsilon_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    match = fuse_layernorm._match

    def wrong(node: ir.Node) -> object:
        found = match(node)
        return None if found is None else replace(found, epsilon=1.0)

    monkeypatch.setattr(fuse_layernorm, "_match", wrong)
    net = Net()
    with pytest.raises(PassError, match="changed the outputs"):
        fuse(net.model(written_out(net, "input", (7,))))
