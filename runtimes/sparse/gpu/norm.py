"""Normalisation: a team has a row; its mean, its variance, then the results.

All is computed of differences from the first element: a mean far from 0 costs no digits.
"""

from __future__ import annotations

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.codegen._context import Constants
from prunedeploy.runtimes.sparse.gpu.instructions import (
    add,
    divide,
    fma,
    instruction,
    mul,
    reciprocal,
    sub,
)
from prunedeploy.runtimes.sparse.gpu.launch import Kernel
from prunedeploy.runtimes.sparse.gpu.nd import axes_of, offsets
from prunedeploy.runtimes.sparse.gpu.ptx import Entry, f32
from prunedeploy.runtimes.sparse.gpu.team import Team, shape_of
from prunedeploy.runtimes.sparse.plan.steps import Norm
from prunedeploy.runtimes.sparse.plan.views import View, row_major


def emit(step: Norm, name: str, constants: Constants) -> Kernel:
    """The kernel of a normalisation."""
    rank = len(step.x.shape)
    axes = sorted({axis % rank for axis in step.axes})
    # scale and bias lie in C order among the constants, and do not move where they do not vary
    views = (step.x, _broadcast(step.scale, step.x), _broadcast(step.bias, step.x), step.y)
    results = axes_of(views, [axis for axis in range(rank) if axis not in axes])
    inside = axes_of(views, axes)
    shape = shape_of(results, inside)
    entry = Entry(name, len(views), shape.block)
    team = Team(entry, shape, results, inside)
    x, scale, bias, y = (
        entry.shifted(entry.pointer(index), offset, signed=True)
        for index, offset in enumerate(offsets(entry, results, team.number))
    )
    value, total, first = entry.registers("f32", 3)
    count = f32(inside.count)
    mean = f32(0)
    entry.add(f"mov.f32 {first}, {mean}")
    if step.centre:
        entry.add(f"ld.global.nc.f32 {first}, [{x}]", f"mov.f32 {total}, {mean}")
        with team.terms() as (offset, *_):
            entry.add(f"ld.global.nc.f32 {value}, [{entry.shifted(x, offset, signed=True)}]")
            entry.add(f"add.rn.f32 {total}, {total}, {sub(entry, value, first)}")
        mean = divide(entry, team.combine(total, add), count)
    entry.add(f"mov.f32 {total}, {f32(0)}")
    with team.terms() as (offset, *_):
        entry.add(f"ld.global.nc.f32 {value}, [{entry.shifted(x, offset, signed=True)}]")
        apart = sub(entry, sub(entry, value, first), mean)
        entry.add(f"fma.rn.f32 {total}, {apart}, {apart}, {total}")
    variance = divide(entry, team.combine(total, add), count)
    root = instruction("sqrt.rn.f32")(entry, add(entry, variance, f32(step.epsilon)))
    by = reciprocal(entry, root)
    done = entry.label()
    entry.add(f"@{team.beyond} bra {done}")
    with team.terms() as distances:
        numbers = entry.registers("f32", 3)
        for number, pointer, offset in zip(numbers, (x, scale, bias), distances, strict=False):
            address = entry.shifted(pointer, offset, signed=True)
            entry.add(f"ld.global.nc.f32 {number}, [{address}]")
        apart = sub(entry, sub(entry, numbers[0], first), mean)
        scaled = mul(entry, apart, by)
        result = fma(entry, scaled, numbers[1], numbers[2])
        entry.add(f"st.global.f32 [{entry.shifted(y, distances[3], signed=True)}], {result}")
    entry.mark(done)
    cost = team.cost(3 + step.centre, step.x.size + step.y.size, step.y.size)
    arguments = (
        step.x,
        constants.add(_numbers(step.scale, 1.0)),
        constants.add(_numbers(step.bias, 0.0)),
        step.y,
    )
    kind, grid = "norm", (team.blocks, 1)
    return Kernel(
        name, step.name, kind, str(shape), entry.text(), grid, shape.block, arguments, cost
    )


def _broadcast(table: Array | None, x: View) -> View:
    """``table`` as a view of the shape of ``x``."""
    shape = () if table is None else table.shape
    padded = (1,) * (len(x.shape) - len(shape)) + tuple(shape)
    strides = zip(padded, row_major(0, padded).strides, strict=True)
    return View(x.buffer, x.shape, tuple(0 if size == 1 else step for size, step in strides))


def _numbers(table: Array | None, default: float) -> Array:
    """As a kernel reads it: a number for all where there is none."""
    return np.asarray([default] if table is None else table.reshape(-1), np.float32)
