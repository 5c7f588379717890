"""GridSample: the pixels around each place of a grid, weighted."""

from __future__ import annotations

import math
from functools import reduce

from prunedeploy.runtimes.sparse.importer import expr as e
from prunedeploy.runtimes.sparse.importer.expr import Expr, number
from prunedeploy.runtimes.sparse.importer.graph import Tensor
from prunedeploy.runtimes.sparse.importer.importer import EXACT, Call, Importer


def grid_sample(call: Call) -> Tensor:
    """Images alone, not volumes; the nearest pixel, or the four around."""
    x, grid, build = call.real(0), call.real(1), call.build
    mode, padding = call.string("mode", "linear"), call.string("padding_mode", "zeros")
    if x.rank != 4 or mode not in ("linear", "bilinear", "nearest"):
        raise call.refuse(f"mode {mode} of {x.rank - 2} spatial axes is not known")
    batch, channels, *sizes = x.shape
    if math.prod(sizes) >= EXACT:
        raise call.refuse("its images are too large")
    count = math.prod(grid.shape[1:3])
    places = []
    for axis, size in enumerate(sizes):
        part = build.reshape(build.part(grid, 3, 1 - axis, 1), (batch, 1, count))
        at = _coordinate(build.operand(part), size, bool(call.integer("align_corners", 0)), padding)
        places.append(build.elementwise(at, part.shape))
    flat = build.reshape(x, (batch, channels, math.prod(sizes)))
    y = [
        _pixel(call, flat, places, sizes, steps)
        for steps in ([None] if mode == "nearest" else [(0, 0), (0, 1), (1, 0), (1, 1)])
    ]
    made = build.elementwise(reduce(_add, y), (batch, channels, count))
    return build.reshape(made, (batch, channels, *grid.shape[1:3]))


def _add(a: Expr, b: Expr) -> Expr:
    return Expr("add", (a, b))


def _coordinate(at: Expr, size: int, corners: bool, padding: str) -> Expr:
    """-1 to 1 as a coordinate of an axis, brought inside where the padding says so."""
    shifted = _add(at, number(1.0))
    if corners:
        at = Expr("mul", (Expr("div", (shifted, number(2.0))), number(size - 1)))
    else:
        wide = Expr("sub", (Expr("mul", (shifted, number(size))), number(1.0)))
        at = Expr("div", (wide, number(2.0)))
    if padding == "reflection":
        at = _reflected(at, size, corners)
    return at if padding == "zeros" else Expr("clip", (at,), (0.0, size - 1.0))


def _reflected(at: Expr, size: int, corners: bool) -> Expr:
    """Mirrored at the borders until it lies within."""
    low, high = (0.0, size - 1.0) if corners else (-0.5, size - 0.5)
    span = number(high - low)
    if high <= low:
        return number(0.0)
    away = Expr("abs", (Expr("sub", (at, number(low))),))
    turns = Expr("floor", (Expr("div", (away, span)),))
    rest = Expr("sub", (away, Expr("mul", (turns, span))))
    half = Expr("mul", (turns, number(0.5)))
    even = Expr("equal", (Expr("floor", (half,)), half))
    turned = Expr("sub", (number(high), rest))
    return Expr("where", (even, _add(rest, number(low)), turned))


def _pixel(
    call: Call, x: Tensor, places: list[Tensor], sizes: list[int], steps: tuple[int, int] | None
) -> Expr:
    """One pixel with its weight, 0 outside: the nearest, or that so many steps behind the floor."""
    build, index, inside, weight = call.build, number(0.0), number(1.0), number(1.0)
    for axis, (place, size) in enumerate(zip(places, sizes, strict=True)):
        at = e.tensor(place)
        pixel = Expr("round", (at,))
        if steps is not None:
            pixel = _add(Expr("floor", (at,)), number(steps[axis]))
            away = Expr("abs", (Expr("sub", (at, pixel)),))
            weight = Expr("mul", (weight, Expr("sub", (number(1.0), away))))
        within = Expr("equal", (Expr("clip", (pixel,), (0.0, size - 1.0)), pixel))
        inside = Expr("and", (inside, within))
        nearest = Expr("clip", (pixel,), (0.0, size - 1.0))
        index = _add(Expr("mul", (index, number(size))), nearest)
    where = build.elementwise(index, places[0].shape, "int64", math.prod(sizes))
    value = build.take(x, where, 2, (*x.shape[:2], places[0].shape[2]))
    weighted = Expr("mul", (e.tensor(value), weight))
    return Expr("where", (inside, weighted, number(0.0)))


TABLE: dict[str, Importer] = {"GridSample": grid_sample}
