"""Accuracy against latency as inline SVG; every point is a link to its recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from prunedeploy.sparsify.table import Cell
from prunedeploy.sweep.pareto import Point

WIDTH, HEIGHT = 900, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 16, 52
STEPS = (1, 2, 5)
MAX_NAMED = 12  # points of the front that are named


class Axes:
    """The scales: milliseconds on a logarithm, accuracy in a line."""

    def __init__(self, points: Sequence[Point]) -> None:
        times = [point.milliseconds for point in points]
        shares = [100 * x for point in points for x in _span(point.cell)]
        self.x = math.log(min(times) / 1.15), math.log(max(times) * 1.15)
        margin = max(0.5, 0.06 * (max(shares) - min(shares)))
        self.y = max(0.0, min(shares) - margin), min(100.5, max(shares) + margin)

    def across(self, milliseconds: float) -> float:
        """Pixels from the left."""
        low, high = self.x
        share = (math.log(milliseconds) - low) / (high - low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def down(self, percent: float) -> float:
        """Pixels from the top."""
        low, high = self.y
        return HEIGHT - BOTTOM - (percent - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def times(self) -> list[float]:
        """Milliseconds that are marked: 1, 2 and 5 times a power of ten, more where few fit."""
        low, high = (math.exp(x) for x in self.x)
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for steps in (STEPS, (1, 1.5, 2, 3, 4, 5, 7)):
            marks = [step * 10.0**power for power in powers for step in steps]
            marks = [mark for mark in marks if low <= mark <= high]
            if len(marks) > 2:
                break
        return marks

    def shares(self) -> list[float]:
        """Percents that are marked."""
        low, high = self.y
        ideal = (high - low) / 5
        power = 10.0 ** math.floor(math.log10(ideal))
        step = next(x * power for x in (*STEPS, 10) if x * power >= ideal)
        return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def figure(points: Sequence[Point], caption: str, link: dict[int, str]) -> str:
    """A figure with the front as a line; ``link`` has the address for the id of a cell."""
    axes = Axes(points)
    parts = [_grid(axes), _front(points, axes)]
    named = [point for point in points if point.front][-MAX_NAMED:]
    parts += [_point(each, axes, link[id(each.cell)], each in named) for each in points]
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
    return f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>"


def name_of(cell: Cell) -> str:
    """The method and what is its own, in a few words."""
    method = cell.recipe.method
    words = [method.name, f"{100 * method.sparsity:g} %"] if method.sparsity else [method.name]
    words += [f"{key} {value}" for key, value in method.options.items()]
    return ", ".join(words)


def _span(cell: Cell) -> tuple[float, float]:
    """The interval of the accuracy within [0, 1]; the mean where there is none."""
    interval = cell.accuracy
    if math.isnan(interval.low):
        return interval.mean, interval.mean
    return max(0.0, interval.low), min(1.0, interval.high)


def _grid(axes: Axes) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for time in axes.times():
        x = axes.across(time)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{time:g}</text>')
    for share in axes.shares():
        y = axes.down(share)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share:g}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">latency, ms</text>')
    parts.append(
        f'<text transform="translate(14 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        "accuracy, %</text>"
    )
    return "".join(parts)


def _front(points: Sequence[Point], axes: Axes) -> str:
    """The front as a staircase: to the right of a point, nothing slower need be worse."""
    front = [point for point in points if point.front]
    path = ""
    for point in front:
        x, y = axes.across(point.milliseconds), axes.down(100 * point.cell.accuracy.mean)
        path += f"H{x:.1f}V{y:.1f}" if path else f"M{x:.1f} {HEIGHT - BOTTOM}V{y:.1f}"
    return f'<path class="front" d="{path}H{WIDTH - RIGHT}"/>'


def _point(point: Point, axes: Axes, address: str, named: bool) -> str:
    cell = point.cell
    x, y = axes.across(point.milliseconds), axes.down(100 * cell.accuracy.mean)
    low, high = (axes.down(100 * share) for share in _span(cell))
    name = escape(name_of(cell))
    dense = " dense" if cell.recipe.method.name == "dense" else ""
    kind = f"{'best' if point.front else 'other'}{dense}"
    title = (
        f"{name}: {cell.accuracy.mean:.2%} at {point.milliseconds:.3g} ms in {point.runtime}, "
        f"{len(cell.trainings)} seeds"
    )
    side = x > WIDTH - 160
    label = (
        f'<text x="{x + (-9 if side else 9):.1f}" y="{y - 7:.1f}"'
        f' text-anchor="{"end" if side else "start"}">{name}</text>'
    )
    return (
        f'<a href="#{address}"><title>{title}</title>'
        f'<path class="interval" d="M{x:.1f} {low:.1f}V{high:.1f}"/>'
        f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>{label if named else ""}</a>'
    )
