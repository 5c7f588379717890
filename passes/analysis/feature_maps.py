"""Constant feature maps: channels that hold the same map for every input.

All sizes but the batch must be known for a channel's map to be.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.passes.analysis.axes import Mask, rank, static_size
from prunedeploy.passes.analysis.facts import SMALL, Facts, Maps, constant_array

Scalar = TypeVar("Scalar", bound=np.generic)


def mapped(value: ir.Value, facts: Facts) -> Mask:
    """The channels of ``value``, axis 1, whose map is known and not one constant."""
    maps = facts.maps(value)
    if maps is None:
        return np.zeros(static_size(value, 1) or 0, bool)
    return ~np.isnan(maps.reshape(len(maps), -1)[:, 0])


def per_channel(numbers: NDArray[Scalar], value: ir.Value) -> NDArray[Scalar]:
    """One number a channel of ``value``, to be broadcast with its maps."""
    return numbers.reshape(-1, *[1] * ((rank(value) or 2) - 2))


def map_sizes(value: ir.Value | None) -> list[int] | None:
    """Channels and what lies within one; None where that is not known, empty, or large."""
    if value is None or (rank(value) or 0) < 2:
        return None
    lengths = [static_size(value, axis) for axis in range(1, rank(value) or 0)]
    sizes = [size for size in lengths if size]
    return sizes if len(sizes) == len(lengths) and np.prod(sizes) <= SMALL else None


def held_channels(value: ir.Value | None, facts: Facts) -> Mask | None:
    """The channels of which all is known: a finite constant or a map."""
    sizes = map_sizes(value)
    if value is None or sizes is None or len(sizes) < 2:
        return None
    constants = facts.of(value, 1)
    held = mapped(value, facts)
    return held if constants is None else held | np.isfinite(constants)


def filled(value: ir.Value, facts: Facts) -> Maps:
    """Constants and maps of all channels, 0 where neither is known."""
    sizes = map_sizes(value) or []
    held, constants, maps = np.zeros(sizes), facts.of(value, 1), facts.maps(value)
    if constants is not None:
        held += per_channel(np.where(np.isfinite(constants), constants, 0.0), value)
    return held if maps is None else held + np.nan_to_num(maps)


def held_beside_constants(node: ir.Node, facts: Facts) -> Mask | None:
    """The channels of a node's first input of which all is known, where its others are constants"""
    held = held_channels(node.inputs[0], facts)
    others = node.inputs[1:]
    return None if any(v is not None and constant_array(v) is None for v in others) else held
