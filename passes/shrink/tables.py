"""Maps kept as small tables whose rows and columns a Gather repeats.

Runtimes fold the Gather once, when they load the model; the file holds the table alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.core.records import Array
from prunedeploy.passes.names import replace_input, unique_name


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
    graph = node.graph
    assert graph is not None
    replace_input(node, index, table, hint)
    for axis, repeat in enumerate(repeats, start=2):
        if table.shape[axis] == 1:
            continue
        gather = ir.node("Gather", [node.inputs[index]], {"axis": axis})
        gather.name = unique_name(graph, f"{node.name}.{axis}")
        graph.insert_before(node, gather)
        replace_input(gather, 1, repeat, f"{hint}.{axis}")
        repeated, source = gather.outputs[0], node.inputs[index]
        repeated.name = unique_name(graph, f"{gather.name}.repeated")
        assert source is not None
        shape = list(source.shape or ())
        repeated.shape = ir.Shape([*shape[:axis], len(repeat), *shape[axis + 1 :]])
        repeated.type = source.type
        node.replace_input_with(index, repeated)
