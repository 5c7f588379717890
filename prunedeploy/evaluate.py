"""A plain interpreter of ONNX models: the reference that passes and engines are checked against.

Node by node in the order of the graph, nothing fused and nothing reordered. Convolutions and
pools run on torch's CPU kernels, which keep a ResNet-50 under a second; every other operator on
the implementation in ``onnx.reference``, but for the few that it gets wrong. A node on float16
or bfloat16 computes in float32 and rounds its result once. In float64 it also serves as the exact
answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from prunedeploy import model as models
from prunedeploy.errors import UserError
from prunedeploy.kernels import KERNELS
from prunedeploy.loops import body_model, loop
from prunedeploy.types import Array

# Operators whose older versions compute the same; the reference begins with these.
NO_OLDER = {"DequantizeLinear": 19}
NARROW = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))

# A node's results, from its inputs and all values by name.
Step = Callable[[list[Any], Mapping[str, Any]], Any]


class Evaluator:
    """Runs a model on NumPy arrays.

    Args:
        model: an ONNX file or a model in memory; it is not changed.
        float64: compute in float64 whatever the model's own precision, so that two models
            can be compared without rounding in the way.

    Raises:
        UserError: an operator that neither torch nor ``onnx.reference`` can run, by name; a
            value that is read and never computed.
    """

    def __init__(self, model: Path | ir.Model, *, float64: bool = False) -> None:
        self._model = models.load(model) if isinstance(model, Path) else model
        self._float64 = float64
        if self._model.functions:
            raise UserError("model-local functions must be inlined before the model is evaluated")
        self.inputs, self.outputs = models.specs(self._model)
        _check_reads(self._model.graph)
        self._last_use = _last_uses(self._model.graph)
        self._steps = [self._step(node) for node in self._model.graph]

    def run(
        self,
        feeds: Mapping[str, Array],
        observe: Callable[[str, Array], None] | None = None,
    ) -> dict[str, Array]:
        """Every output by name; ``observe`` is shown the result of every node, by name.

        Raises:
            UserError: an input is not fed, or a node cannot be run on what reaches it.
        """
        missing = [spec.name for spec in self.inputs if spec.name not in feeds]
        if missing:
            raise UserError(f"the model also needs an array for its input {', '.join(missing)}")
        values: dict[str, Array | None] = {k: self._cast(np.asarray(v)) for k, v in feeds.items()}
        for name, value in self._model.graph.initializers.items():
            if value.const_value is not None:
                values.setdefault(name, self._cast(value.const_value.numpy()))
        for index, (node, step) in enumerate(zip(self._model.graph, self._steps, strict=True)):
            arguments = [values[str(v.name)] if v is not None else None for v in node.inputs]
            try:
                results = step(arguments, values)
            except (UserError, MemoryError):
                raise
            except Exception as error:  # torch and onnx.reference raise whatever they meet
                raise _cannot_run(node, arguments, error) from error
            for output, result in zip(node.outputs, results, strict=False):
                values[str(output.name)] = cast = self._cast(result)
                if observe is not None and cast is not None:
                    observe(str(output.name), cast)
            for read in filter(None, node.inputs):
                models.release(read.const_value)
            for name in self._last_use[index]:
                values.pop(name, None)  # optional outputs that nothing reads may be absent
        return {str(v.name): np.asarray(values[str(v.name)]) for v in self._model.graph.outputs}

    def _cast(self, array: Any) -> Any:
        if self._float64 and getattr(array, "dtype", None) in (np.float32, *NARROW):
            return array.astype(np.float64)
        return array

    def _step(self, node: ir.Node) -> Step:
        opsets = _opsets(self._model.opset_imports)
        kernel = None if node.domain else KERNELS.get(node.op_type)
        if node.op_type == "BatchNormalization" and opsets.get("", 0) < 7:
            kernel = None  # it trains unless is_test is set, which onnx.reference knows
        same_type = _types(node, opsets)
        fallback: ReferenceEvaluator | None = None

        def step(inputs: list[Any], values: Mapping[str, Any]) -> Any:
            nonlocal fallback
            rounded = _rounding(same_type, inputs)
            if any(rounded):
                inputs = [_widen(array) for array in inputs]
            result = kernel(node, *inputs) if kernel is not None else None
            if result is not None:
                return _round(result if isinstance(result, tuple) else (result,), rounded)
            if fallback is None:
                fallback = single_node(node, opsets)
            feeds = {name: values[name] for name in fallback.input_names}
            if any(rounded):
                feeds = {name: _widen(array) for name, array in feeds.items()}
            return _round(fallback.run(None, feeds), rounded)

        if kernel is None:  # so that an unknown operator is named at once
            fallback = single_node(node, opsets)
        return self._loop(node, opsets, step) if _is_loop(node) else step

    def _loop(self, node: ir.Node, opsets: Mapping[str, int], otherwise: Step) -> Step:
        """Run the body here; ``otherwise`` where the loop is about more than arrays."""
        captured = list(dict.fromkeys(_captured(node)))
        inside = Evaluator(body_model(node, captured, opsets), float64=self._float64)

        def step(inputs: list[Any], values: Mapping[str, Any]) -> Any:
            outer = {name: values[name] for name in captured}
            found = loop(node, inside.run, outer, *inputs)
            return otherwise(inputs, values) if found is None else found

        return step


def _is_loop(node: ir.Node) -> bool:
    return node.op_type == "Loop" and node.domain in ("", "ai.onnx") and len(node.inputs) > 1


def _label(node: ir.Node) -> str:
    operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    return f"operator {operator} (node {node.name or '?'})"


def _cannot_run(node: ir.Node, arguments: Sequence[Any], error: Exception) -> UserError:
    shapes = [str(list(a.shape)) if hasattr(a, "shape") else type(a).__name__ for a in arguments]
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(
        f"{_label(node)} cannot be run on inputs of shapes {', '.join(shapes) or 'none'}: {reason}"
    )


def _opsets(imports: Mapping[str, int]) -> dict[str, int]:
    """The imports with the standard domain under the one name that nodes and schemas use."""
    return {"" if domain == "ai.onnx" else domain: version for domain, version in imports.items()}


def _check_reads(graph: ir.Graph) -> None:
    """Refuse a graph that reads what nothing gives: onnx_ir drops sparse initializers unseen."""
    known = {v.name for v in graph.inputs}
    known |= {k for k, v in graph.initializers.items() if v.const_value is not None}
    for node in graph:
        names = [v.name for v in node.inputs if v is not None] + _captured(node)
        _check_known(names, known, _label(node))
        known |= {v.name for v in node.outputs}
    _check_known([v.name for v in graph.outputs], known, "the graph's outputs")


def _check_known(names: Sequence[str | None], known: set[str | None], reader: str) -> None:
    for name in names:
        if name not in known:
            raise UserError(
                f"{name}, read by {reader}, is neither an input nor an initializer nor computed "
                "before: sparse initializers must be made dense, nodes sorted, weights present"
            )


def _types(node: ir.Node, opsets: Mapping[str, int]) -> list[list[int]]:
    """For each output the inputs that the operator's definition gives the same type."""
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    if any(a.type in graphs for a in node.attributes.values()):
        return []  # the graphs inside hold values of the model's own type
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return []
    inputs = _kinds(schema.inputs, len(node.inputs))
    outputs = _kinds(schema.outputs, len(node.outputs))
    return [[i for i, kind in enumerate(inputs) if kind == found] for found in outputs]


def _kinds(formal: Sequence[Any], count: int) -> list[str]:
    kinds = [parameter.type_str for parameter in formal]
    return [*kinds, *kinds[-1:] * count][:count]  # the last one may stand for any number


def _rounding(same_type: list[list[int]], inputs: list[Any]) -> list[np.dtype[Any] | None]:
    """The narrow type that each output is rounded to, None for one that is left as it is."""
    rounded: list[np.dtype[Any] | None] = []
    for sources in same_type:
        dtypes = [getattr(inputs[i], "dtype", None) for i in sources]
        rounded.append(next((dtype for dtype in dtypes if dtype in NARROW), None))
    return rounded


def _widen(array: Any) -> Any:
    return array.astype(np.float32) if getattr(array, "dtype", None) in NARROW else array


def _round(results: Any, rounded: list[np.dtype[Any] | None]) -> list[Any]:
    if not any(rounded):
        return list(results)
    return [
        result if dtype is None or result is None else result.astype(dtype)
        for result, dtype in zip(results, rounded, strict=False)
    ]


def _known(node: ir.Node, opsets: Mapping[str, int]) -> Mapping[str, int]:
    """The opsets, newer ones for an operator that the reference has no older version of."""
    least = NO_OLDER.get(node.op_type, 0) if node.domain in ("", "ai.onnx") else 0
    return {name: max(n, least) if name in ("", "ai.onnx") else n for name, n in opsets.items()}


def single_node(node: ir.Node, opsets: Mapping[str, int]) -> ReferenceEvaluator:
    """The node alone, as a model; what its subgraphs read from outside becomes its inputs too.

    Raises:
        UserError: nothing here can run the operator.
    """
    names = dict.fromkeys(str(v.name) for v in node.inputs if v is not None and v.name)
    names |= dict.fromkeys(_captured(node))
    untyped = onnx.TypeProto()
    imports = [onnx.helper.make_opsetid(*item) for item in _opsets(_known(node, opsets)).items()]
    try:
        graph = onnx.helper.make_graph(
            [ir.serde.serialize_node(node)],
            "node",
            [onnx.helper.make_value_info(name, untyped) for name in names],
            [onnx.helper.make_value_info(v.name, untyped) for v in node.outputs if v.name],
        )
        return ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=imports))
    except Exception as error:
        raise UserError(
            f"{_label(node)} is unknown, so what the model computes cannot be checked"
        ) from error


def _captured(node: ir.Node) -> list[str]:
    """Names that the node's subgraphs read from the graph around them."""
    names: list[str] = []
    for attribute in node.attributes.values():
        graphs = {
            ir.AttributeType.GRAPH: lambda a: [a.as_graph()],
            ir.AttributeType.GRAPHS: lambda a: list(a.as_graphs()),
        }.get(attribute.type, lambda _: [])(attribute)
        for graph in graphs:
            own = {v.name for v in graph.inputs} | set(graph.initializers)
            own |= {v.name for inner in graph for v in inner.outputs}
            reads = [v.name for inner in graph for v in inner.inputs if v is not None]
            reads += [name for inner in graph for name in _captured(inner)]
            reads += [v.name for v in graph.outputs]
            names += [name for name in reads if name and name not in own]
    return names


def _last_uses(graph: ir.Graph) -> list[list[str]]:
    """For each node the values that nothing reads after it, so that they can be let go."""
    last: dict[str, int] = {}
    for index, node in enumerate(graph):
        names = [str(v.name) for v in node.inputs if v is not None] + _captured(node)
        names += [str(v.name) for v in node.outputs if v.name]
        last.update((name, index) for name in names)
    kept = {v.name for v in graph.outputs}
    released: list[list[str]] = [[] for _ in graph]
    for name, index in last.items():
        if name not in kept:
            released[index].append(name)
    return released
