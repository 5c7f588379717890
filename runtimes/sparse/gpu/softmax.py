"""Softmax: a team has a row; its maximum, the sum of the powers, then the results."""

from __future__ import annotations

import math

from prunedeploy.runtimes.sparse.gpu import series
from prunedeploy.runtimes.sparse.gpu.instructions import add, extreme, mul, reciprocal, sub
from prunedeploy.runtimes.sparse.gpu.launch import Kernel
from prunedeploy.runtimes.sparse.gpu.nd import axes_of, offsets
from prunedeploy.runtimes.sparse.gpu.ptx import Entry, f32
from prunedeploy.runtimes.sparse.gpu.team import Team, shape_of
from prunedeploy.runtimes.sparse.plan.steps import Softmax


def emit(step: Softmax, name: str) -> Kernel:
    """The kernel of a softmax, or of its logarithm."""
    rank = len(step.x.shape)
    axis = step.axis % rank
    views = (step.x, step.y)
    results = axes_of(views, [other for other in range(rank) if other != axis])
    inside = axes_of(views, [axis])
    shape = shape_of(results, inside)
    entry = Entry(name, 2, shape.block)
    team = Team(entry, shape, results, inside)
    x, y = (
        entry.shifted(entry.pointer(index), offset, signed=True)
        for index, offset in enumerate(offsets(entry, results, team.number))
    )
    value, largest, total = entry.registers("f32", 3)
    larger = extreme("gt")
    entry.add(f"mov.f32 {largest}, {f32(-math.inf)}", f"mov.f32 {total}, {f32(0)}")
    with team.terms() as (offset, _):
        entry.add(f"ld.global.nc.f32 {value}, [{entry.shifted(x, offset, signed=True)}]")
        entry.add(f"mov.f32 {largest}, {larger(entry, largest, value)}")
    # with NaN among them every result becomes NaN
    largest = team.combine(largest, larger)
    with team.terms() as (offset, _):
        entry.add(f"ld.global.nc.f32 {value}, [{entry.shifted(x, offset, signed=True)}]")
        power = series.exp(entry, sub(entry, value, largest))
        entry.add(f"add.rn.f32 {total}, {total}, {power}")
    total = team.combine(total, add)
    by = series.log(entry, total) if step.log else reciprocal(entry, total)
    done = entry.label()
    entry.add(f"@{team.beyond} bra {done}")
    with team.terms() as (offset, to):
        entry.add(f"ld.global.nc.f32 {value}, [{entry.shifted(x, offset, signed=True)}]")
        shifted = sub(entry, value, largest)
        result = sub(entry, shifted, by) if step.log else mul(entry, series.exp(entry, shifted), by)
        entry.add(f"st.global.f32 [{entry.shifted(y, to, signed=True)}], {result}")
    entry.mark(done)
    kind, grid = "softmax", (team.blocks, 1)
    cost = team.cost(3, step.x.size + step.y.size, step.y.size)
    return Kernel(name, step.name, kind, str(shape), entry.text(), grid, shape.block, views, cost)
