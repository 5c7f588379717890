"""Chains of reshapes and transpositions: what they do together, said by fewer nodes.

* Axes are merged, moved as one, and taken apart again: that is a Transpose. Exporters write the
  last two axes of a batched matrix so (attention's keys), and torch's MultiheadAttention merges
  batch and heads on the way; there a Reshape that splits the heads comes before.
* One axis is split, its parts change places, and they are merged again: that is a Gather along
  the axis. The channel shuffle (Zhang et al., "ShuffleNet", CVPR 2018, section 3.1) is written so;
  as a Gather its channels can be cut one by one.
* A part of an axis comes to be an axis of its own and each reader takes one index of it: each then
  gathers its indices of the whole axis. ShuffleNetV2 (Ma et al., ECCV 2018) shuffles and halves
  its channels so, by way of three dimensions, the batch merged with half of the channels.

What goes where follows from lengths as products (``analysis/layout.py``), dynamic ones included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.core.records import Note, PassResult
from prunedeploy.graph import model as models
from prunedeploy.graph.shapes import infer_shapes
from prunedeploy.passes.analysis.axes import rank, static_size
from prunedeploy.passes.analysis.facts import constant_array
from prunedeploy.passes.analysis.layout import Factor, Layout, moves_only
from prunedeploy.passes.analysis.lengths import product
from prunedeploy.passes.analysis.shape_targets import name_lengths
from prunedeploy.passes.names import naming, replace_input, unique_name

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class SimplifyReshapes:
    """Replace chains of Reshape, Transpose and their like whose middle nobody else reads.

    Refuses silently what fewer nodes cannot say: such a chain is what it is.
    """

    name: ClassVar[str] = "simplify-reshapes"
    exact: ClassVar[bool] = True

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        infer_shapes(model)
        name_lengths(model.graph)
        notes = []
        with naming(model.graph):
            for node in reversed(list(model.graph)):
                chains = _chains(node) if node.graph is model.graph else []
                for chain in chains:
                    if what := _replace(chain):
                        name = chain.nodes[0].name or "?"
                        notes.append(Note("reshapes-simplified", name, "taken", what, 1))
                        break
        models.drop_unused(model.graph)
        return PassResult(bool(notes), tuple(reversed(notes)))


@dataclass(frozen=True)
class Chain:
    """Nodes in order, each the one reader of the one before; ``layout`` is of all of them."""

    nodes: list[ir.Node]
    source: ir.Value
    layout: Layout

    @property
    def result(self) -> ir.Value:
        """What the last node computes."""
        return self.nodes[-1].outputs[0]


def _chains(last: ir.Node) -> list[Chain]:
    """The chains of two nodes and more that end in ``last``, longest first."""
    nodes = [last] if moves_only(last) else []
    while nodes and (source := nodes[0].inputs[0]) is not None:
        before = source.producer()
        if before is None or not moves_only(before) or _only_reader(source) is not nodes[0]:
            break
        nodes.insert(0, before)
    chains = (_chain(nodes[first:]) for first in range(len(nodes) - 1))
    return [chain for chain in chains if chain is not None]


def _chain(nodes: list[ir.Node]) -> Chain | None:
    source = nodes[0].inputs[0]
    layout = Layout.of(source) if source is not None else None
    if source is None or layout is None or not all(map(layout.follow, nodes)):
        return None
    return Chain(nodes, source, layout)


def _only_reader(value: ir.Value) -> ir.Node | None:
    """The next node of a chain behind a value; None where the chain ends."""
    uses, producer = list(value.uses()), value.producer()
    if len(uses) != 1 or value.is_graph_output() or producer is None:
        return None
    reader = uses[0].node
    inside = reader.graph is producer.graph and uses[0].idx == 0
    return reader if inside and moves_only(reader) else None


def _replace(chain: Chain) -> str:
    """Put fewer nodes in the chain's place; what they are, or "" where that cannot be."""
    return _whole_axes(chain) or _selections(chain) or _parts(chain)


def _whole_axes(chain: Chain) -> str:
    """A Transpose, a Gather or both, where every axis of the result is one of the source."""
    order = _matched(chain.layout.source, chain.layout.result)
    if order is None:
        return ""
    shuffled = [
        axis for axis, at in enumerate(order) if chain.layout.result[axis] != _axis(chain, at)
    ]
    if len(shuffled) > 1 or len(chain.nodes) <= bool(shuffled) + (order != sorted(order)):
        return ""
    write, value = _Writer(chain), chain.source
    if shuffled:
        axis = order[shuffled[0]]
        indices = _indices(_axis(chain, axis), chain.layout.result[shuffled[0]])
        if indices is None:
            return ""
        value = write.node("Gather", value, indices.reshape(-1), axis=axis)
    if order != sorted(order):
        value = write.node("Transpose", value, perm=order)
    write.end(value if value is not chain.source else write.node("Identity", value))
    if shuffled:
        return "indices of one axis shuffled: one Gather"
    return "axes merged, moved and taken apart: one Transpose"


def _axis(chain: Chain, axis: int) -> list[Factor]:
    return chain.layout.source[axis]


def _matched(source: list[list[Factor]], result: list[list[Factor]]) -> list[int] | None:
    """For each axis of the result the axis of the source with the same factors, in any order.

    Axes of length one go with one another; None where some axis has no match.
    """
    left, order = list(range(len(source))), []
    for axis in result:
        same = [at for at in left if set(source[at]) == set(axis)]
        if not same:
            return None
        left.remove(same[0])
        order.append(same[0])
    return None if left else order


def _indices(before: list[Factor], after: list[Factor]) -> Indices | None:
    """[length of each factor of ``after``]: which index of an axis of ``before`` is there.

    Factors that ``after`` lacks come last, in their order.
    """
    sizes = [factor.length.dim for factor in before]
    numbers = [size for size in sizes if isinstance(size, int)]
    if len(numbers) < len(sizes):
        return None  # nothing can be gathered from an axis of unknown length
    rest = [factor for factor in before if factor not in after]
    every = np.arange(np.prod(numbers, dtype=np.int64)).reshape(numbers)
    return every.transpose([before.index(factor) for factor in (*after, *rest)])


def _selections(chain: Chain) -> str:
    """For each reader its own indices, where each takes one along a part of an axis."""
    taken = _taken(chain.result)
    if taken is None:
        return ""
    position, readers = taken
    part, before = chain.layout.result[position], chain.layout.source
    axis = next((at for at, each in enumerate(before) if part and set(part) < set(each)), None)
    if axis is None:
        return ""
    rest = [factor for factor in before[axis] if factor not in part]
    source = [rest if at == axis else each for at, each in enumerate(before)]
    result = [each for at, each in enumerate(chain.layout.result) if at != position]
    order, every = _matched(source, result), _indices(before[axis], part)
    if order is None or every is None or [source[at] for at in order] != result:
        return ""
    rows = every.reshape(product([factor.length for factor in part]).number, -1)
    for reader, index in readers:
        write = _Writer(Chain([*chain.nodes, reader], chain.source, chain.layout))
        value = write.node("Gather", chain.source, rows[index], axis=axis)
        write.end(write.node("Transpose", value, perm=order) if order != sorted(order) else value)
    return "indices of a part of one axis taken: one Gather each"


def _taken(value: ir.Value) -> tuple[int, list[tuple[ir.Node, int]]] | None:
    """The axis of which every reader takes one index, and who takes which."""
    readers: list[tuple[ir.Node, int]] = []
    axes = set()
    for use in value.uses():
        node, width = use.node, rank(value) or 0
        index = constant_array(node.inputs[1]) if node.op_type == "Gather" else None
        if index is None or index.ndim or use.idx or node.graph is not value.graph or node.domain:
            return None
        axis = node.attributes.get_int("axis", 0) % width
        size = static_size(value, axis)
        if size is None or not -size <= int(index) < size:
            return None
        axes.add(axis)
        readers.append((node, int(index)))
    return (axes.pop(), readers) if len(axes) == 1 and not value.is_graph_output() else None


def _parts(chain: Chain) -> str:
    """A Reshape that splits axes and a Transpose, in the place of three nodes or more.

    Axes of length one are left as they are made: copies along them are known by it.
    """
    blocks, result = chain.layout.blocks(), chain.layout.result
    where = {block[0]: number for number, block in enumerate(blocks)}
    alone = all(sum(each in where for each in axis) == 1 for axis in result)
    target = _target(chain.layout.source, blocks)
    if len(chain.nodes) < 3 or not alone or target is None:
        return ""
    order = [where[factors[0]] for factors in result]
    if order == sorted(order):
        return ""
    write = _Writer(chain)
    value = write.node("Reshape", chain.source, np.array(target, np.int64))
    write.end(write.node("Transpose", value, perm=order))
    return "axes split and moved: one Reshape, one Transpose"


def _target(source: list[list[Factor]], blocks: list[list[Factor]]) -> list[int] | None:
    """The target of a Reshape to blocks: 0 for an axis that stays, -1 for one other length."""
    target = []
    for number, block in enumerate(blocks):
        dim = product([factor.length for factor in block]).dim
        whole = number < len(source) and source[number] == block
        target.append(dim if isinstance(dim, int) else 0 if whole else -1)
    return target if target.count(-1) <= 1 else None


class _Writer:
    """Adds nodes in the place of a chain, and takes the chain out."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        graph = chain.nodes[0].graph
        assert isinstance(graph, ir.Graph)
        self.graph = graph

    def node(
        self,
        operator: str,
        source: ir.Value,
        numbers: Indices | None = None,
        **attributes: int | list[int],
    ) -> ir.Value:
        """A new node's result; ``numbers`` is its second input."""
        last = self.chain.nodes[-1]
        node = ir.node(operator, [source], attributes)
        node.name = unique_name(self.graph, f"{last.name or last.outputs[0].name}.{operator}")
        node.outputs[0].name = unique_name(self.graph, f"{node.name}.result")
        node.outputs[0].type = source.type
        self.graph.insert_before(last, node)
        if numbers is not None:
            replace_input(node, 1, numbers, "shuffle" if operator == "Gather" else "shape")
        return node.outputs[0]

    def end(self, new: ir.Value) -> None:
        """``new`` under the name of what the chain computed; nodes that nobody reads go."""
        old = self.chain.result
        new.shape, new.type = old.shape, old.type
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        name, old.name = old.name, unique_name(self.graph, f"{old.name}.before")
        for node in reversed(self.chain.nodes):
            _remove(node)
        new.name = name


def _remove(node: ir.Node) -> None:
    idle = not node.outputs[0].uses() and not node.outputs[0].is_graph_output()
    if idle and node.graph is not None:
        node.graph.remove(node, safe=True)
