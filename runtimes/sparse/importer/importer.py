"""An ONNX graph as a ``Graph``: shapes known, constants computed, one operator after the other.

Shapes need no inference of their own: with the batch fixed every tensor that an operator's
function makes has its shape, so Shape is a constant, and so is all that is computed from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from prunedeploy.core.budget import Budget
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array
from prunedeploy.graph import model as models
from prunedeploy.reference.opsets import drops, opset
from prunedeploy.reference.randoms import OPERATORS as RANDOM
from prunedeploy.runtimes.sparse.importer.builder import Builder
from prunedeploy.runtimes.sparse.importer.graph import EXACT, Graph, Tensor, constant

TYPES = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.INT64: "int64",
    ir.DataType.INT32: "int32",
    ir.DataType.BOOL: "bool",
    ir.DataType.UINT8: "uint8",
}


class RefusedError(Exception):
    """A model cannot be lowered; ``lower`` returns it as a ``Refusal``."""

    def __init__(self, operator: str, node: str, reason: str) -> None:
        super().__init__(f"{operator} ({node}): {reason}")
        self.operator, self.node, self.reason = operator, node, reason


@dataclass
class Call:
    """One node, its inputs known or computed."""

    node: ir.Node
    inputs: list[Tensor | None]
    build: Builder
    opset: int

    def refuse(self, reason: str) -> RefusedError:
        """The exception that says why this node cannot be lowered."""
        return RefusedError(label(self.node), self.node.name or "?", reason)

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.tensor(0)

    def tensor(self, index: int) -> Tensor:
        """An input that must be there."""
        value = self.optional(index)
        if value is None:
            raise self.refuse(f"input {index} is missing")
        return value

    def optional(self, index: int) -> Tensor | None:
        """An input that may be left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def real(self, index: int) -> Tensor:
        """A float32 input that must be there."""
        value = self.tensor(index)
        if value.dtype != "float32":
            raise self.refuse(f"input {index} is {value.dtype}, not float32")
        return value

    def exact(self, index: int) -> Tensor:
        """An input that must be there, of float32 or of integers that it has all of."""
        value = self.tensor(index)
        if not value.is_integer:
            return self.real(index)
        if value.bound >= EXACT:
            raise self.refuse(f"input {index} has integers that float32 may round")
        return value

    def constant(self, index: int, what: str) -> Array | None:
        """The value of an input, None where it is left out; refused where it is computed."""
        value = self.optional(index)
        if value is None:
            return None
        if value.value is None:
            raise self.refuse(f"its {what} is computed")
        return value.value

    def ints(self, index: int, attribute: str, what: str) -> list[int] | None:
        """A list of numbers from an input, or from the attribute of older versions."""
        array = self.constant(index, what)
        if array is not None:
            return [int(v) for v in array.reshape(-1)]
        value = self.node.attributes.get(attribute)
        return None if value is None else [int(v) for v in value.as_ints()]

    def integer(self, name: str, default: int) -> int:
        """An attribute."""
        return int(self.node.attributes.get_int(name, default))

    def number(self, name: str, default: float) -> float:
        """An attribute, as float32 holds it."""
        return float(np.float32(self.node.attributes.get_float(name, default)))

    def string(self, name: str, default: str) -> str:
        """An attribute."""
        return str(self.node.attributes.get_string(name, default))

    def sequence(self, name: str, default: list[int]) -> list[int]:
        """An attribute."""
        return list(self.node.attributes.get_ints(name, default))

    def axis(self, default: int, rank: int | None = None) -> int:
        """The attribute ``axis``, not negative."""
        rank = self.x.rank if rank is None else rank
        number = self.integer("axis", default)
        if not -rank <= number <= max(rank - 1, 0):
            raise self.refuse(f"axis {number} of {rank}")
        return number % rank if rank else 0


Importer = Callable[[Call], "Tensor | tuple[Tensor, ...]"]


def label(node: ir.Node) -> str:
    """The operator's name with its domain."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def read(
    model: ir.Model, batch: int, sizes: Mapping[str, int], table: Mapping[str, Importer]
) -> tuple[Graph, dict[str, Tensor]]:
    """The graph, and its inputs by name.

    Raises:
        RefusedError: an operator or a form of it that the table does not know.
    """
    values: dict[str, Tensor | None] = {"": None}
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            values[name] = constant(value.const_value.numpy())
    inputs = _inputs(model, batch, sizes)
    values.update(inputs)
    graph = Graph(list(inputs.values()))
    for node in model.graph:
        check_version(node, model.opset_imports)
        import_node(node, values, Builder(graph, node.name or node.op_type), table, model)
    for value in model.graph.outputs:
        output = values[str(value.name)]
        assert output is not None
        wanted = TYPES.get(value.dtype, output.dtype) if value.dtype else output.dtype
        if output.dtype != wanted or wanted not in TYPES.values():
            raise RefusedError("output", str(value.name), _why_not_given(output.dtype, wanted))
        graph.outputs.append(output)
    return graph, inputs


def _why_not_given(dtype: str, wanted: str) -> str:
    if dtype == wanted:
        return f"it is {dtype}, not float32"
    return f"its integers are kept as {dtype}, since float32 does not carry all of {wanted}"


def _inputs(model: ir.Model, batch: int, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    inputs: dict[str, Tensor] = {}
    known = dict(sizes)
    values = [v for v in model.graph.inputs if v.name not in model.graph.initializers]
    for value in values:
        first = list(value.shape or ())[:1]
        if first and not isinstance(first[0], int) and first[0].value:
            known.setdefault(str(first[0].value), batch)
    for value in values:
        name = str(value.name)
        if value.dtype not in TYPES:
            raise RefusedError("input", name, f"it is {value.dtype}, not float32")
        if value.shape is None:
            raise RefusedError("input", name, "its shape is not known")
        shape = []
        for axis, dim in enumerate(value.shape):
            size = dim if isinstance(dim, int) else known.get(str(dim.value))
            axis_name = "" if isinstance(dim, int) else dim.value
            if size is None and axis == 0:
                size = batch
            if size is None:
                raise RefusedError(
                    "input", name, f"the size of {axis_name or 'an axis'} is not given"
                )
            shape.append(size)
        dtype = TYPES[value.dtype]
        inputs[name] = Tensor(tuple(shape), dtype, raw=dtype != "float32")
    fixed = [dim for value in values for dim in list(value.shape or ())[:1]]
    if fixed and all(isinstance(dim, int) and dim != batch for dim in fixed):
        reason = f"its batch is fixed at {fixed[0]}, not {batch}"
        raise RefusedError("input", str(values[0].name), reason)
    return inputs


def import_node(
    node: ir.Node,
    values: dict[str, Tensor | None],
    build: Builder,
    table: Mapping[str, Importer],
    model: ir.Model,
) -> None:
    """Add what ``node`` computes to the graph of ``build``, and its results to ``values``.

    Raises:
        RefusedError: an operator or a form of it that the table does not know.
    """
    arguments = [values[str(v.name)] if v is not None else None for v in node.inputs]
    given = [tensor for tensor in arguments if tensor is not None]
    importer = table.get(label(node))
    if _foldable(node, given) and not (importer is not None and _keeps(node, given)):
        results = _fold(node, values, model)
    elif importer is None:
        raise RefusedError(label(node), node.name or "?", "the sparse runtime does not know it")
    else:
        call = Call(node, arguments, build, opset(model))
        try:
            made = importer(call)
        except ValueError as error:  # sizes that do not fit: a batch fixed somewhere, mostly
            raise call.refuse(f"its shapes do not fit: {error}") from error
        results = made if isinstance(made, tuple) else (made,)
    for index, output in enumerate(node.outputs):
        if index < len(results):
            values[str(output.name)] = results[index]
        elif output.uses() or output.is_graph_output():
            raise RefusedError(label(node), node.name or "?", f"its output {index} is read")


def check_version(node: ir.Node, imports: Mapping[str, int]) -> None:
    """Refuse a version of an operator that is not known, or that ONNX has withdrawn.

    What ONNX has no operator of that name for is left to the table.
    """
    from prunedeploy.reference.registry import BUILDERS, KERNELS, STANDARD, kernel_of

    if node.domain in STANDARD and (node.op_type in KERNELS or node.op_type in BUILDERS):
        try:
            kernel_of(node, imports)
        except UserError as error:
            raise RefusedError(label(node), node.name or "?", str(error)) from error


def _foldable(node: ir.Node, given: list[Tensor]) -> bool:
    if node.domain not in ("", "ai.onnx") or node.op_type in RANDOM or drops(node):
        return False
    if node.op_type == "Expand":
        return False  # its own function repeats a constant without memory
    if any(
        a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for a in node.attributes.values()
    ):
        return False
    if not given:
        return node.op_type == "Constant"
    return all(tensor.value is not None for tensor in given)


def _keeps(node: ir.Node, given: list[Tensor]) -> bool:
    """Whether a constant result is needed as the integers that it is made of: int8 weights."""
    small = given[0].value if given else None
    return (
        node.op_type == "DequantizeLinear"
        and small is not None
        and small.dtype in (np.int8, np.uint8, np.int32)
        and not node.attributes.get_int("block_size", 0)
        and given[1].value is not None
        and given[1].value.dtype == np.float32
    )


def _fold(
    node: ir.Node, values: Mapping[str, Tensor | None], model: ir.Model
) -> tuple[Tensor, ...]:
    """The result of a node with known inputs, computed by the reference evaluator."""
    if node.op_type == "Constant" and "value" in node.attributes:
        return (constant(node.attributes["value"].as_tensor().numpy()),)
    from prunedeploy.reference.evaluate import evaluate_node

    arrays: list[Any] = []
    for value in node.inputs:
        tensor = values[str(value.name)] if value is not None else None
        arrays.append(None if tensor is None else tensor.value)
    budget = Budget(models.weight_bytes(model))
    results = evaluate_node(node, model.opset_imports, arrays, budget)
    return tuple(constant(np.asarray(array)) for array in results if array is not None)
