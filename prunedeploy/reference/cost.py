"""How much an evaluation holds and how far its loops go, held against the budget of the model.

Results are foreseen where an operator may make much of little: from the values that say how much
(a shape to expand to), or from operands that multiply (an outer product). All else makes about as
much as it is given, and is counted once it is there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from prunedeploy.core.budget import Budget
from prunedeploy.graph.protos import STANDARD
from prunedeploy.graph.schemas import schema

#: operators whose results are as large as their attributes or the values of operands say
# fmt: off
BY_VALUE = frozenset((
    "AffineGrid", "AveragePool", "BlackmanWindow", "CenterCropPad", "Col2Im", "ConstantOfShape",
    "Conv", "ConvTranspose", "DFT", "Expand", "GlobalLpPool", "HammingWindow", "HannWindow",
    "LpPool", "MaxPool", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "OneHot", "Pad",
    "RandomNormal", "RandomUniform", "Range", "Resize", "RoiAlign", "Tile", "Upsample",
))
# fmt: on
SMALL = 1 << 22  # elements of a result that needs no foresight
READ = 1 << 10  # elements of an operand whose values may say how much is made


class Meter:
    """Counts for one model and all bodies in it, from ``begin`` on.

    Elements are counted apart by whether they depend on what the model is fed.

    Attributes:
        fed: whether the node that is being computed does.
    """

    def __init__(self, budget: Budget, nodes: int) -> None:
        self._budget, self._nodes = budget, nodes
        self.begin(())

    def begin(self, feeds: Iterable[Any]) -> None:
        """Start over, for another run on ``feeds``."""
        self._fed = sum(map(elements, feeds))
        self._held = {True: 0, False: 0}
        self._steps = 0
        self.fed = True

    def hold(self, what: str, count: int, fed: bool) -> None:
        """Count elements that are kept from now on; fewer than none that are let go.

        Raises:
            OverBudgetError: they are too many.
        """
        self._held[fed] += count
        self.check(what, 0, fed)

    def check(self, what: str, count: int, fed: bool) -> None:
        """Check that there is room for elements that are about to be made.

        Raises:
            OverBudgetError: they are too many.
        """
        allowed = self._budget.values(self._fed) if fed else self._budget.constants
        self._budget.check(what, self._held[fed] + count, allowed)

    def step(self, nodes: int) -> None:
        """Count the nodes of a body that is about to run.

        Raises:
            OverBudgetError: the bodies have run too often.
        """
        self._steps += max(1, nodes)
        self.expect(0)

    def expect(self, nodes: int) -> None:
        """Check that so many nodes more may run in bodies.

        Raises:
            OverBudgetError: they would be too many.
        """
        allowed = self._budget.steps(self._nodes, self._fed)
        self._budget.check("a loop", self._steps + nodes, allowed, "steps")


def elements(value: Any) -> int:
    """The elements of an array, or of all arrays of a sequence."""
    if isinstance(value, list | tuple):
        return sum(map(elements, value))
    return int(getattr(value, "size", 0))


def repeated(arguments: Iterable[Any]) -> int:
    """The elements of arrays that store fewer: views which repeat numbers, as of an Expand.

    They take no memory, but time: an operator that reads them goes through all.
    """
    return sum(x.size for x in arguments if isinstance(x, np.ndarray) and _repeats(x))


def _repeats(array: np.ndarray[Any, Any]) -> bool:
    sides = zip(array.strides, array.shape, strict=True)
    return any(not stride and size > 1 for stride, size in sides)


def foreseen(node: ir.Node, opsets: Mapping[str, int], arguments: Sequence[Any]) -> int:
    """The elements of a node's results; 0 where they are few, or not known before they are there.

    Args:
        node: of the model.
        opsets: of its model.
        arguments: its inputs, None for one that is left out.
    """
    given = [each for each in arguments if isinstance(each, np.ndarray)]
    largest = math.prod(max(1, each.size) for each in given)
    if node.domain not in STANDARD or (largest <= SMALL and node.op_type not in BY_VALUE):
        return 0
    definition = schema(node.op_type, opsets.get("", 1))
    if definition is None:
        return 0
    named = {f"in{at}": x for at, x in enumerate(arguments) if isinstance(x, np.ndarray)}
    call = ir.serde.serialize_node(node)
    call.input[:] = [f"in{at}" if f"in{at}" in named else "" for at in range(len(arguments))]
    try:
        types = {name: _type(array) for name, array in named.items()}
        small = {n: onnx.numpy_helper.from_array(x) for n, x in named.items() if x.size <= READ}
        made = onnx.shape_inference.infer_node_outputs(
            definition, call, types, small, opset_imports=_imports(opsets), ir_version=10
        )
    except Exception:  # what is no call of this operator, its kernel refuses in better words
        return 0
    shapes = (kind.tensor_type.shape.dim for kind in made.values())
    return sum(math.prod(dim.dim_value for dim in dims) for dims in shapes if len(dims))


def _type(array: np.ndarray[Any, Any]) -> onnx.TypeProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_type_proto(kind, array.shape)


def _imports(opsets: Mapping[str, int]) -> list[onnx.OperatorSetIdProto]:
    return [onnx.helper.make_opsetid(*each) for each in opsets.items()]
