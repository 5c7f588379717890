"""Where the elements of a plan's tensors lie: buffers, and views of them.

One idea carries the runtime: every layer with weights is a sum of shifted planes. A tensor in the
arena is **planar**: its channel axis comes first, then one *plane* for each channel, which holds
all other axes in their order, batch included: NCHW is stored as C, N*H*W, tokens N x S x D as D,
N*S. A plane starts on a vector's boundary (``plane_stride``). Then a 1x1 convolution and a linear
layer over tokens are one loop, and so is a window of taps, each tap a shifted plane.

Every other order of axes is a ``View``: a buffer, an offset, and a stride for each axis, all in
elements. Transposing, splitting attention heads and slicing change views, not memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from prunedeploy.core.records import Array

UNIT = 16  # elements: planes start on multiples of it, 64 bytes of float32
MAX_ELEMENTS = 2**31 - 2**16  # elements of a buffer: kernels count pixels and rows in 32 bits
GUARD = 32 * UNIT  # elements a kernel may read beyond a buffer's end, never write: more than a tile

Dtype = Literal["float32", "int64", "int32", "bool", "uint8"]
MemorySpace = Literal["arena", "input", "output", "constant"]


def plane_stride(pixels: int) -> int:
    """Elements from one plane of ``pixels`` to the next: a multiple of ``UNIT``.

    Planes shorter than a unit follow each other closely (those of a vector of features are one
    element each).
    """
    return pixels if pixels < UNIT else -(-pixels // UNIT) * UNIT


@dataclass(frozen=True)
class Buffer:
    """Memory of a tensor: in the session's arena, a constant, or the caller's input or output.

    Buffers of the caller are in C order, exactly as large as their tensor, and aligned to their
    elements only.

    Args:
        space: which of these memories it is in.
        size: in elements.
        dtype: of the elements.
        index: the position among the inputs or outputs.
        value: of a constant: flat, float32, stored with the weights and only read.
    """

    space: MemorySpace
    size: int
    dtype: Dtype = "float32"
    index: int = 0
    value: Array | None = field(default=None, compare=False)


@dataclass(frozen=True)
class View:
    """A tensor in a buffer: its elements are at ``offset + sum(index * stride)``.

    ``buffer`` is an index into ``Plan.buffers``. A broadcast axis has stride 0.
    """

    buffer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def row_major(buffer: int, shape: tuple[int, ...]) -> View:
    """A view in C order, as the caller's arrays are."""
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return View(buffer, shape, strides)


def planar(buffer: int, shape: tuple[int, ...], channel: int) -> View:
    """The planar view of a tensor whose channels are axis ``channel``."""
    others = [axis for axis in range(len(shape)) if axis != channel % len(shape)]
    strides = [0] * len(shape)
    step = 1
    for axis in reversed(others):
        strides[axis] = step
        step *= shape[axis]
    strides[channel % len(shape)] = plane_stride(step)
    return View(buffer, shape, tuple(strides))


def is_planar(view: View, channel: int) -> bool:
    """Whether ``view`` has the strides of ``planar`` (axes of length 1 may have any stride)."""
    wanted = planar(view.buffer, view.shape, channel).strides
    return all(
        size == 1 or actual == stride
        for size, actual, stride in zip(view.shape, view.strides, wanted, strict=True)
    )


def image(view: View, channel: int, window: bool) -> View:
    """A planar view of any rank as [N, C, H, W]: sequences have H = 1, tokens are W of one image.

    Vectors of features are images of one pixel.
    """
    shape = view.shape
    channels = shape[channel]
    if window:
        four = (*shape[:2], 1, shape[2]) if len(shape) == 3 else shape
    elif len(shape) == 2 and channel == 1:
        four = (shape[0], channels, 1, 1)
    else:
        four = (1, channels, 1, math.prod(shape[:channel] + shape[channel + 1 :]))
    return replace(planar(view.buffer, four, 1), offset=view.offset)
