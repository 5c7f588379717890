"""A plain interpreter of ONNX models: the reference that passes and engines are checked against.

Node by node in the order of the graph, nothing fused and nothing reordered. Every operator is read
as the opset of the model has it; ``prunedeploy.reference`` holds the kernels, version by version,
and an operator or version that is not there is refused by name. A node on float16 or bfloat16
computes in float32 and rounds its result once. In float64 it also serves as the exact answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from prunedeploy.core.budget import Budget
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array
from prunedeploy.graph import model as models
from prunedeploy.graph.schemas import schema
from prunedeploy.reference import defined, machine_learning
from prunedeploy.reference.control import captured
from prunedeploy.reference.cost import Meter, elements, foreseen, repeated
from prunedeploy.reference.registry import BUILDERS, STANDARD, kernel_of, label, standard
from prunedeploy.reference.strings import stored

NARROW = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
# Operators that round nothing, and ask for the very type of an element: its bits, its limits.
AS_THEY_ARE = ("BitCast", "Clip")
HALF_ULP = 2.0**-24  # of a float32, relative to it
UP_TO_1 = ("Sigmoid", "Tanh", "Erf")  # runtimes approximate these to an error relative to 1
# Operators that round to steps: what lies between two of them becomes either one.
STEPPING = ("QuantizeLinear", "Round")
TIE = 4 * HALF_ULP  # how near to the middle that is, relative to the number itself
SUMMING = ("ReduceMean", "ReduceSum", "GlobalAveragePool")

SMALLEST = Budget(0)  # of whatever is computed apart from its model

# A node's results, from its inputs and all values by name.
Step = Callable[[list[Any], Mapping[str, Any]], list[Any]]


class Evaluator:
    """Runs a model on NumPy arrays.

    Args:
        model: an ONNX file or a model in memory; it is not changed.
        float64: compute in float64 whatever the model's own precision, so that two models
            can be compared without rounding in the way.
        moved: move the result of every node at random by as much as float32 rounds it, which shows
            how far rounding moves the outputs. The same inputs give the same outputs.
        ties: round to the other step what lies in the middle of two, as far as float32 can tell.
        within: of the model that this one is a body of.

    Raises:
        UserError: an operator that is not known in the model's opset, by name; a value that is
            read and never computed.
    """

    def __init__(
        self,
        model: Path | ir.Model,
        *,
        float64: bool = False,
        moved: bool = False,
        ties: bool = False,
        within: Meter | None = None,
    ) -> None:
        self._model = models.load(model) if isinstance(model, Path) else model
        self._float64, self._moved, self._ties = float64, moved, ties
        if self._model.functions:
            raise UserError("model-local functions must be inlined before the model is evaluated")
        self.inputs, self.outputs = models.specs(self._model)
        _check_reads(self._model.graph)
        self._last_use = _last_uses(self._model.graph)
        self._opsets = standard(self._model.opset_imports)
        self._inner = within is not None
        self._meter = within or _meter(self._model)
        self._fed = _fed(self._model.graph)
        self._steps = [
            step_of(node, self._opsets, self._meter, float64=float64) for node in self._model.graph
        ]

    def run(
        self,
        feeds: Mapping[str, Array],
        observe: Callable[[str, Array], None] | None = None,
    ) -> dict[str, Array]:
        """Every output by name; ``observe`` is shown the result of every node, by name.

        Raises:
            UserError: an input is not fed, or a node cannot be run on what reaches it.
            OverBudgetError: it takes more memory or steps than a model of its size has reason to.
        """
        missing = [spec.name for spec in self.inputs if spec.name not in feeds]
        if missing:
            raise UserError(f"the model also needs an array for its input {', '.join(missing)}")
        values: dict[str, Any] = {k: self._cast(_value(v)) for k, v in feeds.items()}
        for name, value in self._model.graph.initializers.items():
            if value.const_value is not None:
                values.setdefault(name, self._cast(stored(value.const_value)))
        random, data = np.random.default_rng(0), _data(self._model.graph) if self._moved else ()
        held: dict[str, bool] = {}  # results that are there, and whether they depend on the feeds
        if self._inner:
            self._meter.step(len(self._steps))
        else:
            self._meter.begin(feeds.values())
        outer = self._meter.fed
        for index, (node, step) in enumerate(zip(self._model.graph, self._steps, strict=True)):
            arguments = [values[str(v.name)] if v is not None else None for v in node.inputs]
            self._meter.fed = fed = outer and node in self._fed
            self._meter.check(label(node), foreseen(node, self._opsets, arguments), fed)
            results = _run(node, step, arguments, values)
            if self._ties and node.op_type in STEPPING and not node.domain:
                results = [_other_steps(node, step, arguments, results[0])]
            self._meter.fed = outer
            for output, result in zip(node.outputs, results, strict=False):
                cast = self._cast(result)
                if node in data:
                    cast = _rounded_at_random(cast, node, arguments[0], random)
                values[str(output.name)] = cast
                self._meter.hold(label(node), elements(cast), fed)
                held[str(output.name)] = fed
                if observe is not None and isinstance(cast, np.ndarray):
                    observe(str(output.name), cast)
            for read in filter(None, node.inputs):
                models.release(read.const_value)
            for name in self._last_use[index]:
                gone = values.pop(name, None)  # optional outputs that nothing reads may be absent
                if name in held:
                    self._meter.hold(name, -elements(gone), held.pop(name))
        for name, fed in held.items():  # the outputs are the caller's
            self._meter.hold(name, -elements(values[name]), fed)
        return {str(v.name): _value(values[str(v.name)]) for v in self._model.graph.outputs}

    def _cast(self, value: Any) -> Any:
        return _wide(value) if self._float64 else value


def evaluate_node(
    node: ir.Node, imports: Mapping[str, int], inputs: Sequence[Any], budget: Budget = SMALLEST
) -> list[Any]:
    """Compute one node without subgraphs from arrays; None for an input that is left out.

    Raises:
        UserError: the operator is not known in this opset, or cannot be run on these inputs.
        OverBudgetError: its results, or inputs that are views which repeat numbers, have more
            elements than the budget of the model has for constants.
    """
    opsets, meter = standard(imports), Meter(budget, 1)
    step = step_of(node, opsets, meter)
    meter.check(label(node), repeated(inputs), fed=False)
    meter.check(label(node), foreseen(node, opsets, inputs), fed=False)
    return _run(node, step, list(inputs), {})


def _run(node: ir.Node, step: Step, arguments: list[Any], values: Mapping[str, Any]) -> list[Any]:
    try:
        return step(arguments, values)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # torch and NumPy raise whatever they meet
        raise _cannot_run(node, arguments, error) from error


def _meter(model: ir.Model) -> Meter:
    return Meter(Budget(models.weight_bytes(model)), sum(1 for _ in model.graph.all_nodes()))


def _fed(graph: ir.Graph) -> set[ir.Node]:
    """The nodes whose results depend on what the graph is fed."""
    fed = {value.name for value in graph.inputs if value.name not in graph.initializers}
    nodes = set()
    for node in graph:
        reads = {value.name for value in node.inputs if value is not None}
        if not fed.isdisjoint(reads) or not fed.isdisjoint(captured(node)):
            nodes.add(node)
            fed |= {value.name for value in node.outputs}
    return nodes


@dataclass(frozen=True)
class _Bodies:
    """Makes what runs the bodies of nodes, with values computed as in the graph around them."""

    meter: Meter
    float64: bool

    def __call__(self, model: ir.Model) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
        return Evaluator(model, float64=self.float64, within=self.meter).run


def step_of(
    node: ir.Node, opsets: Mapping[str, int], meter: Meter, *, float64: bool = False
) -> Step:
    """How a node is computed in a model of these opsets; ``meter`` counts what its bodies do.

    Raises:
        UserError: the operator is not known in this opset.
    """
    if node.domain not in STANDARD:
        return machine_learning.step_of(node, opsets)
    kernel: Any = kernel_of(node, opsets)
    if node.op_type in BUILDERS:
        compute = kernel(node, opsets, _Bodies(meter, float64))
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


def _rounded_at_random(value: Any, node: ir.Node, first: Any, random: np.random.Generator) -> Any:
    """``value`` moved by up to half a unit in the last place of float32; whole numbers stay.

    By sqrt(n) times as much for sums of n terms; ``first`` is the node's first input.
    """
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or not value.size:
        return value
    size = np.maximum(np.abs(value), 1) if node.op_type in UP_TO_1 else value
    if node.op_type == "Softmax":
        size = size * math.sqrt(value.shape[node.attributes.get_int("axis", -1)])
    elif node.op_type in SUMMING:
        size = size * math.sqrt(max(first.size / value.size, 1))
    moved = value + size * HALF_ULP * random.uniform(-1, 1, value.shape)
    return np.where(value == np.rint(value), value, moved)


def _other_steps(node: ir.Node, step: Step, arguments: list[Any], rounded: Any) -> Any:
    """``rounded`` with the other step where the number is as near to it."""
    first, *rest = arguments
    above, below = (_run(node, step, [first * (1 + x), *rest], {})[0] for x in (TIE, -TIE))
    return np.where(above != rounded, above, below)


def _data(graph: ir.Graph) -> set[ir.Node]:
    """The nodes whose results depend on the numbers of an input, not on its sizes alone."""
    reached = {value.name for value in graph.inputs if not value.is_initializer()}
    nodes = set()
    for node in graph:
        read = [value.name for value in node.inputs if value is not None] + captured(node)
        if node.op_type not in ("Shape", "Size") and not reached.isdisjoint(read):
            nodes.add(node)
            reached |= {value.name for value in node.outputs}
    return nodes


def _cannot_run(node: ir.Node, arguments: Sequence[Any], error: Exception) -> UserError:
    given = [a for a in arguments if a is not None]
    shapes = [str(list(a.shape)) if hasattr(a, "shape") else type(a).__name__ for a in given]
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
