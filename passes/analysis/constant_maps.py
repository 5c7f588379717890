"""Which channels hold the same map for every input, where it is not one number all over.

A channel of constants turns into a known map where zeros or other numbers come in at its borders
(a padded convolution, a pool that counts its padding, Pad) and where several constants are written
side by side (DepthToSpace). Operators that treat each channel by itself carry maps on, by being run
on them; a mean over a map is a constant again. Whichever convolution reads a known map adds what it
comes to instead (see ``map_border``). All sizes but the batch must be known.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.core.records import Array
from prunedeploy.passes.analysis.axes import Mask, rank, static_size
from prunedeploy.passes.analysis.borders import map_border, whole
from prunedeploy.passes.analysis.facts import SMALL, Facts, Maps, constant_array
from prunedeploy.passes.operators.elementwise import ELEMENTWISE, read_besides
from prunedeploy.passes.operators.joins import pads
from prunedeploy.passes.operators.layers import Layer, Weights, bias_rows
from prunedeploy.passes.operators.pixel_blocks import by_square
from prunedeploy.passes.operators.reductions import reduced_axes
from prunedeploy.reference.evaluate import evaluate_node
from prunedeploy.reference.opsets import scales_channels

Scalar = TypeVar("Scalar", bound=np.generic)

POOLS = ("AveragePool", "MaxPool")
GLOBAL = ("GlobalAveragePool", "GlobalMaxPool")
REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceMin")
BLOCKS = ("DepthToSpace", "SpaceToDepth")


def mapped(value: ir.Value, facts: Facts) -> Mask:
    """The channels of ``value``, axis 1, whose map is known and not one constant."""
    maps = facts.maps(value)
    if maps is None:
        return np.zeros(static_size(value, 1) or 0, bool)
    return ~np.isnan(maps.reshape(len(maps), -1)[:, 0])


def spread(numbers: NDArray[Scalar], value: ir.Value) -> NDArray[Scalar]:
    """One number a channel of ``value``, to be broadcast with its maps."""
    return numbers.reshape(-1, *[1] * ((rank(value) or 2) - 2))


def find_maps(node: ir.Node, found: Layer | None, weights: Weights, facts: Facts) -> None:
    """Learn what a node makes of constants and maps, once its constants are known."""
    result = node.outputs[0] if len(node.outputs) else None
    if result is None or result.dtype is None or not result.dtype.is_floating_point():
        return
    sizes = _sizes(result)
    known = None if sizes is None else _known(node, found, weights, facts)
    if sizes is None or known is None or len(known) != sizes[0]:
        return
    constants = facts.of(result, 1)
    constants = np.full(len(known), np.nan) if constants is None else constants
    fresh = known & np.isnan(constants)
    if not fresh.any():
        return
    maps = _run(node, facts) if found is None else _swept(found, facts)
    if maps is None or maps.shape != tuple(sizes):
        return
    flat = maps.reshape(len(maps), -1)
    fresh &= np.isfinite(flat).all(axis=1)
    even = fresh & (flat == flat[:, :1]).all(axis=1)
    facts.learn(result, 1, np.where(even, flat[:, 0], constants))
    facts.learn_maps(result, np.where(spread(fresh & ~even, result), maps, np.nan))


def _sizes(value: ir.Value | None) -> list[int] | None:
    """Channels and what lies within one; None where that is not known, empty, or large."""
    if value is None or (rank(value) or 0) < 2:
        return None
    found = [static_size(value, axis) for axis in range(1, rank(value) or 0)]
    sizes = [size for size in found if size]
    return sizes if len(sizes) == len(found) and np.prod(sizes) <= SMALL else None


def _held(value: ir.Value | None, facts: Facts) -> Mask | None:
    """The channels of which all is known: a finite constant or a map."""
    sizes = _sizes(value)
    if value is None or sizes is None or len(sizes) < 2:
        return None
    constants = facts.of(value, 1)
    found = mapped(value, facts)
    return found if constants is None else found | np.isfinite(constants)


def _filled(value: ir.Value, facts: Facts) -> Maps:
    """Constants and maps of all channels, 0 where neither is known."""
    sizes = _sizes(value) or []
    held, constants, maps = np.zeros(sizes), facts.of(value, 1), facts.maps(value)
    if constants is not None:
        held += spread(np.where(np.isfinite(constants), constants, 0.0), value)
    return held if maps is None else held + np.nan_to_num(maps)


def _known(node: ir.Node, found: Layer | None, weights: Weights, facts: Facts) -> Mask | None:
    """The channels of the result that follow from constants and maps alone."""
    if found is not None:
        held = _held(found.source, facts) if found.mappable else None
        return None if held is None else ~weights.touching(found, ~held)
    if node.domain not in ("", "ai.onnx") or not node.inputs or read_besides(node):
        return None
    if node.op_type in ELEMENTWISE:
        return _known_elementwise(node, facts)
    if node.op_type == "Concat":
        return _known_joined(node, facts)
    held = _held(node.inputs[0], facts)
    if held is None or any(v is not None and constant_array(v) is None for v in node.inputs[1:]):
        return None
    if node.op_type in BLOCKS:
        size = int(node.attributes.get_int("blocksize", 1)) ** 2
        joins = node.op_type == "DepthToSpace"
        return np.asarray(by_square(node, held).all(axis=1)) if joins else np.tile(held, size)
    return held if _by_channel(node) else None


def _by_channel(node: ir.Node) -> bool:
    """Whether each channel of the result comes of the same channel of the first input alone."""
    if node.op_type in POOLS:  # runtimes differ in what counts where the last window overhangs
        return not node.attributes.get_int("ceil_mode", False)
    if node.op_type in REDUCTIONS:
        axes = reduced_axes(node)
        return bool(axes) and min(axes or []) > 1
    if node.op_type == "Pad":
        full = pads(node) or [1]
        half = len(full) // 2
        return not any((*full[:2], *full[half : half + 2]))
    if node.op_type == "BatchNormalization":
        return scales_channels(node)
    return node.op_type in GLOBAL


def _known_elementwise(node: ir.Node, facts: Facts) -> Mask | None:
    """Where all operands are known; those that are computed must be as large as the result."""
    if not any(v is not None and facts.maps(v) is not None for v in node.inputs):
        return None  # constants alone make no maps
    sizes = _sizes(node.outputs[0])
    known = np.ones(sizes[0] if sizes else 0, bool)
    for value in node.inputs:
        if value is None or constant_array(value) is not None:
            continue
        held = _held(value, facts)
        if held is None or _sizes(value) != sizes or rank(value) != rank(node.outputs[0]):
            return None
        known &= held
    return known


def _known_joined(node: ir.Node, facts: Facts) -> Mask | None:
    """Channels side by side; whatever is not known of one operand says nothing of the others."""
    width = rank(node.outputs[0]) or 1
    operands = [value for value in node.inputs if value is not None]
    if node.attributes.get_int("axis", 1) % width != 1 or all(
        facts.maps(value) is None for value in operands
    ):
        return None
    held = [_held(value, facts) for value in operands]
    known = [mask for mask in held if mask is not None]
    return np.concatenate(known) if len(known) == len(held) else None


def _run(node: ir.Node, facts: Facts) -> Maps | None:
    """The node itself, run on one example of what is known; None where that is not one map."""
    inputs = [None if value is None else _example(value, facts) for value in node.inputs]
    imports = node.graph.opset_imports if node.graph is not None else {}
    found = np.array(evaluate_node(node, imports, inputs)[0], np.float64)
    return found[0] if len(found) == 1 else None


def _example(value: ir.Value, facts: Facts) -> Array:
    array = constant_array(value)
    if array is None:
        return _filled(value, facts)[None]
    floats = value.dtype is not None and value.dtype.is_floating_point()
    return array.astype(np.float64) if floats else array


def _swept(found: Layer, facts: Facts) -> Maps:
    """What a convolution makes of what is known, its bias added."""
    maps = whole(map_border(found, _filled(found.source, facts)))
    return np.asarray(maps + spread(bias_rows(found), found.result))
