"""Max and average over windows: a thread a pixel, a row of blocks a channel."""

from __future__ import annotations

from prunedeploy.runtimes.sparse.gpu.launch import Cost, Kernel
from prunedeploy.runtimes.sparse.gpu.ptx import Entry, f32
from prunedeploy.runtimes.sparse.gpu.window import (
    Tap,
    Window,
    pixel,
    skip_outside,
    thread_number,
    window_of,
)
from prunedeploy.runtimes.sparse.plan.steps import Pool

MAX_BLOCK = 256


def emit(step: Pool, name: str) -> Kernel:
    """The kernel of ``step``."""
    window = window_of(step)
    channels, block = step.y.shape[1], min(MAX_BLOCK, -(-window.pixels // 32) * 32)
    entry = Entry(name, 2, block)
    done = entry.label()
    number = thread_number(entry, window.pixels, done)
    where = pixel(entry, window, number)
    channel = entry.register("u32")
    entry.add(f"mov.u32 {channel}, %ctaid.y")
    pointers = []
    for index, view in enumerate((step.x, step.y)):
        begin, wide = entry.registers("u64", 2)
        entry.add(f"mul.wide.u32 {wide}, {channel}, {4 * view.strides[1]}")
        entry.add(f"add.u64 {begin}, {entry.pointer(index)}, {wide}")
        pointers.append(entry.shifted(begin, number if index else where.index, signed=not index))
    result, value, counted = entry.registers("f32", 3)
    entry.add(f"mov.f32 {result}, {f32(float('-inf') if step.kind == 'max' else 0.0)}")
    entry.add(f"mov.f32 {counted}, {f32(0)}")
    for tap in window.taps():
        end = entry.label()
        if step.kind == "average" and step.count_include_pad:
            _count_padding(entry, step, window, where.row, where.column, tap, counted)
        skip_outside(entry, window, where, tap, end)
        entry.add(f"ld.global.nc.f32 {value}, [{pointers[0]}+{4 * tap.offset}]")
        if step.kind == "max":
            larger = entry.register("pred")
            entry.add(
                f"setp.gt.f32 {larger}, {value}, {result}", f"@{larger} mov.f32 {result}, {value}"
            )
            entry.add(
                f"setp.nan.f32 {larger}, {value}, {value}", f"@{larger} mov.f32 {result}, {value}"
            )
        else:
            entry.add(f"add.rn.f32 {result}, {result}, {value}")
            if not step.count_include_pad:
                entry.add(f"add.rn.f32 {counted}, {counted}, {f32(1)}")
        entry.mark(end)
    if step.kind == "average":
        entry.add(f"div.rn.f32 {result}, {result}, {counted}")
    entry.add(f"st.global.f32 [{pointers[1]}], {result}")
    entry.mark(done)
    blocks, length = -(-window.pixels // block), len(entry.lines)
    padded = -(-window.pixels // 32) * 32 * channels
    taps = step.kernel[0] * step.kernel[1]
    cost = Cost(
        fma=0,
        instructions=length * padded,
        l1=4 * (taps + 1) * padded,
        moved=4 * (step.x.size + step.y.size),
        code=length,
        longest=length,
        fetched=length * blocks * channels,
        waits=1,
    )
    grid, views = (blocks, channels), (step.x, step.y)
    return Kernel(name, step.name, "pool", "", entry.text(), grid, block, views, cost)


def _count_padding(
    entry: Entry, step: Pool, window: Window, row: str, column: str, tap: Tap, counted: str
) -> None:
    """Count a tap that lies in the plane or its padding, not what is beyond (``ceil_mode``)."""
    end = entry.label()
    _, _, bottom, right = step.pads
    sides = (
        (row, tap.row, window.x.shape[2] + bottom, tap.row_check),
        (column, tap.column, window.x.shape[3] + right, tap.column_check),
    )
    for begin, distance, size, needed in sides:
        if needed:
            moved, outside = entry.register("u32"), entry.register("pred")
            entry.add(f"add.s32 {moved}, {begin}, {distance}")
            entry.add(f"setp.ge.s32 {outside}, {moved}, {size}", f"@{outside} bra {end}")
    entry.add(f"add.rn.f32 {counted}, {counted}, {f32(1)}")
    entry.mark(end)
