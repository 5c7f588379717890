"""The decision, apart from the edit: which indices of which axes stay."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Reason
from prunedeploy.passes.analysis import liveness
from prunedeploy.passes.analysis.axes import Axes, Mask
from prunedeploy.passes.analysis.constants import channel_constants, find_constants
from prunedeploy.passes.analysis.coupling import couple
from prunedeploy.passes.analysis.facts import Constants, Facts, Maps
from prunedeploy.passes.analysis.feature_maps import mapped, per_channel
from prunedeploy.passes.analysis.liveness import Kept, choose_bias_channels, mergeable
from prunedeploy.passes.analysis.ranges import Ranges
from prunedeploy.passes.analysis.settings import Settings
from prunedeploy.passes.operators.layers import Layer, Weights
from prunedeploy.passes.operators.operator import Keep
from prunedeploy.passes.operators.recurrent import Recurrent, recurrent
from prunedeploy.passes.shrink.align import padding, reason

ALONE = Reason("last-channel", "a tensor cannot have no channel at all")


@dataclass(frozen=True)
class Absorption:
    """Constants that a layer takes over when the input channels that held them go.

    ``constants`` holds them by input channel, 0 elsewhere; ``maps``, where there are any, what
    these and the channels with known maps hold, [channels, ...]. They go into the layer's bias,
    onto its result as a map that knows the borders, or into one input channel of its group, the
    ``bias_channel``.
    """

    layer: Layer
    constants: Constants
    into: Literal["bias", "map", "channel"]
    group: int = 0
    bias_channel: int = 0
    bias_channel_constant: float = 1.0
    maps: Maps | None = None

    @property
    def count(self) -> int:
        """How many channels it stands for."""
        held = self.constants if self.maps is None else self.maps
        return int(held.reshape(len(held), -1).any(axis=1).sum())


@dataclass(frozen=True)
class Analysis:
    """The results of all analyses of a graph, before anything is decided.

    ``inner`` are the layers inside of operators with several weights (recurrent ones).
    """

    axes: Axes
    weights: Weights
    facts: Facts
    layers: tuple[Layer, ...]
    inner: tuple[Layer, ...]
    kept: Kept
    bias_channels: dict[tuple[int, int], int]
    ranges: Ranges
    recurrents: tuple[Recurrent, ...]


@dataclass(frozen=True)
class Plan(Analysis):
    """An analysis with what is concluded from it: the cuts, and the constants to fold."""

    keep: Keep
    absorptions: tuple[Absorption, ...]
    aligned: frozenset[int]  # representatives of labels that stay for the sake of alignment


def analyse(graph: ir.Graph, settings: Settings, split_choice: int = 0) -> Analysis:
    """Constants, coupling and liveness of ``graph``.

    ``split_choice`` is the part that carries labels where an axis is split (see ``Axes``).
    """
    weights = Weights(settings.zero)
    axes = couple(graph, split_choice, settings.limits is not None, settings.apart)
    ranges = Ranges(graph, settings.stated)
    # maps hold for the sizes of this graph; a module may be called with others
    facts = find_constants(graph, weights, settings.zero, ranges, maps=settings.limits is None)
    layers = [
        replace(layer, apart=layer.node in settings.apart) for layer in liveness.layers_of(graph)
    ]
    if settings.borders == "channel":
        layers = [replace(layer, takes_map=not mergeable(layer)) for layer in layers]
    if settings.limits is not None:
        settings.limits.pin(axes, graph)
        layers = [settings.limits.limit(layer) for layer in layers]
    for name, reads in liveness.reads_of(graph, facts):
        for value, axis, needed in reads:
            axes.pin_labels(axes.of(value, axis)[needed], f"mixed with others by {name}")
    inner = liveness.inner_layers_of(graph)
    kept, bias_channels = choose_bias_channels([*layers, *inner], axes, weights, facts)
    recurrents = tuple(each for node in graph if (each := recurrent(node)) and each.results)
    return Analysis(
        axes, weights, facts, tuple(layers), tuple(inner), kept, bias_channels, ranges, recurrents
    )


def make_plan(graph: ir.Graph, settings: Settings, split_choice: int = 0) -> Plan:
    """Plan to cut whatever is not live in ``graph``, as far as tensors keep a channel."""
    analysis = analyse(graph, settings, split_choice)
    axes, weights, layers = analysis.axes, analysis.weights, list(analysis.layers)
    stays = _leave_some(axes, analysis.kept)
    aligned: set[int] = set()
    while settings.align > 1 and (more := padding(layers, axes, weights, stays, settings.align)):
        aligned |= more
        # live, and all that they read
        axes.pinned.update(dict.fromkeys(more, reason(settings.align)))
        kept, bias_channels = choose_bias_channels(
            [*layers, *analysis.inner], axes, weights, analysis.facts
        )
        analysis = replace(analysis, kept=kept, bias_channels=bias_channels)
        stays = _leave_some(axes, kept)
    return conclude(analysis, stays, frozenset(aligned))


def conclude(analysis: Analysis, stays: Mask, aligned: frozenset[int] = frozenset()) -> Plan:
    """The plan that cuts every label which does not stay; all that are live must."""
    items = analysis.axes.items()
    cut = {(value, axis): stays[roots] for value, axis, roots in items if not stays[roots].all()}
    keep, facts, weights = Keep(cut), analysis.facts, analysis.weights
    absorptions = [
        absorption
        for index, layer in enumerate(analysis.layers)
        for absorption in _absorptions(layer, index, analysis.bias_channels, keep, facts, weights)
    ]
    known = {each.name: getattr(analysis, each.name) for each in fields(Analysis)}
    return Plan(**known, keep=keep, absorptions=tuple(absorptions), aligned=aligned)


def _leave_some(axes: Axes, kept: Kept) -> Mask:
    """Return the live labels, and more where a tensor would be left empty, the first ones."""
    stays = kept.live.copy()
    axis_roots = [roots for _, _, roots in axes.items() if len(roots)]
    before = -1
    while (count := int(stays.sum())) != before:
        before = count
        for roots in axis_roots:
            if not stays[roots].any():
                stays[roots[0]] = True
                kept.reasons.setdefault(int(roots[0]), ALONE)
    return stays


def _absorptions(
    layer: Layer,
    index: int,
    bias_channels: dict[tuple[int, int], int],
    keep: Keep,
    facts: Facts,
    weights: Weights,
) -> list[Absorption]:
    """Return the constants that the layer takes into a bias, a map, or one channel a group."""
    stays = keep.of(layer.source, layer.source_axis)
    if stays is None or layer.depthwise:
        return []
    known = np.nan_to_num(channel_constants(layer, facts))
    going = np.where(stays, 0.0, known)
    if layer.uniform or layer.mappable:
        biases = [Absorption(layer, going, "bias")] if layer.uniform and going.any() else []
        under_padding = np.zeros_like(going) if layer.uniform else going
        return [*biases, *_maps(layer, under_padding, ~stays, facts, weights)]
    if not going.any():
        return []
    # a group without a bias_channel has no live row that reads them
    return [
        Absorption(layer, inside, "channel", group, bias_channel, float(known[bias_channel]))
        for group, inside in enumerate(liveness.groups_of(layer, going))
        if (bias_channel := bias_channels.get((index, group))) is not None
    ]


def _maps(
    layer: Layer, constants: Constants, gone: Mask, facts: Facts, weights: Weights
) -> list[Absorption]:
    """Return the map that the layer takes over: constants under padding, and known maps."""
    held, maps = constants != 0, facts.maps(layer.source) if layer.mappable else None
    if maps is not None:
        known = mapped(layer.source, facts) & gone
        maps = np.where(
            per_channel(known, layer.source), maps, per_channel(constants, layer.source)
        )
        maps, held = maps if known.any() else None, held | known
    reads = layer.groups > 1 or weights.used(layer)[:, held].any()
    return [Absorption(layer, constants, "map", maps=maps)] if held.any() and reads else []
