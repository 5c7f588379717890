"""Maps kept as small tables whose rows and columns a Gather repeats.

Runtimes fold the Gather once, when they load the model; the file holds the table alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.core.records import Array
from prunedeploy.passes.names import put_before, replace_input


def tabulate(array: Array) -> tuple[Array, tuple[NDArray[np.int64], ...]]:
    """The different slices along each axis from the third on, and which of them goes where."""
    repeats = []
    for axis in range(2, array.ndim):
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        _, first, repeat = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)  # in the order in which they come
        array = array.take(first[order], axis)
        repeats.append(np.argsort(order)[repeat.reshape(-1)].astype(np.int64))
    return array, tuple(repeats)


def feed(
    node: ir.Node, index: int, table: Array, repeats: Sequence[NDArray[np.int64]], hint: str
) -> None:
    """Make the table, repeated, the operand ``index`` of ``node``.

    An axis along which the table holds one slice is left to broadcasting.
    """
    replace_input(node, index, table, hint)
    for axis, repeat in enumerate(repeats, start=2):
        if table.shape[axis] == 1:
            continue
        source = node.inputs[index]
        assert source is not None
        gather = ir.node("Gather", [source], {"axis": axis})
        repeated = put_before(node, gather, f"{node.name}.{axis}", "repeated")
        replace_input(gather, 1, repeat, f"{hint}.{axis}")
        shape = list(source.shape or ())
        repeated.shape = ir.Shape([*shape[:axis], len(repeat), *shape[axis + 1 :]])
        repeated.type = source.type
        node.replace_input_with(index, repeated)
