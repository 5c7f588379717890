"""The decision, apart from the edit: which indices of which axes stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.shrink.axes import Axes, Mask
from prunedeploy.passes.shrink.constants import channel_constants, find_constants
from prunedeploy.passes.shrink.coupling import couple
from prunedeploy.passes.shrink.facts import Constants, Facts
from prunedeploy.passes.shrink.layers import Layer, Weights
from prunedeploy.passes.shrink.liveness import Kept, choose_carriers, layers_of, products_of
from prunedeploy.passes.shrink.rule import Keep
from prunedeploy.passes.shrink.zero import Zero

ALONE = "a tensor cannot have no channel at all"


@dataclass(frozen=True)
class Absorption:
    """Constants that a layer takes over when the input channels that held them go.

    ``constants`` holds them by input channel, 0 elsewhere. They go into the layer's bias, onto
    its result as a map that knows the borders, or into one input channel, the ``carrier``.
    """

    layer: Layer
    constants: Constants
    into: Literal["bias", "map", "channel"]
    carrier: int = 0
    carrier_constant: float = 1.0


@dataclass(frozen=True)
class Plan:
    """What to cut, what to fold, and why the rest stays."""

    keep: Keep
    absorptions: tuple[Absorption, ...]
    layers: tuple[Layer, ...]
    axes: Axes
    weights: Weights
    facts: Facts
    reasons: dict[int, str]


def make_plan(graph: ir.Graph, zero: Zero, carrier: int = 0) -> Plan:
    """Constants, coupling and liveness of ``graph``, and what follows from the three.

    ``carrier`` is the part that carries labels where an axis is split (see ``Axes``).
    """
    weights = Weights(zero)
    axes = couple(graph, carrier)
    facts = find_constants(graph, weights, zero)
    layers = layers_of(graph)
    for value, axis, adds in products_of(graph, facts):
        axes.pin_labels(axes.of(value, axis)[adds], "summed over in a product of two tensors")
    kept, carriers = choose_carriers(layers, axes, weights, facts)
    stays = _leave_one(axes, kept)
    cut = {(v, axis): stays[roots] for v, axis, roots in axes.items() if not stays[roots].all()}
    keep = Keep(cut)
    absorptions = [
        found
        for index, layer in enumerate(layers)
        if (found := _absorption(layer, carriers.get(index), keep, facts, weights)) is not None
    ]
    return Plan(keep, tuple(absorptions), tuple(layers), axes, weights, facts, kept.reasons)


def _leave_one(axes: Axes, kept: Kept) -> Mask:
    """No axis may lose all its indices: the first one stays, with all that is tied to it."""
    stays = kept.live.copy()
    axis_roots = [roots for _, _, roots in axes.items() if len(roots)]
    changed = True
    while changed:
        changed = False
        for roots in axis_roots:
            if not stays[roots].any():
                stays[roots[0]] = changed = True
                kept.reasons.setdefault(int(roots[0]), ALONE)
    return stays


def _absorption(
    layer: Layer, carrier: int | None, keep: Keep, facts: Facts, weights: Weights
) -> Absorption | None:
    stays = keep.of(layer.source, layer.source_axis)
    if stays is None or layer.depthwise:
        return None
    known = np.nan_to_num(channel_constants(layer, facts))
    going = np.where(stays, 0.0, known)
    if not going.any():
        return None
    if layer.uniform:
        return Absorption(layer, going, "bias")
    if layer.mappable:
        reads = layer.groups > 1 or weights.used(layer)[:, going != 0].any()
        return Absorption(layer, going, "map") if reads else None
    if carrier is None:
        return None  # no live row reads them
    return Absorption(layer, going, "channel", carrier, float(known[carrier]))
