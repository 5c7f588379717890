"""Which indices of an axis hold the same numbers for every input: value numbering, slice by slice.

Every index of an axis of a value gets a class; slices of the same class, of one value or of two,
are equal element for element, whatever the input. A class is the number of a key that says how the
slice is computed: by which operator, with which attributes and parameters (compared bit by bit),
from which classes. What nothing is known of is in a class of its own. Forward over the graph, as in
Alpern, Wegman and Zadeck, "Detecting equality of variables in programs", POPL 1988.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from hashlib import blake2b

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Array
from prunedeploy.graph.model import release
from prunedeploy.passes.analysis.axes import Axes, Labels, rank, static_size
from prunedeploy.passes.analysis.facts import constant_array
from prunedeploy.passes.operators import selections
from prunedeploy.passes.operators.elementwise import ELEMENTWISE, read_besides
from prunedeploy.passes.operators.joins import pads
from prunedeploy.passes.operators.layers import Layer, bias_rows, layer
from prunedeploy.passes.operators.shapes import moves
from prunedeploy.reference.opsets import scales_channels

# Channels (axis 1) and samples (axis 0) pass; other inputs are parameters of the whole.
BY_CHANNEL = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Resize", "Upsample")
# The inputs behind the first are one number a channel.
NORMALISING = ("BatchNormalization", "InstanceNormalization")

Classes = Labels


class Congruence:
    """The classes of the axes of a graph, as far as anybody asked.

    Only axes that can be cut somewhere are followed; ``axes`` knows them.
    """

    def __init__(self, graph: ir.Graph, axes: Axes) -> None:
        self._axes = axes
        self._classes: dict[tuple[ir.Value, int], Classes] = {}
        self._numbers: dict[Hashable, int] = {}
        self._count = 0
        for node in graph:
            found = layer(node)
            if found is not None:
                _layer(found, self)
            elif node.domain in ("", "ai.onnx") and node.op_type in RULES:
                RULES[node.op_type](node, self)

    def of(self, value: ir.Value, axis: int) -> Classes:
        """The classes along an axis of known length; new ones where nothing is known."""
        if (value, axis) not in self._classes:
            array = constant_array(value)
            if array is None:
                size = static_size(value, axis) or 0
                first, self._count = self._count, self._count + size
                self._classes[value, axis] = np.arange(first, self._count)
            else:
                rows = np.moveaxis(array, axis, 0)
                place = ("initializer", array.dtype.str, rows.shape[1:])
                keys = [(place, digest(row)) for row in rows]
                self._classes[value, axis] = self.number(keys)
        return self._classes[value, axis]

    def number(self, keys: Iterable[Hashable]) -> Classes:
        """The class of each key: the one it had before, or a new one."""
        found = []
        for key in keys:
            if key not in self._numbers:
                self._numbers[key], self._count = self._count, self._count + 1
            found.append(self._numbers[key])
        return np.array(found, np.int64)

    def one(self, key: Hashable) -> int:
        """The number of one key, for what many keys have in common."""
        return int(self.number([key])[0])

    def learn(self, value: ir.Value, axis: int, keys: Iterable[Hashable]) -> None:
        """Number the slices of a result."""
        self._classes[value, axis] = self.number(keys)

    def pass_on(self, value: ir.Value, axis: int, classes: Classes) -> None:
        """Slices of a result that are slices of what it was made from."""
        self._classes[value, axis] = classes

    def followed(self, value: ir.Value, axis: int) -> bool:
        """Whether anything along the axis may be cut."""
        size = static_size(value, axis)
        return bool(size) and not self._axes.is_pinned(self._axes.of(value, axis)).all()

    def whole(self, value: ir.Value | None) -> Hashable:
        """A key for all of a value: itself, or what a small initializer holds."""
        array = constant_array(value)
        return value if array is None else (array.dtype.str, array.shape, digest(array))


def digest(array: Array) -> bytes:
    """Equal for arrays that hold the same bits; 16 bytes, so that no two others meet."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return blake2b(flat.view(np.uint8).data, digest_size=16).digest()


def signature(node: ir.Node) -> Hashable:
    """Operator and attributes; with a tensor or graph among them a node equals itself only."""
    values = []
    for name, attribute in sorted(node.attributes.items()):
        if isinstance(attribute.value, int | float | str | tuple | list):
            numbers = attribute.value
            values.append((name, tuple(numbers) if isinstance(numbers, list) else numbers))
        else:
            return node
    return node.op_type, tuple(values)


def _layer(found: Layer, known: Congruence) -> None:
    """Rows with the same weights and bias over sources of the same classes."""
    apart = found.groups > 1 and found.node.op_type != "Conv"
    if apart or not known.followed(found.result, found.result_axis):
        return
    rows, bias = found.rows(), bias_rows(found)
    assert found.weight.shape is not None
    sources = known.of(found.source, found.source_axis).reshape(found.groups, -1)
    groups = [digest(group) for group in sources]
    each = len(rows) // found.groups
    kernel = tuple(found.weight.shape.numpy()[2:]) if found.spatial else ()
    form = (found.source_axis, rank(found.source), kernel, rows.dtype.str)
    place = known.one((signature(found.node), form))
    keys = [
        (place, groups[index // each], digest(row), float(bias[index]).hex())
        for index, row in enumerate(rows)
    ]
    known.learn(found.result, found.result_axis, keys)
    release(found.weight.const_value)


def _elementwise(node: ir.Node, known: Congruence) -> None:
    """The same operator on slices of the same classes, and on operands repeated along the axis."""
    result = node.outputs[0]
    width = rank(result)
    inputs = [value for value in node.inputs if value is not None]
    if width is None or any(rank(value) is None for value in inputs):
        return
    if result.dtype is None or not result.dtype.is_floating_point():
        return  # what rounds differently in the last place may jump
    absent = tuple(value is None for value in node.inputs)
    for axis in range(width):
        if not known.followed(result, axis):
            continue
        size, columns, repeated = static_size(result, axis) or 0, [], []
        for position, value in enumerate(inputs):
            place = axis - width + (rank(value) or 0)
            if place >= 0 and static_size(value, place) == size:
                columns.append(known.of(value, place).tolist())
            else:
                repeated.append((position, known.whole(value)))
        if not columns:
            continue
        where = known.one((signature(node), axis, width, absent, tuple(repeated)))
        known.learn(result, axis, [(where, *key) for key in zip(*columns, strict=True)])


def _by_channel(node: ir.Node, known: Congruence) -> None:
    """Pools and resizing, which treat every channel alike."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or rank(source) is None or rank(source) != rank(result):
        return
    axis = 1
    same = static_size(source, axis) == static_size(result, axis)
    if read_besides(node) or not same or not known.followed(result, axis):
        return
    where = known.one((signature(node), rank(source), *map(known.whole, node.inputs[1:])))
    known.learn(result, axis, [(where, key) for key in known.of(source, axis).tolist()])


def _normalising(node: ir.Node, known: Congruence) -> None:
    """One channel each, with its own numbers."""
    source, result = node.inputs[0], node.outputs[0]
    vectors = [value for value in node.inputs[1:] if value is not None]
    if source is None or read_besides(node):
        return
    if node.op_type == "BatchNormalization" and not scales_channels(node):
        return
    if any(rank(vector) != 1 for vector in vectors) or not known.followed(result, 1):
        return
    columns = [known.of(source, 1).tolist(), *(known.of(v, 0).tolist() for v in vectors)]
    if len({len(column) for column in columns}) == 1:
        where = known.one((signature(node), rank(source)))
        known.learn(result, 1, [(where, *key) for key in zip(*columns, strict=True)])


def _concat(node: ir.Node, known: Congruence) -> None:
    parts, result = [v for v in node.inputs if v is not None], node.outputs[0]
    width = rank(result)
    if width is None or any(rank(part) != width for part in parts):
        return
    along = node.attributes.get_int("axis", 0) % width
    for axis in range(width):
        if not known.followed(result, axis):
            continue
        columns = [known.of(part, axis) for part in parts]
        if axis == along:
            known.pass_on(result, axis, np.concatenate(columns))
        elif len({len(column) for column in columns}) == 1:
            keys = zip(*(column.tolist() for column in columns), strict=True)
            where = known.one(("Concat", along, axis))
            known.learn(result, axis, [(where, *key) for key in keys])


def _selection(node: ir.Node, known: Congruence) -> None:
    """Indices taken keep their classes, where no other axis is selected from."""
    source, found = node.inputs[0], selections.along(node)
    if source is None or found is None or len({axis for _, axis, _ in found}) != 1:
        return
    for result, axis, indices in found:
        if indices is not None and known.followed(result, axis):
            known.pass_on(result, axis, known.of(source, axis)[indices])
        for other in set(range(rank(source) or 0)) - {axis}:
            if indices is not None and known.followed(result, other):
                where = known.one(("selection", axis, other, digest(indices)))
                keys = [(where, key) for key in known.of(source, other).tolist()]
                known.learn(result, other, keys)


def _pad(node: ir.Node, known: Congruence) -> None:
    """Channels whose borders are padded alike, in whatever mode."""
    source, result, found = node.inputs[0], node.outputs[0], pads(node)
    if source is None or found is None:
        return
    width = rank(source) or 0
    for axis in range(width):
        if not found[axis] and not found[axis + width] and known.followed(result, axis):
            others = tuple(map(known.whole, node.inputs[1:]))
            where = known.one((signature(node), others, axis, width))
            known.learn(result, axis, [(where, key) for key in known.of(source, axis).tolist()])


def _transpose(node: ir.Node, known: Congruence) -> None:
    source, result = node.inputs[0], node.outputs[0]
    width = rank(source) if source is not None else None
    if source is None or width is None:
        return
    order = tuple(node.attributes.get_ints("perm", list(reversed(range(width)))))
    for position, axis in enumerate(order):
        if known.followed(result, position):
            where = known.one(("Transpose", order, position))
            known.learn(result, position, [(where, key) for key in known.of(source, axis).tolist()])


def _reshape(node: ir.Node, known: Congruence) -> None:
    """An axis that passes, alone or flattened with others: each index by where it comes from."""
    source, result, found = node.inputs[0], node.outputs[0], moves(node)
    if source is None or result.shape is None or source.shape is None or found is None:
        return
    for after in range(rank(result) or 0):
        sources = [m for m in found if m[1] == after and known.followed(source, m[0])]
        if len(sources) != 1 or not known.followed(result, after):
            continue
        before, _, repeat, tile = sources[0]
        classes = known.of(source, before)
        shapes = tuple(d if isinstance(d, int) else None for d in (*source.shape, *result.shape))
        where = known.one(("Reshape", shapes, rank(source), before, after))
        block = np.repeat(classes, repeat)
        offset = np.tile(np.arange(repeat), len(classes))
        keys = [
            (where, t, k, o)
            for t in range(tile)
            for k, o in zip(block.tolist(), offset.tolist(), strict=True)
        ]
        known.learn(result, after, keys)


RULES: dict[str, Callable[[ir.Node, Congruence], None]] = {
    **dict.fromkeys((*ELEMENTWISE, "Where"), _elementwise),
    **dict.fromkeys(BY_CHANNEL, _by_channel),
    **dict.fromkeys(NORMALISING, _normalising),
    **dict.fromkeys(("Gather", "Slice", "Split"), _selection),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshape),
    "Concat": _concat,
    "Pad": _pad,
    "Transpose": _transpose,
}
