"""Elements by index: rows of a constant table, and elements along an axis of a computed tensor.

A thread an element. Negative indices count from the end; one that lies outside is noted in the word
for errors, and the run fails, once it has computed something with the first element instead.
"""

from __future__ import annotations

import math

import numpy as np

from prunedeploy.runtimes.sparse.codegen._context import Constants
from prunedeploy.runtimes.sparse.gpu.elementwise import elementwise_cost
from prunedeploy.runtimes.sparse.gpu.launch import ErrorWord, Kernel
from prunedeploy.runtimes.sparse.gpu.nd import BLOCK, axes_of, offsets
from prunedeploy.runtimes.sparse.gpu.ptx import Entry
from prunedeploy.runtimes.sparse.gpu.types import TYPES, load
from prunedeploy.runtimes.sparse.gpu.window import thread_number
from prunedeploy.runtimes.sparse.plan.steps import Lookup, Take
from prunedeploy.runtimes.sparse.plan.views import Dtype, View, row_major

BAD_INDEX = 4  # PD_BAD_INDEX of c/pd_engine.h


def emit(step: Lookup, name: str, dtype: Dtype, constants: Constants) -> Kernel:
    """The kernel of an embedding whose indices are of type ``dtype``."""
    rank = len(step.indices.shape)
    row = step.table.shape[1:]
    behind = (0,) * len(row)
    # both of the shape of y: indices do not vary along a row, the table not from index to index
    indices = View(step.indices.buffer, step.y.shape, (*step.indices.strides, *behind))
    within = View(step.y.buffer, step.y.shape, (*(0,) * rank, *row_major(0, row).strides))
    table = constants.add(step.table.astype(np.float32))
    entry = Entry(name, 4, BLOCK)
    axes = axes_of((indices, within, step.y))
    done = entry.label()
    number = thread_number(entry, axes.count, done)
    distances = offsets(entry, axes, number)
    at = entry.shifted(entry.pointer(0), distances[0], signed=True, size=TYPES[dtype].size)
    index = _checked(entry, load(entry, at, dtype), dtype, step.table.shape[0], 3)
    begin = entry.register("u64")
    entry.add(
        f"mad.wide.u32 {begin}, {index}, {4 * math.prod(row)}, "
        f"{entry.shifted(entry.pointer(1), distances[1], signed=True)}"
    )
    value = load(entry, begin, "float32")
    to = entry.shifted(entry.pointer(2), distances[2], signed=True)
    entry.add(f"st.global.f32 [{to}], {value}")
    entry.mark(done)
    views = (step.indices, step.y, step.y)
    cost = elementwise_cost(axes.count, len(entry.lines), sum(v.size for v in views), views)
    arguments = (step.indices, table, step.y, ErrorWord())
    grid = (-(-axes.count // BLOCK), 1)
    return Kernel(name, step.name, "lookup", "", entry.text(), grid, BLOCK, arguments, cost)


def emit_take(step: Take, name: str) -> Kernel:
    """The kernel of elements by computed indices, which are float32."""
    views = (step.x, step.index, step.y)
    axes = axes_of(views)
    entry = Entry(name, 4, BLOCK)
    done = entry.label()
    number = thread_number(entry, axes.count, done)
    x, at, y = (
        entry.shifted(entry.pointer(index), offset, signed=True)
        for index, offset in enumerate(offsets(entry, axes, number))
    )
    index = _checked(entry, load(entry, at, "float32"), "float32", step.size, 3)
    offset = entry.register("u32")
    entry.add(f"mul.lo.s32 {offset}, {index}, {step.stride}")
    value = load(entry, entry.shifted(x, offset, signed=True), "float32")
    entry.add(f"st.global.f32 [{y}], {value}")
    entry.mark(done)
    cost = elementwise_cost(axes.count, len(entry.lines), sum(v.size for v in views), views)
    arguments, grid = (*views, ErrorWord()), (-(-axes.count // BLOCK), 1)
    return Kernel(name, step.name, "take", "", entry.text(), grid, BLOCK, arguments, cost)


def _checked(entry: Entry, index: str, dtype: Dtype, size: int, error: int) -> str:
    """The index as a u32, counted from the front; one that is outside is noted, and becomes 0.

    Args:
        entry: under construction.
        index: a register of type ``dtype``.
        dtype: of the index.
        size: what it counts.
        error: which of the entry's pointers is the word for errors.
    """
    wide, holds = entry.register("u64"), entry.register("pred")
    kind = TYPES[dtype].ptx
    if dtype == "int64":
        entry.add(f"mov.b64 {wide}, {index}")
    elif dtype == "float32":
        entry.add(f"cvt.rzi.s64.f32 {wide}, {index}")
        # NaN is no index, whatever its conversion is
        entry.add(f"setp.nan.f32 {holds}, {index}, {index}", f"@{holds} mov.b64 {wide}, {size}")
    else:
        entry.add(f"cvt.s64.{'u32' if kind == 'u8' else kind} {wide}, {index}")
    result, word = entry.register("u32"), entry.pointer(error)
    entry.add(
        f"setp.lt.s64 {holds}, {wide}, 0",
        f"@{holds} add.s64 {wide}, {wide}, {size}",
        f"setp.ge.u64 {holds}, {wide}, {size}",  # below 0 is far above
        f"@{holds} red.global.max.u32 [{word}], {BAD_INDEX}",
        f"@{holds} mov.b64 {wide}, 0",
        f"cvt.u32.u64 {result}, {wide}",
    )
    return result
