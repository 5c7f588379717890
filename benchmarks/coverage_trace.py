"""Which rows of which weights write the same channel of an exported network, element by element.

The ground truth of ``coverage.py``, made apart from the pass and in another way: every element of
every tensor carries the identifier of the channel it belongs to, and the graph is run on these
identifiers. Operators that move elements run as they are; layers write fresh identifiers, one an
output channel; operators that add or multiply make identifiers that meet the same. So windows,
rolls, patches and heads are followed through whatever reshapes and slices they are written in.
0 stands for what belongs to no channel: inputs, scores of attention, what an operator mixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.reference.evaluate import evaluate_node

Ids = NDArray[np.int64]
MOVING = (
    *("Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND"),
    *("Identity", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose"),
    *("Unsqueeze", "Cast", "Dropout"),
)
POOLING = (
    *("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool", "Resize"),
    *("GridSample", "LRN", "Upsample"),
)
NORMS = ("BatchNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization")
FAR = np.iinfo(np.int64).max


@dataclass
class Rows:
    """The output channels of one weight: its axis, and the identifier of each."""

    axis: int
    ids: Ids
    biases: list[str]


class Trace:
    """One walk over ``graph``; repeat it until ``joined`` stays as it is.

    Args:
        graph: its weights as initializers.
        values: what a run computed, by name: the array of integers, the shape of anything else.
    """

    def __init__(self, graph: ir.Graph, values: Mapping[str, Any]) -> None:
        self.graph, self.values = graph, values
        self.parent: Ids = np.zeros(1 << 16, np.int64)
        self.count, self.joined = 1, 0
        self.ids: dict[str, Ids] = {}  # of activations; absent where all are 0
        self.rows: dict[str, Rows] = {}
        self.operands: dict[str, Ids] = {}  # initializers that are added, multiplied, concatenated
        self.held: list[Ids] = []  # mixed in a way that nothing can be taken from

    def run(self) -> None:
        """Until nothing more is joined."""
        before = -1
        while before != self.joined:
            before = self.joined
            self.ids, self.held = {}, []
            for node in self.graph:
                self._node(node)

    def find(self, ids: Ids) -> Ids:
        """The representative of each identifier; 0 stays 0."""
        roots = self.parent[ids]
        while True:
            above = self.parent[roots]
            if (above == roots).all():
                return roots
            roots = above

    def _fresh(self, count: int) -> Ids:
        first, self.count = self.count, self.count + count
        if self.count > len(self.parent):
            self.parent = np.resize(self.parent, 2 * self.count)
        self.parent[first : self.count] = np.arange(first, self.count)
        return np.arange(first, self.count)

    def _join(self, left: Ids, right: Ids) -> None:
        """Pair by pair, where neither is 0."""
        left, right = self.find(left.reshape(-1)), self.find(right.reshape(-1))
        differ = (left != right) & (left != 0) & (right != 0)
        if not differ.any():
            return
        pairs = np.unique(np.stack([left[differ], right[differ]], 1), axis=0)
        for a, b in pairs.tolist():
            while (up := int(self.parent[a])) != a:
                a = up
            while (up := int(self.parent[b])) != b:
                b = up
            if a != b:
                self.parent[max(a, b)] = min(a, b)
                self.joined += 1

    def _shape(self, value: ir.Value) -> tuple[int, ...]:
        if value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        known = self.values[str(value.name)]
        return tuple(known.shape) if isinstance(known, np.ndarray) else tuple(known)

    def _of(self, value: ir.Value | None) -> Ids | None:
        """Representatives of the elements of a value; None where all are 0."""
        if value is None:
            return None
        name, tensor = str(value.name), value.const_value
        if tensor is None:
            return self.find(self.ids[name]) if name in self.ids else None
        if not tensor.dtype.is_floating_point() or tensor.size < 2 or name in self.rows:
            return None
        if name not in self.operands:
            self.operands[name] = self._fresh(tensor.size).reshape(tensor.shape.numpy())
        return self.find(self.operands[name])

    def _set(self, value: ir.Value, ids: Ids | None) -> None:
        if ids is not None and ids.any():
            self.ids[str(value.name)] = np.broadcast_to(ids, self._shape(value))

    def _tie(self, ids: Ids, axis: int) -> Ids:
        """A tensor is a box: what shares an index of the carrying axis goes together."""
        if len(varying(ids)) > 1:
            flat = np.moveaxis(ids, axis, 0).reshape(ids.shape[axis], -1)
            first = flat.max(axis=1, keepdims=True)
            self._join(np.broadcast_to(first, flat.shape), flat)
        return self.find(ids)

    def _node(self, node: ir.Node) -> None:
        kind = node.op_type
        if kind in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            self._product(node)
        elif kind in MOVING:
            self._move(node)
        elif kind == "Pad":
            self._pad(node)
        elif kind in POOLING:
            self._pool(node)
        elif kind in NORMS:
            self._norm(node)
        elif kind.startswith("Reduce"):
            self._reduce(node)
        elif kind in ("Softmax", "LogSoftmax"):
            self._softmax(node)
        elif self._same_shape(node):
            self._elementwise(node)

    def _same_shape(self, node: ir.Node) -> bool:
        """One floating-point result that all operands are broadcast to."""
        result = node.outputs[0]
        if result.dtype is None or not result.dtype.is_floating_point():
            return False
        shapes = [self._shape(v) for v in node.inputs if v is not None]
        try:
            return bool(shapes) and np.broadcast_shapes(*shapes) == self._shape(result)
        except ValueError:
            return False

    # layers

    def _write(self, weight: ir.Value, axis: int, ids: Ids | None, biases: Sequence[Any]) -> Ids:
        """The identifiers of a weight's rows: fresh ones, or those given where they are its own."""
        name = str(weight.name)
        if name not in self.rows:
            width = self._shape(weight)[axis]
            names = [str(b.name) for b in biases if b is not None and b.const_value is not None]
            self.rows[name] = Rows(axis, self._fresh(width), names)
        rows = self.rows[name]
        if rows.axis != axis:  # read from both sides: leave it alone
            self.held.append(rows.ids)
            return self._fresh(self._shape(weight)[axis])
        if ids is not None:
            self._join(rows.ids, ids)
        return self.find(rows.ids)

    def _product(self, node: ir.Node) -> None:
        source, weight = node.inputs[0], node.inputs[1]
        assert source is not None
        assert weight is not None
        convolution = node.op_type.startswith("Conv")
        width = len(self._shape(weight))
        known = weight.const_value is not None and source.const_value is None
        if not known or (node.op_type == "MatMul" and width != 2):
            if node.op_type == "MatMul":
                self._matmul(node)
            return
        axis = 1 if convolution else len(self._shape(source)) - 1
        ids, result = self._of(source), node.outputs[0]
        position = 1 if convolution else len(self._shape(result)) - 1
        other = [] if ids is None else varying(ids)
        if ids is not None and other and axis not in other:
            taps = self._shape(weight)[2:] if convolution else ()
            if all(tap == 1 for tap in taps) and np.ndim(ids) == len(self._shape(result)):
                self._set(result, ids.max(axis=axis, keepdims=True))  # tokens are mixed
            else:
                self.held.append(ids)
            return
        if ids is not None:
            ids = self._tie(ids, axis)
        rows = self._rows(node, weight, ids)
        if rows is not None:
            shape = [1] * len(self._shape(result))
            shape[position] = -1
            self._set(result, rows.reshape(shape))

    def _rows(self, node: ir.Node, weight: ir.Value, ids: Ids | None) -> Ids | None:
        groups = node.attributes.get_int("group", 1) if "Conv" in node.op_type else 1
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        shape = self._shape(weight)
        if node.op_type == "MatMul":
            return self._write(weight, 1, None, [])
        if node.op_type == "Gemm":
            transposed = node.attributes.get_int("transB", False)
            return self._write(weight, 0 if transposed else 1, None, [bias])
        depthwise = groups > 1 and (
            shape[1] == 1 if node.op_type == "Conv" else shape[0] == groups and shape[1] == 1
        )
        if depthwise and ids is not None:
            channels = np.moveaxis(ids, 1, 0).reshape(ids.shape[1], -1).max(axis=1)
            return self._write(weight, 0, channels.repeat(shape[0] // groups), [bias])
        if node.op_type == "Conv":
            return self._write(weight, 0, None, [bias])
        return self._write(weight, 1, None, [bias]) if groups == 1 else None

    def _matmul(self, node: ir.Node) -> None:
        """Two activations: the axis summed over goes together, the others pass."""
        left, right = self._of(node.inputs[0]), self._of(node.inputs[1])
        result = node.outputs[0]
        if any(ids is not None and ids.ndim < 2 for ids in (left, right)):
            self.held += [ids for ids in (left, right) if ids is not None]
            return
        rows = left is not None and left.ndim - 1 in varying(left)
        columns = right is not None and right.ndim - 2 in varying(right)
        if left is not None and right is not None and rows and columns:
            left, right = self._tie(left, left.ndim - 1), self._tie(right, right.ndim - 2)
            one = np.moveaxis(left, -1, 0).reshape(left.shape[-1], -1).max(axis=1)
            other = np.moveaxis(right, -2, 0).reshape(right.shape[-2], -1).max(axis=1)
            self._join(one, other)
            return
        for ids, mixed in ((left, rows), (right, columns)):
            if mixed and ids is not None:
                self.held.append(ids)
        passing = None
        if left is not None and not rows:
            passing = self._by_head(left, left.ndim - 2).max(axis=-1, keepdims=True)
        if right is not None and not columns:
            if passing is not None:
                self.held.append(passing)
            passing = self._by_head(right, right.ndim - 1).max(axis=-2, keepdims=True)
        self._set(result, passing)

    def _by_head(self, ids: Ids, axis: int) -> Ids:
        """All heads are as wide: the same dimensions go in each."""
        return self._tie(ids, axis) if axis in varying(ids) else ids

    # everything else

    def _move(self, node: ir.Node) -> None:
        input_ids = [self._of(value) if value is not None else None for value in node.inputs]
        moved = range(len(node.inputs)) if node.op_type == "Concat" else range(1)
        if all(input_ids[index] is None for index in moved):
            return
        feeds: dict[str, Any] = {}
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            if index in moved:
                ids = input_ids[index]
                feeds[str(value.name)] = (
                    np.zeros(self._shape(value), np.int64) if ids is None else ids
                )
            elif value.const_value is not None:
                feeds[str(value.name)] = value.const_value.numpy()
            else:
                feeds[str(value.name)] = self.values[str(value.name)]
        if node.op_type in ("Cast", "Dropout"):
            self._set(node.outputs[0], input_ids[0])
            return
        assert self.graph is not None
        arrays = [None if value is None else feeds[str(value.name)] for value in node.inputs]
        results = evaluate_node(node, self.graph.opset_imports, arrays)
        for value, ids in zip(node.outputs, results, strict=False):
            self._set(value, np.asarray(ids))

    def _pad(self, node: ir.Node) -> None:
        ids, given = self._of(node.inputs[0]), node.inputs[1]
        if ids is None or given is None or given.const_value is None or len(node.inputs) > 3:
            return
        sizes = given.const_value.numpy().reshape(2, -1).T
        mode = node.attributes.get_string("mode", "constant")
        inner = tuple(
            slice(-min(a, 0), n + min(b, 0)) for (a, b), n in zip(sizes, ids.shape, strict=True)
        )
        self._set(node.outputs[0], np.pad(ids[inner], np.maximum(sizes, 0), mode=mode))  # type: ignore[call-overload]

    def _pool(self, node: ir.Node) -> None:
        ids = self._of(node.inputs[0])
        if ids is None:
            return
        if 1 not in varying(ids) and varying(ids):
            self.held.append(ids)
            return
        ids = self._tie(ids, 1)
        channels = np.moveaxis(ids, 1, 0).reshape(ids.shape[1], -1).max(axis=1)
        shape = [1] * ids.ndim
        shape[1] = -1
        self._set(node.outputs[0], channels.reshape(shape))

    def _norm(self, node: ir.Node) -> None:
        source = node.inputs[0]
        ids = self._of(source)
        if ids is None:
            return
        layer = node.op_type in ("LayerNormalization", "RMSNormalization")
        axis = node.attributes.get_int("axis", -1) % ids.ndim if layer else 1
        axes = varying(ids)
        inner = [a for a in axes if a >= axis] if layer else [a for a in axes if a >= 1]
        if inner:
            ids = self._tie(ids, inner[-1])
        for vector in node.inputs[1:3]:
            own = self._of(vector)
            if own is None:
                continue
            if not layer:
                own = own.reshape(-1, *[1] * (ids.ndim - 2))
            self._meet([ids, own], ids.shape)
        self._set(node.outputs[0], self.find(ids))

    def _reduce(self, node: ir.Node) -> None:
        ids = self._of(node.inputs[0])
        if ids is None:
            return
        given = node.inputs[1] if len(node.inputs) > 1 else None
        axes: Sequence[int] = list(node.attributes.get_ints("axes", []))
        if given is not None:
            array = given.const_value.numpy() if given.const_value is not None else None
            axes = [int(a) for a in (self.values[str(given.name)] if array is None else array)]
        reduced = {int(a) % ids.ndim for a in axes} or set(range(ids.ndim))
        staying = [a for a in varying(ids) if a not in reduced]
        if set(varying(ids)) & reduced:
            if not staying:
                return
            ids = self._tie(ids, max(staying, key=lambda a: ids.shape[a]))  # type: ignore[union-attr]
        keep = bool(node.attributes.get_int("keepdims", True))
        self._set(node.outputs[0], ids.max(axis=tuple(reduced), keepdims=keep))

    def _softmax(self, node: ir.Node) -> None:
        ids = self._of(node.inputs[0])
        if ids is None:
            return
        axis = node.attributes.get_int("axis", -1) % ids.ndim
        others = [a for a in varying(ids) if a != axis]
        if axis in varying(ids):
            if not others:
                self.held.append(ids)
                return
            sizes = ids.shape
            ids = self._tie(ids, max(others, key=lambda a: sizes[a]))
        self._set(node.outputs[0], ids)

    def _elementwise(self, node: ir.Node) -> None:
        inputs = node.inputs[1:] if node.op_type == "Where" else node.inputs
        operands = [ids for value in inputs if (ids := self._of(value)) is not None]
        self._set(node.outputs[0], self._meet(operands, self._shape(node.outputs[0])))

    def _meet(self, operands: list[Ids], shape: tuple[int, ...]) -> Ids | None:
        """Tie what is aligned, unless one is repeated over many of the other."""
        result: Ids | None = None
        for each in operands:
            each = each.reshape(*[1] * (len(shape) - each.ndim), *each.shape)
            if result is None:
                result = each
                continue
            one, other = np.broadcast_to(result, shape), np.broadcast_to(each, shape)
            clear = _clear(result, other) & _clear(each, one)
            self._join(np.where(clear, one, 0), np.where(clear, other, 0))
            first = np.where(_clear(result, other), one, 0)
            result = np.where(first != 0, first, np.where(_clear(each, one), other, 0))
        return result


def _clear(operand: Ids, other: Ids) -> Any:
    """True where an element of ``operand`` meets one channel of ``other`` only."""
    repeated = tuple(a for a in range(other.ndim) if operand.shape[a] == 1 != other.shape[a])
    if not repeated:
        return np.True_
    low = np.where(other == 0, FAR, other).min(axis=repeated, keepdims=True)
    return (low == FAR) | (low == other.max(axis=repeated, keepdims=True))


def varying(ids: Ids) -> list[int]:
    """The axes along which identifiers other than 0 differ."""
    low = np.where(ids == 0, FAR, ids)
    return [
        axis
        for axis in range(ids.ndim)
        if ids.shape[axis] > 1 and (low.min(axis=axis) < ids.max(axis=axis)).any()
    ]
