"""Functions of single elements, of inputs that may be broadcast: a thread an element."""

from __future__ import annotations

from prunedeploy.runtimes.sparse.gpu.functions import FUNCTIONS
from prunedeploy.runtimes.sparse.gpu.launch import Cost, Kernel
from prunedeploy.runtimes.sparse.gpu.nd import BLOCK, axes_of, offsets
from prunedeploy.runtimes.sparse.gpu.ptx import Entry, f32
from prunedeploy.runtimes.sparse.gpu.window import thread_number
from prunedeploy.runtimes.sparse.plan.steps import Copy, Map
from prunedeploy.runtimes.sparse.plan.views import View


def emit(step: Map | Copy, name: str) -> Kernel:
    """The kernel of an elementwise step or of a copy, whose elements go from ``x`` to ``y``."""
    inputs = step.inputs if isinstance(step, Map) else (step.x,)
    views = (*inputs, step.y)
    axes = axes_of(views)
    entry = Entry(name, len(views), BLOCK)
    done = entry.label()
    number = thread_number(entry, axes.count, done)
    addresses = [
        entry.shifted(entry.pointer(index), offset, signed=True)
        for index, offset in enumerate(offsets(entry, axes, number))
    ]
    values = entry.registers("f32", len(inputs))
    for value, address in zip(values, addresses, strict=False):
        # no .nc: the result may take the memory of an input
        entry.add(f"ld.global.f32 {value}, [{address}]")
    if isinstance(step, Map):
        for constant in step.constants:
            values.append(entry.register("f32"))
            entry.add(f"mov.f32 {values[-1]}, {f32(constant)}")
        for instr in step.code:
            operands = [values[index] for index in instr.operands]
            values.append(FUNCTIONS[instr.op](entry, *operands, *instr.numbers))
    entry.add(f"st.global.f32 [{addresses[-1]}], {values[-1]}")
    entry.mark(done)
    return _kernel(step, entry, views, axes.count)


def _kernel(step: Map | Copy, entry: Entry, views: tuple[View, ...], count: int) -> Kernel:
    blocks, length = -(-count // BLOCK), len(entry.lines)
    padded = -(-count // 32) * 32
    cost = Cost(
        fma=0,
        instructions=length * padded,
        l1=4 * len(views) * padded,
        moved=4 * sum(view.size for view in views),
        code=length,
        longest=length,
        fetched=length * blocks,
        waits=1,
    )
    kind = type(step).__name__.lower()
    text = entry.text()
    return Kernel(entry.name, step.name, kind, "", text, (blocks, 1), BLOCK, views, cost)
