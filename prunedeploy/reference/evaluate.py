"""A plain interpreter of ONNX models: the reference that passes and engines are checked against.

Node by node in the order of the graph, nothing fused and nothing reordered. Every operator is read
as the opset of the model has it; ``prunedeploy.reference`` holds the kernels, version by version,
and an operator or version that is not there is refused by name. A node on float16 or bfloat16
computes in float32 and rounds its result once. In float64 it also serves as the exact answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array
from prunedeploy.graph import model as models
from prunedeploy.graph.schemas import schema
from prunedeploy.reference import defined, machine_learning
from prunedeploy.reference.control import captured
from prunedeploy.reference.registry import BUILDERS, STANDARD, kernel_of, label, standard

NARROW = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
# Operators that round nothing, and ask for the very type of an element: its bits, its limits.
AS_THEY_ARE = ("BitCast", "Clip")

# A node's results, from its inputs and all values by name.
Step = Callable[[list[Any], Mapping[str, Any]], list[Any]]


class Evaluator:
    """Runs a model on NumPy arrays.

    Args:
        model: an ONNX file or a model in memory; it is not changed.
        float64: compute in float64 whatever the model's own precision, so that two models
            can be compared without rounding in the way.
        change: what becomes of every array that a node computes; nothing by default.

    Raises:
        UserError: an operator that is not known in the model's opset, by name; a value that is
            read and never computed.
    """

    def __init__(
        self,
        model: Path | ir.Model,
        *,
        float64: bool = False,
        change: Callable[[Array], Array] = lambda array: array,
    ) -> None:
        self._model = models.load(model) if isinstance(model, Path) else model
        self._float64, self._change = float64, change
        if self._model.functions:
            raise UserError("model-local functions must be inlined before the model is evaluated")
        self.inputs, self.outputs = models.specs(self._model)
        _check_reads(self._model.graph)
        self._last_use = _last_uses(self._model.graph)
        self._opsets = standard(self._model.opset_imports)
        self._steps = [step_of(node, self._opsets, float64=float64) for node in self._model.graph]

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
        values: dict[str, Any] = {k: self._cast(_value(v)) for k, v in feeds.items()}
        for name, value in self._model.graph.initializers.items():
            if value.const_value is not None:
                values.setdefault(name, self._cast(value.const_value.numpy()))
        for index, (node, step) in enumerate(zip(self._model.graph, self._steps, strict=True)):
            arguments = [values[str(v.name)] if v is not None else None for v in node.inputs]
            try:
                results = step(arguments, values)
            except (UserError, MemoryError):
                raise
            except Exception as error:  # torch and NumPy raise whatever they meet
                raise _cannot_run(node, arguments, error) from error
            for output, result in zip(node.outputs, results, strict=False):
                cast = self._cast(result)
                if isinstance(cast, np.ndarray):
                    cast = self._change(cast)
                values[str(output.name)] = cast
                if observe is not None and isinstance(cast, np.ndarray):
                    observe(str(output.name), cast)
            for read in filter(None, node.inputs):
                models.release(read.const_value)
            for name in self._last_use[index]:
                values.pop(name, None)  # optional outputs that nothing reads may be absent
        return {str(v.name): _value(values[str(v.name)]) for v in self._model.graph.outputs}

    def _cast(self, value: Any) -> Any:
        return _wide(value) if self._float64 else value


def evaluate_node(node: ir.Node, imports: Mapping[str, int], inputs: Sequence[Any]) -> list[Any]:
    """Compute one node without subgraphs from arrays; None for an input that is left out.

    Raises:
        UserError: the operator is not known in this opset, or cannot be run on these inputs.
    """
    step = step_of(node, standard(imports))
    arguments = list(inputs)
    try:
        return step(arguments, {})
    except (UserError, MemoryError):
        raise
    except Exception as error:  # torch and NumPy raise whatever they meet
        raise _cannot_run(node, arguments, error) from error


def step_of(node: ir.Node, opsets: Mapping[str, int], *, float64: bool = False) -> Step:
    """How a node is computed in a model of these opsets.

    Raises:
        UserError: the operator is not known in this opset.
    """
    if node.domain not in STANDARD:
        return machine_learning.step_of(node, opsets)
    kernel: Any = kernel_of(node, opsets)
    if node.op_type in BUILDERS:

        def make(model: ir.Model) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
            return Evaluator(model, float64=float64).run

        compute = kernel(node, opsets, make)
    else:
        compute = _function(node, kernel)
    same_type = _types(node, opsets)
    free = node.op_type in defined.TABLE  # outputs of the type of an input that may be left out
    if float64 and _only_widens(node):
        return lambda inputs, _: [inputs[0]]

    def step(inputs: list[Any], values: Mapping[str, Any]) -> list[Any]:
        rounded = _rounding(same_type, inputs, free)
        if any(rounded) and node.op_type not in AS_THEY_ARE:
            inputs = [_widen(array) for array in inputs]
        results = compute(inputs, values)
        arrays = [np.asarray(r) if isinstance(r, np.generic) else r for r in results]
        return _round(arrays, rounded)

    return step


def _function(node: ir.Node, kernel: Any) -> Step:
    def compute(inputs: list[Any], _: Mapping[str, Any]) -> Any:
        with np.errstate(all="ignore"):
            result = kernel(node, *inputs)
        return result if isinstance(result, tuple) else (result,)

    return compute


def _only_widens(node: ir.Node) -> bool:
    """Whether it is a cast to float32 of what float64 stands for already, so loses nothing."""
    if node.op_type != "Cast" or node.attributes.get_int("to", 0) != ir.DataType.FLOAT:
        return False
    source = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
    return source in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def _value(value: Any) -> Any:
    """Sequences are lists, optional values may be None."""
    return value if isinstance(value, list) or value is None else np.asarray(value)


def _wide(value: Any) -> Any:
    if isinstance(value, list):
        return [_wide(each) for each in value]
    if getattr(value, "dtype", None) in (np.float32, *NARROW):
        return value.astype(np.float64)
    return value


def _cannot_run(node: ir.Node, arguments: Sequence[Any], error: Exception) -> UserError:
    shapes = [str(list(a.shape)) if hasattr(a, "shape") else type(a).__name__ for a in arguments]
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(
        f"{label(node)} cannot be run on inputs of shapes {', '.join(shapes) or 'none'}: {reason}"
    )


def _check_reads(graph: ir.Graph) -> None:
    """Refuse a graph that reads what nothing gives: onnx_ir drops sparse initializers unseen."""
    known = {v.name for v in graph.inputs}
    known |= {k for k, v in graph.initializers.items() if v.const_value is not None}
    for node in graph:
        names = [v.name for v in node.inputs if v is not None] + captured(node)
        _check_known(names, known, label(node))
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
    definition = schema(node.op_type, opsets.get("", 1))
    if definition is None:
        return []
    inputs = _kinds(definition.inputs, len(node.inputs))
    outputs = _kinds(definition.outputs, len(node.outputs))
    return [[i for i, kind in enumerate(inputs) if kind == wanted] for wanted in outputs]


def _kinds(formal: Sequence[Any], count: int) -> list[str]:
    kinds = [parameter.type_str for parameter in formal]
    return [*kinds, *kinds[-1:] * count][:count]  # the last one may stand for any number


def _rounding(
    same_type: list[list[int]], inputs: list[Any], free: bool
) -> list[np.dtype[Any] | None]:
    """The narrow type that each output is rounded to, None for one that is left as it is.

    ``free``: an output that no input given has the type of takes that of the first.
    """
    rounded: list[np.dtype[Any] | None] = []
    for sources in same_type:
        given = [i for i in sources if inputs[i] is not None]
        dtypes = [getattr(inputs[i], "dtype", None) for i in given or ([0] if free else [])]
        rounded.append(next((dtype for dtype in dtypes if dtype in NARROW), None))
    return rounded


def _widen(array: Any) -> Any:
    return array.astype(np.float32) if getattr(array, "dtype", None) in NARROW else array


def _round(results: list[Any], rounded: list[np.dtype[Any] | None]) -> list[Any]:
    if not any(rounded):
        return results
    kinds = [*rounded, *[None] * len(results)]
    with np.errstate(over="ignore"):  # to infinity, as the narrow type has it
        return [
            result.astype(kind) if kind is not None and isinstance(result, np.ndarray) else result
            for result, kind in zip(results, kinds, strict=False)
        ]


def _last_uses(graph: ir.Graph) -> list[list[str]]:
    """For each node the values that nothing reads after it, so that they can be let go."""
    last: dict[str, int] = {}
    for index, node in enumerate(graph):
        names = [str(v.name) for v in node.inputs if v is not None] + captured(node)
        names += [str(v.name) for v in node.outputs if v.name]
        last.update((name, index) for name in names)
    kept = {v.name for v in graph.outputs}
    released: list[list[str]] = [[] for _ in graph]
    for name, index in last.items():
        if name not in kept:
            released[index].append(name)
    return released
