"""Identical channels: two channels that hold the same for every input become one.

Readers add the columns, W[:, a] += W[:, b], W[:, b] = 0, after which nobody reads channel b and
``ShrinkChannels`` cuts it. Sums are taken in float64 and rounded once. Channels that only a power
of two sets apart are not looked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Note, PassResult
from prunedeploy.graph import shapes
from prunedeploy.passes.analysis.axes import Labels, Mask
from prunedeploy.passes.analysis.constants import channel_constants
from prunedeploy.passes.analysis.coupling import couple
from prunedeploy.passes.analysis.feature_maps import mapped
from prunedeploy.passes.analysis.liveness import layers_of
from prunedeploy.passes.analysis.settings import Settings
from prunedeploy.passes.analysis.value_numbering import number_values
from prunedeploy.passes.analysis.value_numbers import ValueNumbers
from prunedeploy.passes.operators.layers import Layer
from prunedeploy.passes.shrink.plan import Analysis, analyse


@dataclass(frozen=True)
class MergeChannels:
    """Let readers of one of two identical channels read the other.

    Only where the channel can then be cut everywhere: nothing pins it, and every reader of it is
    a layer, not grouped, whose weights are its own. Constants are left to ``ShrinkChannels``.
    """

    name: ClassVar[str] = "merge-channels"
    exact: ClassVar[bool] = True

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place until no channel has a duplicate that can go."""
        notes: list[Note] = []
        shapes.infer_shapes(model)
        while merged := _merge(model.graph):  # sums of columns may make rows of readers equal
            notes += merged
        return PassResult(bool(notes), tuple(notes))


@dataclass(frozen=True)
class InputChannels:
    """A layer's input channels: their labels and classes, and which of them it uses."""

    layer: Layer
    roots: Labels
    classes: Labels
    used: Mask  # some weight of the column is not zero
    constant: Mask


def _merge(graph: ir.Graph) -> list[Note]:
    """One round; a note for every layer whose columns were added."""
    numbers = number_values(graph, couple(graph))
    if not any(_has_duplicates(layer, numbers) for layer in layers_of(graph)):
        return []
    analysis = analyse(graph, Settings())
    axes = analysis.axes
    mixing = [layer for layer in analysis.layers if not layer.depthwise]
    readers = [_input_channels(layer, numbers, analysis) for layer in mixing]
    labels = np.arange(len(axes))
    fixed, live = axes.is_pinned(labels), np.zeros(len(axes), bool)
    live[: len(analysis.kept.live)] = analysis.kept.live
    for layer in analysis.inner:
        fixed[axes.roots(layer.source, layer.source_axis)] = True
    for reader in readers:
        fixed[reader.roots[reader.constant] if _own(reader.layer) else reader.roots] = True
    own = [reader for reader in readers if _own(reader.layer)]
    removable, leaders = choose(own, fixed, ~live & ~fixed)
    pairs = zip(own, leaders, strict=True)
    return [note for reader, leader in pairs if (note := _add(reader, leader, removable))]


def _has_duplicates(layer: Layer, numbers: ValueNumbers) -> bool:
    """Whether two input channels are in the same class."""
    classes = numbers.of(layer.source, layer.source_axis)
    return len(np.unique(classes)) < len(classes)


def _own(layer: Layer) -> bool:
    """Whether columns may be added: nobody else has the weight, no groups keep them apart."""
    weight = layer.weight
    shared = len(weight.uses()) > 1 or weight.is_graph_output()
    floats = weight.dtype is not None and weight.dtype.is_floating_point()
    stored = weight.const_value is not None  # as it is, not as integers
    return layer.groups == 1 and not shared and floats and stored


def _input_channels(layer: Layer, numbers: ValueNumbers, analysis: Analysis) -> InputChannels:
    value, axis = layer.source, layer.source_axis
    maps = mapped(value, analysis.facts) if layer.mappable else np.False_
    return InputChannels(
        layer,
        analysis.axes.roots(value, axis),
        numbers.of(value, axis),
        np.asarray(analysis.weights.used(layer).any(axis=0)),
        ~np.isnan(channel_constants(layer, analysis.facts)) | maps,
    )


def choose(readers: list[InputChannels], fixed: Mask, ignored: Mask) -> tuple[Mask, list[Labels]]:
    """Return the removable labels, and for every layer the position that takes each channel over.

    In every class of a layer one label leads: a fixed one, else the smallest. A label can go when
    it follows wherever it is read; those that lead anywhere stay, so that no leader ever goes.
    """
    fixed = fixed.copy()
    for reader in readers:
        _, alone = _leaders(reader, fixed, ignored)
        fixed[reader.roots[alone & reader.used]] = True
    removable, leaders = ~fixed & ~ignored, []
    for reader in readers:
        leader, alone = _leaders(reader, fixed, ignored)
        leads = reader.roots[leader] == reader.roots
        removable[reader.roots[leads & (reader.used | ~alone)]] = False
        leaders.append(leader)
    return removable, leaders


def _leaders(reader: InputChannels, fixed: Mask, ignored: Mask) -> tuple[Labels, Mask]:
    """Return each position's leader in its class, and whether it is alone in the class."""
    leader, alone = np.arange(len(reader.roots)), np.zeros(len(reader.roots), bool)
    taking_part = np.flatnonzero(~ignored[reader.roots])
    if not len(taking_part):
        return leader, alone
    roots, classes = reader.roots[taking_part], reader.classes[taking_part]
    order = np.lexsort((roots, ~fixed[roots], classes))
    roots, classes, positions = roots[order], classes[order], taking_part[order]
    starts = np.flatnonzero(np.diff(classes, prepend=classes[0] - 1))
    counts = np.diff(starts, append=len(classes))
    one_label = np.minimum.reduceat(roots, starts) == np.maximum.reduceat(roots, starts)
    leader[positions] = np.repeat(positions[starts], counts)
    alone[positions] = np.repeat(one_label, counts)
    return leader, alone


def _add(reader: InputChannels, leader: Labels, removable: Mask) -> Note | None:
    """Add the columns of channels that can go to those of their leaders, in place."""
    layer = reader.layer
    going = np.flatnonzero(removable[reader.roots] & reader.used)
    tensor = layer.weight.const_value
    if not len(going) or tensor is None:
        return None
    array = np.array(tensor.numpy())
    view = np.moveaxis(array, layer.weight_in, 0)
    targets = np.unique(leader[going])
    totals = view[targets].astype(np.float64)
    np.add.at(totals, np.searchsorted(targets, leader[going]), view[going].astype(np.float64))
    with np.errstate(over="ignore"):
        rounded = totals.astype(array.dtype)
    if not np.isfinite(rounded.astype(np.float64)).all():
        return None  # half precision does not hold the sum
    view[targets] = rounded
    view[going] = 0
    layer.weight.const_value = ir.tensor(array, dtype=tensor.dtype, name=layer.weight.name)
    reason = "input channels identical to others, their columns added"
    return Note("duplicate-inputs-merged", layer.name, "taken", reason, len(going))
