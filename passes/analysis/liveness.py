"""Liveness: one walk backward from the outputs, repeated until nothing new is marked.

A label is live when an output of the network can tell its value: it is pinned, or some live row
of a layer reads it through a weight that is not zero and it is not a constant which that layer
can take over. Everything that is never marked can go, cycles through residual sums included
(this is the marking of a garbage collector, not a count of readers).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.core.records import Reason
from prunedeploy.passes.analysis.axes import Axes, Mask
from prunedeploy.passes.analysis.constants import channel_constants
from prunedeploy.passes.analysis.facts import Facts
from prunedeploy.passes.analysis.feature_maps import mapped
from prunedeploy.passes.operators.layers import Layer, Weights
from prunedeploy.passes.operators.operator import Reads
from prunedeploy.passes.operators.table import layer_of, operator

# Why a channel without weights stays, in the words of the report.
CARRIES = Reason(
    "carries-constants", "constants other than zero meet zero padding: one channel must carry them"
)
JOINED = Reason(
    "joined-with-live",
    "joined, in a sum, a grouped convolution or the groups of a norm, "
    "with channels that are not constant",
)

# A bias channel this much smaller than what is merged into it would blow rounding up.
CONDITION = 2.0**-6


@dataclass(frozen=True)
class Kept:
    """The labels that stay, and for each why, should its own weights be zero."""

    live: Mask  # by representative of the label
    reasons: dict[int, Reason]


def layers_of(graph: ir.Graph) -> list[Layer]:
    """The layers in order."""
    return [layer for node in graph if (layer := layer_of(node)) is not None]


def inner_layers_of(graph: ir.Graph) -> list[Layer]:
    """Return one layer for each weight of operators with several (recurrent ones)."""
    known = ((node, operator(node).inner_layers) for node in graph)
    return [layer for node, read in known if read is not None for layer in read(node)]


def reads_of(graph: ir.Graph, facts: Facts) -> list[tuple[str, Reads]]:
    """Return the indices that operators without weights need of axes they mix, by name."""
    named_reads = []
    for node in graph:
        reads = operator(node).reads
        if reads is not None and layer_of(node) is None:
            named_reads.append((f"{node.op_type} ({node.name})", reads(node, facts)))
    return named_reads


def absorbed(layer: Layer, facts: Facts) -> Mask:
    """Input channels at a constant or a known map that need not be read.

    Zeros, and where a constant adds the same everywhere, any constant: the bias takes it. Where
    the layer pads, constants other than zero can be added as a map (see borders), or, for maps of
    dynamic size, merged into one of them (see ``choose_bias_channels``). Known maps become a map.
    """
    known = channel_constants(layer, facts)
    maps = mapped(layer.source, facts) if layer.mappable else np.False_
    if layer.takes_bias if layer.uniform else layer.mappable or mergeable(layer):
        return ~np.isnan(known) | maps
    return np.asarray((known == 0) | maps)


def mergeable(layer: Layer) -> bool:
    """Whether columns of this layer's weight may be changed: it is not shared, nor depthwise."""
    own = len(layer.weight.uses()) == 1 and not layer.weight.is_graph_output()
    stored = layer.weight.const_value is not None  # as it is, not as integers
    return not layer.depthwise and layer.spatial and own and stored


def mark(
    layers: list[Layer], axes: Axes, weights: Weights, facts: Facts, bias_channels: set[int]
) -> Kept:
    """The live labels, given the labels that carry merged constants."""
    live = np.zeros(len(axes), bool)
    reasons = {root: Reason("pinned-axis", cause) for root, cause in axes.pinned.items()}
    reasons.update(dict.fromkeys(bias_channels, CARRIES))
    live[list(reasons)] = True
    seen = [np.zeros(weights.used(layer).shape[0], bool) for layer in layers]
    changed = True
    while changed:
        changed = False
        for layer, done in zip(reversed(layers), reversed(seen), strict=True):
            if layer.depthwise:
                continue  # its input and output channels are the same labels
            rows = live[axes.roots(layer.result, layer.result_axis)] & ~done
            if rows.any():
                done |= rows
                needed = weights.needed(layer, rows) & ~absorbed(layer, facts)
                roots = np.unique(axes.roots(layer.source, layer.source_axis)[needed])
                fresh = roots[~live[roots]]
                live[fresh] = True
                reasons.update(dict.fromkeys(fresh.tolist(), JOINED))
                changed |= bool(len(fresh))
    return Kept(live, reasons)


def choose_bias_channels(
    layers: list[Layer], axes: Axes, weights: Weights, facts: Facts
) -> tuple[Kept, dict[tuple[int, int], int]]:
    """Live labels once every padded layer that needs one has a channel to carry its constants.

    Zero padding meets a constant c != 0, and the map has no fixed size: neither a bias nor a map
    can stand for it at the borders. All such channels of a layer merge into one of them, k:
    W[:, k] += sum_j W[:, j] c_j / c_k, exact for every size and padding; in a grouped convolution
    once a group. A channel that stays anyway is taken where one is large enough; otherwise the one
    that serves most of the waiting layers, then the largest constant, so that the division is well
    conditioned.

    Returns:
        What is live, and the carrying input channel by layer (index into ``layers``) and group.
    """
    bias_channels: set[int] = set()
    while True:
        kept = mark(layers, axes, weights, facts, bias_channels)
        chosen: dict[tuple[int, int], int] = {}
        waiting: dict[tuple[int, int], NDArray[np.float64]] = {}
        for index, layer in enumerate(layers):
            values = _merging(layer, axes, weights, facts, kept)
            if values is None:
                continue
            staying = kept.live[axes.roots(layer.source, layer.source_axis)]
            known = np.nan_to_num(channel_constants(layer, facts))
            size = np.abs(known)
            for group, inside in enumerate(groups_of(layer, values)):
                if not inside.any():
                    continue
                large = size >= CONDITION * np.abs(inside).max()
                held = groups_of(layer, np.where(staying & large, size, 0.0))[group]
                if held.any():
                    chosen[index, group] = int(held.argmax())
                else:
                    waiting[index, group] = inside
        if not waiting:
            return kept, chosen
        bias_channels.add(_most_wanted(waiting, layers, axes))


def groups_of(layer: Layer, values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Numbers of the input channels, once a group: those of the group, 0 elsewhere."""
    inside = np.arange(len(values)) // (len(values) // layer.groups)
    return [np.where(inside == group, values, 0.0) for group in range(layer.groups)]


def _merging(
    layer: Layer, axes: Axes, weights: Weights, facts: Facts, kept: Kept
) -> NDArray[np.float64] | None:
    """The constants that live rows of a padded layer read through channels about to go."""
    if layer.uniform or layer.mappable or not mergeable(layer):
        return None
    rows = kept.live[axes.roots(layer.result, layer.result_axis)]
    staying = kept.live[axes.roots(layer.source, layer.source_axis)]
    known = np.nan_to_num(channel_constants(layer, facts))
    values = np.where(weights.needed(layer, rows) & ~staying, known, 0.0)
    return values if values.any() else None


def _most_wanted(
    waiting: dict[tuple[int, int], NDArray[np.float64]], layers: list[Layer], axes: Axes
) -> int:
    served: dict[int, tuple[int, float]] = {}
    for (index, _), values in waiting.items():
        layer = layers[index]
        roots = axes.roots(layer.source, layer.source_axis)
        for root in np.unique(roots[values != 0]).tolist():
            count, size = served.get(root, (0, np.inf))
            largest = float(np.abs(values[roots == root]).max())
            served[root] = (count + 1, min(size, largest))
    return max(served, key=lambda root: (*served[root], -root))
