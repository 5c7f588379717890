"""Depthwise convolutions: a thread a pixel, a row of blocks a channel, weights out of memory."""

from __future__ import annotations

import numpy as np

from prunedeploy.runtimes.sparse.codegen._context import Constants
from prunedeploy.runtimes.sparse.gpu.epilogue import epilogue_of, instructions
from prunedeploy.runtimes.sparse.gpu.launch import Cost, Kernel
from prunedeploy.runtimes.sparse.gpu.ptx import Entry
from prunedeploy.runtimes.sparse.gpu.window import pixel, skip_outside, thread_number, window_of
from prunedeploy.runtimes.sparse.plan.steps import Conv

MAX_BLOCK = 256


def fits(step: Conv) -> bool:
    """Whether every output channel reads one input channel."""
    return step.weight.shape[1] == 1 and step.groups > 1


def emit(step: Conv, name: str, constants: Constants) -> Kernel:
    """The kernel of a convolution with one input channel a group."""
    window = window_of(step)
    rows, _, height, width = step.weight.shape
    taps = height * width
    block = min(MAX_BLOCK, -(-window.pixels // 32) * 32)
    packed = np.concatenate([step.weight.reshape(rows, taps), step.bias[:, None]], axis=1)
    views = (step.x, step.y) if step.residual is None else (step.x, step.y, step.residual)
    entry = Entry(name, len(views) + 1, block)
    done = entry.label()
    number = thread_number(entry, window.pixels, done)
    where = pixel(entry, window, number)
    row, channel = entry.registers("u32", 2)
    entry.add(f"mov.u32 {row}, %ctaid.y", f"div.u32 {channel}, {row}, {rows // step.groups}")
    pointers = []
    for index, (view, plane) in enumerate(zip(views, (channel, row, row), strict=False)):
        begin, wide = entry.registers("u64", 2)
        entry.add(f"mul.wide.u32 {wide}, {plane}, {4 * view.strides[1]}")
        entry.add(f"add.u64 {begin}, {entry.pointer(index)}, {wide}")
        element = number if index else where.index
        pointers.append(entry.shifted(begin, element, signed=not index))
    weights, wide = entry.pointer(len(views)), entry.register("u64")
    entry.add(
        f"mul.wide.u32 {wide}, {row}, {4 * (taps + 1)}", f"add.u64 {weights}, {weights}, {wide}"
    )
    total, weight, value = entry.registers("f32", 3)
    entry.add(f"ld.global.nc.f32 {total}, [{weights}+{4 * taps}]")
    for index, tap in enumerate(window.taps()):
        end = entry.label()
        skip_outside(entry, window, where, tap, end)
        entry.add(
            f"ld.global.nc.f32 {weight}, [{weights}+{4 * index}]",
            f"ld.global.nc.f32 {value}, [{pointers[0]}+{4 * tap.offset}]",
            f"fma.rn.f32 {total}, {value}, {weight}, {total}",
        )
        entry.mark(end)
    residual = pointers[2] if len(pointers) > 2 else None
    epilogue_of(entry, step, pointers[1], residual).store(0, total)
    entry.mark(done)
    blocks, length = -(-window.pixels // block), len(entry.lines)
    padded = -(-window.pixels // 32) * 32 * rows
    cost = Cost(
        fma=taps * window.pixels * rows,
        instructions=length * padded,
        l1=4 * (2 * taps + len(views)) * padded,
        moved=4 * (sum(view.size for view in views) + packed.size),
        code=length,
        longest=length + instructions(step),
        fetched=length * blocks * rows,
        waits=2,
    )
    arguments = (*views, constants.add(packed.astype(np.float32)))
    choice = f"{block} pixels"
    return Kernel(
        name, step.name, "depthwise", choice, entry.text(), (blocks, rows), block, arguments, cost
    )
