"""Lowering for tests: small ONNX models, lowered, interpreted, compared with ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import helper, numpy_helper
from plan_interpreter import evaluate

from prunedeploy.graph import model as models
from prunedeploy.reference import verify
from prunedeploy.runtimes.sparse.plan.lower import Refusal, lower
from prunedeploy.runtimes.sparse.plan.steps import Plan

TOLERANCE = 1e-5  # of the output's range: ONNX Runtime computes in float32


class Small:
    """A model under construction: ``input`` and ``node`` give names, arrays are constants."""

    def __init__(self, opset: int = 20, seed: int = 0) -> None:
        self.opset = opset
        self.random = np.random.default_rng(seed)
        self.inputs: list[onnx.ValueInfoProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def input(self, *shape: int | str, dtype: Any = np.float32) -> str:
        name = f"in{len(self.inputs)}"
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return (self.random.standard_normal(shape) * scale).astype(np.float32)

    def node(
        self, op: str, *inputs: str | np.ndarray | None, outputs: int = 1, **attributes: Any
    ) -> Any:
        names = [self._name(value) for value in inputs]
        made = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        node = helper.make_node(op, names, made, f"{op}_{len(self.nodes)}")
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self.nodes.append(node)
        return made[0] if outputs == 1 else made

    def _name(self, value: str | np.ndarray | None) -> str:
        if value is None or isinstance(value, str):
            return value or ""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def conv(self, x: str, ins: int, outs: int, kernel: int = 3, **attributes: Any) -> str:
        group = attributes.get("group", 1)
        weight = self.normal(outs, ins // group, kernel, kernel, scale=0.3)
        attributes.setdefault("pads", [kernel // 2] * 4)
        return self.node("Conv", x, weight, self.normal(outs), **attributes)

    def model(self, *outputs: str) -> ir.Model:
        graph = helper.make_graph(
            self.nodes,
            "small",
            self.inputs,
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            self.constants,
        )
        imports = [helper.make_opsetid("", self.opset)]
        proto = helper.make_model(graph, opset_imports=imports, ir_version=10)
        proto = onnx.shape_inference.infer_shapes(proto)
        for value in proto.graph.output:  # what inference leaves open
            if not value.type.tensor_type.elem_type:
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        return ir.from_proto(proto)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def single(op: str, *inputs: Any, opset: int = 20, outputs: int = 1, **attributes: Any) -> ir.Model:
    """One operator: shapes (tuples) are float32 inputs, arrays are constants."""
    net = Small(opset)
    names = [net.input(*value) if isinstance(value, tuple) else value for value in inputs]
    made = net.node(op, *names, outputs=outputs, **attributes)
    return net.model(*(made if isinstance(made, list) else [made]))


def reference(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """ONNX Runtime's outputs, nothing fused."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def check(
    model: ir.Model,
    batch: int = 1,
    sizes: Mapping[str, int] | None = None,
    feeds: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> Plan:
    """Lower, compare in float64 and float32 with ONNX Runtime; the plan."""
    plan = lower(model, batch, sizes or {})
    assert isinstance(plan, Plan), plan
    if feeds is None:
        random = np.random.default_rng(seed)
        feeds = {p.name: random.standard_normal(p.shape).astype(p.dtype) for p in plan.inputs}
    expected = reference(model, feeds)
    for dtype in (np.float64, np.float32):
        outputs = evaluate(plan, feeds, dtype)
        for port, wanted in zip(plan.outputs, expected, strict=True):
            agree(outputs[port.name], wanted)
    return plan


def agree(actual: np.ndarray, expected: np.ndarray) -> None:
    """Fail unless both are the same but for rounding, NaN and infinities included."""
    assert actual.shape == expected.shape
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(actual, expected)
        return
    assert (np.isnan(actual) == np.isnan(expected)).all()
    infinite = np.isinf(expected)
    assert (actual[infinite] == expected[infinite]).all()
    finite = np.isfinite(expected)
    assert np.isfinite(actual[finite]).all()
    if finite.any():
        scale = max(float(np.abs(expected[finite]).max()), 1e-6)
        assert float(np.abs(actual[finite] - expected[finite]).max()) <= TOLERANCE * scale


def steps(plan: Plan) -> dict[str, int]:
    """How many steps of each kind there are."""
    return dict(Counter(type(step).__name__ for step in plan.steps))


def refusal(model: ir.Model, batch: int = 1, sizes: Mapping[str, int] | None = None) -> Refusal:
    """What ``lower`` says, which must not be a plan."""
    result = lower(model, batch, sizes or {})
    assert isinstance(result, Refusal)
    return result


def shapes(plan: Plan) -> Sequence[tuple[int, ...]]:
    return [port.shape for port in plan.outputs]


def random_feeds(model: ir.Model, batch: int, seed: int) -> dict[str, np.ndarray]:
    return verify.random_feeds(models.specs(model)[0], batch=batch, seed=seed)
