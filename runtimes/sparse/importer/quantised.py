"""Quantised tensors of a graph, and the operators that compute with them.

A quantised tensor is a byte an element in memory: int8 is stored 128 higher, so that bytes are
unsigned everywhere, its zero point too. A number is ``scale * (byte - zero)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.importer.graph import Op, Tensor

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
BYTE = "byte"  # the dtype of quantised tensors
HIGHER = 128  # how much higher int8 is stored


@dataclass(frozen=True)
class Quantisation:
    """How bytes stand for numbers.

    Args:
        scale: a float32 number.
        zero: the byte that stands for zero.
        signed: whether the model has int8.
    """

    scale: float
    zero: int
    signed: bool

    def bytes(self, numbers: Array | float) -> Array:
        """The bytes of ``numbers``, as QuantizeLinear rounds them."""
        steps = np.rint(np.asarray(numbers, np.float32) / np.float32(self.scale))
        made: Array = np.clip(steps.astype(np.float64) + self.zero, 0, 255)
        return made


@dataclass(eq=False)
class QuantisedTensor(Tensor):
    """A computed tensor of bytes."""

    quantisation: Quantisation = Quantisation(1.0, 0, False)

    def like(self, shape: tuple[int, ...]) -> Tensor:
        """Another tensor of the same type."""
        return quantised(shape, self.quantisation)


@dataclass(eq=False)
class QuantisedConstant(Tensor):
    """Known weights or biases: ``value = scale * integers``, zero points taken off.

    ``scale`` has one number, or one for each index of ``axis``.
    """

    integers: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    scale: Floats = field(default_factory=lambda: np.ones(1, np.float32))
    axis: int = 0


def quantised(shape: tuple[int, ...], quantisation: Quantisation) -> QuantisedTensor:
    """A tensor of bytes."""
    return QuantisedTensor(shape, BYTE, quantisation=quantisation)


@dataclass(eq=False)
class QuantiseOp(Op):
    """``plan.Quantise``: the output has the quantisation."""


@dataclass(eq=False)
class DequantiseOp(Op):
    """``plan.Dequantise``: the input has the quantisation."""


@dataclass(eq=False)
class Conv8Op(Op):
    """A layer with weights whose input is quantised: inputs are x and the residual, if any.

    The sums of products are int32; ``conv(x - zero, weight) + bias`` times ``scale`` plus
    ``shift``, one of each a row, plus the residual, between ``low`` and ``high``: those are
    numbers, or steps from the zero point where the output is quantised. ``window`` and ``channel``
    are those of ``graph.ConvOp``.
    """

    weight: Array
    bias: Array
    scale: Floats
    shift: Floats
    window: bool
    channel: int = 1
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    low: float = -np.inf
    high: float = np.inf


@dataclass(eq=False)
class Add8Op(Op):
    """The sum of two quantised tensors of the output's shape, not below ``low`` (a byte)."""

    low: int = 0
    high: int = 255


@dataclass(eq=False)
class Pool8Op(Op):
    """Max or average over windows of a quantised tensor; max keeps the quantisation."""

    kind: Literal["max", "average"]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    count_include_pad: bool


def quantisation_of(tensor: Tensor) -> Quantisation:
    """That of a tensor of bytes."""
    assert isinstance(tensor, QuantisedTensor)
    return tensor.quantisation
