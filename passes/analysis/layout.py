"""Where the elements of a tensor go in a chain of reshapes and transpositions.

Every axis is a product of *factors*, which a reshape regroups (and splits where it must) and a
transposition moves. A factor is a part of one axis of the chain's source, so that at the end each
axis of the result is known as a list of parts of axes of the source, whatever the dynamic lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import onnx_ir as ir

from prunedeploy.passes.analysis.axes import rank
from prunedeploy.passes.analysis.facts import constant_array
from prunedeploy.passes.analysis.lengths import ONE, Length, lengths_of, product, solved
from prunedeploy.passes.analysis.shape_targets import reshaped

RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


@dataclass(eq=False)
class Factor:
    """A part of an axis; compared by identity."""

    length: Length


@dataclass
class Layout:
    """The factors of every axis, of the source and of the result so far; none for length one."""

    source: list[list[Factor]]
    result: list[list[Factor]] = field(default_factory=list)

    @classmethod
    def of(cls, value: ir.Value) -> Layout | None:
        """The layout of a value as it is; None where its rank is not known or it is empty."""
        lengths = lengths_of(value)
        if lengths is None or not all(length.number for length in lengths):
            return None
        axes = [[Factor(length)] if length != ONE else [] for length in lengths]
        return cls(axes, [list(axis) for axis in axes])

    def follow(self, node: ir.Node) -> bool:
        """Go through one more node; False where it does anything else, or it is not known what."""
        if node.op_type == "Transpose":
            width = len(self.result)
            order = node.attributes.get_ints("perm", list(reversed(range(width))))
            self.result = [self.result[axis] for axis in order]
            return True
        after = reshaped(node) if node.op_type == "Reshape" else None
        after = after or lengths_of(node.outputs[0])
        before = [product([factor.length for factor in axis]) for axis in self.result]
        both = None if after is None else solved(before, after)
        # what makes the two equal must be a length of the result: those of the source are known
        return both is not None and both[0] == before and self._regroup(both[1])

    def _regroup(self, lengths: Sequence[Length]) -> bool:
        factors = [factor for axis in self.result for factor in axis]
        result: list[list[Factor]] = []
        for length in lengths:
            axis: list[Factor] = []
            while length != ONE:
                if not factors:
                    return False
                first = factors.pop(0)
                rest = length.over(first.length)
                if rest is None:
                    behind = first.length.over(length)
                    if behind is None:
                        return False
                    factors.insert(0, self._split(first, length, behind))
                    rest = ONE
                axis.append(first)
                length = rest
            result.append(axis)
        self.result = result
        return not factors

    def _split(self, factor: Factor, front: Length, behind: Length) -> Factor:
        """Shorten a factor to its front; the new one for the rest."""
        factor.length, rest = front, Factor(behind)
        axis = next(axis for axis in self.source if factor in axis)
        axis.insert(axis.index(factor) + 1, rest)
        return rest

    def blocks(self) -> list[list[Factor]]:
        """Factors that lie side by side in the source and in the result, in the source's order."""
        behind = {one: other for axis in self.result for one, other in pairwise(axis)}
        blocks: list[list[Factor]] = []
        for axis in self.source:
            for position, factor in enumerate(axis):
                if position and behind.get(axis[position - 1]) is factor:
                    blocks[-1].append(factor)
                else:
                    blocks.append([factor])
        return blocks


def moves_only(node: ir.Node) -> bool:
    """Whether a node is one that a layout follows, its shape written down or computed."""
    if node.domain not in ("", "ai.onnx") or not node.inputs or node.inputs[0] is None:
        return False
    if node.op_type == "Squeeze":  # without axes it drops whatever comes to be of length one
        axes = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
        return axes is not None or "axes" in node.attributes
    if node.op_type == "Reshape" and len(node.inputs) < 2:
        return False  # an attribute, before opset 5
    known = node.op_type in (*RESHAPES, "Transpose")
    return known and rank(node.outputs[0]) is not None
