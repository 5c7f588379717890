"""One number everywhere in a tensor: what surrounds a padded one."""

from __future__ import annotations

from prunedeploy.runtimes.sparse.gpu.launch import Cost, Kernel
from prunedeploy.runtimes.sparse.gpu.nd import BLOCK, axes_of, offsets
from prunedeploy.runtimes.sparse.gpu.ptx import Entry, f32
from prunedeploy.runtimes.sparse.gpu.window import thread_number
from prunedeploy.runtimes.sparse.plan.views import View


def emit(step: str, y: View, value: float, name: str) -> Kernel:
    """The kernel that writes ``value`` to every element of ``y``."""
    axes = axes_of((y,))
    entry = Entry(name, 1, BLOCK)
    done = entry.label()
    number = thread_number(entry, axes.count, done)
    (offset,) = offsets(entry, axes, number)
    address, constant = entry.shifted(entry.pointer(0), offset, signed=True), entry.register("f32")
    entry.add(f"mov.f32 {constant}, {f32(value)}", f"st.global.f32 [{address}], {constant}")
    entry.mark(done)
    blocks, length = -(-axes.count // BLOCK), len(entry.lines)
    work = length * axes.count
    cost = Cost(0, work, 4 * axes.count, 4 * axes.count, length, length, length * blocks, 0)
    return Kernel(name, step, "fill", "", entry.text(), (blocks, 1), BLOCK, (y,), cost)
