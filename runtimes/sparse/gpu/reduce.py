"""Reductions over axes, global pooling among them: a block a result, added up in shared memory."""

from __future__ import annotations

import math

from prunedeploy.runtimes.sparse.gpu.functions import FUNCTIONS
from prunedeploy.runtimes.sparse.gpu.launch import Cost, Kernel
from prunedeploy.runtimes.sparse.gpu.nd import axes_of, offsets
from prunedeploy.runtimes.sparse.gpu.ptx import Entry, f32
from prunedeploy.runtimes.sparse.plan.steps import Reduce
from prunedeploy.runtimes.sparse.plan.views import View

BLOCK = 64
KINDS = {"sum": "add", "mean": "add", "max": "max", "min": "min"}
BEGINS = {"sum": 0.0, "mean": 0.0, "max": -math.inf, "min": math.inf}


def emit(step: Reduce, name: str) -> Kernel:
    """The kernel of a reduction of one of ``KINDS``."""
    kept = [axis for axis in range(len(step.x.shape)) if axis not in step.axes]
    # y has axes of length 1 where x is reduced
    whole = View(step.x.buffer, step.y.shape, step.x.strides, step.x.offset)
    results, inside = axes_of((whole, step.y), kept), axes_of((step.x,), step.axes)
    entry = Entry(name, 2, BLOCK)
    thread, block, turn = entry.registers("u32", 3)
    entry.add(f"mov.u32 {thread}, %tid.x", f"mov.u32 {block}, %ctaid.x")
    from_, to = offsets(entry, results, block)
    x = entry.shifted(entry.pointer(0), from_, signed=True)
    y = entry.shifted(entry.pointer(1), to, signed=True)
    total, value = entry.registers("f32", 2)
    entry.add(f"mov.f32 {total}, {f32(BEGINS[step.kind])}", f"mov.u32 {turn}, {thread}")
    begin, end, over = entry.label(), entry.label(), entry.register("pred")
    entry.mark(begin)
    entry.add(f"setp.ge.u32 {over}, {turn}, {inside.count}", f"@{over} bra {end}")
    (offset,) = offsets(entry, inside, turn)
    entry.add(f"ld.global.nc.f32 {value}, [{entry.shifted(x, offset, signed=True)}]")
    _combine(entry, step.kind, total, value)
    entry.add(f"add.u32 {turn}, {turn}, {BLOCK}", f"bra {begin}")
    entry.mark(end)
    loop = len(entry.lines)
    _across(entry, step, thread, total)
    done, idle = entry.label(), entry.register("pred")
    entry.add(f"setp.ne.u32 {idle}, {thread}, 0", f"@{idle} bra {done}")
    if step.kind == "mean":
        entry.add(f"div.rn.f32 {total}, {total}, {f32(inside.count)}")
    entry.add(f"st.global.f32 [{y}], {total}")
    entry.mark(done)
    length = loop * -(-inside.count // BLOCK) + len(entry.lines) - loop
    cost = Cost(
        fma=0,
        instructions=length * BLOCK * results.count,
        l1=4 * inside.count * results.count,
        moved=4 * (step.x.size + step.y.size),
        code=len(entry.lines),
        longest=length,
        fetched=len(entry.lines) * results.count,
        waits=-(-inside.count // BLOCK),
    )
    grid, views = (results.count, 1), (step.x, step.y)
    return Kernel(name, step.name, "reduce", "", entry.text(), grid, BLOCK, views, cost)


def _combine(entry: Entry, kind: str, total: str, value: str) -> None:
    result = FUNCTIONS[KINDS[kind]](entry, total, value)
    entry.add(f"mov.f32 {total}, {result}")


def _across(entry: Entry, step: Reduce, thread: str, total: str) -> None:
    """Combine the threads of a block; the first one has the result."""
    own, other = entry.register("u32"), entry.register("f32")
    entry.add(f"mov.u32 {own}, {entry.shared(4 * BLOCK)}", f"mad.lo.u32 {own}, {thread}, 4, {own}")
    half = BLOCK
    while half > 1:
        half //= 2
        skip, idle = entry.label(), entry.register("pred")
        entry.add(f"st.shared.f32 [{own}], {total}", "bar.sync 0")
        entry.add(f"setp.ge.u32 {idle}, {thread}, {half}", f"@{idle} bra {skip}")
        entry.add(f"ld.shared.f32 {other}, [{own}+{4 * half}]")
        _combine(entry, step.kind, total, other)
        entry.mark(skip)
        entry.add("bar.sync 0")
