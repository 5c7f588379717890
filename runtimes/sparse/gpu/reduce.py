"""Reductions over axes, global pooling among them: the threads of a team share a result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from prunedeploy.runtimes.sparse.gpu.functions import FUNCTIONS
from prunedeploy.runtimes.sparse.gpu.instructions import absolute, divide, mul
from prunedeploy.runtimes.sparse.gpu.launch import Kernel
from prunedeploy.runtimes.sparse.gpu.nd import axes_of, offsets
from prunedeploy.runtimes.sparse.gpu.ptx import Entry, f32
from prunedeploy.runtimes.sparse.gpu.team import Team, shape_of
from prunedeploy.runtimes.sparse.plan.steps import Reduce
from prunedeploy.runtimes.sparse.plan.views import View


def _as_it_is(_: Entry, value: str) -> str:
    return value


def _square(entry: Entry, value: str) -> str:
    return mul(entry, value, value)


@dataclass(frozen=True)
class Kind:
    """A kind of reduction: what is done to each term, how two are combined, and where it begins."""

    combine: str
    begin: float = 0.0
    term: Callable[[Entry, str], str] = _as_it_is


KINDS = {
    "sum": Kind("add"),
    "mean": Kind("add"),
    "max": Kind("max", -math.inf),
    "min": Kind("min", math.inf),
    "prod": Kind("mul", 1.0),
    "l1": Kind("add", term=absolute),
    "l2": Kind("add", term=_square),
    "sumsquare": Kind("add", term=_square),
}


def emit(step: Reduce, name: str) -> Kernel:
    """The kernel of a reduction of one of ``KINDS``."""
    kind = KINDS[step.kind]
    axes = [axis % len(step.x.shape) for axis in step.axes]
    kept = [axis for axis in range(len(step.x.shape)) if axis not in axes]
    # y has axes of length 1 where x is reduced
    whole = View(step.x.buffer, step.y.shape, step.x.strides, step.x.offset)
    results, inside = axes_of((whole, step.y), kept), axes_of((step.x,), axes)
    shape = shape_of(results, inside)
    entry = Entry(name, 2, shape.block)
    team = Team(entry, shape, results, inside)
    from_, to = offsets(entry, results, team.number)
    x = entry.shifted(entry.pointer(0), from_, signed=True)
    y = entry.shifted(entry.pointer(1), to, signed=True)
    total, value = entry.registers("f32", 2)
    entry.add(f"mov.f32 {total}, {f32(kind.begin)}")
    combine = FUNCTIONS[kind.combine]
    with team.terms() as (offset,):
        entry.add(f"ld.global.nc.f32 {value}, [{entry.shifted(x, offset, signed=True)}]")
        entry.add(f"mov.f32 {total}, {combine(entry, total, kind.term(entry, value))}")
    result = team.combine(total, combine)
    if step.kind == "mean":
        result = divide(entry, result, f32(inside.count))
    if step.kind == "l2":
        result = FUNCTIONS["sqrt"](entry, result)
    idle, done = entry.register("pred"), entry.label()
    entry.add(f"@{team.beyond} bra {done}", f"setp.ne.u32 {idle}, {team.part}, 0")
    entry.add(f"@{idle} bra {done}", f"st.global.f32 [{y}], {result}")
    entry.mark(done)
    cost = team.cost(1, step.x.size + step.y.size, step.y.size)
    views, grid = (step.x, step.y), (team.blocks, 1)
    return Kernel(
        name, step.name, "reduce", str(shape), entry.text(), grid, shape.block, views, cost
    )
