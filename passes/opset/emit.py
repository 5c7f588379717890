"""Writing nodes in the place of one node, and reading what is constant around it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Array
from prunedeploy.passes.names import add_initializer, graph_of, replace_value, unused

Number = int | float


class Emit:
    """Nodes in front of ``node`` that take its place.

    Args:
        node: the node that is rewritten.
        taken: names in use in the whole model; grows.
    """

    def __init__(self, node: ir.Node, taken: set[str]) -> None:
        self.node, self._graph, self._taken = node, graph_of(node), taken
        self._stem = node.name or str(node.outputs[0].name)

    def __call__(
        self, op: str, *inputs: ir.Value | None, outputs: int = 1, **attributes: object
    ) -> ir.Value:
        """The first result of a new node."""
        node = ir.node(op, list(inputs), attributes, num_outputs=outputs)  # type: ignore[arg-type]
        node.name = unused(f"{self._stem}/{op}", self._taken)
        for output in node.outputs:
            output.name = unused(f"{self._stem}/{op}.out", self._taken)
        node.metadata_props.update(self.node.metadata_props)
        self._graph.insert_before(self.node, node)
        return node.outputs[0]

    def constant(self, array: Array, hint: str = "constant") -> ir.Value:
        """A new initializer."""
        return add_initializer(self._graph, unused(f"{self._stem}/{hint}", self._taken), array)

    def ints(self, *numbers: int) -> ir.Value:
        """A list of int64."""
        return self.constant(np.array(numbers, np.int64))

    def number(self, number: Number, like: ir.Value) -> ir.Value:
        """A scalar of the type of ``like``."""
        assert like.dtype is not None
        return self.constant(np.array(number, like.dtype.numpy()))

    def replace(self, *results: ir.Value | None) -> None:
        """Let ``results``, made here, be the node's outputs, under their names; remove the node."""
        for old, new in zip(self.node.outputs, results, strict=False):
            if new is not None:
                replace_value(old, new)
        self._graph.remove(self.node, safe=True)


def constant(value: ir.Value | None) -> Array | None:
    """The array of an initializer or of a Constant node, None for anything computed or absent."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return tensor.numpy() if tensor is not None else None


def numbers(value: ir.Value | None) -> list[int] | None:
    """The same as a list of integers."""
    array = constant(value)
    return [int(x) for x in array.reshape(-1)] if array is not None else None


def given(node: ir.Node, index: int) -> ir.Value | None:
    """The input at ``index``, None where it was left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def source(node: ir.Node) -> ir.Value:
    """The first input."""
    value = node.inputs[0]
    assert value is not None
    return value


def width(value: ir.Value | None) -> int | None:
    """The number of axes, where it is known."""
    return len(value.shape) if value is not None and value.shape is not None else None


def text(node: ir.Node, name: str, default: str) -> str:
    """An attribute that is a string."""
    return node.attributes.get_string(name, default) or default


def drop_inputs(node: ir.Node, count: int) -> None:
    """Keep the first ``count`` inputs."""
    if len(node.inputs) > count:
        node.resize_inputs(count)


def set_ints(node: ir.Node, name: str, values: list[int]) -> None:
    """An attribute that is a list of integers."""
    node.attributes[name] = ir.AttrInt64s(name, values)
