"""Torch programs of ONNX models: the same numbers, names, gradients, and back again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch_nets
from net import Net
from torch import nn

import prunedeploy
from prunedeploy import UserError, passes
from prunedeploy.graph import model as models
from prunedeploy.graph.preparation import prepare
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.shrinking.export import to_model
from prunedeploy.to_torch import program
from prunedeploy.to_torch.network import Network


def computed(model: ir.Model, batch: int = 3) -> None:
    """The module computes what the interpreter does, in float64."""
    model = prepare(model)
    feeds = verify.random_feeds(models.specs(model)[0], batch=batch, size=6)
    expected = Evaluator(model).run(feeds)
    examples = tuple(map(torch.from_numpy, feeds.values()))
    found = program.run(Network(model), examples, list(expected))
    difference = verify.compare(expected, found)
    assert difference.passed, difference


UNARY = (
    *("Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish"),
    *("Identity", "LeakyRelu", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid"),
    *("Sign", "Sin", "Softplus", "Softsign", "Softmax", "LogSoftmax", "Tanh", "ThresholdedRelu"),
    *("GlobalAveragePool", "GlobalMaxPool", "Flatten", "Celu"),
)


@pytest.mark.parametrize("op", UNARY)
def test_one_input(op: str) -> None:
    net = Net(channels=4, size=6)
    computed(net.model(net.node(op, "input")))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu", "Mean", "Sum"])
def test_two_inputs(op: str) -> None:
    net = Net(channels=4, size=6)
    other = net.weight(net.random.standard_normal((4, 1, 1)))
    computed(net.model(net.node(op, "input", other)))


def _windows(net: Net) -> list[str]:
    x = net.conv("input", (4, 6), 3, group=2, name="a")
    up = net.weight(net.random.standard_normal((6, 2, 2, 2)))
    return [
        net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]),
        net.node("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
        net.node("ConvTranspose", x, up, strides=[2, 2]),
    ]


def _norms(net: Net) -> list[str]:
    four = [net.weight(np.abs(net.random.standard_normal(4)) + 0.5) for _ in range(4)]
    six = [net.weight(net.random.standard_normal(6)) for _ in range(2)]
    return [
        net.node("BatchNormalization", "input", *four, epsilon=1e-3),
        net.node("InstanceNormalization", "input", *four[:2]),
        net.node("LayerNormalization", "input", *six),
    ]


def _moves(net: Net) -> list[str]:
    ints = lambda *numbers: net.weight(np.array(numbers, np.int64))  # noqa: E731
    left, right = net.node("Split", "input", ints(1, 3), outputs=2, axis=1)
    return [
        net.node("Reshape", "input", ints(0, 2, -1)),
        net.node("Transpose", "input", perm=[0, 2, 3, 1]),
        net.node("Slice", "input", ints(1, 0), ints(2**31 - 1, -1), ints(2, 3), ints(2, 1)),
        net.node("Slice", "input", ints(-1), ints(-(2**63)), ints(1), ints(-1)),
        net.node("Gather", "input", ints(3, 0, -1), axis=1),
        net.node("Gather", "input", net.weight(np.array(1)), axis=2),
        net.node("Concat", right, left, axis=1),
        net.node("Pad", "input", ints(0, 1, 2, 0, 0, 1, 0, 1)),
        net.node("Pad", "input", ints(0, 0, 1, 2, 0, 0, 2, 1), mode="reflect"),
        net.node("Unsqueeze", "input", ints(1)),
        net.node("Expand", net.weight(net.random.standard_normal((4, 1, 1))), ints(4, 6, 6)),
        net.node("Tile", "input", ints(1, 2, 1, 1)),
        net.node("DepthToSpace", "input", blocksize=2),
        net.node("SpaceToDepth", "input", blocksize=2),
        net.node("ReduceMean", "input", ints(2, 3), keepdims=0),
        net.node("ReduceL2", "input", ints(1)),
        net.node("ReduceMax", "input", ints(-1)),
        net.node("Clip", "input", net.weight(np.array(-0.5)), net.weight(np.array(0.5))),
        net.node("Einsum", "input", "input", equation="nchw,nchv->nwv"),
        net.node(
            "Where", net.node("Greater", "input", net.weight(np.array(0.0))), "input", "input"
        ),
    ]


@pytest.mark.parametrize("build", [_windows, _norms, _moves])
def test_operators_with_more_to_say(build: Callable[[Net], list[str]]) -> None:
    net = Net(channels=4, size=6)
    computed(net.model(*build(net)))


def test_shapes_of_dynamic_sizes() -> None:
    net = Net(channels=4, size="side")
    ints = lambda *numbers: net.weight(np.array(numbers, np.int64))  # noqa: E731
    shape = net.node("Shape", "input")
    batch = net.node("Gather", shape, ints(0))
    side = net.node("Slice", shape, ints(2), ints(4))
    target = net.node("Concat", batch, ints(2, 2), side, axis=0)
    half = net.node("Mul", net.node("Gather", shape, ints(2)), ints(4))
    flat = net.node("Concat", batch, half, ints(-1), axis=0)
    outputs = net.node("Reshape", "input", target), net.node("Reshape", "input", flat)
    computed(net.model(*outputs))


@pytest.mark.parametrize(
    "op",
    [
        *("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
        *("ReduceProd", "ReduceSum", "ReduceSumSquare"),
    ],
)
def test_reduction_over_no_axis(op: str) -> None:
    net = Net(channels=4, size=6)
    computed(net.model(net.node(op, "input", noop_with_empty_axes=1)))


def test_arithmetic_on_shapes() -> None:
    """What exporters write to count the features of a map."""
    net = Net(channels=4, size=6)
    ints = lambda *numbers: net.weight(np.array(numbers, np.int64))  # noqa: E731
    batch, rest = net.node("Split", net.node("Shape", "input"), ints(1, 3), outputs=2)
    count = net.node("Reshape", net.node("ReduceProd", rest, keepdims=0), ints(1))
    flat = net.node("Reshape", "input", net.node("Concat", batch, count, axis=0))
    mean = net.node("Div", "input", net.node("Cast", net.node("ReduceSum", rest), to=11))
    computed(net.model(flat, mean))


@pytest.mark.parametrize(
    ("sizes", "attributes", "message"),
    [
        ((3, 4, 12, 12), {"nearest_mode": "floor"}, "nearest, floor"),
        ((3, 8, 12, 12), {}, "samples or channels"),
    ],
)
def test_resizing_that_torch_lacks(
    sizes: tuple[int, ...], attributes: dict[str, str], message: str
) -> None:
    net = Net(channels=4, size=6, batch=3)
    target = net.weight(np.array(sizes, np.int64))
    with pytest.raises(UserError, match=message):
        computed(net.model(net.node("Resize", "input", "", "", target, **attributes)))


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("op", "gates", "attributes"),
    [
        ("LSTM", 4, {}),
        ("LSTM", 4, {"activations": ["Sigmoid", "Tanh", "Tanh"]}),
        ("GRU", 3, {"linear_before_reset": 1}),
        ("RNN", 1, {}),
        ("RNN", 1, {"activations": ["Relu"]}),
    ],
)
def test_recurrent(op: str, gates: int, attributes: dict[str, object], direction: str) -> None:
    net, count = Net(channels=4, size=6), 2 if direction == "bidirectional" else 1
    steps = net.node("Reshape", "input", net.weight(np.array([0, 4, 36], np.int64)))
    steps = net.node("Transpose", steps, perm=[2, 0, 1])
    shapes = [(count, gates * 5, 4), (count, gates * 5, 5), (count, 2 * gates * 5)]
    given = [net.weight(net.random.standard_normal(shape)) for shape in shapes]
    if "activations" in attributes:
        attributes = {"activations": list(attributes["activations"]) * count}  # type: ignore[call-overload]
    states = [net.weight(net.random.standard_normal((count, 3, 5)))] * (2 if op == "LSTM" else 1)
    for inputs in ([steps, *given[:2]], [steps, *given, "", *states]):
        outputs = 3 if op == "LSTM" else 2
        found = net.node(
            op, *inputs, outputs=outputs, hidden_size=5, direction=direction, **attributes
        )
        computed(net.model(*found))


@pytest.mark.parametrize(
    "attributes", [{"clip": 1.0}, {"activations": ["Sigmoid", "Relu"]}, {"linear_before_reset": 0}]
)
def test_recurrent_that_torch_lacks(attributes: dict[str, object]) -> None:
    net = Net(channels=4, size=6)
    steps = net.node("Reshape", "input", net.weight(np.array([0, 4, 36], np.int64)))
    given = [net.weight(net.random.standard_normal(shape)) for shape in ((1, 6, 36), (1, 6, 2))]
    attributes = {"hidden_size": 2, "linear_before_reset": 1, **attributes}
    y, _ = net.node("GRU", steps, *given, outputs=2, **attributes)
    with pytest.raises(UserError, match="GRU"):
        computed(net.model(y))


def test_unknown_operators_are_named() -> None:
    net = Net()
    with pytest.raises(UserError, match=r"odd::Frobnicate \(node Frobnicate_0\) has no torch"):
        Network(net.model(net.node("Frobnicate", "input", domain="odd")))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(torch_nets.__file__).parent))
    return tmp_path


def test_checkpoint_to_program_and_back(folder: Path) -> None:
    network = torch_nets.residual()
    torch.save(network.state_dict(), "net.pt")
    options = {"arch": "torch_nets:Residual", "input_shape": (1, 3, 12, 12)}
    result = prunedeploy.shrink("net.pt", pt="small.pt2", align=1, **options)
    assert result.pt == Path("small.pt2")
    small = torch.export.load("small.pt2").module()
    shapes = {name: tuple(p.shape) for name, p in small.named_parameters()}
    assert shapes["one.conv1.weight"] == (5, 8, 3, 3)
    assert shapes["one.conv1.bias"] == (5,)
    assert shapes["head.weight"] == (5, 16)
    for batch in (1, 4):
        x = torch.randn(batch, 3, 12, 12, dtype=torch.float64)
        with torch.no_grad():
            assert torch.allclose(small(x), network(x), rtol=0, atol=1e-12)
    small(x).square().sum().backward()
    assert all(p.requires_grad and p.grad.abs().sum() > 0 for p in small.parameters())
    with torch.no_grad():
        for p in small.parameters():
            p -= 1e-3 * p.grad
        small.get_submodule("two").conv1.weight[0] = 0
        small.get_submodule("two").conv1.bias[0] = 0
        expected = small(x)
    batch = torch.export.Dim("batch", min=1, max=64)
    tuned = torch.export.export(small, (x,), dynamic_shapes=({0: batch},))
    torch.export.save(tuned, "tuned.pt2")
    again = prunedeploy.shrink("tuned.pt2", trust=True, pt="again.pt2", align=1)
    assert again.after.parameters < again.before.parameters
    smaller = torch.export.load("again.pt2").module()
    with torch.no_grad():
        assert torch.allclose(smaller(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [torch_nets.mobile, torch_nets.vgg, torch_nets.transformer])
def test_programs_of_networks(folder: Path, make: Callable[[], nn.Module]) -> None:
    network = make()
    model = prepare(to_model(network, torch_nets.SHAPES[make]))
    feeds = verify.random_feeds(models.specs(model)[0], batch=3)
    passes.run(model, passes.DEFAULT, feeds)
    expected = Evaluator(model).run(feeds)
    assert program.write(model, feeds, expected, Path("net.pt2")).passed
    loaded = torch.export.load("net.pt2").module()
    x = torch.from_numpy(feeds["input"])
    loaded(x).square().sum().backward()
    assert all(p.grad is not None for p in loaded.parameters())


def test_any_onnx_model(folder: Path) -> None:
    net = Net(dtype=np.float32, size="side")
    x = net.conv("input", (5, 8), dead=(1, 4), dead_bias=0.5, name="a.b")
    x = net.conv(net.node("Relu", x), (8, 4), name="a.b.weight")
    models.save(net.model(net.node("GlobalAveragePool", x), x), folder / "net.onnx")
    prunedeploy.shrink("net.onnx", pt="net.pt2")
    loaded = torch.export.load("net.pt2").module()
    pooled, whole = loaded(torch.randn(2, 5, 9, 9))
    assert (pooled.shape, whole.shape) == ((2, 4, 1, 1), (2, 4, 9, 9))
    assert "a.b.weight" in dict(loaded.named_parameters())


def test_a_program_that_computes_something_else_is_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        __import__("prunedeploy.to_torch.operators", fromlist=["OPERATORS"]).OPERATORS,
        "Relu",
        lambda _, x: torch.relu(x) + 1e-3,
    )
    net = Net(dtype=np.float32)
    models.save(net.model(net.conv(net.node("Relu", "input"), (5, 4))), folder / "net.onnx")
    with pytest.raises(program.ProgramError, match="off by"):
        prunedeploy.shrink("net.onnx", pt="net.pt2")
    assert [p.name for p in folder.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pt": "small.pt"}, r"should end in \.pt2"),
        ({"pt": "nowhere/small.pt2"}, "is not a folder"),
        ({"pt": "net.onnx.pt2", "state_dict": "a.pt"}, "needs a torch checkpoint"),
    ],
)
def test_places(folder: Path, options: dict[str, str], message: str) -> None:
    net = Net(dtype=np.float32)
    onnx.save(ir.to_proto(net.model(net.conv("input", (5, 4)))), "net.onnx")
    with pytest.raises(UserError, match=message):
        prunedeploy.shrink("net.onnx", **options)
