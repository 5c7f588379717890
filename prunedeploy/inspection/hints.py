"""Channels that were constant on all the data given, though nothing proves that they must be.

A hint where training or a stated input range could free more channels, never a reason to remove
one: other inputs may wake it up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.core.records import Array
from prunedeploy.graph import input_range, shapes
from prunedeploy.passes.analysis.axes import static_size
from prunedeploy.passes.analysis.constants import find_constants
from prunedeploy.passes.analysis.liveness import layers_of
from prunedeploy.passes.analysis.ranges import Ranges
from prunedeploy.passes.analysis.zero import Zero
from prunedeploy.passes.operators.layers import Weights
from prunedeploy.reference.evaluate import Evaluator

Key = tuple[str, int]  # the name of a value, and the axis of its channels


@dataclass(frozen=True)
class Hint:
    """Input channels of the layer ``reader`` that held one number on ``samples`` samples.

    ``channels`` are their indices, ``of`` is how many there are.
    """

    reader: str
    channels: tuple[int, ...]
    of: int
    samples: int


def hints(model: ir.Model, batches: Iterable[Mapping[str, Array]]) -> tuple[Hint, ...]:
    """Run ``model`` on every batch and compare with what is known to be constant.

    Only the running least and largest number of each channel is kept. What several layers read is
    listed for the first of them.
    """
    shapes.infer_shapes(model)
    proved = find_constants(
        model.graph, Weights(Zero()), Zero(), Ranges(model.graph, input_range.of(model))
    )
    readers: dict[Key, tuple[str, ir.Value]] = {}
    for layer in layers_of(model.graph):
        if not layer.source.is_graph_input():
            key = str(layer.source.name), layer.source_axis
            readers.setdefault(key, (layer.name, layer.source))
    extremes, samples = _extremes(model, batches, set(readers))
    listed = []
    for (name, axis), (reader, source) in readers.items():
        width = static_size(source, axis) or 0
        low, high = extremes.get((name, axis), (np.zeros(0), np.ones(0)))
        known = proved.of(source, axis)
        new = (low == high) & (True if known is None else np.isnan(known))
        if len(low) == width and new.any():
            indices = tuple(np.flatnonzero(new).tolist())
            listed.append(Hint(reader, indices, width, samples))
    return tuple(listed)


def _extremes(
    model: ir.Model, batches: Iterable[Mapping[str, Array]], wanted: set[Key]
) -> tuple[dict[Key, tuple[NDArray[np.float64], NDArray[np.float64]]], int]:
    """Least and largest number of every wanted channel, and the number of samples seen."""
    axes: dict[str, list[int]] = {}
    for name, axis in wanted:
        axes.setdefault(name, []).append(axis)
    seen: dict[Key, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def observe(name: str, array: Array) -> None:
        for axis in axes.get(name, ()):
            rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
            low, high = rows.min(axis=1).astype(np.float64), rows.max(axis=1).astype(np.float64)
            before = seen.get((name, axis), (low, high))
            seen[name, axis] = np.minimum(before[0], low), np.maximum(before[1], high)

    evaluator, samples = Evaluator(model), 0
    for feeds in batches:
        evaluator.run(feeds, observe)
        samples += max((len(array) for array in feeds.values() if array.ndim), default=1)
    return seen, samples
