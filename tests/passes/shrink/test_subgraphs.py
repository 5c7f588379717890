"""Exact shrink around and inside the bodies of If, Loop and Scan, and of local functions."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from net import Net
from onnx import helper, numpy_helper

from prunedeploy import passes
from prunedeploy.graph import model as models
from prunedeploy.passes import ShrinkChannels
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator

FLOAT, BOOL, INT = onnx.TensorProto.DOUBLE, onnx.TensorProto.BOOL, onnx.TensorProto.INT64
WIDTH, DEAD = 8, [1, 4, 6]


def info(name: str, shape: list[int | str] | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def weights(seed: int = 0, dead: object = DEAD) -> dict[str, np.ndarray]:
    """Two layers, the first with dead rows."""
    random = np.random.default_rng(seed)
    first, bias = random.standard_normal((WIDTH, 5)), random.standard_normal(WIDTH)
    first[dead], bias[dead] = 0, 0
    return {"one": first, "bias": bias, "two": random.standard_normal((5, WIDTH))}


def block(source: str, result: str, mark: str = "") -> list[onnx.NodeProto]:
    """A layer, a ReLU and a layer back to five channels."""
    hidden, rectified = f"{result}_hidden", f"{result}_relu"
    one, bias, two = (name + mark for name in ("one", "bias", "two"))
    return [
        helper.make_node("Gemm", [source, one, bias], [hidden], f"{result}_1", transB=1),
        helper.make_node("Relu", [hidden], [rectified], f"{result}_2"),
        helper.make_node("Gemm", [rectified, two], [result], f"{result}_3", transB=1),
    ]


def body(name: str, result: str, nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [info(result, None)])


def network(
    nodes: list[onnx.NodeProto],
    outer: dict[str, np.ndarray],
    inputs: tuple[onnx.ValueInfoProto, ...] = (),
    shape: list[int | str] | None = None,
) -> ir.Model:
    graph = helper.make_graph(
        nodes,
        "net",
        [info("input", ["batch", 5]), *inputs],
        [info("y", shape)],
        [numpy_helper.from_array(array, name) for name, array in outer.items()],
    )
    return ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )


def verified(model: ir.Model, *extra: dict[str, np.ndarray]) -> ir.Model:
    """All passes; each set of further inputs is compared."""
    feeds = verify.random_feeds(models.specs(model)[0], batch=3, seed=1)
    cases = [{**feeds, **more} for more in extra or ({},)]
    before = [Evaluator(model).run(case) for case in cases]
    passes.run(model, passes.DEFAULT, cases[0])
    for case, expected in zip(cases, before, strict=True):
        assert verify.compare(expected, Evaluator(model).run(case), 1e-12).passed
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model


def rows(model: ir.Model) -> list[int]:
    """Rows of all first layers, in whatever graph they lie."""
    found = [v for g in model.graphs() for v in g.initializers.values() if str(v.name)[:3] == "one"]
    return sorted(int(value.shape[0]) for value in found)


CHOICES = ({"flag": np.array(True)}, {"flag": np.array(False)})


def choice(then: list[onnx.NodeProto], other: list[onnx.NodeProto]) -> onnx.NodeProto:
    branches = {"then_branch": body("then", "t", then), "else_branch": body("other", "o", other)}
    return helper.make_node("If", ["flag"], ["y"], "choice", **branches)


def test_weights_that_one_branch_reads() -> None:
    outer = {**weights(), **{f"{k}_": w for k, w in weights(1, [0]).items()}}
    node = choice(block("input", "t"), block("input", "o", "_"))
    model = verified(network([node], outer, (info("flag", [], BOOL),)), *CHOICES)
    assert rows(model) == [WIDTH - 3, WIDTH - 1]
    assert not [name for name in model.graph.initializers if name.startswith("one")]


def test_weights_that_both_branches_read_are_cut_and_stored_once() -> None:
    node = choice(block("input", "t"), block("input", "o"))
    model = verified(network([node], weights(), (info("flag", [], BOOL),)), *CHOICES)
    assert rows(model) == [WIDTH - 3]


def test_what_a_branch_reads_is_kept_outside() -> None:
    nodes = [
        *block("input", "x"),
        choice(
            [helper.make_node("Neg", ["x_relu"], ["t"], "n")],
            [helper.make_node("Exp", ["x_relu"], ["o"], "e")],
        ),
    ]
    model = verified(network(nodes, weights(), (info("flag", [], BOOL),)), *CHOICES)
    assert rows(model) == [WIDTH]


def test_constant_condition_is_its_branch() -> None:
    node = choice(block("input", "t"), [helper.make_node("Neg", ["input"], ["o"], "n")])
    model = verified(network([node], {**weights(), "flag": np.array(True)}))
    assert "If" not in {node.op_type for node in model.graph}
    assert rows(model) == [WIDTH - 3]


def test_branch_in_a_branch() -> None:
    inner = choice(block("x", "t"), [helper.make_node("Neg", ["x"], ["o"], "n")])
    inner.name, inner.output[0] = "inner", "t2"
    then = [helper.make_node("Tanh", ["input"], ["x"], "tanh"), inner]
    branches = {
        "then_branch": body("outer", "t2", then),
        "else_branch": body("rest", "r", [helper.make_node("Abs", ["input"], ["r"], "abs")]),
    }
    node = helper.make_node("If", ["flag"], ["y"], "nested", **branches)
    model = verified(network([node], weights(), (info("flag", [], BOOL),)), *CHOICES)
    assert rows(model) == [WIDTH - 3]


def test_body_of_a_loop() -> None:
    nodes = [*block("state", "next"), helper.make_node("Identity", ["go"], ["again"], "i")]
    nodes.append(helper.make_node("Tanh", ["next"], ["small"], "tanh"))
    loop = helper.make_graph(
        nodes,
        "body",
        [info("step", [], INT), info("go", [], BOOL), info("state", ["batch", 5])],
        [info("again", [], BOOL), info("small", ["batch", 5])],
    )
    node = helper.make_node("Loop", ["count", "", "input"], ["y"], "loop", body=loop)
    model = verified(network([node], {**weights(), "count": np.array(3)}, shape=["batch", 5]))
    assert rows(model) == [WIDTH - 3]


def test_body_of_a_scan() -> None:
    nodes = [
        helper.make_node("Add", ["sum", "next"], ["total"], "add"),
        helper.make_node("Unsqueeze", ["row", "first"], ["rows"], "row"),
        *block("rows", "both"),
        helper.make_node("Squeeze", ["both", "first"], ["next"], "s"),
    ]
    nodes = [*nodes[1:], nodes[0]]
    scan = helper.make_graph(
        nodes, "body", [info("sum", [5]), info("row", [5])], [info("total", [5])]
    )
    node = helper.make_node("Scan", ["start", "input"], ["y"], "scan", body=scan, num_scan_inputs=1)
    outer = {**weights(), "start": np.zeros(5), "first": np.array([0])}
    model = verified(network([node], outer))
    assert rows(model) == [WIDTH - 3]


def test_layers_in_the_way_of_a_branch() -> None:
    """Constants other than zero go into a bias inside a body, under a name of its own."""
    outer = weights()
    outer["bias"][DEAD] = 0.5
    model = verified(
        network(
            [choice(block("input", "t"), [helper.make_node("Neg", ["input"], ["o"], "n")])],
            outer,
            (info("flag", [], BOOL),),
        ),
        *CHOICES,
    )
    assert rows(model) == [WIDTH - 3]
    names = [str(name) for graph in model.graphs() for name in graph.initializers]
    assert len(names) == len(set(names))


def test_a_reshape_chain_that_ends_in_a_branch_is_left_alone() -> None:
    shapes = {"split": np.array([-1, 5, 1]), "merge": np.array([5, -1])}
    nodes = [
        helper.make_node("Reshape", ["input", "split"], ["a"], "r1"),
        helper.make_node("Transpose", ["a"], ["b"], "t1", perm=[1, 0, 2]),
        choice(
            [helper.make_node("Reshape", ["b", "merge"], ["t"], "r2")],
            [helper.make_node("Transpose", ["input"], ["o"], "t2")],
        ),
    ]
    verified(network(nodes, shapes, (info("flag", [], BOOL),)), *CHOICES)


def test_local_functions_are_inlined_first() -> None:
    """By the pass itself, for those who call it without the pipeline."""
    function = helper.make_function(
        "local", "Block", ["x", "w", "b"], ["r"],
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
            helper.make_node("Relu", ["h"], ["r"]),
        ],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    outer = weights()
    graph = helper.make_graph(
        [
            helper.make_node("Block", ["input", "one", "bias"], ["h"], "call", domain="local"),
            helper.make_node("Gemm", ["h", "two"], ["y"], "last", transB=1),
        ],
        "net",
        [info("input", ["batch", 5])],
        [info("y", ["batch", 5])],
        [numpy_helper.from_array(array, name) for name, array in outer.items()],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    proto = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=10)
    model = ir.from_proto(proto)
    assert ShrinkChannels()(model).changed
    assert not model.functions
    assert rows(model) == [WIDTH - 3]
    assert not ShrinkChannels()(model).changed
    x = np.random.default_rng(0).standard_normal((3, 5))
    expected = np.maximum(x @ outer["one"].T + outer["bias"], 0) @ outer["two"].T
    np.testing.assert_allclose(Evaluator(model).run({"input": x})["y"], expected, rtol=1e-12)


def test_parameters_in_bodies_are_counted(tmp_path: object) -> None:
    node = choice(block("input", "t"), [helper.make_node("Neg", ["input"], ["o"], "n")])
    model = network([node], weights(), (info("flag", [], BOOL),))
    path = tmp_path / "net.onnx"
    models.save(model, path)
    before = models.stats(path).parameters
    assert models.weight_bytes(verified(model, *CHOICES)) == 8 * (before - 11 * len(DEAD))


def test_sequences_are_opaque() -> None:
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), dead=[0], dead_bias=0.0, name="a"))
    y = net.node(
        "SequenceAt",
        net.node("Identity", net.node("SequenceConstruct", x)),
        net.weight(np.array(0)),
    )
    model = net.model(str(y))
    assert not ShrinkChannels()(model).changed


@pytest.mark.parametrize("name", ["FoldBatchNorm", "FoldConstants", "RemoveIdentity"])
def test_every_pass_leaves_bodies_whole(name: str) -> None:
    node = choice(block("input", "t"), [helper.make_node("Identity", ["input"], ["o"], "n")])
    model = network([node], weights(), (info("flag", [], BOOL),))
    feeds = {**verify.random_feeds(models.specs(model)[0], batch=2), "flag": np.array(True)}
    passes.run(model, (getattr(passes, name)(),), feeds)
