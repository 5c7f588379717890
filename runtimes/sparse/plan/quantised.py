"""The steps that compute with quantised tensors: a byte an element, in buffers of bytes.

Strides and offsets of their views count bytes. ``importer/quantised.py`` says what bytes mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.plan.views import View

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]


@dataclass(frozen=True)
class Quantise:
    """Numbers to bytes: ``y = saturate(round_to_even(x / scale) + zero)``; any strides."""

    name: str
    x: View
    y: View
    scale: float
    zero: int


@dataclass(frozen=True)
class Dequantise:
    """Bytes to numbers: ``y = scale * (x - zero)``; any strides."""

    name: str
    x: View
    y: View
    scale: float
    zero: int


@dataclass(frozen=True)
class Unfold:
    """Planes taken apart for windows that are not on the input's own grid of pixels.

    For every channel and image ``y`` has, a column of the window at a time, the rows that the
    window's rows read, as wide as the result; what lies outside of the image is ``fill``.
    ``plan/unfold.py`` says where each row is.
    """

    name: str
    x: View
    y: View
    kernel: Pair
    out: Pair
    strides: Pair
    pads: Pads
    dilations: Pair
    fill: int


@dataclass(frozen=True)
class Conv8:
    """A convolution or linear layer on bytes, its sums int32.

    ``r = (conv(x - x_zero, weight) + bias) * scale + shift + residual``, at least ``low`` and at
    most ``high``. ``y`` holds float32 numbers, or bytes ``round_to_even(r) + zero``.

    Args:
        x: planar bytes [N, C, H, W], or those of ``Unfold`` where ``unfolded`` is set.
        y: planar [N, M, H, W], bytes or float32.
        weight: int16 [M, C / groups, kernel height, kernel width], zero points taken off.
        bias: int32 [M].
        scale: float32 [M].
        shift: float32 [M].
        x_zero: the byte of padding.
        image: height and width of the input.
        unfolded: whether ``x`` was taken apart.
        residual: float32, of the shape of ``y``; only where ``y`` is float32.
        zero: the byte of ``y`` that stands for zero; None where ``y`` is float32.
    """

    name: str
    x: View
    y: View
    weight: Array
    bias: Array
    scale: Array
    shift: Array
    x_zero: int
    image: Pair
    low: float
    high: float
    strides: Pair = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    dilations: Pair = (1, 1)
    groups: int = 1
    unfolded: bool = False
    residual: View | None = None
    zero: int | None = None


@dataclass(frozen=True)
class Add8:
    """``y = saturate(round_to_even(a * scale_a + (b * scale_b + fixed)))``, as ONNX Runtime adds.

    ``a`` and ``b`` are bytes less ``offset_a`` and ``offset_b`` (128 where the model has int8);
    the result is at least ``low`` and at most ``high``, bytes less ``offset_y``.
    """

    name: str
    a: View
    b: View
    y: View
    scales: tuple[float, float]
    fixed: float
    offsets: tuple[int, int, int]
    low: int
    high: int


@dataclass(frozen=True)
class Pool8:
    """Max or average over windows of planar bytes.

    The average is ``saturate(round_to_even((sum - count * x_zero) * factor) + zero)``, where
    ``factor`` is ``x_scale / (y_scale * count)``.
    """

    name: str
    x: View
    y: View
    kind: Literal["max", "average"]
    kernel: Pair
    strides: Pair
    pads: Pads
    dilations: Pair
    count_include_pad: bool
    x_scale: float = 1.0
    y_scale: float = 1.0
    x_zero: int = 0
    zero: int = 0


Quantised = Quantise | Dequantise | Unfold | Conv8 | Add8 | Pool8
