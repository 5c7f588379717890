"""Which nodes are in parts, whatever the network: convex, joinable, with a reason for the rest."""

from __future__ import annotations

import hybrids
import numpy as np
import onnx_ir as ir
import pytest
from net import Net
from onnx import TensorProto, helper

from prunedeploy.runtimes.hybrid import partition as partitions
from prunedeploy.runtimes.hybrid.folding import fold
from prunedeploy.runtimes.hybrid.partition import Part, partition, reads
from prunedeploy.runtimes.hybrid.survey import Refusal, survey
from prunedeploy.runtimes.sparse.importer.prepare import prepare

Parts = tuple[tuple[Part, ...], dict[str, Refusal]]


def cut(model: ir.Model, sizes: tuple[int, ...] = (1, 3)) -> Parts:
    """The parts of a model, and why the other nodes are in none."""
    prepared = prepare(model)
    fold(prepared, survey(prepared, sizes))
    return partition(prepared, survey(prepared, sizes))


def operators(parts: tuple[Part, ...]) -> list[list[str]]:
    return [[node.op_type for node in part.nodes] for part in parts]


def is_convex(part: Part) -> bool:
    """Whether no path leaves the part and comes back."""
    inside, outside = set(part.nodes), set()
    graph = part.nodes[0].graph
    assert isinstance(graph, ir.Graph)
    for node in graph:
        before = {value.producer() for value in reads(node)}
        if node in inside and before & outside:
            return False
        if node not in inside and before & (inside | outside):
            outside.add(node)
    return True


def test_an_unknown_operator_in_the_middle() -> None:
    net = hybrids.net()
    middle = hybrids.unknown(net, hybrids.convs(net, net.input))
    parts, refused = cut(net.model(hybrids.pooled(net, hybrids.convs(net, middle))))
    assert operators(parts) == [
        ["Conv", "Relu"] * 2,
        ["Conv", "Relu"] * 2 + ["GlobalAveragePool", "Flatten", "Gemm"],
    ]
    codes = {name.partition("_")[0]: why.code for name, why in refused.items()}
    assert codes == {"If": "unknown-operator", "Greater": "cannot-cut", "ReduceSum": "cannot-cut"}
    assert parts[1].inputs[0].producer() is not None
    assert parts[1].inputs[0].producer().op_type == "If"


def test_unknown_operators_at_both_ends() -> None:
    net = hybrids.net()
    source = hybrids.unknown(net, net.input)
    parts, refused = cut(net.model(hybrids.unknown(net, hybrids.convs(net, source))))
    assert operators(parts) == [["Conv", "Relu"] * 2]
    assert {name.partition("_")[0] for name in refused} == {"If", "Greater", "ReduceSum"}


def test_two_branches_one_of_them_unknown_make_convex_parts() -> None:
    net = hybrids.net()
    stem = hybrids.convs(net, net.input, 1)
    left = hybrids.convs(net, stem, 1)
    right = hybrids.convs(net, hybrids.unknown(net, stem), 1)
    parts, _ = cut(net.model(hybrids.convs(net, net.node("Add", left, right), 1)))
    assert operators(parts) == [["Conv", "Relu"] * 2, ["Conv", "Relu", "Add", "Conv", "Relu"]]
    assert all(map(is_convex, parts))
    assert len(parts[0].outputs) == 2  # the If reads the stem too


def test_parts_that_ignore_stages_are_not_convex(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken twin: all known nodes as one part."""

    def all_of_them(model: ir.Model, refused: dict[str, Refusal]) -> list[list[ir.Node]]:
        return [[node for node in model.graph if str(node.name) not in refused]]

    monkeypatch.setattr(partitions, "_components", all_of_them)
    net = hybrids.net()
    middle = hybrids.unknown(net, hybrids.convs(net, net.input, 1))
    (part,), _ = cut(net.model(hybrids.convs(net, middle, 1)))
    assert not is_convex(part)


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_are_cut_into_convex_parts(seed: int) -> None:
    random = np.random.default_rng(seed)
    net = Net(4, 5, seed, np.float32)
    values = [net.input]
    for _ in range(25):
        chosen = [values[i] for i in random.integers(max(0, len(values) - 6), len(values), 2)]
        kind = random.choice(["Add", "Relu", "Sigmoid", "If", "Conv"])
        if kind == "Conv":
            values.append(net.conv(chosen[0], (4, 4)))
        elif kind == "If":
            values.append(hybrids.unknown(net, chosen[0]))
        else:
            values.append(net.node(kind, *chosen[: 2 if kind == "Add" else 1]))
    parts, refused = cut(net.model(*values[-3:]))
    assert parts
    assert all(map(is_convex, parts))
    names = [str(node.name) for part in parts for node in part.nodes]
    assert len(set(names)) == len(names)
    assert not set(names) & set(refused)


def test_an_output_from_inside_a_part_is_one_of_its_outputs() -> None:
    net = hybrids.net()
    first = hybrids.convs(net, net.input, 1)
    second = hybrids.convs(net, first, 1)
    parts, _ = cut(net.model(first, hybrids.unknown(net, second)))
    assert [str(value.name) for value in parts[0].outputs] == [first, second]


def test_where_the_batch_is_not_the_first_axis_the_model_is_not_cut() -> None:
    """The Transpose before an LSTM stays beside it; with a fixed batch it could be cut off."""

    def recurrent(batch: int | str) -> Parts:
        net = hybrids.net(batch)
        rows = net.node("ReduceMean", hybrids.convs(net, net.input), net.weight([2]), keepdims=0)
        steps = net.node("Transpose", rows, perm=[2, 0, 1])
        weights = [net.weight(net.random.standard_normal((1, 32, n))) for n in (48, 8)]
        outputs = net.node("LSTM", steps, *weights, outputs=1, hidden_size=8, clip=9.0)
        return cut(net.model(outputs), (1, 3) if isinstance(batch, str) else (batch,))

    parts, refused = recurrent("batch")
    assert operators(parts) == [["Conv", "Relu", "Conv", "Relu", "ReduceMean"]]
    codes = {name.partition("_")[0]: why.code.partition("-")[0] for name, why in refused.items()}
    assert codes == {"Transpose": "cannot", "LSTM": "unknown"}
    parts, refused = recurrent(2)
    assert operators(parts) == [["Conv", "Relu", "Conv", "Relu", "ReduceMean", "Transpose"]]
    assert [name.partition("_")[0] for name in refused] == ["LSTM"]


def test_an_input_of_another_type_is_converted_outside() -> None:
    net = hybrids.net()
    net.inputs = [helper.make_tensor_value_info("input", TensorProto.INT16, ["n", 48, 24, 24])]
    image = net.node("Cast", "input", to=TensorProto.FLOAT)
    parts, refused = cut(net.model(hybrids.convs(net, image)))
    assert operators(parts) == [["Conv", "Relu"] * 2]
    assert {name.partition("_")[0] for name in refused} == {"Cast"}


def test_sizes_that_are_not_known_stay_out() -> None:
    """What is behind an operator whose result depends on data, and an input of open height."""
    net = hybrids.net()
    known = hybrids.convs(net, net.input, 1)
    places = net.node("Cast", net.node("NonZero", known), to=TensorProto.FLOAT)
    parts, refused = cut(net.model(net.node("Relu", places)))
    assert operators(parts) == [["Conv", "Relu"]]
    assert next(w for n, w in refused.items() if "Relu" in n).code == "unknown-size"

    open_height = Net(4, "height", 0, np.float32)
    parts, refused = cut(open_height.model(open_height.conv(open_height.input, (4, 4))))
    assert not parts
    assert [why.code for why in refused.values()] == ["unknown-size"]


def test_shapes_that_are_computed_from_the_batch_are_written_down() -> None:
    """As exporters write ``x.view(x.size(0), -1)``; without it integers would cross the cut."""
    net = hybrids.net()
    source = hybrids.unknown(net, hybrids.convs(net, net.input, 1))
    batch = net.node("Gather", net.node("Shape", net.input), net.weight(np.array([0])))
    rest = net.node("Concat", batch, net.weight(np.array([48 * 24 * 24])), axis=0)
    parts, refused = cut(net.model(net.linear(net.node("Reshape", source, rest), (27648, 4))))
    assert operators(parts)[-1] == ["Reshape", "Gemm"]
    assert not [name for name in refused if name.startswith(("Shape", "Gather", "Concat"))]
