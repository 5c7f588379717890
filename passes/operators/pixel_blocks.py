"""Rules for DepthToSpace and SpaceToDepth: squares of pixels written as channels, and back."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.passes.analysis.axes import Axes, Mask, rank, static_size
from prunedeploy.passes.analysis.facts import Facts
from prunedeploy.passes.analysis.feature_maps import held_beside_constants
from prunedeploy.passes.operators.operator import Operator, opaque

Scalar = TypeVar("Scalar", bound=np.generic)


def couple_blocks(node: ir.Node, axes: Axes) -> None:
    """The channels that fill one square go together; the axes of the pixels stay whole."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or rank(source) != 4 or static_size(source, 1) is None or rank(result) != 4:
        opaque(node, axes)
        return
    axes.assign(result, 0, axes.of(source, 0))
    for axis in (2, 3):
        axes.pin_axis(source, axis, f"{node.op_type} ({node.name})")
        axes.pin_axis(result, axis)
    if node.op_type == "SpaceToDepth":
        axes.assign(result, 1, np.tile(axes.of(source, 1), _square(node)))
        return
    squares = by_square(node, axes.of(source, 1))
    for column in squares.T[1:]:
        axes.tie(squares[:, 0], column)
    axes.assign(result, 1, squares[:, 0])


def block_constants(node: ir.Node, facts: Facts) -> None:
    """A channel is constant where all that fill its squares hold the same."""
    source, result = node.inputs[0], node.outputs[0]
    known = facts.of(source, 1) if source is not None else None
    if known is None or source is None or rank(source) != 4:
        return
    if node.op_type == "SpaceToDepth":
        facts.learn(result, 1, np.tile(known, _square(node)))
        return
    squares = by_square(node, known)
    same = (squares == squares[:, :1]).all(axis=1)
    facts.learn(result, 1, np.where(same, squares[:, 0], np.nan))


def _square(node: ir.Node) -> int:
    return int(node.attributes.get_int("blocksize", 1)) ** 2


def by_square(node: ir.Node, array: NDArray[Scalar]) -> NDArray[Scalar]:
    """[channels of the result, pixels of a square]: the source's channels in either mode."""
    if node.attributes.get_string("mode", "DCR") == "CRD":
        return array.reshape(-1, _square(node))
    return array.reshape(_square(node), -1).T


def depth_to_space_maps(node: ir.Node, facts: Facts) -> Mask | None:
    """Known where all the channels that fill a square are."""
    held = held_beside_constants(node, facts)
    return None if held is None else np.asarray(by_square(node, held).all(axis=1))


def space_to_depth_maps(node: ir.Node, facts: Facts) -> Mask | None:
    """Known where the channel is that the pixels come from."""
    held = held_beside_constants(node, facts)
    return None if held is None else np.tile(held, _square(node))


_BLOCKS = Operator(
    "DepthToSpace",
    couple=couple_blocks,
    constants=block_constants,
    maps=depth_to_space_maps,
    moves_elements=True,
)

OPERATORS = (_BLOCKS, replace(_BLOCKS, name="SpaceToDepth", maps=space_to_depth_maps))
