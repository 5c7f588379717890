"""Constant maps with few different rows and columns become tables: see ``shrink/tables.py``.

Exporters fold what a Gather repeats into the whole map; so a network that was shrunk, taken back to
PyTorch and exported again would carry its border tables written out in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Array, Note, PassResult
from prunedeploy.graph import model as models
from prunedeploy.passes.shrink.tables import feed, tabulate

SMALL = 64  # elements; below, the indices of a Gather weigh as much
LESS = 4  # times fewer elements, for a Gather to be worth its place


@dataclass(frozen=True)
class TabulateMaps:
    """Maps that are added to an image are kept as tables where that is much smaller.

    The operand stays what it was, element by element, or broadcasts to it.
    """

    name: ClassVar[str] = "tabulate-maps"
    exact: ClassVar[bool] = True

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        notes = []
        for node in list(model.graph):
            for index, value in enumerate(node.inputs if node.op_type == "Add" else ()):
                array = _map(node, value)
                if value is None or array is None:
                    continue
                table, repeats = tabulate(array)
                if LESS * (table.size + sum(map(len, repeats))) > array.size:
                    continue
                notes.append(_note(value, array, table))
                feed(node, index, table, repeats, str(value.name))
        models.drop_unused(model.graph)
        return PassResult(bool(notes), tuple(notes))


def _map(node: ir.Node, value: ir.Value | None) -> Array | None:
    """The array of an initializer with an image's axes, whose result it does not widen."""
    if value is None or value.const_value is None or value.const_value.size < SMALL:
        return None
    array, result = value.const_value.numpy(), node.outputs[0]
    others = [each for each in node.inputs if each is not value and each is not None]
    full = any(each.shape is not None and each.shape == result.shape for each in others)
    return array if array.ndim >= 3 and array.dtype.kind == "f" and full else None


def _note(value: ir.Value, array: Array, table: Array) -> Note:
    gone = int(np.subtract(array.size, table.size))
    reason = f"a table of {table.size} numbers repeated"
    return Note("table-repeated", str(value.name), "taken", reason, gone)
