"""Copies between tensors of any strides and types: a thread an element."""

from __future__ import annotations

from prunedeploy.runtimes.sparse.codegen._context import Constants
from prunedeploy.runtimes.sparse.gpu.elementwise import elementwise_cost
from prunedeploy.runtimes.sparse.gpu.launch import Argument, Kernel
from prunedeploy.runtimes.sparse.gpu.nd import BLOCK, axes_of, offsets
from prunedeploy.runtimes.sparse.gpu.ptx import Entry
from prunedeploy.runtimes.sparse.gpu.types import TYPES, converted, load, store
from prunedeploy.runtimes.sparse.gpu.window import thread_number
from prunedeploy.runtimes.sparse.plan.steps import Copy, Fill
from prunedeploy.runtimes.sparse.plan.views import Dtype, View, row_major


def emit(step: Copy, name: str, types: tuple[Dtype, Dtype]) -> Kernel:
    """The kernel of a copy; ``types`` are those of ``x`` and ``y``."""
    return _copy(step.name, name, (step.x, step.y), (step.x, step.y), types)


def emit_fill(step: Fill, name: str, constants: Constants) -> Kernel:
    """The kernel that writes a constant array to ``y``."""
    view = row_major(step.y.buffer, step.y.shape)
    value = constants.add(step.value.astype("float32"))
    return _copy(step.name, name, (view, step.y), (value, step.y), ("float32", "float32"))


def _copy(
    step: str,
    name: str,
    views: tuple[View, View],
    arguments: tuple[Argument, Argument],
    types: tuple[Dtype, Dtype],
) -> Kernel:
    axes = axes_of(views)
    entry = Entry(name, 2, BLOCK)
    done = entry.label()
    number = thread_number(entry, axes.count, done)
    source, target = (
        entry.shifted(entry.pointer(index), offset, signed=True, size=TYPES[dtype].size)
        for index, (offset, dtype) in enumerate(
            zip(offsets(entry, axes, number), types, strict=True)
        )
    )
    value = converted(entry, load(entry, source, types[0]), *types)
    store(entry, target, types[1], value)
    entry.mark(done)
    cost = elementwise_cost(axes.count, len(entry.lines), sum(v.size for v in views), views)
    grid = (-(-axes.count // BLOCK), 1)
    return Kernel(name, step, "copy", "", entry.text(), grid, BLOCK, arguments, cost)
