"""Windows over planes: the pixel of a thread, and the taps of its window that exist."""

from __future__ import annotations

from dataclasses import dataclass

from prunedeploy.runtimes.sparse.gpu.ptx import Entry
from prunedeploy.runtimes.sparse.plan.steps import Conv, Pool
from prunedeploy.runtimes.sparse.plan.views import View


@dataclass(frozen=True)
class Tap:
    """One tap: elements behind the window's begin; the row and column of the tap in the window.

    ``row_check`` and ``column_check`` say whether it lies outside of the plane for some pixels.
    """

    offset: int
    row: int
    column: int
    row_check: bool
    column_check: bool


@dataclass(frozen=True)
class Window:
    """The geometry of a convolution or pool on planar [N, C, H, W] views."""

    x: View
    y: View
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]

    @property
    def pixels(self) -> int:
        """Pixels of an output plane, of all images."""
        return self.y.shape[0] * self.y.shape[2] * self.y.shape[3]

    @property
    def direct(self) -> bool:
        """Whether every pixel reads just the same pixel of the input."""
        return (
            self.kernel == (1, 1)
            and self.strides == (1, 1)
            and not any(self.pads)
            and self.x.shape[2:] == self.y.shape[2:]
        )

    def taps(self) -> list[Tap]:
        """The taps that some pixel has, row by row."""
        width = self.x.shape[3]
        rows = self._axis(0, 2)
        columns = self._axis(1, 3)
        return [
            Tap(dy * width + dx, dy, dx, row_check, column_check)
            for dy, row_check in rows
            for dx, column_check in columns
        ]

    def _axis(self, axis: int, dim: int) -> list[tuple[int, bool]]:
        """The distance of each tap along an axis, and whether it may lie outside."""
        size, last = self.x.shape[dim], (self.y.shape[dim] - 1) * self.strides[axis]
        distances = []
        for tap in range(self.kernel[axis]):
            distance = tap * self.dilations[axis]
            first = distance - self.pads[axis]
            distances.append((distance, first < 0 or last + first >= size))
        return distances


def window_of(step: Conv | Pool) -> Window:
    """The window of a step."""
    kernel = step.weight.shape[2:] if isinstance(step, Conv) else step.kernel
    size = (int(kernel[0]), int(kernel[1]))
    return Window(step.x, step.y, size, step.strides, step.pads, step.dilations)


@dataclass(frozen=True)
class Pixel:
    """Registers of a thread: where its window begins in the plane, by row, column and element."""

    row: str
    column: str
    index: str


def pixel(entry: Entry, window: Window, number: str) -> Pixel:
    """Where the window of output pixel ``number`` (u32) begins: outside the plane at borders."""
    if window.direct:
        return Pixel("", "", number)
    _, _, height, width = window.x.shape
    out_height, out_width = window.y.shape[2:]
    line, column, image = entry.registers("u32", 3)
    row, left, index = entry.registers("u32", 3)
    entry.add(f"div.u32 {line}, {number}, {out_width}")
    entry.add(f"mad.lo.s32 {column}, {line}, {-out_width}, {number}")
    if window.y.shape[0] > 1:
        entry.add(f"div.u32 {image}, {line}, {out_height}")
        entry.add(f"mad.lo.s32 {line}, {image}, {-out_height}, {line}")
    else:
        entry.add(f"mov.u32 {image}, 0")
    entry.add(
        f"mad.lo.s32 {row}, {line}, {window.strides[0]}, {-window.pads[0]}",
        f"mad.lo.s32 {left}, {column}, {window.strides[1]}, {-window.pads[1]}",
        f"mad.lo.s32 {index}, {image}, {height * width}, {left}",
        f"mad.lo.s32 {index}, {row}, {width}, {index}",
    )
    return Pixel(row, left, index)


def skip_outside(entry: Entry, window: Window, where: Pixel, tap: Tap, label: str) -> None:
    """Jump to ``label`` where ``tap`` lies outside of the plane: a border counts as zeros."""
    checks = (
        (tap.row_check, where.row, tap.row, window.x.shape[2]),
        (tap.column_check, where.column, tap.column, window.x.shape[3]),
    )
    for needed, begin, distance, size in checks:
        if needed:
            moved, outside = entry.register("u32"), entry.register("pred")
            entry.add(f"add.s32 {moved}, {begin}, {distance}")
            entry.add(f"setp.ge.u32 {outside}, {moved}, {size}")  # below 0 is far above
            entry.add(f"@{outside} bra {label}")


def thread_number(entry: Entry, limit: int, done: str) -> str:
    """The number of the thread along x of the grid; those from ``limit`` on go to ``done``."""
    thread, block, number = entry.registers("u32", 3)
    beyond = entry.register("pred")
    entry.add(
        f"mov.u32 {thread}, %tid.x",
        f"mov.u32 {block}, %ctaid.x",
        f"mad.lo.u32 {number}, {block}, {entry.threads}, {thread}",
        f"setp.ge.u32 {beyond}, {number}, {limit}",
        f"@{beyond} bra {done}",
    )
    return number
