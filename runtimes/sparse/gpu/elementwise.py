"""Functions of single elements, of inputs that may be broadcast: a thread an element."""

from __future__ import annotations

from collections.abc import Sequence

from prunedeploy.runtimes.sparse.gpu.functions import FUNCTIONS
from prunedeploy.runtimes.sparse.gpu.launch import Cost, Kernel
from prunedeploy.runtimes.sparse.gpu.nd import BLOCK, axes_of, offsets
from prunedeploy.runtimes.sparse.gpu.ptx import Entry, f32
from prunedeploy.runtimes.sparse.gpu.window import thread_number
from prunedeploy.runtimes.sparse.plan.steps import Map


def emit(step: Map, name: str) -> Kernel:
    """The kernel of an elementwise step."""
    views = (*step.inputs, step.y)
    axes = axes_of(views)
    entry = Entry(name, len(views), BLOCK)
    done = entry.label()
    number = thread_number(entry, axes.count, done)
    addresses = [
        entry.shifted(entry.pointer(index), offset, signed=True)
        for index, offset in enumerate(offsets(entry, axes, number))
    ]
    values = entry.registers("f32", len(step.inputs))
    for value, address in zip(values, addresses, strict=False):
        # no .nc: the result may take the memory of an input
        entry.add(f"ld.global.f32 {value}, [{address}]")
    for constant in step.constants:
        values.append(entry.register("f32"))
        entry.add(f"mov.f32 {values[-1]}, {f32(constant)}")
    for instr in step.code:
        operands = [values[index] for index in instr.operands]
        values.append(FUNCTIONS[instr.op](entry, *operands, *instr.numbers))
    entry.add(f"st.global.f32 [{addresses[-1]}], {values[-1]}")
    entry.mark(done)
    cost = elementwise_cost(axes.count, len(entry.lines), sum(view.size for view in views), views)
    grid = (-(-axes.count // BLOCK), 1)
    return Kernel(name, step.name, "map", "", entry.text(), grid, BLOCK, views, cost)


def elementwise_cost(count: int, length: int, moved: int, views: Sequence[object]) -> Cost:
    """The cost of ``length`` instructions for each of ``count`` elements.

    Args:
        count: threads.
        length: instructions of each.
        moved: elements that are read and written, each once.
        views: one for each element that a thread reads or writes.
    """
    padded = -(-count // 32) * 32
    return Cost(
        fma=0,
        instructions=length * padded,
        l1=4 * len(views) * padded,
        moved=4 * moved,
        code=length,
        longest=length,
        fetched=length * -(-count // BLOCK),
        waits=1,
    )
