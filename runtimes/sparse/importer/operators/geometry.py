"""The geometry of windows: pads, strides and the size of the result, for one or two axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunedeploy.runtimes.sparse.importer.importer import Call

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Two axes, the first of them idle for sequences; ``out`` has as many as there are."""

    kernel: Pair
    strides: Pair
    pads: tuple[int, int, int, int]
    dilations: Pair
    out: tuple[int, ...]

    @property
    def full(self) -> Pair:
        """The size of the result as an image."""
        return (1, self.out[0]) if len(self.out) == 1 else (self.out[0], self.out[1])

    @classmethod
    def of(
        cls,
        kernel: Sequence[int],
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        out: Sequence[int],
    ) -> Window:
        """From lists with a number an axis (two an axis for ``pads``, all fronts first)."""
        half = len(kernel)
        front, back = list(pads[:half]), list(pads[half:])
        if half == 1:
            front, back = [0, *front], [0, *back]
        return cls(
            _pair(kernel),
            _pair(strides),
            (front[0], front[1], back[0], back[1]),
            _pair(dilations),
            tuple(out),
        )


def _pair(numbers: Sequence[int]) -> Pair:
    return (1, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


@dataclass(frozen=True)
class Extents:
    """The geometry of windows over any number of axes, a number an axis; ``out`` the result's."""

    kernel: list[int]
    strides: list[int]
    front: list[int]
    back: list[int]
    dilations: list[int]
    out: list[int]

    @property
    def window(self) -> Window:
        """Of the last two axes, or the only one."""
        pads = [*self.front[-2:], *self.back[-2:]]
        kernel, strides, dilations = self.kernel[-2:], self.strides[-2:], self.dilations[-2:]
        return Window.of(kernel, strides, pads, dilations, self.out[-2:])


def window(call: Call, kernel: list[int]) -> Window:
    """The geometry of a Conv or pool over one or two axes."""
    return extents(call, kernel).window


def extents(call: Call, kernel: list[int]) -> Extents:
    """The geometry of a Conv or pool over the spatial axes of its first input.

    Raises:
        RefusedError: the kernel is larger than the padded image.
    """
    image = call.x.shape[2:]
    ones = [1] * len(kernel)
    strides, dilations = call.sequence("strides", ones), call.sequence("dilations", ones)
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    pads = call.sequence("pads", [0] * 2 * len(kernel))
    auto = call.string("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = _same(image, reach, strides, upper=auto == "SAME_UPPER")
    elif auto == "VALID":
        pads = [0] * 2 * len(kernel)
    half, ceil = len(kernel), bool(call.integer("ceil_mode", 0))
    if any(pad < 0 for pad in pads):
        raise call.refuse("its pads are negative")
    out = [
        _size(n, r, s, pads[i], pads[half + i], ceil)
        for i, (n, r, s) in enumerate(zip(image, reach, strides, strict=True))
    ]
    if any(size < 1 for size in out):
        raise call.refuse("its kernel is larger than the image")
    return Extents(kernel, strides, pads[:half], pads[half:], dilations, out)


def _same(image: Sequence[int], reach: list[int], strides: list[int], upper: bool) -> list[int]:
    front, back = [], []
    for n, r, s in zip(image, reach, strides, strict=True):
        total = max((-(-n // s) - 1) * s + r - n, 0)
        front.append(total // 2 if upper else total - total // 2)
        back.append(total - front[-1])
    return front + back


def _size(image: int, reach: int, stride: int, front: int, back: int, ceil: bool) -> int:
    room = image + front + back - reach
    if not ceil:
        return room // stride + 1
    size = -(-room // stride) + 1
    # the last window must begin in the image or in front of it
    return size - 1 if (size - 1) * stride >= image + front else size
