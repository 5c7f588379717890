"""Views as nests of loops: as few axes as possible, the innermost the one that ``y`` lies along."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prunedeploy.runtimes.sparse.codegen._context import Context
from prunedeploy.runtimes.sparse.plan.steps import Plan, reads, writes
from prunedeploy.runtimes.sparse.plan.views import UNIT, View, plane_stride


@dataclass(frozen=True)
class Nest:
    """Loops, the outermost first: how often each runs, and each view's stride in it."""

    shape: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    @property
    def rank(self) -> int:
        """Number of loops."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How often the innermost body runs."""
        return math.prod(self.shape)

    def inner(self) -> tuple[int, ...]:
        """Each view's stride in the innermost loop; 0 where there is none."""
        return tuple(strides[-1] if strides else 0 for strides in self.strides)

    def take(self, axes: Iterable[int]) -> Nest:
        """The loops ``axes`` alone."""
        chosen = tuple(axes)
        return Nest(
            tuple(self.shape[axis] for axis in chosen),
            tuple(tuple(strides[axis] for axis in chosen) for strides in self.strides),
        )

    def arrays(self, shape: str, *strides: str) -> list[str]:
        """C: the shape as an array, and each view's strides; none of those without a name."""
        named = [("int", shape, self.shape)]
        named += [("ptrdiff_t", *each) for each in zip(strides, self.strides, strict=True)]
        return [
            f"static const {kind} {name}[] = {{{', '.join(map(str, numbers)) or '0'}}};"
            for kind, name, numbers in named
            if name
        ]


def nest(
    shape: Sequence[int], strides: Sequence[Sequence[int]], axes: Iterable[int] | None = None
) -> Nest:
    """The loops over ``axes`` of views of ``shape``, in the order of the first view's strides.

    Axes of length 1 are left out; what lies one behind the other in every view is one loop.
    """
    chosen = range(len(shape)) if axes is None else axes
    rows = [(shape[a], *(one[a] for one in strides)) for a in chosen if shape[a] != 1]
    rows.sort(key=lambda row: [-abs(stride) for stride in row[1:]])
    merged: list[tuple[int, ...]] = []
    for row in rows:
        last = merged[-1] if merged else None
        if last and all(a == b * row[0] for a, b in zip(last[1:], row[1:], strict=True)):
            merged[-1] = (last[0] * row[0], *row[1:])
        else:
            merged.append(row)
    return Nest(
        tuple(row[0] for row in merged),
        tuple(tuple(row[1 + n] for row in merged) for n in range(len(strides))),
    )


def record(fields: Mapping[str, object]) -> str:
    """A C initialiser."""
    return "{" + ", ".join(f".{name} = {value}" for name, value in fields.items()) + "}"


def plane_strides(x: View, y: View) -> dict[str, object]:
    """The strides of images, channels and rows of ``x`` and ``y`` [N, C, H, W], by their C names.

    Elements of a row follow one another.
    """
    assert all(view.shape[3] == 1 or view.strides[3] == 1 for view in (x, y)), (x, y)
    axes = ("image", "channel", "row")
    named = (("x", x.strides), ("y", y.strides))
    return {f"{name}_{axis}": strides[n] for name, strides in named for n, axis in enumerate(axes)}


def over_read(context: Context, view: View) -> bool:
    """Whether a kernel may read a little beyond ``view``: not in the caller's buffers."""
    return context.plan.buffers[view.buffer].space in ("arena", "constant")


def padded_planes(plan: Plan, view: View, pixels: int, stride: int) -> bool:
    """Whether what lies between planes of ``view``'s buffer is nobody's, so that it may be written.

    ``pixels`` of each plane are the view's. The rest is other elements where the view is a part
    of a tensor: the class token beside the patches.
    """
    whole = plan.buffers[view.buffer].space == "arena" and view.offset % UNIT == 0
    if not whole or pixels < UNIT or plane_stride(pixels) != stride:
        return False
    others = (v for step in plan.steps for v in (*reads(step), *writes(step)))
    return all(_within(other, pixels, stride) for other in others if other.buffer == view.buffer)


def _within(view: View, pixels: int, stride: int) -> bool:
    """Whether ``view`` stays in the first ``pixels`` of planes that are ``stride`` apart."""
    reach = view.offset % stride
    for size, step in zip(view.shape, view.strides, strict=True):
        if step % stride:
            reach += (size - 1) * abs(step)
    return reach < pixels
