"""How the analyses are to be run, in one record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import onnx_ir as ir

from prunedeploy.core.records import InputRange
from prunedeploy.passes.analysis.axes import Axes
from prunedeploy.passes.analysis.zero import Zero
from prunedeploy.passes.operators.layers import Layer

Borders = Literal["map", "channel"]


@dataclass(frozen=True)
class Limits:
    """Limits where the weights belong to a program that cannot be rewritten.

    ``pinned`` says which axes of which values, by name, cannot be cut, and why; ``biases`` names
    the nodes whose bias can take constants. Maps are out of the question, and all groups of a
    convolution lose the same channels.
    """

    pinned: Mapping[tuple[str, int], str]
    biases: frozenset[str]

    def pin(self, axes: Axes, graph: ir.Graph) -> None:
        """Pin what is pinned."""
        values = {str(v.name): v for node in graph for v in (*node.inputs, *node.outputs) if v}
        for (name, axis), why in self.pinned.items():
            if name in values:
                axes.pin_axis(values[name], axis, why)

    def limit(self, layer: Layer) -> Layer:
        """The layer as it may be used."""
        return replace(
            layer, takes_bias=layer.node.name in self.biases, takes_map=False, equal_groups=True
        )


@dataclass(frozen=True)
class Settings:
    """Settings of the analyses.

    ``zero`` is what counts as zero; ``stated`` what the inputs lie within, by name; ``align`` the
    multiple that output channels are to be, where keeping dead ones can make them so; ``borders``
    what takes over constants that meet zero padding, where there is a choice; ``limits`` what
    cannot be done; ``apart`` the depthwise convolutions whose groups are cut apart.
    """

    zero: Zero = field(default_factory=Zero)
    stated: Mapping[str, InputRange] = field(default_factory=dict)
    align: int = 1
    borders: Borders = "map"
    limits: Limits | None = None
    apart: frozenset[ir.Node] = frozenset()
