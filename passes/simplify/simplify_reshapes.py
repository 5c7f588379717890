"""Reshape, Transpose, Reshape: what the three do together, said by one node.

* Axes are merged, moved as one, and taken apart again: that is a Transpose. Exporters write the
  last two axes of a batched matrix so (attention's keys).
* One axis is split, its parts change places, and they are merged again: that is a Gather along
  the axis. The channel shuffle (Zhang et al., "ShuffleNet", CVPR 2018, section 3.1) is written so;
  as a Gather its channels can be cut one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Note, PassResult
from prunedeploy.graph import model as models
from prunedeploy.graph.shapes import infer_shapes
from prunedeploy.passes.analysis.facts import constant_array
from prunedeploy.passes.names import graph_of, replace_input, replace_value
from prunedeploy.passes.operators.reshapes import groups

Dims = list[int | ir.SymbolicDim]


@dataclass(frozen=True)
class SimplifyReshapes:
    """Replace Reshape-Transpose-Reshape chains whose middle nobody else reads.

    Refuses silently what is neither a permutation of axes nor one of the indices of one axis:
    such a chain is what it is.
    """

    name: ClassVar[str] = "simplify-reshapes"
    exact: ClassVar[bool] = True

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        infer_shapes(model)
        notes = []
        for node in list(model.graph):
            chain = _chain(node)
            if chain is not None and (what := _replace(chain)):
                notes.append(Note("reshapes-simplified", node.name or "?", "taken", what, 1))
        models.drop_unused(model.graph)
        return PassResult(bool(notes), tuple(notes))


@dataclass(frozen=True)
class Chain:
    """Reshape, Transpose, Reshape; ``runs`` are the groups of axes of the first reshape."""

    first: ir.Node
    middle: ir.Node
    last: ir.Node
    source: ir.Value
    order: list[int]
    runs: list[tuple[list[int], list[int]]]


def _chain(middle: ir.Node) -> Chain | None:
    """The chain around a Transpose, where each result has one reader and shapes are known."""
    if middle.op_type != "Transpose" or middle.inputs[0] is None:
        return None
    first = middle.inputs[0].producer()
    uses = list(middle.outputs[0].uses())
    if first is None or len(uses) != 1 or len(middle.inputs[0].uses()) != 1:
        return None
    last, source = uses[0].node, first.inputs[0] if first.inputs else None
    values = (middle.inputs[0], middle.outputs[0])
    if not first.graph is middle.graph is last.graph:
        return None  # one of them is in a subgraph
    hidden = not any(value.is_graph_output() for value in values)
    if {first.op_type, last.op_type} != {"Reshape"} or source is None or not hidden:
        return None
    if constant_array(first.inputs[1]) is None or constant_array(last.inputs[1]) is None:
        return None
    shapes = (source.shape, middle.inputs[0].shape, last.outputs[0].shape)
    if any(shape is None for shape in shapes):
        return None
    before, after = ([_size(d) for d in shape or ()] for shape in shapes[:2])
    runs = groups(before, after)
    if runs is None:
        return None
    order = list(middle.attributes.get_ints("perm", list(reversed(range(len(after))))))
    return Chain(first, middle, last, source, order, runs)


def _size(dim: int | ir.SymbolicDim) -> int | None:
    return dim if isinstance(dim, int) else None


def _same(one: Dims, other: Dims) -> bool:
    """Whether two shapes of as many elements agree; a single dynamic dimension then does too."""
    left, right = [_size(d) for d in one], [_size(d) for d in other]
    return left == right and (left.count(None) <= 1 or one == other)


def _replace(chain: Chain) -> str:
    """Put one node in the chain's place; what it is, or "" where no one node will do."""
    result = chain.last.outputs[0]
    assert result.shape is not None
    assert chain.source.shape is not None
    if all(len(right) == 1 for _, right in chain.runs):
        merged = {right[0]: left for left, right in chain.runs}
        order = [axis for position in chain.order for axis in merged[position]]
        if _same([chain.source.shape[axis] for axis in order], list(result.shape)):
            _put(chain, ir.node("Transpose", [chain.source], {"perm": order}))
            return "axes merged, moved and taken apart: one Transpose"
        return ""
    if not _same(list(chain.source.shape), list(result.shape)):
        return ""
    divided = [(left, right) for left, right in chain.runs if len(right) > 1]
    if len(divided) != 1 or len(divided[0][0]) != 1:
        return ""
    (axis,), parts = divided[0]
    inner = [position for position in chain.order if position in parts]
    kept_in_place = [p if p not in parts else None for p in chain.order]
    if kept_in_place != [p if p not in parts else None for p in range(len(chain.order))]:
        return ""
    reshaped = chain.first.outputs[0].shape
    assert reshaped is not None
    sizes = [size for part in parts if (size := _size(reshaped[part])) is not None]
    if len(sizes) != len(parts):
        return ""
    indices = np.arange(np.prod(sizes)).reshape(sizes)
    indices = indices.transpose([parts.index(position) for position in inner]).reshape(-1)
    gather = ir.node("Gather", [chain.source], {"axis": axis})
    _put(chain, gather)
    replace_input(gather, 1, indices.astype(np.int64), "shuffle")
    return "indices of one axis shuffled: one Gather"


def _put(chain: Chain, node: ir.Node) -> None:
    """``node`` in the place of the chain, its result under the chain's name."""
    graph = graph_of(chain.last)
    node.name = chain.middle.name
    graph.insert_after(chain.last, node)
    replace_value(chain.last.outputs[0], node.outputs[0])
    for each in (chain.last, chain.middle, chain.first):
        graph.remove(each, safe=True)
